"""Takes up what a verification found: marks the run, or names what is bad in it.

The verification itself is `ontpush verify --json RUN`, wherever it runs. What it printed lies
whole in a file of the state directory as soon as it has ended, and is believed only of the
roll-up that the done mark vouches for before and after.
"""

import contextlib
import os
import time
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ontpush import __version__
from ontpush.cluster.arrivals import (
    NOTHING_LEFT,
    check_again,
    is_there,
    take_mark_back,
    trace,
    unvouched,
    verified_mark,
    vouched,
    vouched_anew,
)
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import relative_path, remove_inside, write_inside
from ontpush.cluster.memory import CORRUPT, GOOD, UNCHECKED, UNVOUCHED, Standing, read_json
from ontpush.engine.inspect import UNREAD
from ontpush.engine.mark import date_text, mark_lines
from ontpush.engine.sums import md5_of_text
from ontpush.facts.names import for_json, from_json, named_in_mark, plural, shortened, shown
from ontpush.facts.words import EXTRA, VERIFIED_MARK

KEPT_FILES = 20
LOG_SUFFIX = b".log"
# What an instrument can put right by sending the file again; nothing is ever deleted here, and what
# contradicts MinKNOW's own sum was so before it was sent.
SENT_AGAIN = ("missing", "size", "md5")
# How often a run is asked for again until it is read without a word from there, a day later.
_MOST_REQUESTS = 3
# How often a check that was broken off is begun again at once, and not a day later.
_MOST_TRIES = 3
_ADVICE = {
    "unreadable": "let this user read it",
    "passing": "if that lasts, look at the disk here",
    "refused": "nothing that MinKNOW writes is so",
}
# What a program says of its end that has nothing to do with the run.
_PASSING = ("interrupted", "temporary")


class Verdict(NamedTuple):
    """What a verification found of the roll-up `rollup`; `error` where it could not be done.

    `extra` are the first of `extra_count` files that it does not list, which makes none that it
    does list a bad one; `leftover` is what killed transfers left in it. `is_passing`: it may well
    go through at the next try.
    """

    rollup: str
    files: int
    bytes: int
    bad: Tuple[Tuple[str, str], ...]
    bad_count: int
    error: str
    is_passing: bool = False
    extra: Tuple[str, ...] = ()
    extra_count: int = 0
    leftover: Tuple[str, ...] = ()
    sizes: str = ""


def verdict_path(state: bytes, instrument: str, run: str, standing: Standing) -> bytes:
    """Where a check of what a run's mark vouches for leaves its verdict, each in its own place."""
    what = "\0".join([instrument, run, standing.rollup, standing.marked, str(standing.since)])
    name = md5_of_text(what)[:20]
    return os.path.join(state, b"checks", name.encode() + b".json")


def read_verdict(path: bytes) -> Optional[Verdict]:
    """The verdict at `path`; None where there is none yet."""
    if not os.path.exists(path):
        return None
    printed = read_json(path)
    try:
        runs = printed["data"].get("runs", [])
        if not runs:
            error = printed["errors"][0]
            return _not_done(shortened(str(error["message"])), error.get("code") in _PASSING)
        return _verdict(runs[0])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return _not_done("the verification left no verdict: see the files beside it in `checks`")


def _verdict(facts: Dict[str, Any]) -> Verdict:
    extra = [str(each["path"]) for each in facts["bad"] if each["problem"] == EXTRA]
    bad = [
        (shown_text(each["path"]), str(each["problem"]))
        for each in facts["bad"]
        if each["problem"] != EXTRA
    ]
    # One that was begun before an upgrade does not say what it could not read, nor count.
    unread = facts.get("unread")
    counts = facts.get("counts") or Counter(each["problem"] for each in facts["bad"])
    if unread and not bad:
        return _unread(unread)
    bad.sort(key=lambda each: each[1] not in SENT_AGAIN)
    return Verdict(
        str(facts["rollup"]),
        int(facts["files"]),
        int(facts["bytes"]),
        tuple(bad[:KEPT_FILES]),
        sum(count for problem, count in counts.items() if problem not in (EXTRA, *UNREAD)),
        "",
        extra=tuple(extra[:KEPT_FILES]),
        extra_count=counts.get(EXTRA, 0),
        leftover=tuple(map(_path, facts["leftover"])),
        sizes=str(facts["sizes"]),
    )


def _path(text: str) -> str:
    """A path in the run. ValueError for any other."""
    relative_path(text)
    return text


def _unread(unread: List[Dict[str, Any]]) -> Verdict:
    """Nobody knows what is in these files: that is no word against them."""
    lasting = [each for each in unread if each["problem"] != "passing"]
    first = (lasting or unread)[0]
    more = f"; and {plural(len(unread) - 1, 'file')} more" if len(unread) > 1 else ""
    advice = _ADVICE[first["problem"]]
    where = shown_text(first["path"])
    why = shortened(f"{first['problem']}: {where}: {first['why']}{more}; {advice}")
    return _not_done(why, is_passing=not lasting)


def shown_text(name: str) -> str:
    """A name out of JSON for people."""
    return shown(from_json(name))


def _not_done(why: str, is_passing: bool = False) -> Verdict:
    return Verdict("", 0, 0, (), 0, why, is_passing)


def drop_verdict(path: bytes, keep_log: bool) -> None:
    """Remove a verdict that has been taken up, and what lies beside it.

    The output of a job stays for a while where somebody was told to read it.
    """
    directory, name = os.path.split(path)
    kept = name + LOG_SUFFIX if keep_log else b""
    with contextlib.suppress(FileNotFoundError):
        for each in os.listdir(directory):
            if each.startswith(name) and each != kept:
                os.unlink(os.path.join(directory, each))


