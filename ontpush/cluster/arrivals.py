"""What is newly done below an instrument's directory, and how far its verification has come.

A run that the heartbeat calls done with the roll-up that we know costs no look at the disk:
a tick costs what is new, not what there is.
"""

import os
import time
import zlib
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.cluster.fleet import Instrument
from ontpush.cluster.heartbeats import Heartbeat, RunFacts
from ontpush.cluster.inside import opened_inside, path_of
from ontpush.cluster.memory import CHECKING, CORRUPT, GOOD, UNCHECKED, Remembered, Standing
from ontpush.engine.find import find_runs
from ontpush.engine.mark import md5_of_rollup, read_mark
from ontpush.facts.names import below, shown
from ontpush.facts.words import DONE, DONE_MARK, VERIFIED_MARK

_DAY = 86400
_HOUR = 3600


class Vouched(NamedTuple):
    """The roll-up of a run that its done mark vouches for, and when it was marked.

    `marked` is only good to tell one mark from another: two can be of the same second.
    """

    rollup: str
    marked: str


def vouched(base: bytes, run: bytes) -> Optional[Vouched]:
    """What the done mark in the run vouches for at this moment; None where it does not."""
    try:
        with opened_inside(base, run) as directory:
            mark, rollup = read_mark(path_of(directory)), md5_of_rollup(path_of(directory))
            made_ns = os.lstat(path_of(directory) + b"/" + DONE_MARK).st_mtime_ns
    except OSError:
        return None
    if mark is None or rollup is None or mark.get("rollup") != rollup:
        return None
    # A mark that was renamed together with its run was never made for what lies here.
    is_ours = mark.get("run") == shown(run).strip()
    return Vouched(rollup, "{} {}".format(mark["date"], made_ns)) if is_ours else None


def was_verified(base: bytes, run: bytes, rollup: str) -> bool:
    """Whether our own mark in the run vouches for this roll-up."""
    try:
        with opened_inside(base, run) as directory:
            mark = read_mark(path_of(directory), VERIFIED_MARK)
    except OSError:
        return False
    return mark is not None and mark.get("rollup") == rollup


def take_note(
    instrument: Instrument,
    beat: Optional[Heartbeat],
    remembered: Remembered,
    remind_seconds: float,
) -> Remembered:
    """What is remembered, with what is newly vouched for, or due to be verified again."""
    now = int(time.time())
    remembered = remembered._replace(known_since=remembered.known_since or now)
    runs = dict(remembered.runs)
    for run, facts in _candidates(instrument, beat, remembered, now):
        name = run.decode("utf-8", "surrogateescape")
        standing = runs.get(name)
        if not _is_known(standing, facts):
            new = _look(instrument, run, standing, facts, now)
            if new:
                runs[name] = new
    for name, standing in runs.items():
        is_bad = standing.verdict in (CORRUPT, UNCHECKED)
        if is_bad and now - standing.since >= remind_seconds:
            # Somebody may have mended it here.
            runs[name] = standing._replace(
                verdict=CHECKING, since=now, job="", tries=0, found_bad=0
            )
    if not _search_is_due(instrument.name, beat, remembered, now):
        return remembered._replace(runs=runs)
    kept = {run: each for run, each in runs.items() if _is_there(instrument.base, run)}
    return remembered._replace(runs=kept, searched_at=now)


def _is_there(base: bytes, run: str) -> bool:
    return os.path.isdir(os.path.join(base, run.encode("utf-8", "surrogateescape")))


def _candidates(
    instrument: Instrument, beat: Optional[Heartbeat], remembered: Remembered, now: int
) -> Iterator[Tuple[bytes, Optional[RunFacts]]]:
    told = beat.runs if beat else {}
    for run, facts in told.items():
        if facts.state == DONE:
            yield run, facts
    if _search_is_due(instrument.name, beat, remembered, now):
        for run in _done_runs(instrument.base):
            if run not in told:
                yield run, None


def _search_is_due(name: str, beat: Optional[Heartbeat], remembered: Remembered, now: int) -> bool:
    """Once a day the tree itself is asked: a heartbeat does not list what is gone over there.

    Each instrument has a second of its own, so that a fleet costs each tick little. Without a
    heartbeat it is asked every hour.
    """
    if beat is None:
        return now - remembered.searched_at >= _HOUR
    own_second = zlib.crc32(name.encode()) % _DAY
    return remembered.searched_at < (now - own_second) // _DAY * _DAY + own_second


def _done_runs(base: bytes) -> List[bytes]:
    return [
        below(found.path, base)
        for found in find_runs(base, lambda _: None)
        if any(entry.name == DONE_MARK for entry in found.entries)
    ]


def _is_known(standing: Optional[Standing], facts: Optional[RunFacts]) -> bool:
    return (
        standing is not None
        and facts is not None
        and standing.verdict != CORRUPT
        and (standing.rollup, standing.told_done) == (facts.rollup, facts.done_at)
    )


def _look(
    instrument: Instrument,
    run: bytes,
    standing: Optional[Standing],
    facts: Optional[RunFacts],
    now: int,
) -> Optional[Standing]:
    """How a run stands that may be vouched for anew; None where nothing is known of it yet."""
    found = vouched(instrument.base, run)
    if found is None:
        return standing
    told = facts.done_at if facts and facts.rollup == found.rollup else 0
    if standing and (standing.rollup, standing.marked) == found:
        return standing._replace(told_done=told or standing.told_done)
    new = Standing(found.rollup, found.marked, CHECKING, now, told)
    if standing is None:
        is_old = was_verified(instrument.base, run, found.rollup)
        return new._replace(verdict=GOOD) if is_old else new
    is_same = standing.rollup == found.rollup
    # What was wrong stays wrong until the run has been verified.
    return new._replace(
        bad=standing.bad,
        bad_count=standing.bad_count,
        error=standing.error,
        again=is_same and (standing.verdict == GOOD or standing.again),
        found_bad=standing.found_bad if is_same else 0,
    )


def checking(remembered: Remembered) -> Dict[str, Standing]:
    """The runs whose verification is due or under way."""
    return {run: each for run, each in remembered.runs.items() if each.verdict == CHECKING}
