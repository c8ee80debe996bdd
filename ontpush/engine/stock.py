"""Takes stock of a run: looks, and writes down what was found and what follows from it."""

import os
import time
import zlib
from typing import Any, List, Mapping, Optional, Tuple

from ontpush.engine.find import Found
from ontpush.engine.ledger import Ledger, RunRecord
from ontpush.engine.look import Look, Looker, Rules, Tokens, changed_directories, run_token
from ontpush.facts.times import mtime_ns
from ontpush.facts.words import DONE, NEW, SENDING, STALLED, WAITING

_DAY = 86400
_AT_REST = (WAITING, STALLED, DONE)


def take_stock(
    ledger: Ledger, rules: Rules, record: RunRecord, found: Found, known: Tokens, full: bool
) -> Tuple[Optional[Look], RunRecord]:
    """Look at every file, or only where something shows a change; None where nothing does.

    A run at rest that has more in it than before is at rest no longer, and a done one not done.
    """
    token = run_token(found.entries)
    only = None if full else changed_directories(found.path, token, known)
    if only == []:
        return None, record
    looker = Looker(ledger, record.id, found.path, rules, time.time(), record.state != DONE)
    look = looker.look(token, known, only)
    made_ns = mtime_ns(os.lstat(found.path))
    with ledger.writing():
        looker.write_rest()
        totals = ledger.totals(record.id)
        # What a look that was broken off has written is no change to this one.
        wakes = look.changed or totals.unsent or (look.gone and record.state != DONE)
        columns = {
            "state": SENDING if wakes and record.state in _AT_REST else record.state,
            "changed_ns": _last_change(look, record, made_ns),
            "looked_at": int(time.time()) if full else record.looked_at,
            "files": totals.files,
            "bytes": totals.bytes,
            "sent_files": totals.sent_files,
            "sent_bytes": totals.sent_bytes,
        }
        return look, update(ledger, record, columns)


def update(ledger: Ledger, record: RunRecord, columns: Mapping[str, Any]) -> RunRecord:
    """Write those `columns` that are other than in `record`, in or out of a transaction.

    The record with them: what others wrote meanwhile stays as it is in the ledger.
    """
    changes = {name: value for name, value in columns.items() if value != getattr(record, name)}
    if changes:
        ledger.update_run(record.id, **changes)
    return record._replace(**changes)


def _last_change(look: Look, record: RunRecord, made_ns: int) -> int:
    """When something in the run changed last: as its times tell, and then as this host saw it.

    In nanoseconds since the epoch, by this host's clock and never after now: a time that a wrong
    clock put into the future counts from now on.
    """
    now = int(time.time() * 10**9)
    if record.state == NEW:
        # Without a file: when its directory was last touched.
        return min(now, look.newest_ns or made_ns)
    return now if look.changed else min(now, record.changed_ns)


def is_due(record: RunRecord) -> bool:
    """Whether every file is to be asked: once a day, each run at a second of its own.

    A look that a clock which was wrong put into the future counts for nothing.
    """
    now = time.time()
    own_second = zlib.crc32(record.path) % _DAY
    last_due = (now - own_second) // _DAY * _DAY + own_second
    return not last_due <= record.looked_at <= now


def stalls(record: RunRecord, stall_seconds: float) -> bool:
    """Whether nothing is known to have changed in the run for so long."""
    return time.time() - record.changed_ns / 10**9 >= stall_seconds


def unreadable_paths(look: Look, run: bytes) -> List[Tuple[bytes, OSError]]:
    """What could not be read, relative to the run, and why."""
    return [(os.path.relpath(os.fsencode(each.filename), run), each) for each in look.unreadable]