def settle(
    instrument: Instrument, run: bytes, standing: Standing, verdict: Verdict
) -> Optional[Standing]:
    """How the run stands after its verification; None where it is gone.

    A mark or roll-up that has changed since makes it due to be verified again. Where a server does
    not tell just now, or they change at this moment, the verdict waits for the next look.
    """
    now, seen = int(time.time()), trace(instrument.base, run)
    try:
        found = vouched(instrument.base, run)
    except OSError:
        return standing
    if found is None:
        name = for_json(run)
        return unvouched(standing, now) if is_there(instrument.base, name) else None
    is_about_this = verdict.error or verdict.rollup == standing.rollup
    if found != (standing.rollup, standing.marked) or not is_about_this:
        return vouched_anew(standing, found, now)
    if verdict.is_passing and standing.tries < _MOST_TRIES:
        return check_again(standing, now)._replace(tries=standing.tries + 1)
    return _judged(instrument, run, standing, verdict, seen)


def _judged(
    instrument: Instrument, run: bytes, standing: Standing, verdict: Verdict, seen: str
) -> Standing:
    """How a run stands whose done mark and roll-up, the `seen` ones, are those that were read."""
    now = int(time.time())
    after = standing._replace(since=now, job="", seen=seen)
    if verdict.error:
        return after._replace(verdict=UNCHECKED, error=verdict.error)
    after = after._replace(
        files=verdict.files,
        bytes=verdict.bytes,
        error="",
        extra=verdict.extra,
        extra_count=verdict.extra_count,
        leftover=verdict.leftover,
        sizes=verdict.sizes,
    )
    if verdict.bad_count:
        return after._replace(
            verdict=CORRUPT,
            bad=verdict.bad,
            bad_count=verdict.bad_count,
            found_bad=standing.found_bad + 1,
            error=take_mark_back(instrument.base, run, standing.rollup),
        )
    after = after._replace(mended=bool(standing.bad_count or standing.error))
    try:
        return _verified(after) if _mark(instrument, run, after, seen) else standing
    except OSError as error:
        return _unmarked(after, error)


def bring_marks_back(instrument: Instrument, runs: Dict[str, Standing]) -> None:
    """Write our mark again into verified runs that have lost nothing else: pipelines wait for it.

    It says when they were verified. Where it cannot be written, the run counts as that.
    """
    for name, standing in runs.items():
        run = from_json(name)
        if standing.verdict != GOOD:
            continue
        seen = trace(instrument.base, run)
        if not _lacks_only_our_mark(instrument, run, standing):
            continue
        try:
            _mark(instrument, run, standing, seen)
        except OSError as error:
            runs[name] = _unmarked(standing, error)


def _lacks_only_our_mark(instrument: Instrument, run: bytes, standing: Standing) -> bool:
    try:
        if verified_mark(instrument.base, run, standing.rollup):
            return False
        return vouched(instrument.base, run) == (standing.rollup, standing.marked)
    except OSError:
        return False  # the next day will tell


def _verified(standing: Standing) -> Standing:
    """A run in which nothing bad was found, with our mark in it."""
    is_news = standing.mended or not standing.again
    return standing._replace(
        verdict=GOOD,
        bad=(),
        bad_count=0,
        untold=standing.untold or is_news,
        follow=standing.follow or not standing.again,
        again=False,
        found_bad=0,
    )


def _unmarked(standing: Standing, error: OSError) -> Standing:
    """A run in which nothing bad was found, and where our mark cannot be."""
    why = f"rsync.verified cannot be written: {error.strerror}; let this user write in the run"
    return standing._replace(verdict=UNCHECKED, error=why, mended=False)


def _mark(instrument: Instrument, run: bytes, standing: Standing, seen: str) -> bool:
    """Write our mark. Not for a done mark or roll-up other than the `seen` one. OSError.

    They may have been retracted since that was looked at: then it is taken back.
    """
    facts = {
        "run": named_in_mark(run),
        "instrument": instrument.name,
        "rollup": standing.rollup,
        "files": standing.files,
        "bytes": standing.bytes,
        "sizes": standing.sizes,
        "verified": date_text(standing.since),
        # Who reads through the cache of this host, or of a file server, cannot tell.
        "read": "unknown",
        "version": __version__,
    }
    write_inside(instrument.base, run, VERIFIED_MARK, mark_lines(time.time(), facts))
    is_as_seen = bool(seen) and trace(instrument.base, run) == seen
    if not is_as_seen:
        remove_inside(instrument.base, run, VERIFIED_MARK)
    return is_as_seen


def can_be_sent_again(standing: Standing) -> bool:
    """Whether sending what is bad once more can mend any of it."""
    if standing.verdict == UNVOUCHED:
        return standing.error != NOTHING_LEFT
    return any(problem in SENT_AGAIN for _, problem in standing.bad)


def was_sent_in_vain(standing: Standing) -> bool:
    """Whether it has been found corrupt again each time that it was sent again."""
    return standing.found_bad > _MOST_REQUESTS


def bad_files(standing: Standing) -> Tuple[str, ...]:
    """One line for each bad file, the first of many."""
    lines = [f"{problem}: {path}" for path, problem in standing.bad]
    more = standing.bad_count - len(standing.bad)
    return tuple(lines + [f"and {more:,} more"] * bool(more))
