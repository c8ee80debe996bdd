"""Checks a run, wherever it lies, against its roll-up and MinKNOW's own sums, cheapest first.

Sizes are held against what the ledger remembers, missing and extra files come out of one walk,
and only what is left is read: once, for both kinds of sum.
"""

import contextlib
import csv
import io
import os
import re
import stat
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple

from ontpush.engine.look import is_ours, names_in
from ontpush.engine.mark import md5_of_rollup
from ontpush.engine.rollup import BadLine, read_rollup
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.facts.names import shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import ROLLUP

_RSYNC_TEMPORARY = re.compile(rb"(.*/)?\.([^/]+)\.[A-Za-z0-9]{6}\Z", re.DOTALL)
EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")


# Path, MD5 and size in bytes of a file as it was hashed here.
Remembered = Tuple[bytes, bytes, int]


class Bad(NamedTuple):
    """A file that is not what it should be: `missing`, `extra`, `size`, `md5` or `sha256`."""

    path: bytes
    problem: str


class Inspection(NamedTuple):
    """What came of it: how many files and bytes were read, and every bad one, by path.

    `rollup` is the MD5 of the roll-up that they were held against.
    """

    files: int
    bytes: int
    bad: List[Bad]
    rollup: str


# What a file of the roll-up has to be: 16 bytes of MD5, then, where MinKNOW gave it, the SHA-256.
# Nothing stands for a file that the walk has come by.
_Sums = Dict[bytes, bytes]
_MD5_BYTES = 16
_SEEN = b""


class _Expected(NamedTuple):
    path: bytes
    sums: bytes


def inspect_run(
    run: bytes,
    jobs: int,
    excluded: Callable[[bytes], bool],
    remembered: Iterable[Remembered],
    on_file: Callable[[int, int], None],
) -> Inspection:
    """Check the run at `run`; `remembered` tells sizes that are known.

    RunFailed where there is no roll-up to check against, it is no roll-up, or it has changed
    meanwhile. OSError where a directory cannot be read.
    """
    rollup = md5_of_rollup(run)
    sums = _listed(run)
    with_sha256 = _add_minknow_sums(run, sums)
    walk = _Walk(run, excluded, sums, _of_other_size(run, sums, remembered))
    bad: List[Bad] = []
    changed: List[Task] = []
    for batch in take_sums(walk.tasks(), jobs, with_sha256):
        for summed in batch:
            if _has_changed(summed):
                changed.append(_task_of(run, summed))
            else:
                bad += _judge(summed)
        on_file(len(batch), sum(each.stat.st_size for each in batch if each.stat))
    bad += _read_again(run, changed, jobs, with_sha256)
    if rollup is None or md5_of_rollup(run) != rollup:
        raise RunFailed("md5sum changed while the run was verified: verify it again", run)
    bad += walk.bad
    bad += [Bad(path, "missing") for path, expected in sums.items() if expected != _SEEN]
    return Inspection(walk.files, walk.bytes, sorted(bad), rollup)


def _listed(run: bytes) -> _Sums:
    sums: _Sums = {}
    try:
        for path, md5 in read_rollup(os.path.join(run, ROLLUP)):
            if sums.setdefault(path, md5) != md5:
                raise RunFailed(f"md5sum is damaged: two sums for {shown(path)}", run)
    except FileNotFoundError as error:
        raise RunFailed(
            "there is no roll-up (md5sum) to verify against: has it been hashed?", run
        ) from error
    except OSError as error:
        raise RunFailed(f"md5sum cannot be read: {error.strerror}", run) from error
    except BadLine as error:
        raise RunFailed(f"md5sum is damaged: {error}", run) from error
    return sums


def _of_other_size(run: bytes, sums: _Sums, remembered: Iterable[Remembered]) -> Set[bytes]:
    """The files that had their sum, but not their size, when the ledger saw them last."""
    other: Set[bytes] = set()
    for path, md5, size in remembered:
        if sums.get(path, _SEEN)[:_MD5_BYTES] == md5:
            with contextlib.suppress(OSError):  # the walk finds what is wrong
                if os.lstat(os.path.join(run, path)).st_size != size:
                    other.add(path)
    return other


