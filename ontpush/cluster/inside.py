"""Paths that an instrument names are taken only where they lead into its own directory.

Whoever can write there can plant links. So every directory is opened one by one, and what is
read or written is reached through the one that was opened.
"""

import contextlib
import os
import stat
from typing import Iterable, Iterator

from ontpush.facts import limits
from ontpush.facts.names import from_json
from ontpush.facts.words import UNFINISHED_SUFFIX

_PATH_MAX = 4096  # no disk takes a path of so many bytes: what a search finds is shorter
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def relative_path(text: str) -> bytes:
    """A path in a run, as a verification names it. ValueError unless it stays where it starts."""
    path = from_json(text)
    if not stays_inside(path):
        raise ValueError("no path in a run")
    return path


def run_path(text: str) -> bytes:
    """A run's path as a heartbeat names it. ValueError unless one that a run can have."""
    path = relative_path(text)
    if not can_be_run(path):
        raise ValueError("its path is too deep or too long")
    return path


def can_be_run(path: bytes) -> bool:
    """Whether a run's path is no deeper and no longer than any that MinKNOW makes."""
    return path.count(b"/") < limits.DEEPEST_RUN and len(path) <= limits.LONGEST_RUN


def stays_inside(path: bytes) -> bool:
    """Whether a relative path can be one, and by its parts stays below where it starts."""
    parts = path.split(b"/")
    return b"\0" not in path and len(path) < _PATH_MAX and not {b"", b".", b".."} & set(parts)


@contextlib.contextmanager
def opened_inside(base: bytes, relative: bytes) -> Iterator[int]:
    """A descriptor of the directory `relative` to `base`; OSError where a link is on the way."""
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in filter(None, relative.split(b"/")):
            deeper = os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def path_of(descriptor: int) -> bytes:
    """A path that leads to an opened directory, whatever its own path leads to by now."""
    return b"/proc/self/fd/%d" % descriptor


def make_inside(base: bytes, relative: bytes) -> None:
    """Make a directory in one that is there; it may be there already. OSError."""
    above, name = os.path.split(relative)
    with opened_inside(base, above) as directory, contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=directory)


def remove_inside(base: bytes, relative: bytes, name: bytes) -> None:
    """Remove a file in a directory of the instrument's, if both are there. OSError."""
    with contextlib.suppress(FileNotFoundError), opened_inside(base, relative) as directory:
        os.unlink(name, dir_fd=directory)


def is_filled_inside(base: bytes, relative: bytes, name: bytes) -> bool:
    """Whether a regular file that is not empty lies in a directory of the instrument's. OSError."""
    try:
        with opened_inside(base, relative) as directory:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def write_inside(base: bytes, relative: bytes, name: bytes, lines: Iterable[bytes]) -> None:
    """Write a file in a directory of the instrument's, whole and by rename. OSError."""
    unfinished = name + UNFINISHED_SUFFIX
    with opened_inside(base, relative) as directory:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(unfinished, flags, 0o644, dir_fd=directory), "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
