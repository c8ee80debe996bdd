"""Reads a run again whose sums are in doubt, and finds which was wrong: disk, copy or sum.

Asked for by the cluster, which found a copy other than its sum, or by `ontpush retry`. No sidecar
is believed. A sum was wrong from the start where a file that nobody touched reads otherwise,
twice alike, and its copy there is as it reads. Where the copy is other than that too, nothing is
sent: it may be the last good one.
"""

import os
from typing import Callable, Dict, List, NamedTuple, Tuple

from ontpush.engine.carry import slices, unheard_sums
from ontpush.engine.complaints import why_not
from ontpush.engine.hashing import FileTrouble, OnFile
from ontpush.engine.ledger import LINK, FileRecord, Ledger
from ontpush.engine.rollup import write_sidecar
from ontpush.engine.send import Comparing
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.names import shown
from ontpush.facts.trouble import why_unread
from ontpush.facts.words import LOG_WARN, SIDECAR_SUFFIX

_UNSTEADY = "reads otherwise each time: look at the disk and the memory of this host"
Warn = Callable[[str], None]


class Doubted(NamedTuple):
    """What came of reading files again.

    `other` have the sum that they read as now, though nobody touched them since they were hashed;
    `touched` may be another version; `trouble` are those that could not be read.
    """

    other: List[FileRecord]
    touched: List[FileRecord]
    trouble: List[FileTrouble]


def reread(tick: Tick, run: RunInHand) -> Tuple[List[bytes], List[FileTrouble]]:
    """Read all of a run that lies at the destination again, and put right each sum that was wrong.

    The files, by path, that differ both from their sum and from their copy; and what could not be
    read or compared. Where there is none of the latter, it need not be read again. Trouble of the
    transport, Skipped.
    """
    lost: List[bytes] = []
    trouble: List[FileTrouble] = []

    def warn(message: str) -> None:
        tick.log.event(LOG_WARN, run.relative, message)

    def judge(files: List[FileRecord]) -> List[FileTrouble]:
        found = read_again(run.path, files, tick.hashing.jobs, tick.progress.advance)
        same, different, uncompared = _compare(tick, run, found.other)
        with tick.ledger.writing():
            tick.ledger.store_sums(same)
            tick.ledger.distrust(found.touched)
        for file in same:
            path = shown(file.path)
            warn(f"{path}: its sum was wrong: disk here and copy there agree; it is listed anew")
            renew_sidecar(run.path, file, warn)
        lost.extend(file.path for file in different)
        return found.trouble + uncompared

    trouble = each_doubted(tick.ledger, run.id, judge)
    return lost, trouble


def each_doubted(
    ledger: Ledger, run_id: int, judge: Callable[[List[FileRecord]], List[FileTrouble]]
) -> List[FileTrouble]:
    """Have all files of the run judged, list by list, from where a call before was broken off.

    The run is in doubt no longer when that ends without trouble.
    """
    start = ledger.doubted_after(run_id) or b""
    start_key = (start[: start.rfind(b"/") + 1], start[start.rfind(b"/") + 1 :])

    def page(run_id: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        return ledger.all_files(run_id, max(after, start_key), limit)

    trouble: List[FileTrouble] = []
    for files in slices(page, run_id):
        trouble += judge(files)
        if not trouble:
            with ledger.writing():
                ledger.doubt_only_after(run_id, files[-1].path)
    if not trouble:
        with ledger.writing():
            ledger.doubt_no_more(run_id)
    return trouble


def _no_one(*_: int) -> None:
    """Nobody follows how far this comes."""


def read_again(
    run: bytes, files: List[FileRecord], jobs: int, on_file: OnFile = _no_one
) -> Doubted:
    """Read those of `files` that have a sum, and those that read otherwise a second time."""
    summed = [file for file in files if file.md5 not in (None, LINK)]
    first = _unlike(run, summed, jobs, on_file)
    second = _unlike(run, [file for file in summed if file.path in first], jobs, _no_one)
    result = Doubted([], [], [])
    for file in (file for file in summed if file.path in second):
        one, two = first[file.path], second[file.path]
        problem = one.problem or two.problem
        if problem:
            if why_unread(problem) != "missing":
                result.trouble.append((file.path, problem))
        elif not is_untouched(file, one) or not is_untouched(file, two):
            result.touched.append(file)
        elif one.md5 != two.md5:
            result.trouble.append((file.path, OSError(0, _UNSTEADY)))
        else:
            ctime_ns = two.stat.st_ctime_ns if two.stat else None
            result.other.append(file._replace(md5=two.md5, ctime_ns=ctime_ns))
    return result


def is_untouched(file: FileRecord, summed: Summed) -> bool:
    """Whether what was read is still the file that the ledger has a sum of, going by its times.

    A sum that was taken over from a roll-up came without a time of change.
    """
    if summed.stat is None or not summed.steady:
        return False
    if file.ctime_ns is None:
        file = file._replace(ctime_ns=summed.stat.st_ctime_ns)
    return file.is_as_hashed(summed.stat)


def renew_sidecar(run: bytes, file: FileRecord, warn: Warn) -> None:
    """Write the right sum into the sidecar of a file, if there is one: it would be believed."""
    path = run + b"/" + file.path
    if not os.path.lexists(path + SIDECAR_SUFFIX):
        return
    try:
        write_sidecar(path, file.md5 or b"")
    except OSError as error:
        name = shown(file.path + SIDECAR_SUFFIX)
        warn(f"{name} cannot be put right: {error.strerror}; remove it")


def _unlike(run: bytes, files: List[FileRecord], jobs: int, on_file: OnFile) -> Dict[bytes, Summed]:
    """What reading those gave that have another sum now, by path."""
    sums: Dict[bytes, Summed] = {}
    for batch in take_sums((Task(file, run + b"/" + file.path, file.size) for file in files), jobs):
        sums.update((each.key.path, each) for each in batch if each.md5 != each.key.md5)
        on_file(len(batch), sum(each.key.size for each in batch))
    return sums


def _compare(
    tick: Tick, run: RunInHand, files: List[FileRecord]
) -> Tuple[List[FileRecord], List[FileRecord], List[FileTrouble]]:
    """Those of `files` whose copy there has the same content, and those with another; trouble."""
    if not files:
        return [], [], []
    by_name = {run.relative + b"/" + file.path: file for file in files}
    unheard = unheard_sums(files)
    with Comparing(tick.transport, tick.source, list(by_name), unheard=unheard) as comparing:
        _, complaints = comparing.finish()
    same = [file for name, file in by_name.items() if name in comparing.same]
    different = [file for name, file in by_name.items() if name in comparing.different]
    why = OSError(0, f"cannot be compared: {why_not(complaints)}")
    compared = comparing.same | comparing.different
    return same, different, [(by_name[name].path, why) for name in set(by_name) - compared]
