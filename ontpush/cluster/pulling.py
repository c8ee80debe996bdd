"""Brings one run from a sequencer that only hashes: fetch, verify here, publish, mark done.

The order is the safety, as in a push: a sum is listed here only after the bytes that lie here
were read and have it; what is to be fetched anew leaves the roll-up first; the mark comes last.
"""

import contextlib
import os
import stat
import time
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from ontpush import __version__
from ontpush.cluster.arrivals import is_as_found, trace, vouched
from ontpush.cluster.fetch import fetch_files, fresh_look, look_the_same
from ontpush.cluster.inside import opened_inside, path_of, write_inside
from ontpush.cluster.leftover import remove_leftovers
from ontpush.cluster.listing import Listing, first
from ontpush.cluster.memory import CORRUPT, Remembered
from ontpush.cluster.retract import above, directories_of, leave_out, retract
from ontpush.cluster.verdict import SENT_AGAIN, can_be_sent_again, was_sent_in_vain
from ontpush.engine.complaints import has_vanished, of_file
from ontpush.engine.counts import warning_of_counts
from ontpush.engine.inspect import inspect_run
from ontpush.engine.log import EventLog
from ontpush.engine.look import exclusion
from ontpush.engine.mark import mark_lines, md5_of_rollup
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.sums import Task, take_sums
from ontpush.engine.transport import Transport
from ontpush.facts import words
from ontpush.facts.directories import make_directory
from ontpush.facts.names import (
    finished_name,
    for_json,
    human_size,
    human_time,
    named_in_mark,
    plural,
    shown,
)
from ontpush.facts.trouble import FileFailed, RunFailed, why_unread

_SLICE_FILES = 5000
_NAMED_FILES = 5
# As many times as long as a roll-up took to be written, the next one waits.
_SHARE = 20

Sums = Dict[bytes, bytes]


class Source(NamedTuple):
    """A sequencer to fetch from. Paths are absolute, times in seconds."""

    name: str
    base: bytes
    transport: Transport
    jobs: int
    exclude: Tuple[str, ...]
    stall_seconds: float
    log: EventLog


class Pulled(NamedTuple):
    """What is known of a run that is pulled; times in seconds since the epoch.

    `token` tells one roll-up of the sequencer's from the next without reading it, `mark` the
    roll-up and done mark that lie here. `uneven` is the MD5 of the sequencer's roll-up that the
    bytes did not fit when it was looked at last, `lost_under` the done mark under which something
    was found lost for good.
    """

    token: str
    state: str
    files: int = 0
    bytes: int = 0
    here_files: int = 0
    error: Optional[str] = None
    warning: Optional[str] = None
    rollup: str = ""
    first_at: int = 0
    done_at: int = 0
    mark: str = ""
    uneven: str = ""
    lost_under: str = ""


