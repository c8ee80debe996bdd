"""Carries the files of a run over: those of which an older version may be there, then the new.

Sums of new files are taken while they are sent, each at its own pace; afterwards a file
counts as sent only if nothing touched it from the start of the one to the end of the other.
"""

import os
import stat
from typing import Callable, Iterator, List, NamedTuple, Set, Tuple

from ontpush.engine.complaints import why_not
from ontpush.engine.hashing import FileTrouble, sum_files
from ontpush.engine.ledger import LINK, THERE, FileRecord
from ontpush.engine.publish import withdraw
from ontpush.engine.send import Comparing, Sending
from ontpush.engine.skipped import heed_skip
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.times import mtime_ns

# As many files as one call of rsync is given: it holds a list of them all, at both ends.
SLICE_FILES = 25000
SLICE_BYTES = 64 << 30

Page = Callable[[int, Tuple[bytes, bytes], int], List[FileRecord]]


class Carried(NamedTuple):
    """Files and bytes that went over, and what did not and why."""

    files: int
    bytes: int
    trouble: List[FileTrouble]


def carry(tick: Tick, run: RunInHand) -> Carried:
    """Send everything of the run that the ledger has as unsent. Trouble of the transport.

    Skipped between two calls of rsync.
    """
    parts = [_prepare(tick, run)]
    parts += [
        _carry_broken_off(tick, run, files) for files in slices(tick.ledger.broken_off, run.id)
    ]
    parts += [_carry_fresh(tick, run, files) for files in slices(tick.ledger.fresh, run.id)]
    return Carried(
        sum(part.files for part in parts),
        sum(part.bytes for part in parts),
        [each for part in parts for each in part.trouble],
    )


def _prepare(tick: Tick, run: RunInHand) -> Carried:
    """Take sums of what has changed: they tell whether the roll-up there is contradicted."""
    ledger = tick.ledger
    trouble: List[FileTrouble] = []
    for files in slices(ledger.changed, run.id):
        heed_skip(run.path)
        unsummed = [file for file in files if file.md5 is None]
        tick.progress.begin(run.relative, "hashing", *_extent(unsummed))
        trouble += sum_files(ledger, run.path, unsummed, tick.hashing, tick.progress.advance)[1]
    with ledger.writing():
        ledger.settle_adopted(run.id)
    heed_skip(run.path)
    if ledger.contradicted(run.id):
        withdraw(tick, run)
    return Carried(0, 0, trouble)


def slices(page: Page, run_id: int) -> Iterator[List[FileRecord]]:
    """Files as the ledger's `page` gives them out, in lists that one call of rsync can take."""
    after = (b"", b"")
    while True:
        files = page(run_id, after, SLICE_FILES)
        size = 0
        for count, file in enumerate(files, 1):
            size += file.size
            if size >= SLICE_BYTES:
                del files[count:]
        if not files:
            return
        yield files
        after = files[-1].key


def _extent(files: List[FileRecord]) -> Tuple[int, int]:
    return len(files), sum(file.size for file in files)


def _carry_broken_off(tick: Tick, run: RunInHand, files: List[FileRecord]) -> Carried:
    """What may have arrived before is compared by content: nobody saw it arrive."""
    return _carry_slice(tick, run, files, ["--checksum"], unheard_sums(files))


def _carry_fresh(tick: Tick, run: RunInHand, files: List[FileRecord]) -> Carried:
    """Where another version may lie, rsync must not go by times: they are whole seconds."""
    with tick.ledger.writing():
        tick.ledger.offer_new(files)
    largest = max(file.size for file in files)
    return _carry_slice(tick, run, files, ["--ignore-times"], largest)


def _carry_slice(
    tick: Tick, run: RunInHand, files: List[FileRecord], flags: List[str], unheard: int
) -> Carried:
    """Send `files` and take the sums they lack; note what then lies at the destination."""
    heed_skip(run.path)
    paths = [run.relative + b"/" + file.path for file in files]
    tick.progress.begin(run.relative, "sending", *_extent(files))
    with Sending(
        tick.transport, tick.source, paths, tick.progress.advance, flags, unheard
    ) as sending:
        files, trouble = sum_files(tick.ledger, run.path, files, tick.hashing, sending.watch)
        complete, complaints = sending.finish()
    arrived = sending.arrived if complete else _proven(tick, paths, unheard_sums(files))
    there: List[FileRecord] = []
    doubtful: List[FileRecord] = []
    named = {path for path, _ in trouble}
    for file, path in zip(files, paths):
        if not _is_untouched(run, file):
            doubtful.append(file)
        elif path in arrived:
            there.append(file)
        elif file.path not in named:
            trouble.append((file.path, OSError(0, f"did not arrive: {why_not(complaints, path)}")))
    with tick.ledger.writing():
        tick.ledger.store_delivery(there, THERE)
        tick.ledger.distrust(doubtful)
    return Carried(sending.files, sending.bytes, trouble)


def unheard_sums(files: List[FileRecord]) -> int:
    """Bytes that rsync may read before the other end hears of it, where it compares by content.

    It takes the sums of all files before it lets go of a full buffer of them.
    """
    return sum(file.size for file in files)


def _proven(tick: Tick, paths: List[bytes], unheard: int) -> Set[bytes]:
    """Which of `paths` lie at the destination as they do here, after a partial transfer."""
    with Comparing(tick.transport, tick.source, paths, unheard=unheard) as comparing:
        comparing.finish()
    return comparing.same


def _is_untouched(run: RunInHand, file: FileRecord) -> bool:
    """Whether a file or link is still exactly what was hashed, or taken."""
    if file.md5 is None:
        return False
    try:
        found = os.lstat(run.path + b"/" + file.path)
    except OSError:
        return False
    if file.md5 == LINK:
        return stat.S_ISLNK(found.st_mode) and mtime_ns(found) == file.mtime_ns
    return stat.S_ISREG(found.st_mode) and file.is_as_hashed(found)
