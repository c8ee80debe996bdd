"""Reads what an instrument says of itself and its runs: hostile input until it is checked."""

import json
import os
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ontpush.cluster.inside import run_path
from ontpush.facts import limits, words
from ontpush.facts.names import shown
from ontpush.facts.regular import open_regular

_LARGEST_NUMBER = 1 << 63
_MOST_DIGITS = 30
_STATES = frozenset(
    [
        words.NEW,
        words.SENDING,
        words.WAITING,
        words.STALLED,
        words.DONE,
        words.SKIPPED,
        words.FAILED,
    ]
)


class RunFacts(NamedTuple):
    """How the instrument says that a run stands; times in seconds since the epoch, its own."""

    state: str
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int
    error: str
    warning: str
    rollup: str
    done_at: int
    first_sent_at: int


class Heartbeat(NamedTuple):
    """A heartbeat; `arrived_at` is by the cluster's own clock. Runs by their path."""

    arrived_at: float
    version: str
    free_bytes: int
    total_bytes: int
    errors: Tuple[str, ...]
    unsent: Tuple[str, ...]
    runs: Dict[bytes, RunFacts]
    faults: Tuple[str, ...]


class BadHeartbeat(Exception):
    """The heartbeat cannot be read; the message says why."""


def arrival(path: bytes) -> float:
    """When a heartbeat came, by the clock of the disk it lies on: its mtime is the sender's."""
    return os.lstat(path).st_ctime


def read_heartbeat(path: bytes) -> Heartbeat:
    """The heartbeat at `path`; what is wrong with single runs in it is in `faults`."""
    facts = _load(path)
    runs, fault = _runs(facts.get("runs"))
    return Heartbeat(
        arrival(path),
        _text(facts.get("version")),
        _number(facts.get("free_bytes")),
        _number(facts.get("total_bytes")),
        _texts(facts.get("errors")),
        _texts(facts.get("unsent")),
        runs,
        (fault,) if fault else (),
    )


def _runs(listed: Any) -> Tuple[Dict[bytes, RunFacts], str]:
    """The runs that can be used, and why another cannot."""
    runs: Dict[bytes, RunFacts] = {}
    fault = ""
    for each in listed if isinstance(listed, list) else []:
        if len(runs) >= limits.MOST_RUNS:
            return runs, f"it lists more than {limits.MOST_RUNS:,} runs: others are passed over"
        try:
            runs[run_path(each["run"])] = _run_facts(each)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            why = error if isinstance(error, ValueError) else type(error).__name__
            fault = f"a run in it cannot be used: {why}"
    return runs, fault


def _load(path: bytes) -> Dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = file.read(limits.LARGEST_HEARTBEAT + 1)
    except OSError as error:
        raise BadHeartbeat(error.strerror or str(error)) from error
    if len(content) > limits.LARGEST_HEARTBEAT:
        raise BadHeartbeat(f"it is larger than {limits.LARGEST_HEARTBEAT >> 20} MiB")
    if sum(map(content.count, (b"{", b"[", b","))) > limits.MOST_VALUES:
        raise BadHeartbeat(f"it holds more than {limits.MOST_VALUES:,} values")
    try:
        facts = json.loads(content.decode("utf-8", "replace"), parse_int=_short_int)
    except (ValueError, RecursionError) as error:
        raise BadHeartbeat("it is no JSON") from error
    if not isinstance(facts, dict):
        raise BadHeartbeat("it is no JSON object")
    return facts


def _short_int(digits: str) -> int:
    """A number in a heartbeat. ValueError for one of a million digits: they take minutes."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError("no number of files or bytes")
    return int(digits)


def _run_facts(each: Dict[str, Any]) -> RunFacts:
    if each["state"] not in _STATES:
        raise ValueError("no state of a run")
    return RunFacts(
        each["state"],
        _number(each.get("files")),
        _number(each.get("bytes")),
        _number(each.get("sent_files")),
        _number(each.get("sent_bytes")),
        _text(each.get("error")),
        _text(each.get("warning")),
        _text(each.get("rollup")),
        _number(each.get("done_at")),
        _number(each.get("first_sent_at")),
    )


def _text(value: Optional[Any]) -> str:
    if not isinstance(value, str):
        return ""
    return shown(value[: limits.LONGEST_TEXT].encode("utf-8", "backslashreplace"))


def _texts(value: Optional[Any]) -> Tuple[str, ...]:
    return tuple(map(_text, value[: limits.MOST_TEXTS])) if isinstance(value, list) else ()


def _number(value: Optional[Any]) -> int:
    """A whole number from 0 to what a disk may hold; anything else counts as 0."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and value is not None and 0 <= value < _LARGEST_NUMBER else 0