class Pull:
    """One run in one tick: `now` is how it stands, `files` and `bytes` what was fetched."""

    def __init__(
        self,
        source: Source,
        run: bytes,
        rollup: bytes,
        before: Optional[Pulled],
        remember: Callable[[Pulled], None],
    ) -> None:
        self._source = source
        self._run = run
        self._rollup = rollup
        found = os.stat(rollup)
        token = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        self._is_new = before is None
        self._remember = remember
        self._before = before or Pulled("", words.NEW)
        self.now = self._before._replace(token=token, error=None)
        self._changed_at = found.st_mtime
        self._corrupt_under = ""
        self._has_published = False
        self._published_at = self._publishing_took = 0.0
        self._clear_of_marks: Set[bytes] = set()
        self.files = self.bytes = 0

    def go(self, remembered: Remembered) -> None:
        """Bring it as far as it goes now. Trouble."""
        self._corrupt_under = self._found_corrupt_under(remembered)
        before, is_marked = self._before, bool(self._before.mark)
        if is_marked and before.token == self.now.token and before.mark == self._trace():
            if self._corrupt_under and self._corrupt_under == before.lost_under:
                raise FileFailed(before.error or "", self._run)
            if not self._corrupt_under and before.state == words.DONE:
                self._log(words.LOG_DONE)
                return
        self.now = self.now._replace(state=words.SENDING, lost_under="")
        self._bring()

    def _found_corrupt_under(self, remembered: Remembered) -> str:
        """The mark under which the monitor found something here that fetching may mend."""
        verdict = remembered.runs.get(for_json(self._run))
        if verdict is None or verdict.verdict != CORRUPT or not can_be_sent_again(verdict):
            return ""
        is_of_this_mark = is_as_found(self._source.base, self._run, verdict)
        return verdict.marked if is_of_this_mark and not was_sent_in_vain(verdict) else ""

    def _trace(self) -> str:
        """Tells whether anybody touched roll-up or mark here."""
        return trace(self._source.base, self._run)

    def _bring(self) -> None:
        with Listing() as lists:
            lists.want(self._wanted())
            self._retract_above()
            if not self._is_new or vouched(self._source.base, self._run):
                lists.have(self._listed())
                self._forget_lost(lists)
            if self._is_new:
                # From now on the roll-up here is ours: it lists what was read here, and no more.
                self._withdraw(lists)
                self._remember(self._before)
            corrupt = self._corrupt() if self._corrupt_under else set()
            lists.forget(corrupt)
            rotten = self._keep_good(lists)
            if self._before.state == words.DONE and not lists.is_complete():
                self._log(words.LOG_REOPEN, "it is no longer what its done mark vouches for")
            if self._fill(lists):
                self._refuse(self._lost(lists, corrupt), rotten)
                self._finish(lists)

    def _fill(self, lists: Listing) -> bool:
        """Fetch what is listed over there and not here; whether all of it came. FileFailed."""
        lists.forget_stale()
        self._withdraw(lists)
        trouble = self._fetch_all(lists)
        # What has gone over there lies here still, and stays listed.
        self._publish(lists)
        self._count(lists)
        self._judge(trouble)
        return not trouble.count

    # -- what is listed over there ------------------------------------------------------

    def _wanted(self) -> Iterator[Listed]:
        """What the sequencer's roll-up lists. RunFailed where it leads out of its run."""
        left_out: List[bytes] = []
        try:
            for listed in read_rollup(self._rollup):
                if not _is_mark(_checked(listed.path)):
                    yield listed
                elif len(left_out) < _NAMED_FILES:
                    left_out.append(listed.path)
        except (OSError, BadLine) as error:
            raise RunFailed(f"the roll-up over there cannot be used: {error}") from error
        for path in left_out:
            self._log(
                words.LOG_WARN, f"left out, a mark of ours is no file of a run: {shown(path)}"
            )

    # -- what lies here -----------------------------------------------------------------

    def _retract_above(self) -> None:
        """A run in a run is none: what vouches for one above this one is no longer right."""
        base = self._source.base
        for directory in above(self._run):
            self._retract(directory)
            try:
                leave_out(base, directory, self._run)
            except OSError as error:
                where = f"the roll-up in {shown(directory)}, which lists files of this run,"
                raise RunFailed(
                    f"{where} cannot be written: {error.strerror}", self._run
                ) from error

    def _retract_inside(self, paths: Iterable[bytes]) -> None:
        """What vouches for a directory of this run by itself is no longer right."""
        for directory in sorted(directories_of(paths) - self._clear_of_marks):
            self._retract(self._run + b"/" + directory)
            self._clear_of_marks.add(directory)

    def _retract(self, directory: bytes) -> None:
        try:
            if retract(self._source.base, directory, self._run):
                why = f"its mark here is retracted: {shown(self._run)} is the run now"
                self._source.log.event(words.LOG_WARN, directory, why)
        except OSError as error:
            raise RunFailed(
                f"the mark in {shown(directory)} cannot be retracted: {error.strerror}", self._run
            ) from error

    def _listed(self) -> Iterator[Listed]:
        """What the roll-up here lists: all of it was read here when it was written."""
        with contextlib.suppress(FileNotFoundError, BadLine), opened_inside(
            self._source.base, self._run
        ) as directory:
            yield from read_rollup(path_of(directory) + b"/" + words.ROLLUP)

    def _forget_lost(self, lists: Listing) -> None:
        """Take back of what is wanted what has gone here since it was listed."""
        with contextlib.suppress(FileNotFoundError), opened_inside(
            self._source.base, self._run
        ) as directory:
            place = path_of(directory) + b"/"
            for path in lists.here():
                if _is_gone(place + path):
                    lists.forget([path])

    def _corrupt(self) -> Set[bytes]:
        """What the monitor found changed here since it was listed."""
        source = self._source
        with opened_inside(source.base, self._run) as directory:
            seen = inspect_run(
                path_of(directory), source.jobs, exclusion(source.exclude), (), lambda *_: None
            )
        bad = {each.path for each in seen.bad if each.problem in SENT_AGAIN}
        for path in sorted(bad)[:_NAMED_FILES]:
            self._log(words.LOG_WARN, f"differs here: {shown(path)}")
        return bad

    def _lost(self, lists: Listing, corrupt: Set[bytes]) -> "_Named":
        """What is listed here alone must be good here: nobody can send it again."""
        lost = _Named()
        with opened_inside(self._source.base, self._run) as directory:
            place = path_of(directory) + b"/"
            for path in lists.gone():
                if path in corrupt or not _is_file(place + path):
                    lost.add(shown(path))
        return lost

    def _keep_good(self, lists: Listing) -> "_Named":
        """Want nothing in another version that nobody changed over there: which files those are.

        Where the copy here still is what was hashed and listed first, a disk over there decays.
        """
        rotten = _Named()
        source = self._source
        for part in lists.stale(_SLICE_FILES):
            sums = dict(part)
            same = look_the_same(source.transport, source.base, self._run, sums)
            good = sorted(self._right(sums, same))
            lists.keep(good)
            for path in good:
                rotten.add(shown(path))
        return rotten

    def _refuse(self, lost: "_Named", rotten: "_Named") -> None:
        """Call nothing done in which only somebody can put things right. FileFailed."""
        told = []
        if lost.count:
            told.append(
                f"{lost}: missing or damaged here, and gone over there;"
                " bring it back, or take its line out of md5sum here"
            )
        if rotten.count:
            told.append(
                f"{rotten}: reads otherwise over there than when it was hashed first, and nobody"
                " changed it: that disk is failing; the copy here is kept. If somebody did change"
                " it, `touch` it there"
            )
        elif lost.count:
            # There is no use in another look before something changes here.
            self.now = self.now._replace(mark=self._trace(), lost_under=self._corrupt_under)
        if told:
            raise FileFailed("; ".join(told), self._run)

    def _in_the_way(self, paths: Iterable[bytes]) -> Dict[bytes, str]:
        """Which files cannot be put here, and why: rsync would delete what lies in the way."""
        refused: Dict[bytes, str] = {}
        try:
            with opened_inside(self._source.base, self._run) as directory:
                obstacles = _Obstacles(path_of(directory))
                for path in paths:
                    obstacle = obstacles.on_the_way_to(path)
                    if obstacle:
                        refused[path] = f"{shown(obstacle)} lies in the way here: move it away"
        except FileNotFoundError:
            pass  # nothing of the run lies here yet
        except OSError as error:
            raise RunFailed(
                f"cannot lie here: on its way is a link or a file: {error.strerror}", self._run
            ) from error
        return refused

    def _withdraw(self, lists: Listing) -> None:
        """Before a file that is listed here is fetched anew, the roll-up goes without it."""
        if self._delivered() is not None:
            self._publish(lists)

    def _delivered(self) -> Optional[str]:
        """The MD5 of the roll-up that lies here."""
        try:
            with opened_inside(self._source.base, self._run) as directory:
                return md5_of_rollup(path_of(directory))
        except OSError:
            return None

    def _publish(self, lists: Listing) -> None:
        begun = time.monotonic()
        md5 = lists.rollup()
        if md5 != self._delivered():
            make_directory(os.path.join(self._source.base, self._run))
            self._write(words.ROLLUP, lists.lines())
            self._has_published = True
        self.now = self.now._replace(rollup=md5)
        self._published_at = time.monotonic()
        self._publishing_took = self._published_at - begun

    def _write(self, name: bytes, lines: Iterable[bytes]) -> None:
        try:
            write_inside(self._source.base, self._run, name, lines)
        except OSError as error:
            raise RunFailed(
                f"{shown(name)} cannot be written: {error.strerror}", self._run
            ) from error

    # -- fetching -----------------------------------------------------------------------

    def _fetch_all(self, lists: Listing) -> "_Named":
        """Fetch slice by slice, and list what lies here; what is wrong with single files.

        Each roll-up is written whole, so it is written no oftener than takes a small share of the
        time. What a killed tick had not listed yet lies here, and is only read again.
        """
        begun = time.monotonic()
        files, size = self.files, self.bytes
        trouble = _Named()
        self._publishing_took = 0.0
        for part in lists.missing(_SLICE_FILES):
            wrong = self._in_the_way(path for path, _ in part)
            wanted = {path: md5 for path, md5 in part if path not in wrong}
            self._retract_inside(wanted)
            wrong.update(self._fetch(wanted, lists))
            for path, why in sorted(wrong.items()):
                trouble.add(f"{shown(path)}: {why}")
            if time.monotonic() - self._published_at >= _SHARE * self._publishing_took:
                self._publish(lists)
        if self.files > files:
            took = human_time(time.monotonic() - begun)
            count, size = plural(self.files - files, "file"), self.bytes - size
            self._log(words.LOG_SYNC, f"{count}, {human_size(size)} fetched in {took}")
        return trouble

    def _fetch(self, part: Sums, lists: Listing) -> Dict[bytes, str]:
        """Fetch files and read them here; what has the sum that it should have lies here now."""
        if not self.now.first_at:
            self.now = self.now._replace(first_at=int(time.time()))
        complaints: List[str] = []
        left = list(part)
        # Twice: what lies here and looks the same may have been broken off by a power cut.
        for anew in (False, True):
            if not left:
                return {}
            names = [self._run + b"/" + path for path in left]
            source = self._source
            call, complaints = fetch_files(source.transport, source.base, names, anew)
            self.files += call.files
            self.bytes += call.bytes
            right = self._right(part, left)
            lists.have(Listed(path, part[path]) for path in right)
            left = [path for path in left if path not in right]
        return _why_not_right(left, complaints)

    def _right(self, part: Sums, paths: Iterable[bytes]) -> Set[bytes]:
        try:
            with opened_inside(self._source.base, self._run) as directory:
                tasks = (Task(path, path_of(directory) + b"/" + path, 0) for path in paths)
                return {
                    each.key
                    for batch in take_sums(tasks, self._source.jobs)
                    for each in batch
                    if each.steady and each.md5 == part[each.key]
                }
        except FileNotFoundError:  # nothing came, not even a directory
            return set()

    def _judge(self, trouble: "_Named") -> None:
        """A roll-up newer than the bytes, or older, is in order once: the next `hash` mends it."""
        wanted = md5_of_rollup(os.path.dirname(self._rollup)) or ""
        before, uneven = self.now.uneven, wanted if trouble.count else ""
        self.now = self.now._replace(uneven=uneven)
        if not trouble.count:
            return
        if uneven == before:
            raise FileFailed(
                f"{trouble}; does `ontpush hash` run there? If it does, the sum is wrong or the"
                " disk there is failing: `ontpush retry RUN` there has `hash` read it again",
                self._run,
            )
        self._log(words.LOG_WARN, f"not what the roll-up lists, fetched again next: {trouble}")

    def _count(self, lists: Listing) -> None:
        size = 0
        for path in lists.here():
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(self._source.base, self._run, path)).st_size
        files, here_files = lists.counts()
        self.now = self.now._replace(files=files, bytes=size, here_files=here_files)

    # -- finishing ----------------------------------------------------------------------

    def _finish(self, lists: Listing) -> None:
        summaries = lists.final_summaries()
        if not summaries:
            self._rest()
            return
        run = os.path.join(self._source.base, self._run)
        warning = warning_of_counts(run, summaries, lists.here())
        if warning and warning != self.now.warning:
            self._log(words.LOG_WARN, warning)
        self.now = self.now._replace(warning=warning, state=words.WAITING)
        found = vouched(self._source.base, self._run)
        is_as_marked = found is not None and found.rollup == self.now.rollup
        if is_as_marked and not self._corrupt_under and not self._has_published:
            self.now = self.now._replace(state=words.DONE, mark=self._trace())
            return
        self._look(lists)
        if next(lists.unlike(), None) is not None:
            # Touched over there, or changed here since it was listed: it is read here again.
            lists.forget_unlike()
            if not self._fill(lists):
                return
            self._look(lists)
        unlike = first(lists.unlike(), self._unlisted(lists))
        if lists.is_file_there(words.SKIP_MARK):
            self.now = self.now._replace(state=words.SKIPPED)
            self._log(words.LOG_SKIP, "rsync.skip has come to lie there meanwhile")
        elif unlike is None:
            for path, what in remove_leftovers(self._source.base, self._run, lists.is_here):
                self._log(words.LOG_WARN, f"{shown(path)}: {what}")
            self._mark()
        elif self._idle() >= self._source.stall_seconds:
            raise FileFailed(
                f"{shown(unlike)}: has had no sum over there, or looks other here, for"
                f" {human_time(self._idle())}; does `ontpush hash` leave it out? Then let `exclude`"
                " here do so too",
                self._run,
            )

    def _idle(self) -> float:
        """Seconds since the sequencer wrote the roll-up."""
        return time.time() - self._changed_at

    def _rest(self) -> None:
        idle = self._idle()
        state = words.STALLED if idle >= self._source.stall_seconds else words.WAITING
        if state == words.STALLED and self._before.state != words.STALLED:
            self._log(words.LOG_STALL, f"no final summary, no new sum for {human_time(idle)}")
        self.now = self.now._replace(state=state)

    def _look(self, lists: Listing) -> None:
        """A fresh look at the sequencer: what there is new, changed, gone or without a sum."""
        lists.look_anew()
        fresh_look(self._source.transport, self._source.base, self._run, lists.saw)

    def _unlisted(self, lists: Listing) -> Iterator[bytes]:
        """What there is over there without a sum."""
        excluded = exclusion(self._source.exclude)
        for path in lists.unlisted():
            if not _is_own(path, lists.is_there) and not excluded(path):
                yield path

    def _mark(self) -> None:
        now = time.time()
        facts = {
            "run": named_in_mark(self._run),
            "instrument": self._source.name,
            "destination": named_in_mark(self._source.base),
            "rollup": self.now.rollup,
            "files": self.now.files,
            "bytes": self.now.bytes,
            "version": __version__,
        }
        self._write(words.DONE_MARK, mark_lines(now, facts))
        self.now = self.now._replace(state=words.DONE, done_at=int(now), mark=self._trace())
        count, size = plural(self.now.files, "file"), human_size(self.now.bytes)
        self._log(words.LOG_MARK_DONE, f"{count}, {size}")

    def _log(self, word: str, details: str = "") -> None:
        self._source.log.event(word, self._run, details)


