"""How every run of the fleet stands, as instruments and monitor have it; reads no run."""

from typing import Any, Collection, Dict, Iterator, Optional

from ontpush.cluster.arrivals import is_as_found
from ontpush.cluster.fleet import Instrument, instruments
from ontpush.cluster.heartbeats import BadHeartbeat, Heartbeat, RunFacts, read_heartbeat
from ontpush.cluster.memory import CHECKING, GOOD, Memory, Standing
from ontpush.cluster.verdict import bad_files
from ontpush.facts.names import for_json, from_json


def every_run(root: bytes, pulled: Collection[str], memory: Memory) -> Iterator[Dict[str, Any]]:
    """The facts of each run, as `status` gives them, with `instrument` and `verdict`. OSError."""
    for instrument in instruments(root, pulled):
        beat = _hear(instrument)
        standings = memory.load(instrument.name).runs
        told = {for_json(path): facts for path, facts in (beat.runs.items() if beat else ())}
        for run in sorted({*told, *standings}):
            yield _facts(instrument, run, told.get(run), standings.get(run))


def _hear(instrument: Instrument) -> Optional[Heartbeat]:
    try:
        return read_heartbeat(instrument.heartbeat) if instrument.heartbeat else None
    except BadHeartbeat:
        return None


def _facts(
    instrument: Instrument, run: str, told: Optional[RunFacts], standing: Optional[Standing]
) -> Dict[str, Any]:
    bad = bad_files(standing) if standing else ()
    errors = [*bad, *([standing.error] if standing and standing.error else [])]
    if told and told.error:
        errors.append(instrument.says(told.error))
    return {
        "run": run,
        "instrument": instrument.name,
        "state": told.state if told else "done",
        "verdict": _verdict(instrument, run, standing) if standing else None,
        "files": told.files if told else standing.files if standing else 0,
        "bytes": told.bytes if told else standing.bytes if standing else 0,
        "sent_files": told.sent_files if told else standing.files if standing else 0,
        "sent_bytes": told.sent_bytes if told else standing.bytes if standing else 0,
        "error": "; ".join(errors) or None,
        "warning": told.warning or None if told else None,
    }


def _verdict(instrument: Instrument, run: str, standing: Standing) -> str:
    """What can be shown as verified is vouched for at this moment as it was then.

    A tick that opens the run again tells of it in its heartbeat, at its end.
    """
    if standing.verdict != GOOD:
        return standing.verdict
    try:
        is_same = is_as_found(instrument.base, from_json(run), standing)
    except OSError:  # a server does not say just now
        return GOOD
    return GOOD if is_same else CHECKING
