"""Takes up what a verification found: marks the run, or names what is bad in it.

The verification itself is `ontpush verify --json RUN`, wherever it runs. What it printed lies
whole in a file of the state directory as soon as it has ended, and is believed only of the
roll-up that the done mark vouches for before and after.
"""

import contextlib
import os
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ontpush import __version__
from ontpush.cluster.arrivals import Vouched, vouched
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import write_inside
from ontpush.cluster.memory import CHECKING, CORRUPT, GOOD, UNCHECKED, Standing, read_json
from ontpush.engine.mark import mark_lines
from ontpush.engine.sums import new_md5
from ontpush.facts.names import shown
from ontpush.facts.words import VERIFIED_MARK

KEPT_FILES = 20
# What an instrument can put right by sending the file again; nothing is ever deleted here, and what
# contradicts MinKNOW's own sum was so before it was sent.
SENT_AGAIN = ("missing", "size", "md5")
# How often a run is asked for again until it is read without a word from there, a day later.
_MOST_REQUESTS = 3


class Verdict(NamedTuple):
    """What a verification found of the roll-up `rollup`; `error` where it could not be done."""

    rollup: str
    files: int
    bytes: int
    bad: Tuple[Tuple[str, str], ...]
    bad_count: int
    error: str


def verdict_path(state: bytes, instrument: str, run: str, standing: Standing) -> bytes:
    """Where the verification of what a run's mark vouches for leaves its verdict."""
    what = "\0".join([instrument, run, standing.rollup, standing.marked])
    name = new_md5(what.encode("utf-8", "surrogateescape")).hexdigest()[:20]
    return os.path.join(state, b"checks", name.encode() + b".json")


def read_verdict(path: bytes) -> Optional[Verdict]:
    """The verdict at `path`; None where there is none yet."""
    if not os.path.exists(path):
        return None
    printed = read_json(path)
    try:
        runs = printed["data"].get("runs", [])
        if not runs:
            return _not_done(printed["errors"][0]["message"])
        return _verdict(runs[0])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return _not_done("the verification left no verdict: see the files beside it in `checks`")


def _verdict(facts: Dict[str, Any]) -> Verdict:
    bad = [(shown_text(each["path"]), str(each["problem"])) for each in facts["bad"]]
    bad.sort(key=lambda each: each[1] not in SENT_AGAIN)
    return Verdict(
        str(facts["rollup"]),
        int(facts["files"]),
        int(facts["bytes"]),
        tuple(bad[:KEPT_FILES]),
        len(bad),
        "",
    )


def shown_text(name: str) -> str:
    """A name out of JSON for people."""
    return shown(name.encode("utf-8", "surrogateescape"))


def _not_done(why: str) -> Verdict:
    return Verdict("", 0, 0, (), 0, why)


def drop_verdict(path: bytes) -> None:
    """Remove a verdict that has been taken up, and what lies beside it."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        for each in os.listdir(directory):
            if each.startswith(name):
                os.unlink(os.path.join(directory, each))


def settle(
    instrument: Instrument, run: bytes, standing: Standing, verdict: Verdict
) -> Optional[Standing]:
    """How the run stands after its verification; None where nothing vouches for it any more.

    A mark or roll-up that has changed since makes it due to be verified again.
    """
    now = int(time.time())
    found = vouched(instrument.base, run)
    if found is None:
        return None
    is_about_this = verdict.error or verdict.rollup == standing.rollup
    if found != (standing.rollup, standing.marked) or not is_about_this:
        return _again(standing, found, now)
    after = standing._replace(since=now, job="")
    if verdict.error:
        return after._replace(verdict=UNCHECKED, error=verdict.error)
    after = after._replace(files=verdict.files, bytes=verdict.bytes, error="")
    if verdict.bad_count:
        return after._replace(
            verdict=CORRUPT,
            bad=verdict.bad,
            bad_count=verdict.bad_count,
            found_bad=standing.found_bad + 1,
        )
    was_wrong = bool(standing.bad_count or standing.error)
    return _marked(instrument, run, after._replace(mended=was_wrong))


def _marked(instrument: Instrument, run: bytes, standing: Standing) -> Standing:
    """A run in which nothing bad was found, with our mark in it."""
    try:
        _mark(instrument, run, standing)
    except OSError as error:
        why = f"rsync.verified cannot be written: {error.strerror}; let this user write in the run"
        return standing._replace(verdict=UNCHECKED, error=why, mended=False)
    is_news = standing.mended or not standing.again
    return standing._replace(
        verdict=GOOD,
        bad=(),
        bad_count=0,
        untold=is_news,
        follow=not standing.again,
        again=False,
        found_bad=0,
    )


def _again(standing: Standing, found: Vouched, now: int) -> Standing:
    return standing._replace(
        rollup=found.rollup,
        marked=found.marked,
        verdict=CHECKING,
        since=now,
        job="",
        tries=0,
        found_bad=standing.found_bad if standing.rollup == found.rollup else 0,
    )


def _mark(instrument: Instrument, run: bytes, standing: Standing) -> None:
    facts = {
        "run": shown(run),
        "instrument": instrument.name,
        "rollup": standing.rollup,
        "files": standing.files,
        "bytes": standing.bytes,
        "version": __version__,
    }
    write_inside(instrument.base, run, VERIFIED_MARK, mark_lines(time.time(), facts))


def can_be_sent_again(standing: Standing) -> bool:
    """Whether sending what is bad once more can mend any of it."""
    return any(problem in SENT_AGAIN for _, problem in standing.bad)


def was_sent_in_vain(standing: Standing) -> bool:
    """Whether it has been found corrupt again each time that it was sent again."""
    return standing.found_bad > _MOST_REQUESTS


def bad_files(standing: Standing) -> Tuple[str, ...]:
    """One line for each bad file, the first of many."""
    lines = [f"{problem}: {path}" for path, problem in standing.bad]
    more = standing.bad_count - len(standing.bad)
    return tuple(lines + [f"and {more:,} more"] * bool(more))
