"""Tells whether a file has been left alone for `settle` seconds, whatever the clocks say.

A file's times come from the clock of its disk, which may be another host's and wrong, and this
host's own clock may be put forward or back. So an age is taken on the disk's clock; and where a
time lies in that clock's future, or this host's clock was put a moment ago, a file has
settled once two looks saw it the same, `settle` seconds apart by a clock that nobody can set.
"""

import os
import time
from typing import Dict, NamedTuple, Optional

from ontpush.facts.times import mtime_ns
from ontpush.facts.words import ROLLUP, UNFINISHED_SUFFIX

# Counts on while the machine sleeps. Python 3.6 has no name for it.
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", 7)
_TOLERANCE = 1.0


class Moment(NamedTuple):
    """Now: since the machine started in seconds, which start that was, and what its clock says."""

    boot: str
    uptime: float
    clock: float


class Seen(NamedTuple):
    """A file that had not settled: its size and times, and since when it was seen so."""

    size: int
    mtime_ns: int
    ctime_ns: int
    boot: str
    since: float


def this_moment() -> Moment:
    """What the clocks of this host say now."""
    return Moment(_boot(), time.clock_gettime(_BOOTTIME), time.time())


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def seconds_put(before: Optional[Moment], now: Moment) -> float:
    """By how many seconds the host's clock was put forward in between, as far as that is known."""
    if before is None or before.boot != now.boot or before.uptime > now.uptime:
        return 0
    put = (now.clock - before.clock) - (now.uptime - before.uptime)
    return put if abs(put) > _TOLERANCE else 0


def disk_clock_ns(run: bytes) -> Optional[int]:
    """What the clock of the run's disk says now, in nanoseconds; None where it cannot be asked.

    By the time of a new file, under a name that counts as one of ours that was broken off.
    """
    path = os.path.join(run, ROLLUP + UNFINISHED_SUFFIX)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return os.fstat(descriptor).st_ctime_ns
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError:
        return None


class Settling:
    """What has settled in one run, during one look.

    `can_tell` is whether times can be believed; `asks_disk` whether a file may be made to ask it.
    """

    def __init__(self, run: bytes, settle: float, can_tell: bool, asks_disk: bool) -> None:
        self._run = run
        self._settle = settle
        self._can_tell = can_tell
        self._asks_disk = asks_disk
        self._now = this_moment()
        self._disk_ns: Optional[int] = None

    def is_settled(
        self,
        name: bytes,
        found: os.stat_result,
        before: Dict[bytes, Seen],
        waiting: Dict[bytes, Seen],
    ) -> bool:
        """Whether a file has settled, as it was `before` and is now; if not it joins `waiting`."""
        if not self._settle or (self._can_tell and self._is_old(found)):
            return True
        now = Seen(
            found.st_size,
            mtime_ns(found),
            found.st_ctime_ns,
            self._now.boot,
            self._now.uptime,
        )
        seen = before.get(name)
        if seen is None or seen[:4] != now[:4] or seen.since > now.since:
            seen = now
        if now.since - seen.since >= self._settle:
            return True
        waiting[name] = seen
        return False

    def ahead_ns(self) -> int:
        """How far the disk's clock is ahead of this host's, as far as it was asked."""
        return self._disk_ns - int(self._now.clock * 10**9) if self._disk_ns is not None else 0

    def _is_old(self, found: os.stat_result) -> bool:
        """Going by the time of its last writing; one in the future can only have been set.

        Then by the time of change of any kind, which nobody can set.
        """
        if self._disk_ns is None:
            asked = disk_clock_ns(self._run) if self._asks_disk else None
            self._disk_ns = int(self._now.clock * 10**9) if asked is None else asked
        for when in (mtime_ns(found), found.st_ctime_ns):
            if when <= self._disk_ns:
                return self._disk_ns - when >= self._settle * 10**9
        return False
