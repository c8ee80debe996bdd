"""Looks at what is in a run and tells the ledger what is new, changed, incomplete or gone.

A quick look reads only what shows a change: the time of a directory, the files directly in the
run, and in each directory of a run that is not done the few files that were written last, because
one of those may grow in place. A full look asks every file.
"""

import errno
import fnmatch
import itertools
import os
import re
import stat
import struct
import time
from bisect import bisect_left, bisect_right
from heapq import nlargest
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ontpush.engine.ledger import GONE, LINK, Known, Ledger, Taken
from ontpush.engine.settling import Seen, Settling
from ontpush.engine.sums import new_md5
from ontpush.facts.directories import names_in
from ontpush.facts.names import finished_name, for_json, from_argument
from ontpush.facts.times import mtime_ns
from ontpush.facts.words import MARKS, OWN_FILES, SIDECAR_SUFFIX, VOUCHING_MARKS

Tokens = Dict[bytes, Optional[bytes]]
_PAGE = 2000
# So many files of each directory, the newest, are asked at every look.
_WATCHED = 8
_TIME = struct.Struct("<q")
# A file system may keep times as coarse as this: a directory changed so recently may
# change again without a new time.
_COARSEST_TIME_NS = 2 * 10**9


class Rules(NamedTuple):
    """What counts as a file of a run: settled for `settle` seconds, not `excluded`.

    `can_tell` is whether times of files can be believed, `asks_disk` whether its clock is asked.
    """

    settle: float
    excluded: Callable[[bytes], bool]
    can_tell: bool
    asks_disk: bool


class Look(NamedTuple):
    """What a look found: counts of files, and directories that could not be read.

    `marks` are paths relative to the run of marks inside it that vouch for a part of it.
    """

    taken: int
    gone: int
    unsettled: int
    newest_ns: int
    special: List[bytes]
    unreadable: List[OSError]
    marks: List[bytes]

    @property
    def changed(self) -> bool:
        """Whether there is more in the run, or other bytes, than there was."""
        return bool(self.taken or self.unsettled)


def exclusion(patterns: Sequence[str]) -> Callable[[bytes], bool]:
    """Whether a path in a run is excluded: by a name in it.

    Where a pattern has a slash: by itself, or by a directory above it.
    """
    if not patterns:
        return lambda _: False
    texts = [for_json(from_argument(pattern)) for pattern in patterns]
    by_name, by_path = (
        re.compile(
            "|".join(fnmatch.translate(text) for text in texts if ("/" in text) == slash) or r"(?!)"
        )
        for slash in (False, True)
    )

    def excluded(path: bytes) -> bool:
        names = for_json(path).split("/")
        paths = itertools.accumulate(names, "{}/{}".format)
        return any(map(by_name.match, names)) or any(map(by_path.match, paths))

    return excluded


def run_token(entries: "List[os.DirEntry[bytes]]") -> bytes:
    """What lies directly in a run: its files may grow in place, so each one counts."""
    parts = [_entry_token(entry) for entry in entries if finished_name(entry.name) not in OWN_FILES]
    parts.sort()
    return bytes(new_md5(b"\0".join(parts)).digest())


def _entry_token(entry: "os.DirEntry[bytes]") -> bytes:
    try:
        if entry.is_dir(follow_symlinks=False):
            return entry.name + b"/"
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return entry.name
    return _file_token(entry.name, found)


def _file_token(name: bytes, found: os.stat_result) -> bytes:
    return b"%s/%d %d" % (name, found.st_size, mtime_ns(found))


def _directory_token(path: bytes) -> Optional[bytes]:
    try:
        found = os.lstat(path)
    except OSError as error:
        return GONE if error.errno in (errno.ENOENT, errno.ENOTDIR) else None
    if not stat.S_ISDIR(found.st_mode):
        return GONE
    if time.time() * 10**9 - mtime_ns(found) < _COARSEST_TIME_NS:
        return None
    return _TIME.pack(mtime_ns(found))


def _token_now(path: bytes, before: bytes) -> Optional[bytes]:
    """How a directory looks now, and in it the files that its token from `before` watches."""
    token = _directory_token(path)
    if not token or len(before) <= _TIME.size:
        return token
    watched = before[_TIME.size :].split(b"\0")
    return token + b"\0".join(_watch(path, each[: each.index(b"/")]) for each in watched)


def _watch(directory: bytes, name: bytes) -> bytes:
    try:
        return _file_token(name, os.lstat(directory + b"/" + name))
    except OSError:
        return name


def changed_directories(run: bytes, token_of_run: bytes, known: Tokens) -> List[bytes]:
    """The directories of a run that look other than the ledger remembers."""
    changed = [] if known.get(b"") == token_of_run else [b""]
    for path, token in known.items():
        if path and (token is None or token != _token_now(run + b"/" + path[:-1], token)):
            changed.append(path)
    return changed


