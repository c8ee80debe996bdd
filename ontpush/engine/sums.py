"""Takes sums: a few threads, each with a batch of files at a time.

Batches keep both cores busy: one file a task costs more in hand-overs than small files
take to read. hashlib and the reads let other threads run.
"""

import hashlib
import os
import queue
import stat
import threading
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, TypeVar

from ontpush.facts.names import from_json

BATCH_FILES = 64
BATCH_BYTES = 16 << 20
_BUFFER = 1 << 20

Key = TypeVar("Key")


class Task(NamedTuple):
    """A file to read: what the caller knows it by, its path, its size as far as known."""

    key: Any
    path: bytes
    size: int


class Summed(NamedTuple):
    """What reading a file gave: MD5, the sizes and times it had throughout, or the trouble.

    `problem` is an OSError, or None; `steady` is False where the file changed while it was read.
    """

    key: Any
    md5: bytes
    sha256: bytes
    stat: Optional[os.stat_result]
    steady: bool
    problem: Optional[OSError]


def new_md5(data: bytes = b"") -> Any:
    """An MD5 object, also on a host whose policy (FIPS) forbids MD5 for security."""
    try:
        return hashlib.md5(data, usedforsecurity=False)  # novm # type: ignore[call-arg,unused-ignore]
    except TypeError:  # before Python 3.9
        return hashlib.md5(data)


def md5_of_text(text: str) -> str:
    """The MD5 of a text in hex: a short name for what may be long, or a secret."""
    digest: str = new_md5(from_json(text)).hexdigest()
    return digest


def take_sums(
    tasks: Iterable[Task], jobs: int, with_sha256: bool = False
) -> Iterator[List[Summed]]:
    """Read the files of `tasks` with `jobs` threads; batches come as they are ready.

    Stops its threads when the caller stops taking.
    """
    pool = _Pool(iter(tasks), with_sha256)
    threads = [threading.Thread(target=pool.work, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            batch = pool.ready.get()
            if isinstance(batch, BaseException):
                raise batch
            if batch is None:
                running -= 1
            else:
                yield batch
    finally:
        pool.stopped = True


class _Pool:
    """What the threads share: the tasks still to do, and the queue of finished batches."""

    def __init__(self, tasks: Iterator[Task], with_sha256: bool) -> None:
        self.tasks = tasks
        self.with_sha256 = with_sha256
        self.taking = threading.Lock()
        self.ready: Any = queue.Queue()
        self.stopped = False

    def work(self) -> None:
        """One thread: batch after batch until there are no more, then None as a farewell."""
        buffer = memoryview(bytearray(_BUFFER))
        try:
            while True:
                batch = self._next_batch()
                if not batch:
                    break
                self.ready.put([self._sum(task, buffer) for task in batch])
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self.ready.put(error)
        self.ready.put(None)

    def _next_batch(self) -> List[Task]:
        batch: List[Task] = []
        size = 0
        with self.taking:
            while len(batch) < BATCH_FILES and size < BATCH_BYTES and not self.stopped:
                task = next(self.tasks, None)
                if task is None:
                    break
                batch.append(task)
                size += task.size
        return batch

    def _sum(self, task: Task, buffer: memoryview) -> Summed:
        md5 = new_md5()
        sha256 = hashlib.sha256() if self.with_sha256 else None
        try:
            # Never wait for the writer of a pipe that took the file's place.
            descriptor = os.open(task.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    return Summed(task.key, b"", b"", None, False, None)
                left = before.st_size
                while left > 0 and not self.stopped:
                    count = os.readv(descriptor, [buffer])
                    if not count:
                        break
                    left -= count
                    md5.update(buffer[:count])
                    if sha256:
                        sha256.update(buffer[:count])
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            return Summed(task.key, b"", b"", None, False, error)
        steady = same_content(before, after) and not self.stopped
        return Summed(
            task.key, md5.digest(), sha256.digest() if sha256 else b"", after, steady, None
        )


def same_content(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether nothing wrote to, or took the place of, a file between two looks at it."""
    return (one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) == (
        other.st_size,
        other.st_mtime_ns,
        other.st_ctime_ns,
        other.st_ino,
    )
