"""Rebuilds what the ledger should know of a run from what lies in the run itself.

A done mark that vouches for the roll-up there, and fits the files, tells that all of it lies at
the destination: nothing is hashed again. Without one the roll-up tells what may lie there.
"""

import itertools
import os
from typing import Dict, Iterable, List, Optional, Set

from ontpush.engine.carry import slices
from ontpush.engine.ledger import FileRecord, Totals
from ontpush.engine.mark import date_of, md5_of_rollup, read_mark, vouches
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.send import Comparing
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.words import DONE_MARK, LOG_WARN, ROLLUP


def recover_listed(tick: Tick, run: RunInHand) -> Optional[str]:
    """For a run new to the ledger: take up its roll-up. Its MD5 if a mark vouches for it.

    To be followed by a full look, and `believe_mark` where this returned an MD5.
    """
    mark, rollup = read_mark(run.path), md5_of_rollup(run.path)
    destination = tick.transport.destination.text
    is_vouched = vouches(mark, rollup, run.relative, tick.instrument, destination)
    return rollup if _adopt(tick, run) and is_vouched else None


def believe_mark(tick: Tick, run: RunInHand) -> bool:
    """After a full look: whether all that is in the run is what its mark vouches for.

    Files that are newer than the mark, or that its roll-up does not list, stay to be sent; those
    that somebody touched since, or that are not to be seen at the destination, are hashed and
    compared anew, and everything else is compared with them. If the mark's counts do not fit the
    rest, something was put in a file's place: nothing is believed and all sums are taken again.
    Nor is a mark that is not, with its roll-up, to be seen at the destination. Trouble.
    """
    ledger = tick.ledger
    mark = read_mark(run.path) or {}
    made_ns = _made_ns(run, mark)
    with ledger.writing():
        ledger.believe_listed(run.id, made_ns)
    own = {ROLLUP, DONE_MARK}
    is_marked_there = False
    for files in slices(ledger.all_files, run.id):
        seen = _seen_there(tick, run, own.union(file.path for file in files))
        is_marked_there = own <= seen
        doubtful = _touched(run, files, made_ns) + [each for each in files if each.path not in seen]
        with ledger.writing():
            ledger.doubt(doubtful)
    totals = ledger.totals(run.id)
    if totals.unsent == 0 and not _fits(mark, totals):
        with ledger.writing():
            ledger.disbelieve_listed(run.id)
        return False
    if totals.unsent or not is_marked_there:
        # Run and mark may be older than what lies there, and times are seen by whole seconds: the
        # sums of the old roll-up are no longer to be listed before the bytes were compared.
        with ledger.writing():
            ledger.doubt_deliveries(run.id)
        return False
    return True


def _made_ns(run: RunInHand, mark: Dict[str, str]) -> int:
    """When a mark was made, in nanoseconds since the epoch; 0 where it does not tell.

    Its date has whole seconds. The time of change of its file is finer, but new in a copy.
    """
    date = date_of(mark)
    if date is None:
        return 0
    end_of_second = (int(date) + 1) * 10**9
    return min(end_of_second, os.lstat(run.path + b"/" + DONE_MARK).st_ctime_ns)


def _touched(run: RunInHand, files: List[FileRecord], since_ns: int) -> List[FileRecord]:
    """A file that was moved in has its old modification time; its time of change is not old."""
    return [file for file in files if not _is_older(run.path + b"/" + file.path, since_ns)]


def _is_older(path: bytes, than_ns: int) -> bool:
    try:
        return os.lstat(path).st_ctime_ns <= than_ns
    except OSError:
        return False


def _seen_there(tick: Tick, run: RunInHand, paths: Iterable[bytes]) -> Set[bytes]:
    """Those that lie there with the same size and time: another key may lead elsewhere."""
    names = [run.relative + b"/" + path for path in paths]
    with Comparing(tick.transport, tick.source, names, by_content=False) as comparing:
        comparing.finish()
    return {name[len(run.relative) + 1 :] for name in comparing.same.intersection(names)}


def _fits(mark: Dict[str, str], totals: Totals) -> bool:
    return (mark.get("files"), mark.get("bytes")) == (str(totals.files), str(totals.bytes))


def _adopt(tick: Tick, run: RunInHand) -> bool:
    """Take up the run's roll-up as what the destination may list; False if it cannot be read."""
    lines = (listed for listed in read_rollup(run.path + b"/" + ROLLUP) if _is_inside(listed))
    try:
        with tick.ledger.writing():
            for path, names in itertools.groupby(lines, key=_directory_of):
                directory = tick.ledger.directory(run.id, path)
                tick.ledger.adopt(directory, ((each.path[len(path) :], each.md5) for each in names))
    except FileNotFoundError:
        return False
    except (OSError, BadLine) as error:
        why = getattr(error, "strerror", None) or error
        tick.log.event(LOG_WARN, run.relative, f"md5sum cannot be used: {why}")
        return False
    return True


def _directory_of(listed: Listed) -> bytes:
    return listed.path[: listed.path.rfind(b"/") + 1]


def _is_inside(listed: Listed) -> bool:
    parts = listed.path.split(b"/")
    return not os.path.isabs(listed.path) and b".." not in parts and b"" not in parts
