"""`verify`: checks runs against their roll-ups, on the sequencer or on the cluster."""

import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ontpush.engine.find import open_run
from ontpush.engine.inspect import Inspection, inspect_run
from ontpush.engine.ledger import damage_set_aside, open_ledger
from ontpush.engine.log import EventLog
from ontpush.engine.look import exclusion
from ontpush.engine.progress import InHand, Progress
from ontpush.facts.names import for_json, from_argument, human_size, plural, shown
from ontpush.facts.trouble import RunFailed, Trouble, WrongCall
from ontpush.facts.words import LOG_FAIL
from ontpush.result import Result
from ontpush.settings import courteous, state_dir

Show = Callable[[Optional[InHand]], None]
Sizes = Callable[[bytes, bytes], Optional[int]]


def verify(settings: Mapping[str, Any], show: Show, listen: Callable[[str], None]) -> Result:
    """Check every run named; a bad one does not keep the others from being checked."""
    log = EventLog(settings["log"], settings["verbose"], listen)
    courteous(settings, log)
    if not settings["words"]:
        raise WrongCall("which run? give its directory")
    found = [open_run(from_argument(word)).path for word in settings["words"]]
    runs: List[Dict[str, Any]] = []
    lines: List[str] = []
    troubles: List[Trouble] = []
    for run in found:
        try:
            inspection = _inspect(settings, run, show)
        except RunFailed as error:
            troubles.append(error)
            continue
        runs.append(_facts(run, inspection))
        lines.append(_line(run, inspection))
        troubles += _troubles(run, inspection)
    for trouble in troubles:
        log.event(LOG_FAIL, trouble.run or b"", trouble.message)
    return Result("verify", lambda: {"runs": runs}, lambda: lines, troubles)


def _inspect(settings: Mapping[str, Any], run: bytes, show: Show) -> Inspection:
    progress = Progress(None, show)
    progress.begin(run, "verifying", 0, 0)
    try:
        return inspect_run(
            run,
            settings["jobs"],
            exclusion(settings["exclude"]),
            _known_sizes(state_dir(settings), run),
            progress.advance,
        )
    finally:
        progress.end()


def _known_sizes(state: bytes, run: bytes) -> Sizes:
    """The size that the ledger, where there is one, remembers of a file with this sum."""
    sizes: Dict[Tuple[bytes, bytes], int] = {}
    if os.path.exists(os.path.join(state, b"ledger.sqlite3")):
        ledger = open_ledger(state)
        with ledger, damage_set_aside(ledger):
            record = ledger.run(run)
            sizes = ledger.sizes(record.id) if record else {}
    return lambda path, md5: sizes.get((path, md5))


def _facts(run: bytes, inspection: Inspection) -> Dict[str, Any]:
    return {
        "run": for_json(run),
        "files": inspection.files,
        "bytes": inspection.bytes,
        "rollup": inspection.rollup,
        "bad": [{"path": for_json(bad.path), "problem": bad.problem} for bad in inspection.bad],
    }


def _line(run: bytes, inspection: Inspection) -> str:
    verdict = f"{len(inspection.bad)} bad" if inspection.bad else "all well"
    return "{}: {}, {} read: {}".format(
        shown(run), plural(inspection.files, "file"), human_size(inspection.bytes), verdict
    )


def _troubles(run: bytes, inspection: Inspection) -> List[Trouble]:
    return [RunFailed(f"{bad.problem}: {shown(bad.path)}", run) for bad in inspection.bad]