class _Obstacles:
    """What lies where a directory of a run should be, or a directory where a file should."""

    def __init__(self, run: bytes) -> None:
        self._run = run
        self._clear: Set[bytes] = {b""}

    def on_the_way_to(self, path: bytes) -> bytes:
        """The obstacle, relative to the run; empty where there is none."""
        parts = path.split(b"/")
        above = b"/".join(parts[:-1])
        if above not in self._clear:
            for count in range(1, len(parts)):
                directory = b"/".join(parts[:count])
                place = self._run + b"/" + directory
                if os.path.lexists(place) and not _is_directory(place):
                    return directory
            self._clear.add(above)
        return path if _is_directory(self._run + b"/" + path) else b""


def _why_not_right(paths: Iterable[bytes], complaints: List[str]) -> Dict[bytes, str]:
    """Why files did not come over as they are listed, each by what rsync complained of it."""
    of_others = (line for line in complaints if not has_vanished(line))
    unnamed = next(of_others, "it has another sum than its roll-up lists")
    named = {path: of_file(complaints, path) or unnamed for path in paths}
    return {
        path: "is gone over there" if has_vanished(line) else line for path, line in named.items()
    }


def _is_gone(path: bytes) -> bool:
    """Whether no file lies there; not where a server does not tell just now."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except OSError as error:
        return why_unread(error) == "missing"


def _is_file(path: bytes) -> bool:
    """Whether a file lies there, and no link to one."""
    return os.path.isfile(path) and not os.path.islink(path)


def _is_directory(path: bytes) -> bool:
    """Whether a directory lies there, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


