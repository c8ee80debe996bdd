"""`verify`: checks runs against their roll-ups, on the sequencer or on the cluster."""

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set

from ontpush.cluster.wanted import want
from ontpush.engine.find import open_run
from ontpush.engine.inspect import UNREAD, Inspection, Remembered, inspect_run
from ontpush.engine.ledger import existing_ledger, faults_told
from ontpush.engine.log import EventLog
from ontpush.engine.look import exclusion
from ontpush.engine.progress import InHand, Progress
from ontpush.facts.names import for_json, from_argument, human_size, plural, shown
from ontpush.facts.trouble import (
    FileFailed,
    RunFailed,
    Trouble,
    TryLater,
    WrongCall,
    place_in,
    unread,
)
from ontpush.facts.words import LOG_FAIL, LOG_WARN
from ontpush.result import Result
from ontpush.settings import courteous, is_of_fleet, state_dir

Show = Callable[[Optional[InHand]], None]


def verify(settings: Mapping[str, Any], show: Show, listen: Callable[[str], None]) -> Result:
    """Check every run named; a bad one does not keep the others from being checked."""
    log = EventLog(settings["log"], settings["verbose"], listen)
    courteous(settings, log)
    if not settings["words"]:
        raise WrongCall("which run? give its directory")
    found = [open_run(from_argument(word), or_what_was_one=True).path for word in settings["words"]]
    runs: List[Dict[str, Any]] = []
    lines: List[str] = []
    troubles: List[Trouble] = []
    for run in found:
        try:
            inspection = _inspect(settings, run, show, log)
        except (RunFailed, TryLater) as error:
            troubles.append(error)
            continue
        except OSError as error:
            troubles.append(unread(place_in(run, error), error, run))
            continue
        runs.append(_facts(run, inspection))
        lines.append(_line(run, inspection))
        troubles += _troubles(run, inspection)
    for trouble in troubles:
        log.event(LOG_FAIL, trouble.run or b"", trouble.message)
    _hand_over(settings, {trouble.run for trouble in troubles if trouble.run}, log)
    return Result("verify", lambda: {"runs": runs}, lambda: lines, troubles)


def _hand_over(settings: Mapping[str, Any], bad: Set[bytes], log: EventLog) -> None:
    """What is bad at the cluster is taken up by the next tick of its monitor."""
    for run in sorted(bad):
        if is_of_fleet(settings, run):
            try:
                want(state_dir(settings), run)
            except TryLater as error:
                log.event(LOG_WARN, run, f"the monitor is not told: {error.message}")


def _inspect(settings: Mapping[str, Any], run: bytes, show: Show, log: EventLog) -> Inspection:
    progress = Progress(None, show)
    progress.begin(run, "verifying", 0, 0)
    try:
        return inspect_run(
            run,
            settings["jobs"],
            exclusion(settings["exclude"]),
            _known_sizes(settings, run, log),
            progress.advance,
            settings["untrusted"],
        )
    finally:
        progress.end()


def _known_sizes(settings: Mapping[str, Any], run: bytes, log: EventLog) -> Iterator[Remembered]:
    """What the ledger, where there is one, remembers of the run's files: that only saves time."""
    try:
        ledger = existing_ledger(state_dir(settings))
        if ledger:
            with ledger, faults_told(ledger):
                record = ledger.run(run)
                if record:
                    yield from ledger.sizes(record.id)
    except Trouble as error:
        log.event(LOG_WARN, run, f"every file is read: {error.message}")


def _facts(run: bytes, inspection: Inspection) -> Dict[str, Any]:
    return {
        "run": for_json(run),
        "files": inspection.files,
        "bytes": inspection.bytes,
        "rollup": inspection.rollup,
        "sizes": inspection.sizes,
        "bad": [
            {"path": for_json(each.path), "problem": each.problem}
            for each in inspection.bad
            if not each.is_unread
        ],
        "unread": [
            {"path": for_json(each.path), "problem": each.problem, "why": each.why}
            for each in inspection.bad
            if each.is_unread
        ],
        "counts": inspection.counts,
        "leftover": [for_json(path) for path in inspection.leftover],
    }


def _line(run: bytes, inspection: Inspection) -> str:
    unread_files = sum(inspection.counts.get(each, 0) for each in UNREAD)
    bad = sum(inspection.counts.values()) - unread_files
    verdict = f"{bad} bad" if bad else "" if unread_files else "all well"
    told = [verdict] * bool(verdict) + [f"{unread_files} not to be read"] * bool(unread_files)
    if inspection.leftover:
        told.append("{} left by broken transfers".format(plural(len(inspection.leftover), "file")))
    return "{}: {}, {} read: {}".format(
        shown(run), plural(inspection.files, "file"), human_size(inspection.bytes), ", ".join(told)
    )


def _troubles(run: bytes, inspection: Inspection) -> Iterator[Trouble]:
    """What is wrong with each file. That a server does not give some passes, if that is all."""
    lasts = any(each.problem != "passing" for each in inspection.bad)
    for each in inspection.bad:
        told = f"{each.problem}: {shown(each.path)}"
        if not each.is_unread:
            yield RunFailed(told, run)
        elif each.problem == "unreadable":
            yield FileFailed(f"{told}: {each.why}; let this user read it", run)
        elif each.problem == "refused":
            yield FileFailed(f"{told}: {each.why}", run)
        else:
            kind = FileFailed if lasts else TryLater
            yield kind(f"{told}: {each.why}; verify it again", run)
