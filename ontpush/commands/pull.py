"""`pull`: the cluster fetches what its sequencers hash, several of them side by side."""

import contextlib
import json
import os
import queue
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ontpush.cluster.checking import program_environment
from ontpush.cluster.pulling import Source
from ontpush.cluster.sequencer import RunPulled, Tour, pull_all, run_facts
from ontpush.engine.children import Child
from ontpush.engine.heartbeat import file_name
from ontpush.engine.lock import only_one
from ontpush.engine.log import EventLog
from ontpush.engine.progress import InHand
from ontpush.engine.transport import check_flags, require_rsync
from ontpush.facts.limits import LARGEST_ANSWER
from ontpush.facts.names import from_argument, from_json, human_size, plural, shown
from ontpush.facts.trouble import (
    AtWork,
    BadConfiguration,
    FileFailed,
    OutOfReach,
    RunFailed,
    Trouble,
    TryLater,
    WrongCall,
)
from ontpush.facts.words import LOG_WARN
from ontpush.result import Result, table
from ontpush.settings import courteous, fleet_root, patience, state_dir, transport_from

_LONGEST_NAME = 200  # bytes, of the 255 that a file system has

Listen = Callable[[str], None]


def pull(
    settings: Mapping[str, Any], _: Callable[[Optional[InHand]], None], listen: Listen
) -> Result:
    """One tick for the sequencers named, or all. Each is served by a process of its own."""
    sources = _sources(settings)
    log = EventLog(settings["log"], settings["verbose"], listen)
    log.rotate()
    courteous(settings, log)
    require_rsync()
    if len(sources) == 1 and settings["words"]:
        return _one(settings, sources[0], log)
    return _side_by_side(settings, sources, log)


