"""Brings the roll-up to the destination, and takes back what it can no longer promise."""

import os
import time
from typing import Dict, Iterator, List, Tuple

from ontpush.engine.deliver import deliver, exchange
from ontpush.engine.gone import directories_above
from ontpush.engine.mark import mark_lines
from ontpush.engine.rollup import line_for, md5_and_size, write_whole
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.words import ROLLUP, VOUCHING_MARKS

# So many directories in one call: each takes two small files.
_DIRECTORIES = 2000


def publish(tick: Tick, run: RunInHand) -> Tuple[str, int]:
    """Deliver the roll-up of all that lies at the destination; its MD5 and time. Trouble.

    Not yet in the run itself: see `install`.
    """
    with tick.ledger.writing():
        tick.ledger.list_sent(run.id)
    md5, _ = md5_and_size(rollup_lines(tick, run))
    name = run.relative + b"/" + ROLLUP
    changed = deliver(tick.transport, tick.outbox, name, rollup_lines(tick, run))
    with tick.ledger.writing():
        tick.ledger.unlist_unsent(run.id)
    return md5, changed


def withdraw(tick: Tick, run: RunInHand) -> None:
    """Deliver a roll-up without the files that are about to be sent anew.

    The bytes there never contradict a roll-up beside them, and a done mark that vouched for
    the old roll-up vouches for nothing from here on.
    """
    kept = (line_for(*listed) for listed in tick.ledger.uncontradicted(run.id))
    deliver(tick.transport, tick.outbox, run.relative + b"/" + ROLLUP, kept)
    with tick.ledger.writing():
        tick.ledger.unlist_contradicted(run.id)


def retract(tick: Tick, run: RunInHand, but_its_own: bool = False) -> List[bytes]:
    """Let no mark at the destination vouch for what lies above or in the run. Trouble.

    Only where the ledger does not know that this was done: in a run that is looked at for the
    first time, whose roll-up there is emptied too, and in its new directories. A mark cannot be
    deleted by a key that can only write: one that vouches for no roll-up takes its place.
    `but_its_own`: the run is done, and its own roll-up and mark hold. The directories, relative to
    the destination, in which there was a mark.
    """
    uncleared = tick.ledger.uncleared(run.id)
    there: List[bytes] = []
    for start in range(0, len(uncleared), _DIRECTORIES):
        part = uncleared[start : start + _DIRECTORIES]
        files = _retracted(run, part, but_its_own)
        replaced = exchange(tick.transport, tick.outbox, files, only_over_another=True).replaced
        with tick.ledger.writing():
            tick.ledger.note_cleared(run.id, part)
            if b"" in part and not but_its_own:
                tick.ledger.unlist_all(run.id)
        there += (os.path.dirname(name) for name in replaced if not name.endswith(b"/" + ROLLUP))
    return sorted(set(there) - {run.relative})


def _retracted(run: RunInHand, directories: List[bytes], but_its_own: bool) -> Dict[bytes, bytes]:
    """What is to take the place of marks, and of the roll-up, at the destination.

    A directory that is called as one of these vouches for nothing.
    """
    above = directories_above(run.relative) if b"" in directories else []
    inside = [(run.relative + b"/" + path)[:-1] for path in directories]
    if but_its_own:
        inside = [path for path in inside if path != run.relative]
    why = {"retracted": "which run this is part of is to be seen at the sequencer now"}
    mark = b"".join(mark_lines(time.time(), why))
    files = {path + b"/" + name: mark for path in above + inside for name in VOUCHING_MARKS}
    if run.relative in inside:
        files[run.relative + b"/" + ROLLUP] = b""
    return {name: files[name] for name in files.keys() - {*above, *inside}}


def withdraw_everything(tick: Tick, run: RunInHand) -> None:
    """Deliver an empty roll-up over the last one, of which nobody knows what it listed."""
    name = run.relative + b"/" + ROLLUP
    deliver(tick.transport, tick.outbox, name, [], only_over_another=True)
    with tick.ledger.writing():
        tick.ledger.unlist_all(run.id)


def md5_of_listed(tick: Tick, run: RunInHand) -> str:
    """The MD5 of the roll-up that may lie at the destination, for all that the ledger knows."""
    return md5_and_size(line_for(*listed) for listed in tick.ledger.listed(run.id))[0]


def install(tick: Tick, run: RunInHand, changed: int) -> None:
    """Write the roll-up into the run that was delivered with this time. OSError."""
    write_whole(run.path + b"/" + ROLLUP, rollup_lines(tick, run), changed)


def rollup_lines(tick: Tick, run: RunInHand) -> Iterator[bytes]:
    """The roll-up of all of the run that lies at the destination."""
    return (line_for(*listed) for listed in tick.ledger.rollup(run.id))
