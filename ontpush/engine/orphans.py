"""Ends what a killed tick left behind: its rsync would go on and overwrite what the next one sent.

Every transfer carries a mark in its environment that names the lock of its tick. While a tick is
at work its lock file holds a word; only who finds that word there has to search for orphans.
"""

import contextlib
import os
import signal
import time
from typing import Dict, Iterator, List

from ontpush.facts.names import shown
from ontpush.facts.trouble import TryLater

_NAME = "ONTPUSH_TICK"
_AT_WORK = b"at work\n"
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.02

# What transfers of this process are marked with: nothing outside of a tick.
_mark: Dict[str, str] = {}


def tick_mark() -> Dict[str, str]:
    """The environment variable by which a transfer is found when its tick has been killed."""
    return dict(_mark)


@contextlib.contextmanager
def orphans_ended(descriptor: int, lock: bytes) -> Iterator[None]:
    """End the orphans of the last tick under this lock, if it was killed; mark our own children.

    `descriptor` is the open lock file at the absolute path `lock`, held by the caller. TryLater
    where an orphan does not end, or the word cannot be written.
    """
    before = tick_mark()
    mark = {_NAME: os.fsdecode(lock)}
    if os.pread(descriptor, 1, 0):
        _end_orphans(os.fsencode(f"{_NAME}={mark[_NAME]}"))
    try:
        os.pwrite(descriptor, _AT_WORK, 0)
    except OSError as error:
        raise TryLater(f"{shown(lock)} cannot be written: {error.strerror}") from error
    _mark.update(mark)
    try:
        yield
    finally:
        _mark.clear()
        _mark.update(before)
        os.ftruncate(descriptor, 0)


def _end_orphans(mark: bytes) -> None:
    begun = time.monotonic()
    while True:
        orphans = _marked(mark)
        if not orphans:
            return
        waited = time.monotonic() - begun
        if waited > 2 * _GRACE_SECONDS:
            numbers = ", ".join(map(str, orphans))
            raise TryLater(f"what a killed tick left does not end ({numbers}): does a disk hang?")
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(orphan, signal.SIGTERM if waited < _GRACE_SECONDS else signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _marked(mark: bytes) -> List[int]:
    """The processes that carry the mark."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                found.append(int(name))
    return found
