"""The heartbeat, `DEST/.ontpush/HOST.json`: how this instrument and its runs stand."""

import json
import os
import re
import time
from typing import Any, Dict, List

from ontpush import __version__
from ontpush.engine.deliver import deliver
from ontpush.engine.ledger import RunRecord
from ontpush.engine.mark import date_text
from ontpush.engine.tick import Tick
from ontpush.facts.names import below, for_json
from ontpush.facts.words import DONE, HEARTBEAT_DIRECTORY


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


def send_heartbeat(tick: Tick, exit_code: int, errors: List[str]) -> None:
    """Send it, as it stands at the end of a tick; `errors` are those of no single run. Trouble."""
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
    deliver(tick.transport, tick.outbox, name, [json.dumps(facts).encode() + b"\n"])


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
