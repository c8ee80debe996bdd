"""What the monitor remembers: plain JSON files written whole by rename, one an instrument.

Safe on NFS and Lustre. Lost, it is made anew: the marks in the runs tell what was verified. One
record that says what we never write is lost alone: its run is read again, whatever mark lies in it.
"""

import contextlib
import json
import os
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Tuple
from urllib.parse import quote, unquote

from ontpush.cluster.inside import relative_path, run_path
from ontpush.engine.private import make_private
from ontpush.engine.rollup import write_whole
from ontpush.engine.sums import new_md5
from ontpush.facts import limits
from ontpush.facts.names import for_json, shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import BadConfiguration, TryLater

CHECKING = "checking"
GOOD = "verified"
CORRUPT = "corrupt"
UNCHECKED = "unchecked"
UNVOUCHED = "unvouched"
CONTESTED = "contested"
_VERDICTS = (CHECKING, GOOD, CORRUPT, UNCHECKED, UNVOUCHED, CONTESTED)
_LONGEST_NAME = 200
_SHORT_NAME = 200  # characters: one for each of the most runs is no more than is remembered


class Standing(NamedTuple):
    """How a run stands here that is vouched for, or was, or should be.

    Times in seconds since the epoch, our own clock. `rollup` and `marked` tell what was vouched for
    and when, `told_done` the instrument's word of it. `bad` are the first of `bad_count` files,
    each with its problem; they and `error` stay until the run has been verified. `extra` are the
    first of `extra_count` files that the roll-up did not list when it was read, `leftover` what
    killed transfers left then. `untold`: its verification has to be told; `follow`: its hooks have
    to be run. `again`: both were done for this very roll-up, which was marked once more.
    `found_bad`: how often in a row the same roll-up was found corrupt. `seen` tells the mark and
    the roll-up that were looked at last from any others. `sizes` is the digest of every path and
    size that was read; `walked_at` when they were looked at again, `walk_failed_at` when that could
    not be done since.
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
    submitted_at: int = 0
    seen: str = ""
    extra: Tuple[str, ...] = ()
    extra_count: int = 0
    leftover: Tuple[str, ...] = ()
    sizes: str = ""
    walked_at: int = 0
    walk_failed_at: int = 0


_DEFAULTS = Standing("", "", "", 0)


class Remembered(NamedTuple):
    """What is known of one instrument: its runs by path, when its tree was searched last.

    `known_since` is when it was first seen, or expected; `quiet_at` when it was found last that
    nothing comes in, of one that is silent. `fault` says what was too much in the last search,
    `behind_since` since when more is new than one look reads. `is_new`: the looks so far have not
    come to an end, and it cannot be told which marks are ours.
    """

    runs: Dict[str, Standing]
    searched_at: int
    known_since: int
    quiet_at: int = 0
    fault: str = ""
    behind_since: int = 0
    is_new: bool = False


class Memory:
    """The files below the state directory."""

    def __init__(self, state: bytes) -> None:
        self.directory = state

    def claim(self, root: bytes) -> None:
        """Let the state be that of this root alone. BadConfiguration if it is another's. TryLater.

        Two roots with one state would each end what is wrong with the other.
        """
        path = os.path.join(self.directory, b"root.json")
        known = read_json(path).get("root")
        if not isinstance(known, str):
            write_json(path, {"root": for_json(root)})
        elif known != for_json(root):
            other = shown(known.encode("utf-8", "surrogatepass"))
            raise BadConfiguration(
                f"the state in {shown(self.directory)} is that of {other}, not of {shown(root)}:"
                " give each root a state_dir of its own; if the one was moved to the other, remove"
                f" {shown(path)}"
            )

    def load(self, instrument: str) -> Remembered:
        """What is remembered of an instrument; only one without any file is new."""
        path = self._path(instrument)
        if not os.path.lexists(path):
            return Remembered({}, 0, 0, is_new=True)
        facts = read_json(path)
        # Whoever is remembered at all is known: no mark of a run that is not is believed unread.
        known_since = max(1, _whole(facts.get("known_since")))
        searched_at, quiet_at = _whole(facts.get("searched_at")), _whole(facts.get("quiet_at"))
        runs, fault = _standings(facts.get("runs")), str(facts.get("fault", ""))
        return Remembered(
            runs,
            searched_at,
            known_since,
            quiet_at,
            shown(fault.encode(errors="replace")),
            _whole(facts.get("behind_since")),
            facts.get("is_new") is True,
        )

    def save(self, instrument: str, remembered: Remembered) -> None:
        """Write it down. TryLater."""
        runs = {run: _facts(each) for run, each in sorted(remembered.runs.items())}
        facts = dict(remembered._asdict(), runs=runs)
        write_json(self._path(instrument), facts)

    def instruments(self) -> List[Tuple[str, bytes]]:
        """Every instrument that was ever saved, and the file that remembers it. OSError."""
        directory = os.path.join(self.directory, b"instruments")
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        paths = [os.path.join(directory, name) for name in names if name.endswith(b".json")]
        return [(_name_of(path), path) for path in paths]

    def lost(self, seen: Iterable[str]) -> List[Tuple[str, bytes]]:
        """Of `instruments` those that are none of the `seen`. OSError."""
        known = {self._path(each) for each in seen}
        return [(name, path) for name, path in self.instruments() if path not in known]

    def _path(self, instrument: str) -> bytes:
        name = quote(instrument, safe="").replace(".", "%2E")
        if len(name) > _LONGEST_NAME:  # of three characters a byte: no directory takes it
            name = f"{name[: _LONGEST_NAME // 2]}-{new_md5(instrument.encode()).hexdigest()}"
        return os.path.join(self.directory, b"instruments", name.encode() + b".json")


def _name_of(path: bytes) -> str:
    """The instrument that a file remembers; the beginning of a very long name."""
    return unquote(os.fsdecode(os.path.basename(path)[: -len(b".json")]))


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
        make_private(os.path.dirname(path))
        text = json.dumps(facts, separators=(",", ":")).encode() + b"\n"
        write_whole(path, [text], mode=0o600)
    except OSError as error:
        raise TryLater(f"{shown(path)} cannot be written: {error.strerror}") from error


def in_short(runs: Dict[str, Standing]) -> Dict[str, Standing]:
    """The same, with one file named of each run where all that are named would be too much."""
    named = sum(len(text) for each in runs.values() for text in _named(each))
    if named <= limits.MOST_REMEMBERED:
        return runs
    return {run: _with_one_name(each) for run, each in runs.items()}


def _named(standing: Standing) -> Iterator[str]:
    yield from (path for path, _ in standing.bad)
    yield from standing.extra
    yield from standing.leftover


def _with_one_name(standing: Standing) -> Standing:
    bad = tuple((path[:_SHORT_NAME], problem) for path, problem in standing.bad[:1])
    return standing._replace(bad=bad, extra=(), leftover=())


def _facts(standing: Standing) -> Dict[str, Any]:
    return {
        key: value for key, value in standing._asdict().items() if value != getattr(_DEFAULTS, key)
    }


def _standing(facts: Dict[str, Any]) -> Standing:
    """The inverse of `_facts`. TypeError, ValueError, AttributeError for anything else."""
    known = {key: value for key, value in facts.items() if key in Standing._fields}
    bad = tuple((path, problem) for path, problem in known.pop("bad", []))
    extra = tuple(known.pop("extra", []))
    "".join(extra).encode("utf-8", "surrogateescape")
    leftover = tuple(known.pop("leftover", []))
    for path in leftover:
        relative_path(path)
    standing = _DEFAULTS._replace(bad=bad, extra=extra, leftover=leftover, **known)
    for value, default in zip(standing, _DEFAULTS):
        if type(value) is not type(default):
            raise TypeError(f"{value!r} is nothing that we wrote")
    for text in (*(each for pair in bad for each in pair), standing.error, standing.marked):
        text.encode()
    if standing.verdict not in _VERDICTS:
        raise ValueError(f"{standing.verdict!r} is no verdict")
    return standing


def _standings(listed: Any) -> Dict[str, Standing]:
    """How each run stands that is remembered as we write it."""
    found: Dict[str, Standing] = {}
    for run, each in listed.items() if isinstance(listed, dict) else ():
        with contextlib.suppress(TypeError, ValueError, AttributeError):
            run_path(run)
            found[run] = _standing(each)
    return found


def _whole(value: Any) -> int:
    """A time in whole seconds; 0, which is long ago, for anything else."""
    return value if isinstance(value, int) else 0
