"""What the monitor remembers: plain JSON files written whole by rename, one an instrument.

Safe on NFS and Lustre. Lost, it is made anew: the marks in the runs tell what was verified.
"""

import json
import os
from typing import Any, Dict, List, NamedTuple, Tuple
from urllib.parse import quote, unquote

from ontpush.engine.rollup import write_whole
from ontpush.facts.names import shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import TryLater

CHECKING = "checking"
GOOD = "verified"
CORRUPT = "corrupt"
UNCHECKED = "unchecked"


class Standing(NamedTuple):
    """How a vouched run stands here. Times in seconds since the epoch, our own clock.

    `rollup` and `marked` tell what was vouched for and when, `told_done` the instrument's word of
    it. `bad` are the first of `bad_count` files, each with its problem; they and `error` stay
    until the run has been verified. `untold`: its verification has to be told; `follow`: its
    hooks have to be run. `again`: both were done for this very roll-up, which was marked once more.
    `found_bad`: how often in a row the same roll-up was found corrupt.
    """

    rollup: str
    marked: str
    verdict: str
    since: int
    told_done: int = 0
    files: int = 0
    bytes: int = 0
    bad: Tuple[Tuple[str, str], ...] = ()
    bad_count: int = 0
    error: str = ""
    mended: bool = False
    untold: bool = False
    follow: bool = False
    again: bool = False
    found_bad: int = 0
    job: str = ""
    tries: int = 0
    missing_at: int = 0


_DEFAULTS = Standing("", "", "", 0)


class Remembered(NamedTuple):
    """What is known of one instrument: its runs by path, when its tree was searched last.

    `known_since` is when it was first seen, or expected.
    """

    runs: Dict[str, Standing]
    searched_at: int
    known_since: int


class Memory:
    """The files below the state directory."""

    def __init__(self, state: bytes) -> None:
        self.directory = state

    def load(self, instrument: str) -> Remembered:
        """What is remembered of an instrument."""
        facts = read_json(self._path(instrument))
        try:
            runs = {run: _standing(each) for run, each in facts["runs"].items()}
            return Remembered(runs, int(facts["searched_at"]), int(facts["known_since"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            return Remembered({}, 0, 0)

    def save(self, instrument: str, remembered: Remembered) -> None:
        """Write it down. TryLater."""
        runs = {run: _facts(each) for run, each in sorted(remembered.runs.items())}
        facts = dict(remembered._asdict(), runs=runs)
        write_json(self._path(instrument), facts)

    def instruments(self) -> List[str]:
        """Every instrument that was ever saved. OSError."""
        directory = os.path.join(self.directory, b"instruments")
        names = os.listdir(directory) if os.path.isdir(directory) else []
        return [unquote(os.fsdecode(name[:-5])) for name in names if name.endswith(b".json")]

    def _path(self, instrument: str) -> bytes:
        name = quote(instrument, safe="").replace(".", "%2E").encode() + b".json"
        return os.path.join(self.directory, b"instruments", name)


def read_json(path: bytes) -> Dict[str, Any]:
    """A JSON object that we wrote; empty where there is none, or none that can be read."""
    try:
        with open_regular(path) as file:
            facts = json.loads(file.read().decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write_json(path: bytes, facts: Dict[str, Any]) -> None:
    """Write a JSON object whole, by rename. TryLater."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, [json.dumps(facts, separators=(",", ":")).encode() + b"\n"])
    except OSError as error:
        raise TryLater(f"{shown(path)} cannot be written: {error.strerror}") from error


def _facts(standing: Standing) -> Dict[str, Any]:
    return {
        key: value for key, value in standing._asdict().items() if value != getattr(_DEFAULTS, key)
    }


def _standing(facts: Dict[str, Any]) -> Standing:
    known = {key: value for key, value in facts.items() if key in Standing._fields}
    bad: List[Any] = known.pop("bad", [])
    return _DEFAULTS._replace(bad=tuple((path, problem) for path, problem in bad), **known)
