"""Lets no mark here vouch for what is about to change below it, whoever made it.

Each file belongs to one run. Where a run is brought in or above a directory that was one before,
what vouched for that other run goes first.
"""

import os
import time
from typing import Iterable, Iterator, Set

from ontpush.cluster.inside import opened_inside, path_of, remove_inside, write_inside
from ontpush.engine.mark import mark_lines, read_mark
from ontpush.engine.rollup import BadLine, line_for, read_rollup
from ontpush.facts.names import shown
from ontpush.facts.words import DONE_MARK, ROLLUP, VERIFIED_MARK


def above(run: bytes) -> Iterator[bytes]:
    """The directories above a run, below that of its instrument, the topmost first."""
    parts = run.split(b"/")
    return (b"/".join(parts[:count]) for count in range(1, len(parts)))


def retract(base: bytes, directory: bytes, run: bytes) -> bool:
    """Let no mark in a directory vouch for anything; whether one did. OSError.

    `run` is the run whose files come to lie below it.
    """
    try:
        with opened_inside(base, directory) as opened:
            place = path_of(opened)
            found = {name for name in (DONE_MARK, VERIFIED_MARK) if _lies(place, name)}
            mark = read_mark(place)
    except OSError:  # it is not there, or a link: nothing is written through that
        return False
    if DONE_MARK in found and mark is not None and "rollup" not in mark:
        found.discard(DONE_MARK)
    if DONE_MARK in found:
        facts = {"retracted": f"what lies below belongs to the run {shown(run)}"}
        write_inside(base, directory, DONE_MARK, mark_lines(time.time(), facts))
    if VERIFIED_MARK in found:
        remove_inside(base, directory, VERIFIED_MARK)
    return bool(found)


def _lies(place: bytes, name: bytes) -> bool:
    path = place + b"/" + name
    return os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path))


def leave_out(base: bytes, directory: bytes, run: bytes) -> None:
    """Let the roll-up in a directory above a run list nothing that lies in the run. OSError."""
    prefix = run[len(directory) + 1 :] + b"/"
    try:
        with opened_inside(base, directory) as opened:
            path = path_of(opened) + b"/" + ROLLUP
            if not any(listed.path.startswith(prefix) for listed in read_rollup(path)):
                return
    except (OSError, BadLine):  # there is none, or nothing that could list a file
        return
    with opened_inside(base, directory) as opened:
        listed = read_rollup(path_of(opened) + b"/" + ROLLUP)
        kept = (line_for(*each) for each in listed if not each.path.startswith(prefix))
        write_inside(base, directory, ROLLUP, kept)


def directories_of(paths: Iterable[bytes]) -> Set[bytes]:
    """All directories in a run in which, or below which, files lie; not the run itself."""
    found: Set[bytes] = set()
    for path in paths:
        directory = os.path.dirname(path)
        while directory and directory not in found:
            found.add(directory)
            directory = os.path.dirname(directory)
    return found
