"""What is newly done below an instrument's directory, and how far its verification has come.

A run that the heartbeat calls done with the roll-up that we know costs no look at the disk:
a tick costs what is new, not what there is. One that was verified, and is called done no more, or
is gone over there, is looked at in each tick. Once a day, at a second of each instrument's own, all
that is remembered of it is held against the disk.
"""

import contextlib
import os
import re
import stat
import time
import zlib
from typing import (
    Callable,
    Collection,
    ContextManager,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

from ontpush.cluster.fleet import Instrument
from ontpush.cluster.heartbeats import Heartbeat, RunFacts
from ontpush.cluster.inside import can_be_run, opened_inside, path_of, remove_inside
from ontpush.cluster.memory import (
    CHECKING,
    CORRUPT,
    GOOD,
    UNCHECKED,
    UNVOUCHED,
    Remembered,
    Standing,
)
from ontpush.cluster.retract import above
from ontpush.cluster.turns import begun_elsewhere
from ontpush.engine.allowance import TooMuch, allowance, counted
from ontpush.engine.find import Found, find_runs
from ontpush.engine.mark import date_of, load_mark, load_md5_of_rollup
from ontpush.facts import limits
from ontpush.facts.names import below, for_json, from_json, named_in_mark, shortened, shown
from ontpush.facts.regular import holes_in, open_regular
from ontpush.facts.trouble import why_unread
from ontpush.facts.words import DONE, DONE_MARK, ROLLUP, VERIFIED_MARK

_DAY = 86400
_HOUR = 3600
_MOST_DIGITS = 19
_DAMAGED = "no rsync.done here vouches for the md5sum beside it: one of them is damaged or missing"
_NOTHING_VOUCHES = f"the instrument calls it done, and {_DAMAGED}"
NOTHING_LEFT = f"it was verified, the instrument does not have it any more, and {_DAMAGED}"
# Of roll-ups that were read in this process, by what changes when they do.
_md5_of: Dict[Tuple[int, ...], str] = {}
_FRESH_SECONDS = 2


class Vouched(NamedTuple):
    """The roll-up of a run that its done mark vouches for, and when it was marked.

    `marked` is only good to tell one mark from another: two can be of the same second.
    """

    rollup: str
    marked: str


def vouched(base: bytes, run: bytes) -> Optional[Vouched]:
    """What the done mark in the run vouches for at this moment; None where it does not.

    OSError where a server does not say just now: that is no word against the run. TooMuch where an
    allowance is used up.
    """
    try:
        with opened_inside(base, run) as directory:
            where = path_of(directory)
            mark = load_mark(where)
            # A mark that was renamed together with its run was never made for what lies here.
            if mark.get("run") != named_in_mark(run):
                return None
            if not _may_be_read(where + b"/" + ROLLUP):
                return None
            rollup = _md5_of_rollup(where)
            made_ns = os.lstat(where + b"/" + DONE_MARK).st_mtime_ns
    except OSError as error:
        if why_unread(error) == "passing":
            raise
        return None
    if mark.get("rollup") != rollup:
        return None
    return Vouched(rollup, "{} {}".format(mark["date"], made_ns))


def rollups_allowed() -> ContextManager[None]:
    """What may be read of the roll-ups of one instrument at a time."""
    return allowance(limits.MOST_ROLLUPS // limits.ROLLUP_BLOCK, limits.LOOK_SECONDS)


def _md5_of_rollup(run: bytes) -> str:
    """Of a roll-up that is as it was when it was read last, in this process, what it was then.

    Whoever sends could give one to all runs, by hard links. OSError, TooMuch.
    """
    found = os.lstat(run + b"/" + ROLLUP)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if key not in _md5_of:
        md5 = load_md5_of_rollup(run)
        # What has just been written may be written once more at the same time of the disk's clock.
        if time.time() - found.st_ctime < _FRESH_SECONDS:
            return md5
        if len(_md5_of) >= limits.MOST_RUNS:
            _md5_of.clear()
        _md5_of[key] = md5
    return _md5_of[key]


def _may_be_read(rollup: bytes) -> bool:
    """Whether a roll-up is no larger than any that is one, and takes no longer than to send it."""
    with open_regular(rollup) as file:
        size = os.fstat(file.fileno()).st_size
        return size <= limits.LARGEST_ROLLUP and not holes_in(file.fileno(), size)


def is_as_found(base: bytes, run: bytes, standing: Standing) -> bool:
    """Whether what lies there is vouched for as it was when the run was looked at last. OSError."""
    if standing.seen and trace(base, run) == standing.seen:
        return True
    found = vouched(base, run)
    if standing.verdict == UNVOUCHED:
        return found is None
    return found == (standing.rollup, standing.marked)


def trace(base: bytes, run: bytes) -> str:
    """Changes when mark or roll-up do, and reads neither; empty where one is not there."""
    try:
        with opened_inside(base, run) as directory:
            paths = [path_of(directory) + b"/" + name for name in (DONE_MARK, ROLLUP)]
            found = [os.lstat(path) for path in paths]
    except OSError:
        return ""
    return " ".join(
        f"{each.st_ino}/{each.st_size}/{each.st_mtime_ns}/{each.st_ctime_ns}" for each in found
    )


def _changed_at(base: bytes, run: bytes) -> Optional[float]:
    """When mark, roll-up or their directory changed last; None where there is no such run."""
    try:
        with opened_inside(base, run) as directory:
            changed_at = os.fstat(directory).st_ctime
            for name in (DONE_MARK, ROLLUP):
                with contextlib.suppress(FileNotFoundError):
                    of_file = os.lstat(path_of(directory) + b"/" + name).st_ctime
                    changed_at = max(changed_at, of_file)
    except OSError:
        return None
    return changed_at


def verified_mark(base: bytes, run: bytes, rollup: str) -> Optional[Dict[str, str]]:
    """Our own mark in the run if it vouches for this roll-up. OSError as of `vouched`."""
    try:
        with opened_inside(base, run) as directory:
            mark = load_mark(path_of(directory), VERIFIED_MARK)
    except OSError as error:
        if why_unread(error) == "passing":
            raise
        return None
    return mark if mark.get("rollup") == rollup else None


def take_mark_back(base: bytes, run: bytes, rollup: str) -> str:
    """Let no mark of ours vouch for a run that has gone bad since; why one still does."""
    try:
        if verified_mark(base, run, rollup):
            remove_inside(base, run, VERIFIED_MARK)
    except OSError as error:
        return f"rsync.verified in it cannot be removed: {error.strerror}; remove it"
    return ""


def take_note(
    instrument: Instrument,
    beat: Optional[Heartbeat],
    remembered: Remembered,
    remind_seconds: float,
    contested: Collection[str],
) -> Tuple[Remembered, Collection[bytes]]:
    """What is remembered, with what is newly vouched for, or due to be verified again.

    Runs that are `contested` are passed over. Where the tree was searched, also the runs in which
    it holds a mark of ours.
    """
    now = int(time.time())
    known_since = min(remembered.known_since or now, now)
    # No longer than a day: who sends without end would have every mark believed.
    is_new = remembered.is_new and now - known_since < _DAY
    moment = _Moment(instrument.base, beat.arrived_at if beat else 0, now, is_new)
    is_part = _part_of_others(beat)
    runs = _without_parts(instrument.base, remembered.runs, is_part)
    is_due = _search_is_due(instrument.name, beat, remembered, now)
    search = _search(instrument.base) if is_due else _Search([], [], remembered.fault)
    found = [run for run in search.done if not is_part(run)]
    names = list(runs) if is_due else _done_no_more(beat, runs)
    known = [from_json(name) for name in names]
    to_look_at = [
        (run, facts)
        for run, facts in _candidates(beat, found, known)
        if for_json(run) not in contested
        and (is_due or not _is_known(runs.get(for_json(run)), facts))
    ]
    fault, is_behind = _look_at_each(moment, to_look_at, runs)
    remembered = remembered._replace(
        known_since=known_since,
        fault=fault or search.fault,
        behind_since=(remembered.behind_since or now) if is_behind else 0,
        is_new=is_new and is_behind,
    )
    for name, standing in runs.items():
        if not is_over(standing.since, remind_seconds, now):
            continue
        if standing.verdict in (CORRUPT, UNCHECKED):
            # Somebody may have mended it here.
            runs[name] = check_again(standing, now)._replace(tries=0, found_bad=0)
        elif standing.verdict == UNVOUCHED:
            runs[name] = standing._replace(since=now, found_bad=0)
    if not is_due or is_behind:  # what is behind is searched for once more
        return remembered._replace(runs=runs), []
    kept = {run: each for run, each in runs.items() if is_there(instrument.base, run)}
    # Of one that is new it cannot be told which marks are ours.
    return remembered._replace(runs=kept, searched_at=now), [] if is_new else search.verified


def _look_at_each(
    moment: "_Moment", runs: List[Tuple[bytes, Optional[RunFacts]]], known: Dict[str, Standing]
) -> Tuple[str, bool]:
    """Look at runs: what was too much to be remembered, and whether some were left out."""
    fault = ""
    try:
        with rollups_allowed():
            # What is as it was costs no reading, and only takes its time.
            for run, facts in counted(begun_elsewhere(runs), lambda _: 0):
                name = for_json(run)
                new = _look(moment, run, known.get(name), facts)
                if new and name not in known and len(known) >= limits.MOST_RUNS:
                    fault = f"more than {limits.MOST_RUNS:,} runs"
                elif new:
                    known[name] = new
    except TooMuch:
        return fault, True
    return fault, False


def _part_of_others(beat: Optional[Heartbeat]) -> Callable[[bytes], bool]:
    """Whether a path is no run any more, by what the instrument has: a run in a run is none.

    It lies in a run, or runs lie in it.
    """
    told = beat.runs if beat else {}
    above_told = {directory for run in told for directory in above(run)}

    def is_part(run: bytes) -> bool:
        return run not in told and (run in above_told or any(each in told for each in above(run)))

    return is_part


def _without_parts(
    base: bytes, runs: Dict[str, Standing], is_part: Callable[[bytes], bool]
) -> Dict[str, Standing]:
    """The runs that still are some; in any other no mark of ours vouches for what nobody watches.

    Where it cannot be removed, the run is remembered until it can.
    """
    return {
        name: each
        for name, each in runs.items()
        for run in [from_json(name)]
        if not is_part(run) or take_mark_back(base, run, each.rollup)
    }


def _done_no_more(beat: Optional[Heartbeat], runs: Dict[str, Standing]) -> List[str]:
    """The verified runs that the instrument does not call done, or does not have, any more."""
    if beat is None:
        return []
    done = {run for run, facts in beat.runs.items() if facts.state == DONE}
    verified = [name for name, standing in runs.items() if standing.verdict == GOOD]
    return [name for name in verified if from_json(name) not in done]


def is_over(begun: int, seconds: float, now: float) -> bool:
    """Whether a time has passed since; one in the future is of a clock that was ahead."""
    return not 0 <= now - begun < seconds


def is_there(base: bytes, run: str) -> bool:
    """Whether there is a directory where the run should be, as far as one can see."""
    path = os.path.join(base, from_json(run))
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        # What a server fails to tell just now has not gone.
        return why_unread(error) == "passing" or not os.path.isdir(base)


def _candidates(
    beat: Optional[Heartbeat], found: List[bytes], known: List[bytes]
) -> Iterator[Tuple[bytes, Optional[RunFacts]]]:
    """The runs to be looked at, each with what the instrument says of it."""
    told = beat.runs if beat else {}
    for run, facts in told.items():
        if facts.state == DONE:
            yield run, facts
    for run in {*known, *(run for run in found if run not in told)}:
        facts_of_run = told.get(run)
        if facts_of_run is None or facts_of_run.state != DONE:
            yield run, facts_of_run


def _search_is_due(name: str, beat: Optional[Heartbeat], remembered: Remembered, now: int) -> bool:
    """Once a day the tree itself is asked: a heartbeat does not list what is gone over there.

    Each instrument has a second of its own, so that a fleet costs each tick little. Without a
    heartbeat it is asked every hour.
    """
    if beat is None:
        return is_over(remembered.searched_at, _HOUR, now)
    own_second = zlib.crc32(name.encode()) % _DAY
    last = (now - own_second) // _DAY * _DAY + own_second
    return not last <= remembered.searched_at <= now


class _Search(NamedTuple):
    """The runs with a done mark, directories with one of ours, and what was too much to search."""

    done: List[bytes]
    verified: List[bytes]
    fault: str


def _search(base: bytes) -> _Search:
    """Search all that lies below."""
    found = _Search([], [], "")
    left_out: List[bytes] = []

    def may_enter(path: bytes) -> bool:
        if not can_be_run(below(path, base)):
            left_out.extend([below(path, base)] * (not left_out))
            return False
        return True

    def note_mark(each: Found) -> None:
        found.verified.extend([below(each.path, base)] * (VERIFIED_MARK in each.names))

    try:
        with allowance(limits.MOST_ENTRIES, limits.MOST_SECONDS):
            for each in find_runs(base, lambda _: None, note_mark, may_enter):
                note_mark(each)
                found.done.extend([below(each.path, base)] * (DONE_MARK in each.names))
    except TooMuch as error:
        return found._replace(fault=str(error))
    if left_out:
        why = f"the path of a run is too deep or too long: {shortened(shown(left_out[0]))}"
        found = found._replace(fault=why)
    return found


def _is_known(standing: Optional[Standing], facts: Optional[RunFacts]) -> bool:
    return (
        standing is not None
        and facts is not None
        and facts.state == DONE
        and standing.verdict not in (CORRUPT, UNVOUCHED)
        and (standing.rollup, standing.told_done) == (facts.rollup, facts.done_at)
    )


class _Moment(NamedTuple):
    """What a look at a run has to know besides: see `take_note`.

    `is_new`: nothing is remembered of the instrument.
    """

    base: bytes
    heard_at: float
    now: int
    is_new: bool


def _look(
    moment: _Moment, run: bytes, standing: Optional[Standing], facts: Optional[RunFacts]
) -> Optional[Standing]:
    """How a run stands that may be vouched for anew; None where nothing is known of it yet."""
    try:
        return _seen(moment, run, standing, facts)
    except OSError:
        return standing  # until the next look


def _seen(
    moment: _Moment, run: bytes, standing: Optional[Standing], facts: Optional[RunFacts]
) -> Optional[Standing]:
    """What `_look` gives. OSError where a server does not say just now."""
    seen = trace(moment.base, run)
    if standing and seen and standing.seen == seen:
        is_vouched = standing.verdict != UNVOUCHED
        found = Vouched(standing.rollup, standing.marked) if is_vouched else None
    else:
        found = vouched(moment.base, run)
    if found is None:
        return _not_vouched(moment, run, standing, facts, seen)
    told = facts.done_at if facts and facts.rollup == found.rollup else 0
    if standing is None:
        new = Standing(found.rollup, found.marked, CHECKING, moment.now, told, seen=seen)
        # Later on we know which marks are ours: whoever sends the runs could write one too.
        mark = verified_mark(moment.base, run, found.rollup) if moment.is_new else None
        return _as_marked(new, mark) if mark else new
    is_same = standing.verdict != UNVOUCHED and found == (standing.rollup, standing.marked)
    new = standing if is_same else vouched_anew(standing, found, moment.now)
    return new._replace(told_done=told or new.told_done, seen=seen)


def _as_marked(standing: Standing, mark: Dict[str, str]) -> Standing:
    """A run that was verified before our memory was lost, as far as our mark in it tells."""
    when = date_of({"date": mark.get("verified", mark["date"])})
    files, size = (_count(mark.get(key, "")) for key in ("files", "bytes"))
    since = int(min(when or standing.since, standing.since))
    sizes = mark.get("sizes", "")
    known = sizes if re.match(r"[0-9a-f]{32}\Z", sizes) else ""
    return standing._replace(verdict=GOOD, since=since, files=files, bytes=size, sizes=known)


def _count(text: str) -> int:
    """A number in a mark; 0 for what is none, or larger than any disk: others can write there."""
    return int(text) if text.isdecimal() and len(text) < _MOST_DIGITS else 0


def _not_vouched(
    moment: _Moment,
    run: bytes,
    standing: Optional[Standing],
    facts: Optional[RunFacts],
    seen: str,
) -> Optional[Standing]:
    """How a run stands that nothing here vouches for.

    That may be because it has just been opened again. But if the instrument still calls it done, or
    does not have it any more, by a heartbeat that came after the last change here, and that it
    sends at the end of its ticks, then something is wrong.
    """
    changed_at = _changed_at(moment.base, run)
    if changed_at is None or (standing is None and facts is None):
        return standing
    new = unvouched(standing or Standing("", "", UNVOUCHED, moment.now), moment.now)
    new = new._replace(seen=seen)
    is_at_rest = facts is None or facts.state == DONE
    if moment.heard_at <= changed_at or not is_at_rest:
        return new
    error, told_done = NOTHING_LEFT, new.told_done
    if facts:
        error, told_done = _NOTHING_VOUCHES, facts.done_at
    if (new.error, new.told_done) == (error, told_done):
        return new
    # A mark that stays where it cannot be removed vouches for another roll-up than lies there.
    take_mark_back(moment.base, run, new.rollup)
    return new._replace(error=error, told_done=told_done, found_bad=new.found_bad + 1)


def check_again(standing: Standing, now: int) -> Standing:
    """A run that is to be verified once more as it is vouched for."""
    # Each check has a time of its own, and so a verdict of its own.
    since = now if now != standing.since else now + 1
    again = standing._replace(verdict=CHECKING, since=since, job="", missing_at=0)
    return again._replace(walked_at=0, walk_failed_at=0)


def verify_again(standing: Standing, now: int) -> Standing:
    """A run that somebody wants verified again, or has reason to doubt: not told if it is good."""
    again = standing.again or standing.verdict == GOOD
    return check_again(standing, now)._replace(found_bad=0, tries=0, again=again)


def vouched_anew(standing: Standing, found: Vouched, now: int) -> Standing:
    """A run that was marked once more, or for another roll-up.

    What was wrong stays wrong until the run has been verified.
    """
    is_same = standing.rollup == found.rollup
    new = check_again(standing, now)._replace(rollup=found.rollup, marked=found.marked, tries=0)
    if not is_same:
        return new._replace(untold=False, follow=False, again=False, found_bad=0)
    return new._replace(again=standing.again or standing.verdict == GOOD)


def unvouched(standing: Standing, now: int) -> Standing:
    """A run that nothing vouches for any more; what was wrong with it stays wrong."""
    if standing.verdict == UNVOUCHED:
        return standing
    again = standing.again or standing.verdict == GOOD
    return standing._replace(verdict=UNVOUCHED, since=now, job="", again=again, seen="")


def checking(remembered: Remembered) -> Dict[str, Standing]:
    """The runs whose verification is due or under way."""
    return {run: each for run, each in remembered.runs.items() if each.verdict == CHECKING}