class _Seen(NamedTuple):
    """What is to be written of a directory: files new, changed, and gone or incomplete."""

    path: bytes
    new: List[Taken]
    changed: List[Taken]
    put_back: List[bytes]

    @property
    def files(self) -> int:
        return len(self.new) + len(self.changed) + len(self.put_back)


class Looker:
    """One look at one run, at `now` in seconds since the epoch.

    A walk may take long, and others read the ledger meanwhile: what was seen is written a page at
    a time, each in a transaction of its own. `write_rest` ends the look, and is what counts: until
    then each directory is remembered as it was, so that a look broken off is begun anew.

    Where it is to `watch` the run, later looks ask the newest files of each directory one by one.
    """

    def __init__(
        self, ledger: Ledger, run_id: int, run: bytes, rules: Rules, now: float, watch: bool
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._newest: List[Tuple[int, bytes]] = []
        self._run_id = run_id
        self._run = run
        self._rules = rules
        self._now_ns = int(now * 10**9)
        self._settling = Settling(run, rules.settle, rules.can_tell, rules.asks_disk)
        self._before: Dict[bytes, Seen] = {}
        self._waiting: Dict[bytes, Seen] = {}
        self._now_waiting: Dict[bytes, Dict[bytes, Seen]] = {}
        self._taken = self._gone = self._unsettled = self._newest_ns = 0
        self._special: List[bytes] = []
        self._marks: List[bytes] = []
        self._there: os.stat_result = os.lstat(run)
        self._unreadable: List[OSError] = []
        self._known: Tokens = {}
        self._tokens: Tokens = {}
        self._unwritten: List[_Seen] = []

    def look(self, token_of_run: bytes, known: Tokens, only: Optional[List[bytes]] = None) -> Look:
        """Read the directories `only` and what is new below them, or without it everything.

        Each directory is remembered as it looked before it was read, so that what changes
        meanwhile shows at the next look. OSError where the run itself goes away.
        """
        self._known = known
        self._there = os.lstat(self._run)
        waiting = [b""] if only is None else sorted(only, reverse=True)
        seen = set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            below = self._read(path, token_of_run)
            if below is None:
                seen.update(self._put_back_below(path))
                continue
            waiting.extend(child for child in below if only is None or child not in known)
        if only is None:
            for path in set(known) - seen:
                self._put_back(path)
        self._ensure_there()
        return Look(
            self._taken,
            self._gone,
            self._unsettled,
            max(0, self._newest_ns - self._settling.ahead_ns()),
            self._special,
            self._unreadable,
            self._marks,
        )

    def write_rest(self) -> None:
        """In a transaction of the caller: what is not written yet, then what was read."""
        self._write_seen()
        for path, token in self._tokens.items():
            if path not in self._known or self._known[path] != token:
                self._ledger.set_token(self._ledger.directory(self._run_id, path), token)
        for path, files in self._now_waiting.items():
            self._ledger.set_waiting(self._ledger.directory(self._run_id, path), files)

    def _waiting_before(self, path: bytes) -> Dict[bytes, Seen]:
        directory = self._ledger.known_directory(self._run_id, path)
        return {} if directory is None else self._ledger.waiting_in(directory)

    def _write(self, seen: _Seen) -> None:
        self._taken += len(seen.new) + len(seen.changed)
        self._gone += len(seen.put_back)
        if seen.files:
            self._unwritten.append(seen)
        if sum(each.files for each in self._unwritten) >= _PAGE:
            self._ensure_there()
            with self._ledger.writing():
                self._write_seen()

    def _write_seen(self) -> None:
        for seen in self._unwritten:
            directory = self._ledger.directory(self._run_id, seen.path)
            self._ledger.take_new(directory, seen.new)
            self._ledger.take_changed(directory, seen.changed)
            self._ledger.put_back(directory, seen.put_back)
        self._unwritten = []

    def _ensure_there(self) -> None:
        """OSError where the run itself is gone, or another: that says nothing of its files."""
        now = os.lstat(self._run)
        if (now.st_dev, now.st_ino) != (self._there.st_dev, self._there.st_ino):
            raise FileNotFoundError(errno.ENOENT, "went away while it was looked at", self._run)

    def _put_back(self, path: bytes) -> None:
        for page in self._pages(path):
            gone = [file.name for file in page if file.size is not None]
            self._write(_Seen(path, [], [], gone))
        self._tokens[path] = GONE
        self._now_waiting[path] = {}

    def _pages(self, path: bytes) -> Iterator[List[Known]]:
        """What the ledger has of a directory, by name; the last page is not full."""
        directory = self._ledger.known_directory(self._run_id, path)
        after = b""
        while True:
            known = [] if directory is None else self._ledger.known_in(directory, after, _PAGE)
            yield known
            if len(known) < _PAGE:
                return
            after = known[-1].name

    def _put_back_below(self, path: bytes) -> List[bytes]:
        gone = self._known_below(path)
        for child in gone:
            self._put_back(child)
        return gone

    def _known_below(self, path: bytes) -> List[bytes]:
        return [child for child in self._known if child.startswith(path)]

    def _read(self, path: bytes, token_of_run: bytes) -> Optional[List[bytes]]:
        """Compare one directory with the ledger; the directories in it, or None if it is gone."""
        full_path = self._run + (b"/" + path[:-1] if path else b"")
        token = _directory_token(full_path) if path else token_of_run
        try:
            names, below = names_in(full_path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._unreadable.append(error)
            self._tokens[path] = None
            return self._known_below(path)
        unclear_before = self._unclear()
        self._newest = []
        self._before, self._waiting = self._waiting_before(path), {}
        self._compare(path, full_path, self._files_among(path, names))
        if self._waiting != self._before:
            self._now_waiting[path] = self._waiting
        settled = self._unclear() == unclear_before
        if token and path and self._watch:
            token += b"\0".join(each for _, each in self._newest)
        self._tokens[path] = token if settled else None
        return [path + name + b"/" for name in below if not self._rules.excluded(path + name)]

    def _unclear(self) -> int:
        return self._unsettled + len(self._unreadable)

    def _files_among(self, path: bytes, names: List[bytes]) -> List[bytes]:
        """The names that can be files of the run: not our own, not sidecars, not excluded."""
        if path:
            self._marks += [path + name for name in VOUCHING_MARKS if is_among(name, names)]
        return [
            name
            for name in names
            if not is_ours(path, name, names) and not self._rules.excluded(path + name)
        ]

    def _compare(self, path: bytes, full_path: bytes, names: List[bytes]) -> None:
        """Hold the sorted `names` against the ledger, a page of the ledger at a time."""
        start = 0
        for page in self._pages(path):
            end = len(names) if len(page) < _PAGE else bisect_right(names, page[-1].name)
            self._compare_page(path, full_path, page, names[start:end])
            start = end

    def _compare_page(
        self, path: bytes, full_path: bytes, page: List[Known], names: List[bytes]
    ) -> None:
        known = {file.name: file for file in page}
        newest = self._newest
        new: List[Taken] = []
        changed: List[Taken] = []
        put_back = []
        for name in names:
            file = known.pop(name, _UNKNOWN)
            try:
                found = self._stat(full_path + b"/" + name)
            except OSError as error:
                self._unreadable.append(error)
                continue
            if found is None:
                if file.size is not None:
                    put_back.append(name)
                continue
            size = found.st_size if stat.S_ISREG(found.st_mode) else 0
            self._newest_ns = max(self._newest_ns, self._changed_ns(found))
            newest.append((mtime_ns(found), _file_token(name, found)))
            if (size, mtime_ns(found)) == (file.size, file.mtime_ns):
                continue
            if not self._settling.is_settled(name, found, self._before, self._waiting):
                self._unsettled += 1
                if file is not _UNKNOWN:
                    put_back.append(name)
                continue
            is_link = stat.S_ISLNK(found.st_mode)
            taken = (name, size, mtime_ns(found), LINK if is_link else None)
            (new if file is _UNKNOWN else changed).append(taken)
            if len(new) == _PAGE:
                self._write(_Seen(path, new, [], []))
                new = []
        self._newest = nlargest(_WATCHED, newest)
        put_back.extend(file.name for file in known.values() if file.size is not None)
        self._write(_Seen(path, new, changed, put_back))

    def _stat(self, path: bytes) -> Optional[os.stat_result]:
        """The state of a file or link; None for what is gone or neither."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            return found
        if not stat.S_ISDIR(found.st_mode):
            self._special.append(path)
        return None

    def _changed_ns(self, found: os.stat_result) -> int:
        """When a file was last changed.

        A modification time in the future says nothing; then the time of the last change of
        any kind, which nobody can set, stands for it.
        """
        for when in (mtime_ns(found), found.st_ctime_ns):
            if when <= self._now_ns:
                return when
        return 0


_UNKNOWN = Known(b"", None, None)


def is_ours(directory: bytes, name: bytes, names: List[bytes]) -> bool:
    """Whether a file of a run is ontpush's own and so no part of it: a mark, a sidecar.

    `directory` is relative to the run, `names` are all the names in it, sorted. One of ours
    that was being written when the power failed is ours too.
    """
    name = finished_name(name)
    if name in MARKS or (not directory and name in OWN_FILES):
        return True
    if not name.endswith(SIDECAR_SUFFIX):
        return False
    return is_among(name[: -len(SIDECAR_SUFFIX)], names)


def is_among(name: bytes, names: List[bytes]) -> bool:
    """Whether `name` is one of the sorted `names`."""
    place = bisect_left(names, name)
    return place < len(names) and names[place] == name
