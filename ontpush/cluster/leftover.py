"""Removes what a killed rsync left of files that lie here whole by now."""

import os
import re
import stat
from typing import Callable, Iterator

from ontpush.cluster.inside import opened_inside, path_of

# As rsync names what it has of a file until that is whole.
_TEMPORARY = re.compile(rb"(.*/)?\.([^/]+)\.[A-Za-z0-9]{6}\Z", re.DOTALL)


def remove_leftovers(
    base: bytes, run: bytes, is_listed: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """Each that was removed, by its path in the run. OSError.

    To be called where nobody else fetches into the run. What is listed is a file of the run,
    whatever its name.
    """
    with opened_inside(base, run) as opened:
        place = path_of(opened) + b"/"
        for directory, _, names in os.walk(place):
            for name in names:
                path = os.path.join(directory, name)[len(place) :]
                found = _TEMPORARY.match(path)
                if not found or is_listed(path):
                    continue
                of = (found.group(1) or b"") + found.group(2)
                if is_listed(of) and stat.S_ISREG(os.lstat(place + path).st_mode):
                    os.unlink(place + path)
                    yield path
