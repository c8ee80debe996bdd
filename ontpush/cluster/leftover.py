"""Removes what killed transfers left of files that lie here whole by now, and our own ticks.

Nothing that is not here still: a regular file in no roll-up, under rsync's own temporary name, for
its user alone as rsync makes them until they are whole, that holds the beginning of the file beside
it that it was to become. And a roll-up or mark under the name that we give it until it is whole,
which no file of a run can have.
"""

import contextlib
import os
import stat
import time
from itertools import islice
from typing import Callable, Iterator, Tuple

from ontpush.cluster.arrivals import vouched
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import opened_inside, path_of, relative_path
from ontpush.cluster.memory import Standing
from ontpush.engine.allowance import TooMuch
from ontpush.engine.copies import is_beginning, is_copy
from ontpush.facts import limits
from ontpush.facts.directories import walk
from ontpush.facts.names import was_to_become
from ontpush.facts.words import (
    DONE_MARK,
    HEARTBEAT_DIRECTORY,
    OWNERS_DIRECTORY,
    REQUEST_DIRECTORY,
    ROLLUP,
    UNFINISHED_SUFFIX,
)

_REMOVED = "removed, a broken transfer left it"

# What has not changed for so long is written by nobody any more.
_OLD_SECONDS = 3600

Tell = Callable[[bytes, str], None]


def remove_leftovers(
    base: bytes, run: bytes, is_listed: Callable[[bytes], bool]
) -> Iterator[Tuple[bytes, str]]:
    """Each that was left in a run, by its path there, and what became of it. OSError.

    To be called where nobody else fetches into the run; a monitor may be marking it. What is listed
    is a file of the run, whatever its name.
    """
    with opened_inside(base, run) as opened:
        place = path_of(opened) + b"/"
        for directory, names in walk(place):
            for path in (os.path.join(directory, name)[len(place) :] for name in names):
                if was_to_become(path) is None or is_listed(path):
                    continue
                try:
                    if _is_left_by_pull(place, path, is_listed):
                        os.unlink(place + path)
                        yield path, _REMOVED
                except FileNotFoundError:  # a monitor was quicker
                    pass
                except OSError as error:
                    yield path, _cannot_be_removed(error)


def _is_left_by_pull(place: bytes, path: bytes, is_listed: Callable[[bytes], bool]) -> bool:
    if not _can_be_left(path, os.lstat(place + path)):
        return False
    if _is_ours(path):
        return was_to_become(path) in (ROLLUP, DONE_MARK)
    return is_copy(place, path, is_listed)


def clear_verified(instrument: Instrument, run: bytes, standing: Standing, tell: Tell) -> Standing:
    """Remove what the verification of a run found to be left in it, told by its path in the base.

    What has changed lately is left for a later look: somebody may still write it. So is what is
    left when an allowance is used up; the one that was too large for it stays.
    """
    waiting, left = list(standing.leftover), []
    with contextlib.suppress(TooMuch):
        if vouched(instrument.base, run) != (standing.rollup, standing.marked):
            return standing
        while waiting:
            path = waiting.pop(0)
            where = os.path.join(run, relative_path(path))
            if _waits(instrument.base, where, _is_copy_still, tell):
                left.append(path)
    return standing._replace(leftover=(*left, *waiting))


def clear_beside_heartbeats(instrument: Instrument, tell: Tell) -> None:
    """Remove what was left of heartbeats, their bells, claims and requests."""
    for directory in (HEARTBEAT_DIRECTORY, OWNERS_DIRECTORY, REQUEST_DIRECTORY):
        try:
            with opened_inside(instrument.base, directory) as opened, os.scandir(
                path_of(opened)
            ) as entries:
                names = [each.name for each in islice(entries, limits.MOST_BESIDE)]
        except OSError:  # not there; or it cannot be read, which is told as what it is
            continue
        may_go = _is_there if directory == HEARTBEAT_DIRECTORY else _is_of_nobody
        for name in filter(was_to_become, names):
            _waits(instrument.base, directory + b"/" + name, may_go, tell)


def _is_copy_still(left: bytes, whole: bytes) -> bool:
    """Whether it is one now, not only when the run was verified; or of our own. TooMuch."""
    return _is_ours(left) or is_beginning(left, whole)


def _is_there(_: bytes, whole: bytes) -> bool:
    return stat.S_ISREG(os.lstat(whole).st_mode)


def _is_of_nobody(*_: bytes) -> bool:
    """A claim or request that never came whole is of nobody any more."""
    return True


def _waits(base: bytes, path: bytes, may_go: Callable[[bytes, bytes], bool], tell: Tell) -> bool:
    """Remove it if it is what it seems, unless somebody has written it lately: then it waits."""
    directory, name = os.path.split(path)
    try:
        with opened_inside(base, directory) as opened:
            left = path_of(opened) + b"/" + name
            found = os.lstat(left)
            if not _can_be_left(name, found):
                return False
            if time.time() - found.st_ctime < _OLD_SECONDS:
                return True
            if may_go(left, was_to_become(left) or left):
                os.unlink(left)
                tell(path, _REMOVED)
    except FileNotFoundError:
        pass  # gone already, or what it was to become is
    except OSError as error:
        tell(path, _cannot_be_removed(error))
    return False


def _cannot_be_removed(error: OSError) -> str:
    return f"left by a broken transfer, and cannot be removed: {error.strerror}"


def _can_be_left(path: bytes, found: os.stat_result) -> bool:
    is_for_one_alone = not stat.S_IMODE(found.st_mode) & 0o077
    return stat.S_ISREG(found.st_mode) and (is_for_one_alone or _is_ours(path))


def _is_ours(path: bytes) -> bool:
    return path.endswith(UNFINISHED_SUFFIX)
