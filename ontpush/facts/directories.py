"""Makes and removes directories however deep: the library's functions call themselves a level."""

import contextlib
import os


def make_directory(path: bytes) -> None:
    """Make a directory and those above it that are missing. OSError."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(each)


def remove_directory(path: bytes) -> None:
    """Remove a directory with all that is in it, as far as that can be done; a link stays."""
    found = [] if os.path.islink(path) else [path]
    for directory in found:
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
    for directory in reversed(found):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
