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
