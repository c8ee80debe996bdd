"""Opens files that somebody else may have put there: only real ones, never waiting for anybody."""

import errno
import os
import stat
from typing import IO


def open_regular(path: bytes, through_links: bool = False) -> IO[bytes]:
    """Open a regular file for reading. OSError also for a pipe, a device, a directory.

    And for a link, unless it was the user who named it.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags if through_links else flags | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def holes_in(descriptor: int, size: int) -> int:
    """How many of the `size` bytes of an opened file lie on no disk, as far as the disk tells.

    To be asked before it is read.
    """
    holes = position = 0
    try:
        while position < size:
            data = min(_data_from(descriptor, position, size), size)
            holes += data - position
            position = os.lseek(descriptor, data, os.SEEK_HOLE) if data < size else size
    except OSError:  # a disk that knows of no holes
        holes = 0
    os.lseek(descriptor, 0, os.SEEK_SET)
    return holes


def _data_from(descriptor: int, position: int, size: int) -> int:
    """Where the next data begins; where there is no more, `size`. OSError."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return size
