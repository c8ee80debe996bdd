"""Checks a run, wherever it lies, against its roll-up and MinKNOW's own sums, cheapest first.

Sizes are held against what the ledger remembers, missing and extra files come out of one walk,
and only what is left is read: once, for both kinds of sum.
"""

import contextlib
import csv
import io
import os
import stat
from typing import IO, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from ontpush.engine.copies import is_copy
from ontpush.engine.look import is_ours
from ontpush.engine.mark import md5_of_rollup
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.scratch import Scratch
from ontpush.engine.sizes import Sizes
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.facts import limits
from ontpush.facts.directories import TooManyNames, names_in
from ontpush.facts.names import (
    finished_name,
    from_json,
    human_size,
    shortened,
    shown,
    was_to_become,
)
from ontpush.facts.regular import holes_in, open_regular
from ontpush.facts.trouble import RunFailed, unread, why_unread
from ontpush.facts.words import ROLLUP

EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")


# Path, MD5 and size in bytes of a file as it was hashed here.
Remembered = Tuple[bytes, bytes, int]
Paths = List[bytes]
# Problems of which nobody knows what is in the file.
UNREAD = ("unreadable", "passing", "refused")


class Bad(NamedTuple):
    """A file that is not what it should be: `missing`, `extra`, `size`, `md5` or `sha256`.

    Or one of which that cannot be said: `unreadable` by this user, `passing`, which a server does
    not give just now, or `refused`, which no honest sender sends; then `why` says more.
    """

    path: bytes
    problem: str
    why: str = ""

    @property
    def is_unread(self) -> bool:
        """Whether nobody knows what is in it."""
        return self.problem in UNREAD


class BadFiles:
    """The bad files of a run: how many there are of each problem, and the first `most` of each."""

    def __init__(self, most: Optional[int]) -> None:
        self.counts: Dict[str, int] = {}
        self._most = most
        self._named: List[Bad] = []

    def add(self, bad: Iterable[Bad]) -> None:
        """Count them."""
        for each in bad:
            count = self.counts[each.problem] = self.counts.get(each.problem, 0) + 1
            if self._most is None or count <= self._most:
                self._named.append(each)

    def named(self) -> List[Bad]:
        """Those that are named, by path."""
        return sorted(self._named)


class Inspection(NamedTuple):
    """What came of it: how many files and bytes were read, and the bad ones, by path.

    `counts` says how many are bad by problem, also of those that are not named. `rollup` is the MD5
    of the roll-up that they were held against. `leftover` are the first of the files that the
    roll-up does not list, under rsync's temporary name of a file that begins with the same bytes,
    and of our own that were not written to their end. `sizes` tells which files were read, and how
    large they were: see `Sizes`.
    """

    files: int
    bytes: int
    bad: List[Bad]
    counts: Dict[str, int]
    rollup: str
    leftover: Paths
    sizes: str


# What a file has to be: 16 bytes of MD5, and where they are known its SHA-256 and its size.
_LISTED = """
CREATE TABLE listed (path BLOB PRIMARY KEY, md5 BLOB, sha256 BLOB NOT NULL DEFAULT x'',
    size INTEGER, seen INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID
"""
_PAGE = 500
_DISK_BLOCK = 512  # bytes, of which stat counts
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
    untrusted: bool = False,
) -> Inspection:
    """Check the run at `run`; `remembered` tells sizes that are known.

    One that is `untrusted` may have been made to cost more than it took to send: see `limits`.
    RunFailed where there is no roll-up to check against, it is no roll-up, or it has changed
    meanwhile; TryLater where it cannot be read just now. OSError where a directory cannot be read.
    """
    with Scratch(_LISTED) as listed:
        rollup = md5_of_rollup(run)
        _read_rollup(run, listed)
        with_sha256 = _add_minknow_sums(run, listed)
        known = "UPDATE listed SET size = ? WHERE path = ? AND md5 = ?"
        listed.change(known, ((size, path, md5) for path, md5, size in remembered))
        walk = _Walk(run, excluded, listed, untrusted)
        for part in _read(run, walk.tasks(), jobs, with_sha256, on_file):
            walk.bad.add(part)
        if rollup is None or md5_of_rollup(run) != rollup:
            raise RunFailed("md5sum changed while the run was verified: verify it again", run)
        missing = "SELECT path FROM listed WHERE NOT seen AND path > ? ORDER BY path LIMIT ?"
        walk.bad.add(_not_listed(run, path) for (path,) in listed.ordered(missing))
    read, bad, leftover = walk.read, walk.bad, sorted(walk.leftover)
    return Inspection(
        read.files, read.bytes, bad.named(), bad.counts, rollup, leftover, read.digest()
    )


