"""Checks a run, wherever it lies, against its roll-up and MinKNOW's own sums, cheapest first.

Sizes are held against what the ledger remembers, missing and extra files come out of one walk,
and only what is left is read: once, for both kinds of sum.
"""

import csv
import io
import os
import stat
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.engine.copies import is_copy
from ontpush.engine.look import is_ours
from ontpush.engine.mark import md5_of_rollup
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.scratch import Scratch
from ontpush.engine.sizes import Sizes
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.facts.directories import names_in
from ontpush.facts.names import finished_name, shown, was_to_become
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed, unread, why_unread
from ontpush.facts.words import ROLLUP

EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")


# Path, MD5 and size in bytes of a file as it was hashed here.
Remembered = Tuple[bytes, bytes, int]
Paths = List[bytes]


class Bad(NamedTuple):
    """A file that is not what it should be: `missing`, `extra`, `size`, `md5` or `sha256`.

    Or one of which that cannot be said: `unreadable` by this user, or `passing`, which a server
    does not give just now; then `why` is what the system says.
    """

    path: bytes
    problem: str
    why: str = ""

    @property
    def is_unread(self) -> bool:
        """Whether nobody knows what is in it."""
        return self.problem in ("unreadable", "passing")


class Inspection(NamedTuple):
    """What came of it: how many files and bytes were read, and every bad one, by path.

    `rollup` is the MD5 of the roll-up that they were held against. `leftover` are the first of
    the files that the roll-up does not list, under rsync's temporary name of a file that begins
    with the same bytes, and of our own that were not written to their end. `sizes` tells which
    files were read, and how large they were: see `Sizes`.
    """

    files: int
    bytes: int
    bad: List[Bad]
    rollup: str
    leftover: Paths
    sizes: str


# What a file has to be: 16 bytes of MD5, and where they are known its SHA-256 and its size.
_LISTED = """
CREATE TABLE listed (path BLOB PRIMARY KEY, md5 BLOB, sha256 BLOB NOT NULL DEFAULT x'',
    size INTEGER, seen INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID
"""
_PAGE = 500
_MOST_LEFTOVERS = 1000


class _Expected(NamedTuple):
    path: bytes
    md5: bytes
    sha256: bytes
    size: Optional[int]


def inspect_run(
    run: bytes,
    jobs: int,
    excluded: Callable[[bytes], bool],
    remembered: Iterable[Remembered],
    on_file: Callable[[int, int], None],
) -> Inspection:
    """Check the run at `run`; `remembered` tells sizes that are known.

    RunFailed where there is no roll-up to check against, it is no roll-up, or it has changed
    meanwhile; TryLater where it cannot be read just now. OSError where a directory cannot be read.
    """
    with Scratch(_LISTED) as listed:
        return _inspect(run, jobs, excluded, remembered, on_file, listed)


def _inspect(
    run: bytes,
    jobs: int,
    excluded: Callable[[bytes], bool],
    remembered: Iterable[Remembered],
    on_file: Callable[[int, int], None],
    listed: Scratch,
) -> Inspection:
    rollup = md5_of_rollup(run)
    _read_rollup(run, listed)
    with_sha256 = _add_minknow_sums(run, listed)
    known = "UPDATE listed SET size = ? WHERE path = ? AND md5 = ?"
    listed.change(known, ((size, path, md5) for path, md5, size in remembered))
    walk = _Walk(run, excluded, listed)
    bad: List[Bad] = []
    changed: List[Task] = []
    for batch in take_sums(walk.tasks(), jobs, with_sha256):
        for summed in batch:
            if _has_changed(summed) or summed.problem is not None:
                changed.append(_task_of(run, summed))
            else:
                bad += _judge(summed)
        on_file(len(batch), sum(each.stat.st_size for each in batch if each.stat))
    bad += _read_again(run, changed, jobs, with_sha256)
    if rollup is None or md5_of_rollup(run) != rollup:
        raise RunFailed("md5sum changed while the run was verified: verify it again", run)
    bad += walk.bad
    missing = "SELECT path FROM listed WHERE NOT seen AND path > ? ORDER BY path LIMIT ?"
    bad += [_not_listed(run, path) for (path,) in listed.ordered(missing)]
    read, leftover = walk.read, sorted(walk.leftover)
    return Inspection(read.files, read.bytes, sorted(bad), rollup, leftover, read.digest())


def _read_rollup(run: bytes, listed: Scratch) -> None:
    path = os.path.join(run, ROLLUP)
    lines = 0

    def counted() -> Iterator[Listed]:
        nonlocal lines
        for line in read_rollup(path):
            lines += 1
            yield line

    try:
        if (
            listed.change("INSERT OR IGNORE INTO listed (path, md5) VALUES (?, ?)", counted())
            < lines
        ):
            _refuse_two_sums(run, listed)
    except FileNotFoundError as error:
        raise RunFailed(
            "there is no roll-up (md5sum) to verify against: has it been hashed?", run
        ) from error
    except OSError as error:
        raise unread("md5sum", error, run) from error
    except BadLine as error:
        raise RunFailed(f"md5sum is damaged: {error}", run) from error


def _refuse_two_sums(run: bytes, listed: Scratch) -> None:
    """RunFailed where a file that is listed more than once has not always the same sum."""
    for path, md5 in read_rollup(os.path.join(run, ROLLUP)):
        if listed.rows("SELECT 1 FROM listed WHERE path = ? AND md5 <> ?", (path, md5)):
            raise RunFailed(f"md5sum is damaged: two sums for {shown(path)}", run)


