"""Holds what a run's final summaries count against the files that are there."""

import contextlib
import os
from itertools import islice
from typing import Iterable, Optional

from ontpush.facts import limits
from ontpush.facts.minknow import Promised, count_kinds
from ontpush.facts.regular import open_regular


def warning_of_counts(
    run: bytes, summaries: Iterable[bytes], names: Iterable[bytes]
) -> Optional[str]:
    """What the final summaries in the run at `run` promise and its files `names` do not keep.

    One that has gone meanwhile promises nothing: the next look finds that it has.
    """
    promised = Promised()
    for name in islice(summaries, limits.MOST_SUMMARIES):
        path = os.path.join(run, name)
        with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
            promised.add(file.read(limits.LARGEST_SUMMARY).decode("utf-8", "replace"))
    return "; ".join(promised.complaints(count_kinds(names))) or None