class _Named:
    """Names the first of many, and counts them all."""

    def __init__(self) -> None:
        self.count = 0
        self._first: List[str] = []

    def add(self, name: str) -> None:
        """Count one, and keep its name if it is one of the first."""
        self.count += 1
        if self.count <= _NAMED_FILES:
            self._first.append(name)

    def __str__(self) -> str:
        more = self.count - len(self._first)
        return "; ".join(self._first) + (f"; and {plural(more, 'file')} more" if more else "")


def _checked(path: bytes) -> bytes:
    """A path that a roll-up of the sequencer's lists. RunFailed where it leads out of its run."""
    if {b"", b".", b".."} & set(path.split(b"/")) or b"\0" in path:
        raise RunFailed(f"the roll-up over there leads out of its run: {shown(path)}")
    if finished_name(path) in words.OWN_FILES:
        raise RunFailed(f"the roll-up over there lists {shown(path)}, which is ours")
    return path


def _is_mark(path: bytes) -> bool:
    """Whether this is a mark of ours, at any depth: an older version may still have listed it."""
    return finished_name(os.path.basename(path)) in words.MARKS


def _is_own(path: bytes, is_there: Callable[[bytes], bool]) -> bool:
    """Whether a file over there is ontpush's own, also one that was never finished."""
    path = finished_name(path)
    if path in words.OWN_FILES or _is_mark(path):
        return True
    suffix = words.SIDECAR_SUFFIX
    return path.endswith(suffix) and is_there(path[: -len(suffix)])
