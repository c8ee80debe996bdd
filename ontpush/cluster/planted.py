"""Takes marks of ours out of runs that we have not verified: who sends a run could write one there.

What was verified before stays marked while it is read again; see `verdict` for what then goes bad.
"""

import os
from typing import Iterable, Iterator, Optional, Set, Tuple

from ontpush.cluster.fleet import Instrument
from ontpush.cluster.heartbeats import Heartbeat
from ontpush.cluster.inside import opened_inside
from ontpush.cluster.memory import GOOD, Remembered, Standing
from ontpush.facts.trouble import why_unread
from ontpush.facts.words import DONE, VERIFIED_MARK


def take_back_planted(
    instrument: Instrument,
    beat: Optional[Heartbeat],
    remembered: Remembered,
    marked: Iterable[bytes],
) -> Iterator[Tuple[bytes, str]]:
    """Each run in which one lay, and what became of it; `marked` are found to hold one."""
    for run in sorted(_not_verified(beat, remembered, marked)):
        try:
            with opened_inside(instrument.base, run) as directory:
                os.unlink(VERIFIED_MARK, dir_fd=directory)
        except OSError as error:
            if why_unread(error) != "missing":
                yield run, f"rsync.verified in it is not ours: {error.strerror}; remove it"
        else:
            yield run, "rsync.verified in it is not ours: removed"


def _not_verified(
    beat: Optional[Heartbeat], remembered: Remembered, marked: Iterable[bytes]
) -> Set[bytes]:
    """The runs in which no mark of ours can be: done ones are remembered as soon as they are so."""
    told = beat.runs.items() if beat else ()
    unknown = {run for run, facts in told if facts.state != DONE}.union(marked)
    runs = {run.encode("utf-8", "surrogateescape"): each for run, each in remembered.runs.items()}
    unmarked = {run for run, each in runs.items() if not _may_be_marked(each)}
    return unmarked | (unknown - runs.keys())


def _may_be_marked(standing: Standing) -> bool:
    return standing.verdict == GOOD or standing.again
