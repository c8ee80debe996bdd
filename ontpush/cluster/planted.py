"""Takes marks of ours out of runs that we have not verified: who sends a run could write one there.

What was verified before stays marked while it is read again; see `verdict` for what then goes bad.
"""

import os
from typing import Dict, Iterable, Iterator, Optional, Set, Tuple

from ontpush.cluster.fleet import Instrument
from ontpush.cluster.heartbeats import Heartbeat
from ontpush.cluster.inside import opened_inside, path_of
from ontpush.cluster.memory import GOOD, Remembered, Standing
from ontpush.engine.mark import load_mark, read_mark
from ontpush.facts.names import from_json
from ontpush.facts.trouble import why_unread
from ontpush.facts.words import DONE, VERIFIED_MARK


def take_back_planted(
    instrument: Instrument,
    beat: Optional[Heartbeat],
    remembered: Remembered,
    marked: Iterable[bytes],
) -> Iterator[Tuple[bytes, str]]:
    """Each run in which one lay, and why it still does; empty where it was removed.

    `marked` are found to hold one.
    """
    for run in sorted(_not_verified(instrument.base, beat, remembered, marked)):
        try:
            with opened_inside(instrument.base, run) as directory:
                if _is_retracted(read_mark(path_of(directory), VERIFIED_MARK)):
                    continue
                os.unlink(VERIFIED_MARK, dir_fd=directory)
        except OSError as error:
            if why_unread(error) != "missing":
                yield run, error.strerror or str(error)
        else:
            yield run, ""


def _not_verified(
    base: bytes, beat: Optional[Heartbeat], remembered: Remembered, marked: Iterable[bytes]
) -> Set[bytes]:
    """The runs in which no mark of ours can be: done ones are remembered as soon as they are so."""
    told = beat.runs.items() if beat else ()
    unknown = {run for run, facts in told if facts.state != DONE}.union(marked)
    runs = {from_json(run): each for run, each in remembered.runs.items()}
    unmarked = {run for run, each in runs.items() if not _may_be_marked(base, run, each)}
    return unmarked | (unknown - runs.keys())


def _may_be_marked(base: bytes, run: bytes, standing: Standing) -> bool:
    """Whether it was verified: with a mark for the roll-up of then, while it is read once more."""
    if standing.verdict == GOOD or not standing.again:
        return standing.verdict == GOOD
    try:
        with opened_inside(base, run) as directory:
            mark = load_mark(path_of(directory), VERIFIED_MARK)
    except OSError:  # not there; or a server does not say just now
        return True
    return mark.get("rollup") == standing.rollup


def _is_retracted(mark: Optional[Dict[str, str]]) -> bool:
    """Whether a sequencer overwrote a mark of ours, so that it vouches for nothing."""
    return mark is not None and "retracted" in mark and "rollup" not in mark
