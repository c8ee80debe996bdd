"""Tells what is but a copy, and so no loss."""

import os
from typing import Callable

from ontpush.engine.allowance import counted
from ontpush.facts.names import was_to_become
from ontpush.facts.regular import open_regular
from ontpush.facts.words import OWN_FILES

_BLOCK = 1 << 20  # bytes


def is_copy(run: bytes, path: bytes, is_listed: Callable[[bytes], bool]) -> bool:
    """Whether a file of a run, by its name, is the beginning of one that is listed, or is ours."""
    whole = was_to_become(path)
    if whole is None or not (os.path.basename(whole) in OWN_FILES or is_listed(whole)):
        return False
    return is_beginning(os.path.join(run, path), os.path.join(run, whole))


def is_beginning(part: bytes, whole: bytes) -> bool:
    """Whether all bytes of a file are the first of another; False where nobody can tell.

    TooMuch where an allowance is used up: each block counts.
    """
    try:
        with open_regular(part) as short, open_regular(whole) as long:
            blocks = counted(iter(lambda: short.read(_BLOCK), b""))
            return all(long.read(len(block)) == block for block in blocks)
    except OSError:
        return False
