"""Removes what a killed rsync left of files that lie here whole by now, and what we left ourselves.

Only that: a regular file in no roll-up, under rsync's own temporary name, for its user alone as
rsync makes them until they are whole, beside the file that it was to become; or one under the name
that a roll-up or mark of ours has until it is whole.
"""

import contextlib
import os
import stat
import time
from itertools import islice
from typing import Callable, Collection, Iterator

from ontpush.cluster import limits
from ontpush.cluster.arrivals import vouched
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import opened_inside, path_of, relative_path
from ontpush.cluster.memory import Standing
from ontpush.cluster.retract import above
from ontpush.engine.allowance import TooMuch, allowance, counted
from ontpush.engine.find import list_directory
from ontpush.engine.rollup import BadLine, read_rollup
from ontpush.facts.names import below, was_to_become
from ontpush.facts.words import (
    DONE_MARK,
    HEARTBEAT_DIRECTORY,
    OWN_FILES,
    OWNERS_DIRECTORY,
    REQUEST_DIRECTORY,
    ROLLUP,
    UNFINISHED_SUFFIX,
)

REMOVED = "removed, a broken transfer left it"

# What has not changed for so long is written by nobody any more.
_OLD_SECONDS = 3600
_MOST_BESIDE_HEARTBEATS = 10_000

Tell = Callable[[bytes, str], None]


def remove_leftovers(
    base: bytes, run: bytes, is_listed: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """Each that was removed, by its path in the run. OSError.

    To be called where nobody else fetches into the run; a monitor may be marking it. What is listed
    is a file of the run, whatever its name.
    """
    with opened_inside(base, run) as opened:
        place = path_of(opened) + b"/"
        for directory, _, names in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)[len(place) :]
                whole = was_to_become(path)
                if whole is None or is_listed(path):
                    continue
                is_of_pull = os.path.basename(whole) in (ROLLUP, DONE_MARK)
                if not (is_listed(whole) or (is_of_pull and _is_ours(path))):
                    continue
                if _can_be_left(path, os.lstat(place + path)):
                    os.unlink(place + path)
                    yield path


def clear_verified(instrument: Instrument, run: bytes, standing: Standing, tell: Tell) -> Standing:
    """Remove what the verification of a run found to be left in it, told by its path in the base.

    What has changed lately is left for a later look: somebody may still write it.
    """
    if vouched(instrument.base, run) != (standing.rollup, standing.marked):
        return standing
    left = tuple(
        path
        for path in standing.leftover
        if _is_left_for_later(instrument.base, os.path.join(run, relative_path(path)), tell)
    )
    return standing._replace(leftover=left)


def clear_elsewhere(instrument: Instrument, runs: Collection[bytes], tell: Tell) -> None:
    """Remove what was left outside the `runs`, each of which is looked through by itself.

    Above runs, in what was a run and is none any more, and in what never will be done.
    """
    # What lies beyond that stays: there it does no harm but take room.
    with contextlib.suppress(TooMuch), allowance(limits.MOST_ENTRIES, limits.MOST_SECONDS):
        for path in _unfinished_outside(instrument.base, runs):
            if _has_come_whole(instrument.base, path):
                _is_left_for_later(instrument.base, path, tell)


def _unfinished_outside(base: bytes, runs: Collection[bytes]) -> Iterator[bytes]:
    waiting = [base]
    while waiting:
        try:
            entries = list_directory(waiting.pop())
        except OSError:  # gone meanwhile, or told by the search for runs
            continue
        for entry in entries:
            path = below(entry.path, base)
            if not entry.is_dir(follow_symlinks=False):
                yield from [path] if was_to_become(path) else []
            elif path not in runs and path != HEARTBEAT_DIRECTORY:
                waiting.append(entry.path)


def _has_come_whole(base: bytes, path: bytes) -> bool:
    """Whether the roll-ups above list the file that it was to become, or that is one of ours.

    And list no file by its own name. Where one cannot be read, it could.
    """
    whole = was_to_become(path) or path
    is_whole_listed = os.path.basename(whole) in OWN_FILES
    for directory in (b"", *above(path)):
        prefix = directory + b"/" if directory else b""
        try:
            for listed in counted(read_rollup(os.path.join(base, directory, ROLLUP))):
                if prefix + listed.path == path:
                    return False
                is_whole_listed = is_whole_listed or prefix + listed.path == whole
        except FileNotFoundError:
            continue
        except (OSError, BadLine):
            return False
    return is_whole_listed


def clear_beside_heartbeats(instrument: Instrument, tell: Tell) -> None:
    """Remove what was left of heartbeats, their bells, claims and requests."""
    for directory in (HEARTBEAT_DIRECTORY, OWNERS_DIRECTORY, REQUEST_DIRECTORY):
        try:
            with opened_inside(instrument.base, directory) as opened, os.scandir(
                path_of(opened)
            ) as entries:
                names = [each.name for each in islice(entries, _MOST_BESIDE_HEARTBEATS)]
        except OSError:  # not there; or it cannot be read, which is told as what it is
            continue
        # A claim or request that never came whole is of nobody any more.
        is_alone = directory != HEARTBEAT_DIRECTORY
        for name in filter(was_to_become, names):
            _is_left_for_later(instrument.base, directory + b"/" + name, tell, is_alone)


def _is_left_for_later(base: bytes, path: bytes, tell: Tell, is_alone: bool = False) -> bool:
    """Remove it if it is what it seems, unless somebody has written it lately; whether it waits.

    `is_alone`: also where what it was to become is not there.
    """
    directory, name = os.path.split(path)
    whole = was_to_become(name) or name
    try:
        with opened_inside(base, directory) as opened:
            found = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if whole == name or not _can_be_left(name, found):
                return False
            if not (is_alone or _is_ours(name)) and not stat.S_ISREG(
                os.stat(whole, dir_fd=opened, follow_symlinks=False).st_mode
            ):
                return False
            if time.time() - found.st_ctime < _OLD_SECONDS:
                return True
            os.unlink(name, dir_fd=opened)
            tell(path, REMOVED)
    except FileNotFoundError:
        pass  # gone already, or what it was to become is
    except OSError as error:
        tell(path, f"left by a broken transfer, and cannot be removed: {error.strerror}")
    return False


def _can_be_left(path: bytes, found: os.stat_result) -> bool:
    is_for_one_alone = not stat.S_IMODE(found.st_mode) & 0o077
    return stat.S_ISREG(found.st_mode) and (is_for_one_alone or _is_ours(path))


def _is_ours(path: bytes) -> bool:
    return path.endswith(UNFINISHED_SUFFIX)
