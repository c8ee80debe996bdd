"""Looks once a week whether each file of a verified run is there, as large as when it was read.

It asks for sizes alone, at night, and of a share of the runs in each tick. What differs is verified
again: that names the files, and all else follows from it.
"""

import contextlib
import errno
import os
import stat
import sys
import time
from typing import Iterable, List, NamedTuple, Optional, Tuple

from ontpush.cluster.arrivals import is_as_found, is_over, verify_again
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import opened_inside, path_of, stays_inside
from ontpush.cluster.memory import GOOD, Memory, Standing
from ontpush.cluster.messages import View
from ontpush.cluster.turns import in_turns
from ontpush.engine.allowance import TooMuch, allowance, counted
from ontpush.engine.log import EventLog
from ontpush.engine.rollup import BadLine, read_rollup
from ontpush.engine.sizes import Sizes
from ontpush.facts import limits
from ontpush.facts.names import from_json
from ontpush.facts.trouble import why_unread
from ontpush.facts.words import LOG_WARN, ROLLUP

_DAY = 86400
# Verified or walked through so long ago, in seconds, a run is due at night; or at any hour.
_DUE = 7 * _DAY
_OVERDUE = 8 * _DAY
# After so many seconds in which it could not be walked through, its verification tells why.
_GIVEN_UP = 14 * _DAY
_NIGHT_BEGINS, _NIGHT_ENDS = 22, 6  # hours on the clock of this host


class Walked(NamedTuple):
    """What a walk found in a run that was verified at `since`; `why` it could not be done."""

    instrument: str
    run: str
    since: int
    differs: bool
    why: str = ""

    @property
    def place(self) -> bytes:
        """What the log calls the run."""
        return from_json(f"{self.instrument}/{self.run}")


def walk(views: Iterable[View]) -> List[Walked]:
    """Walk through runs that are due, as long as a tick may: at least through one.

    Nothing is written; see `note_walked`.
    """
    walked = []
    until = time.monotonic() + limits.WALK_SECONDS
    for instrument, run, standing in _due(views, time.time()):
        found = Walked(instrument.name, run, standing.since, False)
        try:
            with allowance(sys.maxsize, limits.RUN_WALK_SECONDS):
                differs = _differs(instrument, from_json(run), standing)
        except OSError as error:
            walked.append(found._replace(why=error.strerror or str(error)))
        except TooMuch:
            why = f"it takes longer than {limits.RUN_WALK_SECONDS:g} s"
            walked.append(found._replace(why=why))
        else:
            if differs is not None:
                walked.append(found._replace(differs=differs))
        if time.monotonic() >= until:
            break
    return walked


def note_walked(memory: Memory, walked: List[Walked], log: EventLog) -> bool:
    """Write down what walks found, as far as it is still about the same. TryLater.

    Whether any run is due to be verified again now. Needs the monitor's lock.
    """
    now, doubted = int(time.time()), False
    for name in sorted({each.instrument for each in walked}):
        remembered = memory.load(name)
        runs = dict(remembered.runs)
        for each in walked:
            standing = runs.get(each.run)
            if each.instrument != name or standing is None:
                continue
            if (standing.verdict, standing.since) == (GOOD, each.since):
                runs[each.run] = _noted(each, standing, now, log)
                doubted = doubted or runs[each.run].verdict != GOOD
        memory.save(name, remembered._replace(runs=runs))
    return doubted


def _noted(walked: Walked, standing: Standing, now: int, log: EventLog) -> Standing:
    if walked.differs:
        log.event(LOG_WARN, walked.place, "files are gone or of another size: it is verified again")
        return verify_again(standing, now)
    if not walked.why:
        return standing._replace(walked_at=now, walk_failed_at=0)
    if is_over(_looked_at(standing), _GIVEN_UP, now):
        log.event(LOG_WARN, walked.place, f"{walked.why}: it is verified again")
        return verify_again(standing, now)
    if not standing.walk_failed_at:
        why = f"its files cannot be looked at: {walked.why}; it is tried again at each tick"
        log.event(LOG_WARN, walked.place, why)
    return standing._replace(walk_failed_at=now)


def _due(views: Iterable[View], now: float) -> List[Tuple[Instrument, str, Standing]]:
    """The runs that are due, the one that was looked at longest ago first, instruments in turns.

    What could not be looked at comes after all others: it keeps none from its turn. A tick begins
    with the instrument at which none has looked for longest.
    """
    hour = time.localtime(now).tm_hour
    is_night = hour >= _NIGHT_BEGINS or hour < _NIGHT_ENDS
    age = _DUE if is_night else _OVERDUE
    due = []
    for view in sorted(views, key=_last_walk):
        of_one = [
            (view.instrument, run, standing)
            for run, standing in view.remembered.runs.items()
            if standing.verdict == GOOD and is_over(_looked_at(standing), age, now)
        ]
        due += sorted(of_one, key=lambda each: (each[2].walk_failed_at, _looked_at(each[2])))
    return in_turns(due, lambda each: each[0].name)


def _last_walk(view: View) -> int:
    """When a run of an instrument was looked at last, or that was tried."""
    runs = view.remembered.runs.values()
    return max((max(each.since, each.walked_at, each.walk_failed_at) for each in runs), default=0)


def _looked_at(standing: Standing) -> int:
    return standing.walked_at or standing.since


def _differs(instrument: Instrument, run: bytes, standing: Standing) -> Optional[bool]:
    """Whether files are gone or of another size; None where other files are vouched for by now.

    OSError where a file cannot be asked for, which says nothing of it.
    """
    if not is_as_found(instrument.base, run, standing):
        return None
    if _is_as_read(instrument.base, run, standing):
        return False
    return True if is_as_found(instrument.base, run, standing) else None


def _is_as_read(base: bytes, run: bytes, standing: Standing) -> bool:
    try:
        found = _sizes(base, run)
    except BadLine:
        return False
    except OSError as error:
        if why_unread(error) != "missing":
            raise
        return False
    if standing.sizes:
        return found.digest() == standing.sizes
    # It was verified by a version that did not leave that.
    return not standing.files or (found.files, found.bytes) == (standing.files, standing.bytes)


def _sizes(base: bytes, run: bytes) -> Sizes:
    """The sizes of all files that the run's roll-up lists. OSError, BadLine, TooMuch."""
    found = Sizes()
    with opened_inside(base, run) as directory, contextlib.closing(_Files(base, run)) as files:
        for listed in counted(read_rollup(path_of(directory) + b"/" + ROLLUP)):
            found.add(listed.path, files.size(listed.path))
    return found


class _Files:
    """The files of a run, each reached without a link on the way.

    The directory that was asked last stays open: the next file of a roll-up mostly lies there too.
    """

    def __init__(self, base: bytes, run: bytes) -> None:
        self._base = base
        self._run = run
        self._above = b""
        self._opened = contextlib.ExitStack()
        self._directory = self._opened.enter_context(opened_inside(base, run))

    def size(self, path: bytes) -> int:
        """Of a regular file, in bytes. OSError; FileNotFoundError for anything else."""
        above, name = os.path.split(path)
        if not stays_inside(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if above != self._above:
            self._opened.close()
            inside = opened_inside(self._base, self._run + b"/" + above)
            self._directory = self._opened.enter_context(inside)
            self._above = above
        found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return found.st_size

    def close(self) -> None:
        """Close the directory that is open."""
        self._opened.close()
