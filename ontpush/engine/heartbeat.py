"""The heartbeat, `DEST/.ontpush/HOST.json`: how this instrument and its runs stand.

Beside it lies `HOST.bell`, which the cluster rings to be asked what it wants: see `asked`; and
`owner`, with the name of the instrument that was heard last: see `claims`.
A sequencer that only hashes leaves its heartbeat at home, where the cluster comes by for it.
"""

import contextlib
import json
import os
import re
import time
from typing import Any, Collection, Dict, Iterable, List, NamedTuple

from ontpush import __version__
from ontpush.engine.claims import claim_of
from ontpush.engine.complaints import why_not
from ontpush.engine.deliver import exchange
from ontpush.engine.ledger import RunRecord
from ontpush.engine.mark import date_text
from ontpush.engine.rollup import write_whole
from ontpush.engine.tick import Tick
from ontpush.facts.names import below, for_json, shown
from ontpush.facts.trouble import RunFailed, Trouble, unwritable
from ontpush.facts.words import BELL_SUFFIX, DONE, HEARTBEAT_DIRECTORY, OWNER

_MOST_UNSENT = 10
_TOUCH_SECONDS = 60.0


def run_facts(record: RunRecord, source: bytes) -> Dict[str, Any]:
    """How a run stands, for programs. Sizes in bytes; `sent_` is all that lies there."""
    return {
        "run": for_json(below(record.path, source)),
        "state": record.state,
        "files": record.files,
        "bytes": record.bytes,
        "sent_files": record.sent_files,
        "sent_bytes": record.sent_bytes,
        "error": record.error,
        "warning": record.warning,
    }


class Heard(NamedTuple):
    """What was heard in passing: that the bell was rung, that another instrument sends there."""

    bell: bool
    another: bool


def send_heartbeat(tick: Tick, exit_code: int, errors: List[str], unsent: List[str]) -> Heard:
    """Send it, as it stands at the end of a tick; `errors` are those of no single run. Trouble.

    `unsent` tells of what looks like data and belongs to no run.

    The empty bell that goes along silences the one beside it.
    """
    records: List[RunRecord] = tick.ledger.runs(tick.source)
    runs = [_facts(record, tick.source) for record in records]
    facts = heartbeat_facts(tick.instrument, exit_code, errors, runs)
    facts.update(_disk(tick.source), unsent=unsent[:_MOST_UNSENT])
    name = heartbeat_name(tick.instrument)
    bell = bell_of(name)
    files = {name: _line(facts), bell: b"", OWNER: claim_of(tick.instrument)}
    sent = exchange(tick.transport, tick.outbox, files)
    if name not in sent.arrived:
        raise RunFailed(f"it did not arrive: {why_not([])}")
    return Heard(bell in sent.replaced, OWNER in sent.replaced)


class LeftHeartbeat:
    """The heartbeat of a sequencer that sends nothing, SRC/.ontpush/HOST.json.

    While a call is at work it is touched now and then: it tells that sums are being taken.
    """

    def __init__(self, source: bytes, instrument: str) -> None:
        self._source = source
        self._instrument = instrument
        self._path = os.path.join(source, heartbeat_name(instrument))
        self._touched_at = time.monotonic()

    def leave(
        self, exit_code: int, errors: List[str], runs: List[Dict[str, Any]], unsent: List[str]
    ) -> None:
        """Write how the call left its runs. Trouble."""
        facts = heartbeat_facts(self._instrument, exit_code, errors, runs)
        facts.update(_disk(self._source), unsent=unsent[:_MOST_UNSENT])
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            write_whole(self._path, [_line(facts)])
        except OSError as error:
            raise unwritable(shown(self._path), error, "let this user write there") from error

    def touch(self, *_: int) -> None:
        """Tell that the work goes on, at most once a minute."""
        if time.monotonic() - self._touched_at > _TOUCH_SECONDS:
            self._touched_at = time.monotonic()
            with contextlib.suppress(FileNotFoundError):  # the first call has not left one yet
                os.utime(self._path)


def heartbeat_facts(
    instrument: str, exit_code: int, errors: List[str], runs: List[Dict[str, Any]]
) -> Dict[str, Any]:
    """What every heartbeat holds; `errors` are those of no single run."""
    return {
        "instrument": instrument,
        "version": __version__,
        "time": date_text(time.time()),
        "exit_code": exit_code,
        "errors": errors,
        "runs": runs,
    }


def at_large(troubles: Iterable[Trouble], visited: Collection[bytes], source: bytes) -> List[str]:
    """The troubles that are of none of the runs visited, which are given by absolute path."""
    paths = [(os.path.join(source, each.run or b""), each) for each in troubles]
    return [
        f"{shown(below(path, source))}: {each.message}" if each.run else each.message
        for path, each in paths
        if path not in visited
    ]


def _disk(source: bytes) -> Dict[str, int]:
    try:
        disk = os.statvfs(source)
    except OSError:  # the source is gone, which is told as what it is
        return {}
    return {
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "total_bytes": disk.f_blocks * disk.f_frsize,
    }


def _line(facts: Dict[str, Any]) -> bytes:
    return json.dumps(facts).encode() + b"\n"


def heartbeat_name(instrument: str) -> bytes:
    """Where its heartbeat lies below a destination, or below its source."""
    return HEARTBEAT_DIRECTORY + b"/" + file_name(instrument)


def bell_of(heartbeat: bytes) -> bytes:
    """The bell beside the heartbeat of that name or path."""
    return heartbeat[: -len(b".json")] + BELL_SUFFIX


def _facts(record: RunRecord, source: bytes) -> Dict[str, Any]:
    """With what tells the cluster that something is new there, so that it need not look."""
    facts = run_facts(record, source)
    done_at = record.done_at if record.state == DONE else None
    facts.update(rollup=record.rollup, done_at=done_at, first_sent_at=record.first_sent_at)
    return facts


def file_name(instrument: str) -> bytes:
    """`HOST.json`, whatever somebody called the instrument."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", instrument).lstrip(".") or "unnamed"
    return safe.encode() + b".json"
