"""One tick for one sequencer that is pulled from: its roll-ups, every run, its heartbeat."""

import contextlib
import json
import os
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.cluster.fetch import clear_stage, fetch_heartbeat, fetch_rollups, fetch_young_anew
from ontpush.cluster.heartbeats import Heartbeat, RunFacts
from ontpush.cluster.inside import make_inside, write_inside
from ontpush.cluster.memory import Memory, Remembered, read_json, write_json
from ontpush.cluster.pulling import Pull, Pulled, Source
from ontpush.engine.heartbeat import file_name, heartbeat_facts
from ontpush.engine.mark import date_text
from ontpush.facts.names import for_json, from_json, quoted, shown
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, run_failed, unwritable
from ontpush.facts.words import (
    DONE,
    FAILED,
    HEARTBEAT_DIRECTORY,
    LOG_FAIL,
    LOG_WARN,
    NEW,
    SKIPPED,
)


class RunPulled(NamedTuple):
    """How a run stands after its turn, and the files and bytes that came in it."""

    run: bytes
    pulled: Pulled
    files: int
    bytes: int


Remember = Callable[[bytes, Pulled], None]


class Tour(NamedTuple):
    """What came of a tick: every run over there, and every trouble."""

    runs: List[RunPulled]
    troubles: List[Trouble]


def pull_all(source: Source, state: bytes) -> Tour:
    """Bring every run of one sequencer further; one that fails stops no other.

    Trouble where the sequencer is out of reach: then nothing is said of it, and it is silent.
    """
    stage = os.path.join(state, b"pull", file_name(source.name)[: -len(b".json")])
    memory = stage + b".json"
    before = _load(memory)
    if any(each.here_files for each in before.values()) and _is_lost(source.base):
        raise OutOfReach(
            f"{shown(source.base)} is not there, or empty, and runs were; is its disk mounted? If"
            f" they are gone for good, remove {shown(memory)}"
        )
    for directory in (source.base, stage):
        _make(directory)
    tour = Tour([], [])
    left = _heard(source, stage, tour)
    if left is None:
        return tour
    runs = _runs_of(source, left, tour)
    clear_stage(stage, frozenset(runs))
    to_fetch = frozenset(run for run, facts in runs.items() if facts.state != SKIPPED)
    rollups, hidden = fetch_rollups(source.transport, stage, to_fetch)
    if hidden:
        _complain(source, tour, RunFailed(f"not every roll-up there can be read: {hidden}"))
    known = Memory(state).load(source.name)
    # What is passed over in a heartbeat is not gone.
    before = before if left.faults else _without_gone(source, memory, before, runs)

    def remember(run: bytes, pulled: Pulled) -> None:
        before[for_json(run)] = pulled
        _save(memory, before)

    for turn, trouble in _turns(source, runs, rollups, before, known, remember):
        tour.runs.append(turn)
        if before.get(for_json(turn.run)) != turn.pulled:
            remember(turn.run, turn.pulled)
        if trouble:
            _complain(source, tour, trouble)
    fetch_young_anew(stage, rollups.values())
    if len(tour.runs) == len(runs):
        _beat(source, _with_failures(source, tour, runs), left)
    return tour


def _heard(source: Source, stage: bytes, tour: Tour) -> Optional[Heartbeat]:
    """What the sequencer says of itself; what is wrong there is told here. None: it is no use."""
    try:
        left = fetch_heartbeat(source.transport, stage)
    except RunFailed as error:
        _complain(source, tour, error)
        return None
    for said in left.errors:
        _complain(source, tour, RunFailed(f"over there it says: {quoted(said)}"))
    for fault in left.faults:
        _complain(source, tour, RunFailed(f"its heartbeat there: {fault}"))
    return left


def _is_lost(base: bytes) -> bool:
    """Whether nothing is left where there were runs: a disk that is not mounted looks so."""
    try:
        return not os.listdir(base)
    except FileNotFoundError:
        return True
    except OSError:  # making it will tell why
        return False


def _make(directory: bytes) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        advice = "nothing else may lie there, and this user must be able to write it"
        raise unwritable(shown(directory), error, advice) from error


def _turns(
    source: Source,
    runs: Dict[bytes, RunFacts],
    rollups: Dict[bytes, bytes],
    before: Dict[str, Pulled],
    remembered: Remembered,
    remember: Remember,
) -> Iterator[Tuple[RunPulled, Optional[Trouble]]]:
    """Each run's turn, until one cannot reach the sequencer."""
    for run in _those_in_trouble_last(runs, before):
        known = before.get(for_json(run))
        turn, trouble = RunPulled(run, known or Pulled("", NEW), 0, 0), None
        if runs[run].state == SKIPPED:
            turn = turn._replace(pulled=turn.pulled._replace(state=SKIPPED, error=None))
        elif run in rollups:
            pull = Pull(source, run, rollups[run], known, partial(remember, run))
            turn, trouble = _pull(pull, run, remembered)
        yield turn, trouble
        if not isinstance(trouble, (RunFailed, type(None))):
            return


def _runs_of(source: Source, left: Heartbeat, tour: Tour) -> Dict[bytes, RunFacts]:
    """The runs that the sequencer has; none in another, none in a directory that none can be in."""
    runs: Dict[bytes, RunFacts] = {}
    for run, facts in sorted(left.runs.items()):
        parts = run.split(b"/")
        above = {b"/".join(parts[:count]) for count in range(1, len(parts))}
        if any(part.startswith(b".") for part in parts) or above & runs.keys():
            _complain(source, tour, RunFailed("no run can be there: it is passed over", run))
        else:
            runs[run] = facts
    return runs