def _read(
    run: bytes,
    tasks: Iterable[Task],
    jobs: int,
    with_sha256: bool,
    on_file: Callable[[int, int], None],
) -> Iterator[Iterable[Bad]]:
    """The bad ones among the files that are read. RunFailed where one changes all the time."""
    again: List[Task] = []
    for batch in take_sums(tasks, jobs, with_sha256):
        for summed in batch:
            if _has_changed(summed) or summed.problem is not None:
                again.append(_task_of(run, summed))
            else:
                yield _judge(summed)
        on_file(len(batch), sum(each.stat.st_size for each in batch if each.stat))
        if len(again) >= _PAGE:
            yield _read_again(run, again, jobs, with_sha256)
            again = []
    yield _read_again(run, again, jobs, with_sha256)


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

    def __init__(
        self, run: bytes, excluded: Callable[[bytes], bool], listed: Scratch, untrusted: bool
    ) -> None:
        self._run = run
        self._excluded = excluded
        self._listed = listed
        self._untrusted = untrusted
        self._holes = 0
        self._linked: Set[Tuple[int, int]] = set()
        self._most_leftovers = limits.MOST_NAMED if untrusted else _MOST_LEFTOVERS
        self.bad = BadFiles(limits.MOST_NAMED if untrusted else None)
        self.leftover: List[bytes] = []
        self.read = Sizes()

    def tasks(self) -> Iterator[Task]:
        """What is left to be read; what is bad at first sight goes to `bad`. OSError, RunFailed."""
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            if self._untrusted and directory.count(b"/") > limits.DEEPEST_FILE:
                where = shortened(shown(directory))
                raise RunFailed(
                    f"lies deeper than {limits.DEEPEST_FILE} levels, so it is not read: {where}",
                    self._run,
                )
            names, below = self._list(directory)
            for start in range(0, len(names), _PAGE):
                yield from self._page(directory, names[start : start + _PAGE], names)
            waiting += [
                directory + name + b"/" for name in below if not self._excluded(directory + name)
            ]

    def _list(self, directory: bytes) -> Tuple[List[bytes], List[bytes]]:
        """What `names_in` gives. OSError; RunFailed where that is more than is looked through."""
        try:
            return names_in(
                os.path.join(self._run, directory), limits.MOST_ENTRIES if self._untrusted else None
            )
        except TooManyNames as error:
            where = shortened(shown(directory or b"."))
            most = f"{limits.MOST_ENTRIES:,}"
            raise RunFailed(f"{where}: holds more than {most} names", self._run) from error

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
            self._not_expected(path, found)
            return
        seen.append(path)
        is_empty = expected.md5 == EMPTY_MD5
        if expected.size not in (None, found.st_size) or (found.st_size and is_empty):
            self.bad.add([Bad(path, "size")])
            return
        refused = self._why_refused(full_path, found)
        if refused:
            self.bad.add([Bad(path, "refused", refused)])
            return
        self.read.add(path, found.st_size)
        yield Task(expected, full_path, found.st_size)

    def _why_refused(self, path: bytes, found: os.stat_result) -> str:
        """Why a file of an untrusted run is not read: it costs more to read than to send."""
        if not self._untrusted:
            return ""
        if found.st_nlink > 1 and not self._is_first(found):
            return "is a file that was read by another name (a hard link): make it a copy"
        if found.st_blocks * _DISK_BLOCK < found.st_size:
            with contextlib.suppress(OSError), open_regular(path) as file:  # reading it tells why
                self._holes += holes_in(file.fileno(), found.st_size)
        if self._holes > limits.MOST_HOLES:
            most = human_size(limits.MOST_HOLES)
            return f"lies on no disk: with it the run has more than {most} of holes"
        return ""

    def _is_first(self, found: os.stat_result) -> bool:
        """Whether a file with several names was met by none of them: people link what is here."""
        inode = (found.st_dev, found.st_ino)
        is_first = inode not in self._linked and len(self._linked) < limits.MOST_ENTRIES
        if is_first:
            self._linked.add(inode)
        return is_first

    def _not_expected(self, path: bytes, found: os.stat_result) -> None:
        """What there is of a file that is still coming, or of one that never came, is no extra."""
        if was_to_become(path) is None:
            self.bad.add([Bad(path, "extra")])
        elif self._why_refused(os.path.join(self._run, path), found):
            pass  # to compare it would be to read it
        elif finished_name(path) == path and is_copy(self._run, path, self._is_listed):
            self._note_leftover(path)

    def _is_listed(self, path: bytes) -> bool:
        return bool(self._expected([path]))

    def _note_leftover(self, path: bytes) -> None:
        if len(self.leftover) < self._most_leftovers:
            self.leftover.append(path)


def _not_listed(run: bytes, path: bytes) -> Bad:
    """A file of the roll-up that the walk has not come by: missing, unless it is there after all.

    What the roll-up names is looked at only where it lies in the run, and no link is on the way.
    """
    where = os.path.join(run, path)
    try:
        # Of very many that are gone, only that is asked.
        if stat.S_ISREG(os.lstat(where).st_mode):
            inside = os.path.realpath(run) + b"/" + path
            if os.path.realpath(where) == inside:
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
        for row in csv.DictReader(_short_lines(file)):
            where, sum_text = row.get("file_path") or "", row.get("file_hash") or ""
            if where and sum_text:
                key = from_json(where)
                yield os.path.normpath(key), bytes.fromhex(sum_text.strip())


def _short_lines(file: IO[str]) -> Iterator[str]:
    """The lines of a file. ValueError for one without end, also by a quotation."""
    for line in iter(lambda: file.readline(limits.LONGEST_ROW), ""):
        if len(line) == limits.LONGEST_ROW:
            raise ValueError(f"a line has more than {limits.LONGEST_ROW:,} characters")
        if line.count('"') % 2:
            raise ValueError("a quotation goes on after the end of its line")
        yield line


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
