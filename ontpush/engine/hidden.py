"""Tells of runs in directories that no search enters: what is named so may not hide one in silence.

Only near the top, where people put things, and only so far that a tick hardly notices.
"""

import itertools
import os
from typing import Iterator, List

from ontpush.facts.minknow import is_service_directory, is_summary

# How far below such a directory: an experiment, a sample, a run.
_LEVELS = 3
_DIRECTORIES = 20
_ENTRIES = 500


def hidden_runs(source: bytes) -> Iterator[bytes]:
    """The first run that each service or hidden directory holds, in the source or one level below.

    A run is told by its summary alone: MinKNOW keeps data folders of its own in such places.
    """
    top = _entries(source)
    searched = [each.path for each in top if _is_searched(each, True)]
    for place in [source, *searched[:_DIRECTORIES]]:
        is_top = place == source
        for entry in top if is_top else _entries(place):
            if is_service_directory(entry.name, is_top) and entry.is_dir(follow_symlinks=False):
                yield from itertools.islice(_runs_below(entry.path), 1)


def _is_searched(entry: "os.DirEntry[bytes]", is_top: bool) -> bool:
    return entry.is_dir(follow_symlinks=False) and not is_service_directory(entry.name, is_top)


def _runs_below(directory: bytes) -> Iterator[bytes]:
    level = [directory]
    for _ in range(_LEVELS + 1):
        below: List[bytes] = []
        for path in level:
            entries = _entries(path)
            if any(is_summary(each.name) for each in entries):
                yield path
            below += [each.path for each in entries if each.is_dir(follow_symlinks=False)]
        level = sorted(below)[:_DIRECTORIES]


def _entries(directory: bytes) -> "List[os.DirEntry[bytes]]":
    """What lies in a directory, or its beginning; nothing of one that cannot be read."""
    try:
        with os.scandir(directory) as entries:
            return list(itertools.islice(entries, _ENTRIES))
    except OSError:
        return []
