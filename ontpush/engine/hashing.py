"""Gives every file of the ledger its sum: from a sidecar that can be believed, or by reading."""

import errno
import os
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.engine.ledger import FileRecord, Ledger
from ontpush.engine.rollup import read_sidecar, write_sidecar
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.facts.names import plural, shown
from ontpush.facts.times import mtime_ns
from ontpush.facts.trouble import FileFailed, why_unread
from ontpush.facts.words import SIDECAR_SUFFIX

_COMMIT_SECONDS = 2.0

OnFile = Callable[[int, int], None]
FileTrouble = Tuple[bytes, OSError]


_NAMED_FILES = 5


class Hashing(NamedTuple):
    """How sums are taken: by `jobs` threads, with or without writing sidecars."""

    jobs: int
    sidecars: bool


def sum_files(
    ledger: Ledger, run: bytes, files: List[FileRecord], how: Hashing, on_file: OnFile
) -> Tuple[List[FileRecord], List[FileTrouble]]:
    """Take and store the sums of those `files` of the run at `run` that have none.

    What has been stored stays when this is broken off. Returns the files, with their sums,
    and which could not be read or not be given a sidecar. A file that changed since the
    ledger took it, or went, gets no sum and is no trouble: the next look finds it.
    """
    sums = {file[:3]: file for file in files if file.md5 is not None}
    believed, to_read = _ask_sidecars(run, [file for file in files if file.md5 is None])
    _store(ledger, believed)
    trouble: List[FileTrouble] = []
    fresh: List[FileRecord] = []
    stored_at = time.monotonic()
    tasks = (Task(file, run + b"/" + file.path, file.size) for file in to_read)
    for batch in take_sums(tasks, how.jobs):
        for summed in batch:
            file, problem = _judge(summed)
            if file.md5 is not None and how.sidecars:
                problem = _give_sidecar(run, file)
            if problem is not None and why_unread(problem) != "missing":
                trouble.append((file.path, problem))
            fresh.append(file)
        on_file(len(batch), sum(summed.key.size for summed in batch))
        if time.monotonic() - stored_at > _COMMIT_SECONDS:
            _store(ledger, fresh)
            sums.update((file[:3], file) for file in fresh)
            fresh, stored_at = [], time.monotonic()
    _store(ledger, fresh)
    sums.update((file[:3], file) for file in believed + fresh)
    return [sums[file[:3]] for file in files], trouble


def file_trouble(run: bytes, trouble: List[FileTrouble], rest: str) -> FileFailed:
    """One trouble that names the files, in one line however many they are, and says `rest`."""
    names = [f"{shown(path)}: {why.strerror}" for path, why in trouble[:_NAMED_FILES]]
    if len(trouble) > _NAMED_FILES:
        names.append("and {} more".format(plural(len(trouble) - _NAMED_FILES, "file")))
    if any(why.errno in (errno.EACCES, errno.EPERM) for _, why in trouble):
        rest += "; give this user the right"
    return FileFailed("{}; {}".format("; ".join(names), rest), run)


def _judge(summed: Summed) -> Tuple[FileRecord, Optional[OSError]]:
    """The file with its sum, if it was all the time what the ledger took it for."""
    file: FileRecord = summed.key
    found = summed.stat
    if found is None or not summed.steady:
        return file, summed.problem
    if (found.st_size, mtime_ns(found)) != (file.size, file.mtime_ns):
        return file, None
    return file._replace(md5=summed.md5, ctime_ns=found.st_ctime_ns), None


def _store(ledger: Ledger, files: List[FileRecord]) -> None:
    summed = [file for file in files if file.md5 is not None]
    if summed:
        with ledger.writing():
            ledger.store_sums(summed)


def _give_sidecar(run: bytes, file: FileRecord) -> Optional[OSError]:
    try:
        write_sidecar(run + b"/" + file.path, file.md5 or b"")
    except OSError as error:
        return error
    return None


def _ask_sidecars(run: bytes, files: List[FileRecord]) -> Tuple[List[FileRecord], List[FileRecord]]:
    """Files with a sum from a sidecar of the original's, and those that have to be read."""
    believed: List[FileRecord] = []
    to_read: List[FileRecord] = []
    for file, has_sidecars in _with_sidecars_near(run, files):
        answer = _ask_sidecar(run, file) if has_sidecars else file
        (to_read if answer.md5 is None else believed).append(answer)
    return believed, to_read


def _with_sidecars_near(run: bytes, files: List[FileRecord]) -> Iterator[Tuple[FileRecord, bool]]:
    """Each file and whether there are sidecars in its directory at all: most runs have none."""
    near: Dict[int, bool] = {}
    for file in files:
        if file.directory not in near:
            directory = os.path.dirname(run + b"/" + file.path)
            near[file.directory] = _holds_sidecars(directory)
        yield file, near[file.directory]


def _holds_sidecars(directory: bytes) -> bool:
    try:
        return any(name.endswith(SIDECAR_SUFFIX) for name in os.listdir(directory))
    except OSError:
        return False


def _ask_sidecar(run: bytes, file: FileRecord) -> FileRecord:
    if file.ctime_ns is not None:
        return file
    path = run + b"/" + file.path
    try:
        found = os.lstat(path)
    except OSError:
        return file
    if (found.st_size, mtime_ns(found)) != (file.size, file.mtime_ns):
        return file
    return file._replace(md5=read_sidecar(path, found), ctime_ns=found.st_ctime_ns)
