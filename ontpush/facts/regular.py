"""Opens files that somebody else may have put there: only real ones, never waiting for anybody."""

import errno
import os
import stat
from typing import IO


def open_regular(path: bytes) -> IO[bytes]:
    """Open a regular file for reading. OSError also for a link, a pipe, a device, a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
