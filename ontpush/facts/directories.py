"""Lists, makes and removes directories however deep: the library calls itself for each level."""

import contextlib
import os
import stat
from typing import Iterator, List, Optional, Tuple


class TooManyNames(Exception):
    """A directory holds more than it may."""


def names_in(directory: bytes, most: Optional[int] = None) -> Tuple[List[bytes], List[bytes]]:
    """Sorted names of what is no directory, and the directories, in a directory. OSError.

    TooManyNames where it holds more than the `most`.
    """
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        raise NotADirectoryError(directory)
    os.lstat(directory + b"/.")  # may its files be asked for?
    names: List[bytes] = []
    directories: List[bytes] = []
    with os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number == most:
                raise TooManyNames
            (directories if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
    names.sort()
    return names, directories


def walk(top: bytes) -> Iterator[Tuple[bytes, List[bytes]]]:
    """Each directory, those above it first, with the names of what is no directory in it.

    No link is followed, and what cannot be listed is passed over.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            names, below = names_in(directory)
        except OSError:
            continue
        yield directory, names
        waiting += (os.path.join(directory, name) for name in below)


def make_directory(path: bytes, mode: int = 0o777) -> None:
    """Make a directory and those above it that are missing. OSError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, mode)


def remove_directory(path: bytes) -> None:
    """Remove a directory with all that is in it, as far as that can be done; a link stays."""
    for directory, names in reversed(list(walk(path))):
        for name in names:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(OSError):
            os.rmdir(directory)
