"""The heartbeat, `DEST/.ontpush/HOST.json`: how this instrument and its runs stand.

Beside it lies `HOST.bell`, which the cluster rings to be asked what it wants: see `asked`.
"""

import json
import os
import re
import time
from typing import Any, Dict, List

from ontpush import __version__
from ontpush.engine.complaints import why_not
from ontpush.engine.deliver import exchange
from ontpush.engine.ledger import RunRecord
from ontpush.engine.mark import date_text
from ontpush.engine.tick import Tick
from ontpush.facts.names import below, for_json
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import BELL_SUFFIX, DONE, HEARTBEAT_DIRECTORY


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


def send_heartbeat(tick: Tick, exit_code: int, errors: List[str]) -> bool:
    """Send it, as it stands at the end of a tick; `errors` are those of no single run. Trouble.

    Whether the bell beside it had been rung: the empty one that goes along has silenced it.
    """
    disk = os.statvfs(tick.source)
    records: List[RunRecord] = tick.ledger.runs(tick.source)
    facts = {
        "instrument": tick.instrument,
        "version": __version__,
        "time": date_text(time.time()),
        "exit_code": exit_code,
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "total_bytes": disk.f_blocks * disk.f_frsize,
        "errors": errors,
        "runs": [_facts(record, tick.source) for record in records],
    }
    name = HEARTBEAT_DIRECTORY + b"/" + file_name(tick.instrument)
    bell = bell_of(name)
    files = {name: json.dumps(facts).encode() + b"\n", bell: b""}
    sent = exchange(tick.transport, tick.outbox, files)
    if name not in sent.arrived:
        raise RunFailed(f"it did not arrive: {why_not([])}")
    return bell in sent.replaced


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