class _Walk:
    """One walk through a run, file by file as they are to be read: a run may have very many."""

    def __init__(
        self, run: bytes, excluded: Callable[[bytes], bool], sums: _Sums, of_other_size: Set[bytes]
    ) -> None:
        self._run = run
        self._excluded = excluded
        self._sums = sums
        self._of_other_size = of_other_size
        self.bad: List[Bad] = []
        self.files = 0
        self.bytes = 0

    def tasks(self) -> Iterator[Task]:
        """What is left to be read; what is bad at first sight goes to `bad`. OSError."""
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            names, below = names_in(os.path.join(self._run, directory))
            for name in names:
                path = directory + name
                # What the roll-up lists is no sidecar, whatever lies beside it here.
                is_of_run = path in self._sums or not is_ours(directory, name, names)
                if is_of_run and not self._excluded(path):
                    yield from self._task(path)
            waiting += [
                directory + name + b"/" for name in below if not self._excluded(directory + name)
            ]

    def _task(self, path: bytes) -> Iterator[Task]:
        full_path = os.path.join(self._run, path)
        try:
            found = os.lstat(full_path)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode):
            return
        expected = self._sums.get(path)
        if expected is None:
            if not _is_broken_off(path, self._sums):
                self.bad.append(Bad(path, "extra"))
            return
        self._sums[path] = _SEEN
        if path in self._of_other_size or (found.st_size and expected[:_MD5_BYTES] == EMPTY_MD5):
            self.bad.append(Bad(path, "size"))
            return
        self.files += 1
        self.bytes += found.st_size
        yield Task(_Expected(path, expected), full_path, found.st_size)


def _is_broken_off(path: bytes, sums: _Sums) -> bool:
    """Whether this is what rsync had of a listed file when the power failed: never used again."""
    found = _RSYNC_TEMPORARY.match(path)
    return found is not None and (found.group(1) or b"") + found.group(2) in sums


def _add_minknow_sums(run: bytes, sums: _Sums) -> bool:
    """Add the SHA-256 sums in `output_hash_*.csv`; MinKNOW leaves some out, as of pod5."""
    added = False
    for name in sorted(os.listdir(run)):
        if not (name.startswith(b"output_hash_") and name.endswith(b".csv")):
            continue
        path = os.path.join(run, name)
        try:
            for where, sha256 in _rows(path):
                if where in sums:
                    sums[where] = sums[where][:_MD5_BYTES] + sha256
                    added = True
        except (OSError, ValueError, csv.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise RunFailed(f"{shown(name)} cannot be used: {why}", run) from error
    return added


def _rows(path: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Path and SHA-256 of each line that has both. OSError, ValueError, csv.Error."""
    with open_regular(path) as raw, io.TextIOWrapper(
        raw, newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        for row in csv.DictReader(file):
            where, sum_text = row.get("file_path") or "", row.get("file_hash") or ""
            if where and sum_text:
                key = where.encode("utf-8", "surrogateescape")
                yield os.path.normpath(key), bytes.fromhex(sum_text.strip())


def _has_changed(summed: Summed) -> bool:
    """Whether a file changed while it was read: its sum may be of what it no longer holds."""
    return summed.stat is not None and not summed.steady


def _task_of(run: bytes, summed: Summed) -> Task:
    return Task(summed.key, os.path.join(run, summed.key.path), 0)


def _read_again(run: bytes, changed: List[Task], jobs: int, with_sha256: bool) -> Iterator[Bad]:
    """Judge by what they hold now the files that changed while they were read. RunFailed."""
    for batch in take_sums(changed, jobs, with_sha256):
        for summed in batch:
            if _has_changed(summed):
                path = shown(summed.key.path)
                raise RunFailed(f"{path} changes while it is read: verify it again", run)
            yield from _judge(summed)


def _judge(summed: Summed) -> Iterator[Bad]:
    path, sums = summed.key
    if isinstance(summed.problem, FileNotFoundError):
        yield Bad(path, "missing")
    elif summed.problem is not None or summed.md5 != sums[:_MD5_BYTES]:
        yield Bad(path, "md5")
    elif summed.sha256 != sums[_MD5_BYTES:] and len(sums) > _MD5_BYTES:
        yield Bad(path, "sha256")