def _sources(settings: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """The sequencers to fetch from, as configured. WrongCall, BadConfiguration."""
    known = {each["instrument"]: each for each in settings["pull"]}
    unknown = [word for word in settings["words"] if word not in known]
    if unknown:
        raise WrongCall(f"{unknown[0]!r} is no instrument under `pull` in the configuration")
    if not known:
        raise WrongCall("from where? give `pull` in the configuration")
    fleet_root(settings)
    _check_names([each["instrument"] for each in settings["pull"]])
    check_flags(settings["rsync_flags"])
    return [known[word] for word in dict.fromkeys(settings["words"] or known)]


def _check_names(names: List[str]) -> None:
    """Each is the name of a directory, and of files of its own in the state. BadConfiguration."""
    faults = []
    taken: Dict[bytes, str] = {}
    for name in names:
        file = file_name(name)
        if "/" in name or name.startswith(".") or len(from_argument(name)) > _LONGEST_NAME:
            faults.append(f"pull: {name!r} cannot be the name of a directory")
        if file in taken:
            faults.append(f"pull: {name!r} and {taken[file]!r} are too much alike: rename one")
        taken[file] = name
    if faults:
        raise BadConfiguration(*faults)


# -- one sequencer --------------------------------------------------------------------------


def _one(settings: Mapping[str, Any], facts: Mapping[str, Any], log: EventLog) -> Result:
    source, state = _source(settings, facts, log), state_dir(settings)
    lock = b"pull-" + file_name(source.name) + b".lock"
    with only_one(state, lock, patience=patience(settings)):
        tour = pull_all(source, state)
    troubles = tour.troubles + ([log.trouble] if log.trouble else [])
    return Result(
        "pull",
        lambda: {"runs": [_facts(source.name, each) for each in tour.runs]},
        lambda: _lines(tour),
        troubles,
    )


def _source(settings: Mapping[str, Any], facts: Mapping[str, Any], log: EventLog) -> Source:
    base = os.path.join(fleet_root(settings), from_argument(facts["instrument"]))
    return Source(
        facts["instrument"],
        base,
        transport_from(settings, facts),
        settings["jobs"],
        tuple(settings["exclude"]),
        settings["stall_hours"] * 3600,
        log,
    )


def _facts(instrument: str, each: RunPulled) -> Dict[str, Any]:
    facts = dict(run_facts(each), instrument=instrument)
    facts.update(sent_files=each.files, sent_bytes=each.bytes)
    return facts


def _lines(tour: Tour) -> List[str]:
    rows = [
        [
            each.pulled.state,
            f"{each.pulled.files:,}",
            human_size(each.pulled.bytes),
            human_size(each.bytes) if each.files else "",
            shown(each.run),
        ]
        for each in tour.runs
    ]
    return table(["state", "files", "size", "fetched now", "run"], rows) if rows else ["no runs"]


# -- all of them ----------------------------------------------------------------------------


class _Served(NamedTuple):
    """A sequencer's own call, and what it printed: once it has ended, one object or too much."""

    name: str
    child: Child
    printed: List[Optional[bytes]]


def _side_by_side(
    settings: Mapping[str, Any], sources: List[Dict[str, Any]], log: EventLog
) -> Result:
    """Serve all, `pull_jobs` at a time. One that is out of reach is silent, no error of others."""
    runs: List[Dict[str, Any]] = []
    troubles: List[Trouble] = []
    out_of_reach: List[Trouble] = []
    for name, envelope, trouble in _serve(settings, [each["instrument"] for each in sources]):
        if trouble:
            troubles.append(trouble)
            continue
        runs += envelope["data"].get("runs", [])
        for error in envelope["errors"]:
            told = _trouble(name, error)
            if isinstance(told, (OutOfReach, AtWork)):
                log.event(LOG_WARN, name.encode(), error["message"])
                out_of_reach += [told] * isinstance(told, OutOfReach)
            else:
                troubles.append(told)
    if len(out_of_reach) == len(sources):
        troubles += out_of_reach
    count = "{} of {}".format(plural(len(runs), "run"), plural(len(sources), "sequencer"))
    rows = [[run["state"], run["instrument"], shown(from_json(run["run"]))] for run in runs]
    lines = [*(table(["state", "instrument", "run"], rows) if rows else []), count]
    return Result("pull", lambda: {"runs": runs}, lambda: lines, troubles)


_KINDS = {
    kind.code: kind for kind in (OutOfReach, AtWork, TryLater, WrongCall, FileFailed, RunFailed)
}


def _trouble(name: str, error: Mapping[str, Any]) -> Trouble:
    """What a call of ours told of a sequencer, as what it was there."""
    message = "{}: {}".format(name, error["message"])
    if error["code"] == BadConfiguration.code:
        return BadConfiguration(message)
    run = None if error["run"] is None else from_json(error["run"])
    return _KINDS.get(error["code"], RunFailed)(message, run)


def _serve(
    settings: Mapping[str, Any], names: List[str]
) -> Iterator[Tuple[str, Dict[str, Any], Optional[Trouble]]]:
    """Run the calls, and give what each printed as it ends."""
    waiting = list(names)
    running: Dict[str, _Served] = {}
    ended: Any = queue.Queue()
    try:
        while waiting or running:
            while waiting and len(running) < settings["pull_jobs"]:
                served = _start(settings, waiting.pop(0))
                running[served.name] = served
                served.child.__enter__()
                threading.Thread(target=_read, args=(served, ended), daemon=True).start()
            served = running[ended.get()]
            code = served.child.wait()
            del running[served.name]
            yield (served.name, *_envelope(served, code))
            served.child.end()
    finally:
        for served in running.values():
            served.child.end()


def _start(settings: Mapping[str, Any], name: str) -> _Served:
    command = [sys.executable, "-m", "ontpush", "pull", "--json"]
    if settings["config_file"]:
        command += ["--config", settings["config_file"]]
    command += [f"--{key.replace('_', '-')}={settings[key]}" for key in settings["by_flag"]]
    limit = 2 * settings["transfer_hours"] * 3600
    with open(os.devnull, "rb") as nothing:
        words = [from_argument(word) for word in [*command, name]]
        return _Served(name, Child(words, nothing, limit, program_environment()), [])


def _read(served: _Served, ended: Any) -> None:
    with contextlib.suppress(ValueError):  # the pipe is closed when the call is ended
        served.printed.append(served.child.answer())
    ended.put(served.name)


def _envelope(served: _Served, code: int) -> Tuple[Dict[str, Any], Optional[Trouble]]:
    (printed,) = served.printed
    if printed is None:
        why = f"its call printed more than {human_size(LARGEST_ANSWER)}: see what its directory has"
        return {}, Trouble(f"{served.name}: {why}")
    try:
        return json.loads(printed.decode()), None
    except ValueError:
        said = served.child.said().decode("utf-8", "replace").strip().splitlines()
        why = said[-1] if said else f"its call ended with {code}"
        return {}, Trouble(f"{served.name}: {why}")