def _those_in_trouble_last(runs: Iterable[bytes], before: Dict[str, Pulled]) -> List[bytes]:
    """So that one that takes all the time there is keeps no other from its turn."""

    def was_in_trouble(run: bytes) -> bool:
        known = before.get(for_json(run))
        return known is not None and known.error is not None

    return sorted(runs, key=lambda run: (was_in_trouble(run), run))


def _complain(source: Source, tour: Tour, trouble: Trouble) -> None:
    place = source.name.encode() if trouble.run is None else trouble.run
    source.log.event(LOG_FAIL, place, trouble.message)
    tour.troubles.append(trouble)


def _without_gone(
    source: Source, memory: bytes, before: Dict[str, Pulled], runs: Dict[bytes, RunFacts]
) -> Dict[str, Pulled]:
    """What is remembered of the runs that there are; one that comes back later is a new one.

    Before any run is served: what belongs to one of them may lie in one that is no more.
    """
    kept = {run: known for run, known in before.items() if from_json(run) in runs}
    for run, known in before.items():
        if run not in kept and known.state not in (DONE, SKIPPED):
            source.log.event(
                LOG_WARN, from_json(run), "is gone over there, and it was not done here"
            )
    if kept != before:
        _save(memory, kept)
    return kept


def _with_failures(source: Source, tour: Tour, runs: Dict[bytes, RunFacts]) -> Tour:
    """A run that gets no sums over there fails here, whatever has come of it so far."""
    for place, turn in enumerate(tour.runs):
        if runs[turn.run].state == FAILED:
            why = f"no sums over there, it says: {quoted(runs[turn.run].error)}"
            _complain(source, tour, RunFailed(why, turn.run))
            error = "; ".join(filter(None, [turn.pulled.error, why]))
            failed = turn.pulled._replace(state=FAILED, error=error)
            tour.runs[place] = turn._replace(pulled=failed)
    return tour


def _pull(pull: Pull, run: bytes, remembered: Remembered) -> Tuple[RunPulled, Optional[Trouble]]:
    trouble: Optional[Trouble] = None
    try:
        pull.go(remembered)
    except RunFailed as error:
        error.run = run
        trouble = error
        pull.now = pull.now._replace(state=FAILED, error=error.message)
    except Trouble as error:
        trouble = error
        pull.now = pull.now._replace(error=error.message)
    except OSError as error:
        trouble = run_failed(error, run)
        pull.now = pull.now._replace(state=FAILED, error=trouble.message)
    return RunPulled(run, pull.now, pull.files, pull.bytes), trouble


def run_facts(each: RunPulled) -> Dict[str, Any]:
    """How a run stands, for programs, as a push has it."""
    pulled = each.pulled
    return {
        "run": for_json(each.run),
        "state": pulled.state,
        "files": pulled.files,
        "bytes": pulled.bytes,
        "sent_files": pulled.here_files,
        "sent_bytes": pulled.bytes,
        "error": pulled.error,
        "warning": pulled.warning,
    }


def _beat(source: Source, tour: Tour, left: Heartbeat) -> None:
    """Say that the sequencer was heard, in the place and form in which one that pushes does.

    One that says nothing new of itself, and has nothing new for us, takes no sums any more: it
    answers, and is silent all the same.
    """
    runs = []
    for each in tour.runs:
        facts = run_facts(each)
        facts.update(
            rollup=each.pulled.rollup,
            done_at=each.pulled.done_at if each.pulled.state == DONE else None,
            first_sent_at=each.pulled.first_at,
        )
        runs.append(facts)
    errors = [each.message for each in tour.troubles if each.run is None]
    heartbeat = heartbeat_facts(source.name, 1 if tour.troubles else 0, errors, runs)
    heartbeat.update(
        free_bytes=left.free_bytes,
        total_bytes=left.total_bytes,
        unsent=list(left.unsent),
        left_at=date_text(left.arrived_at),
    )
    name = file_name(source.name)
    before = read_json(os.path.join(source.base, HEARTBEAT_DIRECTORY, name))
    if dict(heartbeat, time=before.get("time")) == before:
        return
    try:
        make_inside(source.base, HEARTBEAT_DIRECTORY)
        line = json.dumps(heartbeat).encode() + b"\n"
        write_inside(source.base, HEARTBEAT_DIRECTORY, name, [line])
    except OSError as error:
        place = shown(os.path.join(source.base, HEARTBEAT_DIRECTORY))
        advice = "let this user write there, and have no link or file in its place"
        _complain(source, tour, unwritable(place, error, advice))


def _load(path: bytes) -> Dict[str, Pulled]:
    """What was pulled before; a run whose record says what we never write is new."""
    listed = read_json(path).get("runs")
    found: Dict[str, Pulled] = {}
    for run, facts in listed.items() if isinstance(listed, dict) else ():
        with contextlib.suppress(TypeError):
            pulled = Pulled(**facts)
            if all(map(_is_alike, pulled, Pulled("", ""))):
                found[run] = pulled
    return found


def _is_alike(value: object, default: object) -> bool:
    """Whether a value is of the type of its default, or a text in place of none."""
    return type(value) is type(default) or (default is None and isinstance(value, str))


def _save(path: bytes, runs: Dict[str, Pulled]) -> None:
    write_json(path, {"runs": {run: dict(each._asdict()) for run, each in runs.items()}})
