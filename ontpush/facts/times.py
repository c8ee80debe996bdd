"""Times of files as the ledger can hold them: a wrong clock dates a file in any year."""

import os

_LIMIT = 1 << 63
_FAR = 1 << 62


def mtime_ns(found: os.stat_result) -> int:
    """The modification time in nanoseconds since the epoch, as a number of 64 bits.

    One that does not fit (before 1677, after 2262) becomes another of the same century at least,
    different for different times: it serves to tell versions of a file apart, and stays far from
    now.
    """
    exact = found.st_mtime_ns
    if -_LIMIT <= exact < _LIMIT:
        return exact
    return exact % _FAR + (_FAR if exact > 0 else -_LIMIT)
