"""One tick for one sequencer that is pulled from: its roll-ups, every run, its heartbeat."""

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ontpush.cluster.fetch import fetch_rollups, staged_runs
from ontpush.cluster.fleet import heartbeats_in
from ontpush.cluster.heartbeats import BadHeartbeat, Heartbeat, read_heartbeat
from ontpush.cluster.memory import Memory, Remembered, read_json, write_json
from ontpush.cluster.pulling import Pull, Pulled, Source
from ontpush.engine.heartbeat import file_name, heartbeat_facts, heartbeat_name
from ontpush.engine.mark import date_text
from ontpush.facts.names import for_json
from ontpush.facts.trouble import RunFailed, Trouble, run_failed
from ontpush.facts.words import DONE, FAILED, LOG_FAIL, NEW, SKIP_MARK, SKIPPED


class RunPulled(NamedTuple):
    """How a run stands after its turn, and the files and bytes that came in it."""

    run: bytes
    pulled: Pulled
    files: int
    bytes: int


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
    hidden = fetch_rollups(source.transport, stage)
    before = _load(memory)
    remembered = Memory(state).load(source.name)
    tour = Tour([], [])
    if hidden:
        tour.troubles.append(_hidden(source, hidden))
    for run, rollup in staged_runs(stage).items():
        turn = _pull(source, run, rollup, (before, remembered), tour.troubles)
        tour.runs.append(turn)
        if before.get(for_json(run)) != turn.pulled:
            before[for_json(run)] = turn.pulled
            _save(memory, before)
        if not all(isinstance(each, RunFailed) for each in tour.troubles):
            return tour
    there = {for_json(each.run): each.pulled for each in tour.runs}
    if there != before:
        _save(memory, there)
    left = _left_heartbeat(source, stage, tour)
    _beat(source, tour, left)
    return tour


def _left_heartbeat(source: Source, stage: bytes, tour: Tour) -> Optional[Heartbeat]:
    """What the sequencer says of itself, if anything; the runs that failed there fail here."""
    found = heartbeats_in(stage)
    if not found:
        return None
    try:
        left = read_heartbeat(max(found)[1])
    except BadHeartbeat as error:
        tour.troubles.append(RunFailed(f"what it says of itself cannot be read: {error}"))
        return None
    for run, facts in left.runs.items():
        if facts.state == FAILED:
            _fail(source, run, f"no sums over there: {facts.error}", tour)
    return left


def _fail(source: Source, run: bytes, why: str, tour: Tour) -> None:
    source.log.event(LOG_FAIL, run, why)
    tour.troubles.append(RunFailed(why, run))
    places = [place for place, each in enumerate(tour.runs) if each.run == run]
    turn = tour.runs.pop(places[0]) if places else RunPulled(run, Pulled("", NEW), 0, 0)
    if turn.pulled.error:
        why = f"{turn.pulled.error}; {why}"
    tour.runs.append(turn._replace(pulled=turn.pulled._replace(state=FAILED, error=why)))


def _hidden(source: Source, why: str) -> Trouble:
    """A part of the sequencer's data cannot be read: the runs that can be are still fetched."""
    message = f"not every roll-up there can be read: {why}"
    source.log.event(LOG_FAIL, source.name.encode(), message)
    return RunFailed(message)


def _pull(
    source: Source,
    run: bytes,
    rollup: bytes,
    known: Tuple[Dict[str, Pulled], Remembered],
    troubles: List[Trouble],
) -> RunPulled:
    before = known[0].get(for_json(run))
    if os.path.lexists(os.path.join(os.path.dirname(rollup), SKIP_MARK)):
        skipped = (before or Pulled("", NEW))._replace(state=SKIPPED, error=None)
        return RunPulled(run, skipped, 0, 0)
    pull = Pull(source, run, rollup, before)
    trouble: Optional[Trouble] = None
    try:
        pull.go(known[1])
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
    if trouble:
        source.log.event(LOG_FAIL, run, trouble.message)
        troubles.append(trouble)
    return RunPulled(run, pull.now, pull.files, pull.bytes)


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


def _beat(source: Source, tour: Tour, left: Optional[Heartbeat]) -> None:
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
    if left:
        heartbeat.update(
            free_bytes=left.free_bytes,
            total_bytes=left.total_bytes,
            left_at=date_text(left.arrived_at),
        )
    path = os.path.join(source.base, heartbeat_name(source.name))
    before = read_json(path)
    if left is None or dict(heartbeat, time=before.get("time")) != before:
        write_json(path, heartbeat)


def _load(path: bytes) -> Dict[str, Pulled]:
    try:
        listed = read_json(path).get("runs", {})
        return {run: Pulled(**facts) for run, facts in listed.items()}
    except (TypeError, AttributeError):
        return {}


def _save(path: bytes, runs: Dict[str, Pulled]) -> None:
    write_json(path, {"runs": {run: dict(each._asdict()) for run, each in runs.items()}})
