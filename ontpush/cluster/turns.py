"""Lets instruments and runs take turns, so that what is due of one keeps no other waiting."""

import time
from typing import Callable, Dict, Iterable, List, Sequence, Tuple, TypeVar

Due = TypeVar("Due")


def in_turns(due: Iterable[Due], instrument: Callable[[Due], str]) -> List[Due]:
    """The first of each instrument, as they come, then the second of each, and so on."""
    count: Dict[str, int] = {}
    turns: List[Tuple[int, Due]] = []
    for each in due:
        name = instrument(each)
        count[name] = count.get(name, 0) + 1
        turns.append((count[name], each))
    return [each for _, each in sorted(turns, key=lambda turn: turn[0])]


def begun_elsewhere(due: Sequence[Due]) -> List[Due]:
    """All of them, beginning with another at each call: none is always the last."""
    first = int(time.monotonic() * 1000) % len(due) if due else 0
    return [*due[first:], *due[:first]]
