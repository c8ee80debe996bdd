"""Holds what a run's final summaries count against the files that are there."""

import os
from typing import Iterable, Optional

from ontpush.facts.minknow import Promised, count_kinds
from ontpush.facts.regular import open_regular


def warning_of_counts(
    run: bytes, summaries: Iterable[bytes], names: Iterable[bytes]
) -> Optional[str]:
    """What the final summaries in the run at `run` promise and its files `names` do not keep."""
    promised = Promised()
    for name in summaries:
        with open_regular(os.path.join(run, name)) as file:
            promised.add(file.read(1 << 20).decode("utf-8", "replace"))
    return "; ".join(promised.complaints(count_kinds(names))) or None