class _Walk:
    """One walk through a run, file by file as they are to be read: a run may have very many."""

    def __init__(self, run: bytes, excluded: Callable[[bytes], bool], listed: Scratch) -> None:
        self._run = run
        self._excluded = excluded
        self._listed = listed
        self.bad: List[Bad] = []
        self.leftover: List[bytes] = []
        self.read = Sizes()

    def tasks(self) -> Iterator[Task]:
        """What is left to be read; what is bad at first sight goes to `bad`. OSError."""
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            names, below = names_in(os.path.join(self._run, directory))
            for start in range(0, len(names), _PAGE):
                yield from self._page(directory, names[start : start + _PAGE], names)
            waiting += [
                directory + name + b"/" for name in below if not self._excluded(directory + name)
            ]

    def _page(self, directory: bytes, part: List[bytes], names: List[bytes]) -> List[Task]:
        expected = self._expected(directory + name for name in part)
        seen: List[bytes] = []
        tasks: List[Task] = []
        for name in part:
            path = directory + name
            if self._excluded(path):
                continue
            # What the roll-up lists is no sidecar, whatever lies beside it here.
            if path in expected or not is_ours(directory, name, names):
                tasks += self._task(path, expected.get(path), seen)
            elif was_to_become(path):
                self._note_leftover(path)
        self._listed.change("UPDATE listed SET seen = 1 WHERE path = ?", ((path,) for path in seen))
        return tasks

    def _expected(self, paths: Iterable[bytes]) -> Dict[bytes, _Expected]:
        """What is listed of some paths."""
        wanted = list(paths)
        marks = ", ".join("?" * len(wanted))
        select = f"SELECT path, md5, sha256, size FROM listed WHERE path IN ({marks})"  # noqa: S608
        found = self._listed.rows(select, wanted)
        return {row[0]: _Expected(*row) for row in found}

    def _task(
        self, path: bytes, expected: Optional[_Expected], seen: List[bytes]
    ) -> Iterator[Task]:
        full_path = os.path.join(self._run, path)
        try:
            found = os.lstat(full_path)
        except OSError:
            if expected is not None:  # reading it will tell why
                seen.append(path)
                yield Task(expected, full_path, 0)
            return
        if not stat.S_ISREG(found.st_mode):
            return
        if expected is None:
            self._not_expected(path)
            return
        seen.append(path)
        is_empty = expected.md5 == EMPTY_MD5
        if expected.size not in (None, found.st_size) or (found.st_size and is_empty):
            self.bad.append(Bad(path, "size"))
            return
        self.read.add(path, found.st_size)
        yield Task(expected, full_path, found.st_size)

    def _not_expected(self, path: bytes) -> None:
        """What there is of a file that is still coming, or of one that never came, is no extra."""
        if was_to_become(path) is None:
            self.bad.append(Bad(path, "extra"))
        elif finished_name(path) == path and is_copy(self._run, path, self._is_listed):
            self._note_leftover(path)

    def _is_listed(self, path: bytes) -> bool:
        return bool(self._expected([path]))

    def _note_leftover(self, path: bytes) -> None:
        if len(self.leftover) < _MOST_LEFTOVERS:
            self.leftover.append(path)


def _not_listed(run: bytes, path: bytes) -> Bad:
    """A file of the roll-up that the walk has not come by: missing, unless it is there after all.

    What the roll-up names is looked at only where it lies in the run, and no link is on the way.
    """
    inside = os.path.realpath(run) + b"/" + path
    try:
        leads_there = os.path.realpath(os.path.join(run, path)) == inside
        if leads_there and stat.S_ISREG(os.lstat(inside).st_mode):
            return Bad(path, "passing", "its directory did not list it")
    except OSError as error:
        return Bad(path, why_unread(error), error.strerror or "")
    return Bad(path, "missing")


def _add_minknow_sums(run: bytes, listed: Scratch) -> bool:
    """Add the SHA-256 sums in `output_hash_*.csv`; MinKNOW leaves some out, as of pod5."""
    added = False
    for name in sorted(os.listdir(run)):
        if not (name.startswith(b"output_hash_") and name.endswith(b".csv")):
            continue
        path = os.path.join(run, name)
        try:
            update = "UPDATE listed SET sha256 = ? WHERE path = ?"
            if listed.change(update, ((sha256, where) for where, sha256 in _rows(path))):
                added = True
        except OSError as error:
            raise unread(shown(name), error, run) from error
        except (ValueError, csv.Error) as error:
            raise RunFailed(f"{shown(name)} cannot be used: {error}", run) from error
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
    """Judge by what is there now the files that changed, or could not be read. RunFailed."""
    for batch in take_sums(changed, jobs, with_sha256):
        for summed in batch:
            if _has_changed(summed):
                path = shown(summed.key.path)
                raise RunFailed(f"{path} changes while it is read: verify it again", run)
            yield from _judge(summed)


def _judge(summed: Summed) -> Iterator[Bad]:
    path, md5, sha256, _ = summed.key
    if summed.problem is not None:
        yield Bad(path, why_unread(summed.problem), summed.problem.strerror or "")
    elif summed.md5 != md5:
        yield Bad(path, "md5")
    elif sha256 and summed.sha256 != sha256:
        yield Bad(path, "sha256")
