"""Bounds what a search may cost: whoever sends could fill a directory with millions of files."""

import contextlib
import time
from typing import Callable, Iterable, Iterator, List, TypeVar

Each = TypeVar("Each")


class TooMuch(Exception):
    """More lies there than may be looked at; the message says how much."""


class _Left:
    """What is left of an allowance: entries of directories, and when its time is over."""

    def __init__(self, entries: int, seconds: float) -> None:
        self.entries = entries
        self.until = time.monotonic() + seconds
        self.told = f"more than {entries:,} entries, or more than {seconds:g} s of work"

    def take(self, entries: int) -> None:
        self.entries -= entries
        if self.entries < 0 or time.monotonic() > self.until:
            raise TooMuch(self.told)


_in_force: List[_Left] = []


@contextlib.contextmanager
def allowance(entries: int, seconds: float) -> Iterator[None]:
    """Let what is `counted` in the block be no more than so many entries in so many seconds."""
    _in_force.append(_Left(entries, seconds))
    try:
        yield
    finally:
        _in_force.pop()


def counted(entries: Iterable[Each], weight: Callable[[Each], int] = lambda _: 1) -> Iterator[Each]:
    """The entries of a directory, as far as every allowance in force goes. TooMuch.

    `weight`: how many an entry counts for.
    """
    for each in entries:
        for left in _in_force:
            left.take(weight(each))
        yield each
