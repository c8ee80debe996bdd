"""Brings one run from a sequencer that only hashes: fetch, verify here, publish, mark done.

The order is the safety, as in a push: a sum is listed here only after the bytes that lie here
were read and have it; what is to be fetched anew leaves the roll-up first; the mark comes last.
"""

import contextlib
import os
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from ontpush import __version__
from ontpush.cluster.arrivals import is_as_found, trace, vouched
from ontpush.cluster.fetch import fetch_files, fresh_look
from ontpush.cluster.inside import opened_inside, path_of, write_inside
from ontpush.cluster.memory import CORRUPT, Remembered
from ontpush.cluster.verdict import SENT_AGAIN, can_be_sent_again, was_sent_in_vain
from ontpush.engine.counts import warning_of_counts
from ontpush.engine.inspect import inspect_run
from ontpush.engine.log import EventLog
from ontpush.engine.look import exclusion, finished_name
from ontpush.engine.mark import mark_lines, md5_of_rollup
from ontpush.engine.rollup import BadLine, line_for, md5_and_size, read_rollup
from ontpush.engine.sums import Task, take_sums
from ontpush.engine.transport import Transport
from ontpush.facts import words
from ontpush.facts.minknow import is_final_summary
from ontpush.facts.names import for_json, human_size, human_time, plural, shown
from ontpush.facts.trouble import FileFailed, RunFailed

_SLICE_FILES = 5000
_NAMED_FILES = 5
_VERIFIED_MARKS = (b"/" + words.VERIFIED_MARK, b"/" + words.VERIFIED_MARK + words.UNFINISHED_SUFFIX)

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

    def __init__(self, source: Source, run: bytes, rollup: bytes, before: Optional[Pulled]) -> None:
        self._source = source
        self._run = run
        self._rollup = rollup
        found = os.stat(rollup)
        token = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        self._before = before or Pulled("", words.NEW)
        self.now = self._before._replace(token=token, error=None)
        self._changed_at = found.st_mtime
        self._corrupt_under = ""
        self._has_published = False
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
        wanted = _read(self._rollup)
        here = self._listed()
        corrupt = self._corrupt() if self._corrupt_under else set()
        for path in corrupt & wanted.keys():
            here.pop(path, None)
        if self._before.state == words.DONE and any(
            here.get(path) != wanted[path] for path in wanted
        ):
            self._log(words.LOG_REOPEN, "it is no longer what its done mark vouches for")
        if self._fill(wanted, here):
            self._refuse_lost({path for path in here if path not in wanted}, corrupt)
            self._finish(wanted, here)

    def _fill(self, wanted: Sums, here: Sums) -> bool:
        """Fetch what is listed over there and not here; whether all of it came. FileFailed."""
        missing = {path: md5 for path, md5 in wanted.items() if here.get(path) != md5}
        self._withdraw(here, missing)
        trouble = self._in_the_way(missing)
        for path in trouble:
            del missing[path]
        trouble.update(self._fetch_all(missing, here))
        # What has gone over there lies here still, and stays listed.
        self._publish(here)
        self._count(wanted, here)
        self._judge(trouble, md5_and_size(_lines(wanted))[0])
        return not trouble

    # -- what lies here -----------------------------------------------------------------

    def _listed(self) -> Sums:
        """What the roll-up here lists: all of it was read here when it was written."""
        try:
            with opened_inside(self._source.base, self._run) as directory:
                return dict(read_rollup(path_of(directory) + b"/" + words.ROLLUP))
        except (FileNotFoundError, BadLine):
            return {}

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

    def _refuse_lost(self, gone_there: Set[bytes], corrupt: Set[bytes]) -> None:
        """What is listed here alone must be good here: nobody can send it again. FileFailed."""
        with opened_inside(self._source.base, self._run) as directory:
            place = path_of(directory) + b"/"
            lost = {p for p in gone_there if p in corrupt or not _is_file(place + p)}
        if lost:
            self.now = self.now._replace(mark=self._trace(), lost_under=self._corrupt_under)
            raise FileFailed(
                f"{_named(map(shown, sorted(lost)))}: missing or damaged here, and gone over there;"
                " bring it back, or take its line out of md5sum here",
                self._run,
            )

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

    def _withdraw(self, here: Sums, missing: Iterable[bytes]) -> None:
        """Before a file that is listed here is fetched anew, the roll-up goes without it."""
        stale = [path for path in missing if path in here]
        for path in stale:
            del here[path]
        if stale or self._lists_more_than(here):
            self._publish(here)

    def _lists_more_than(self, here: Sums) -> bool:
        """Whether the roll-up that lies here lists something that `here` has not."""
        found = self._delivered()
        return found is not None and found != md5_and_size(_lines(here))[0]

    def _delivered(self) -> Optional[str]:
        """The MD5 of the roll-up that lies here."""
        try:
            with opened_inside(self._source.base, self._run) as directory:
                return md5_of_rollup(path_of(directory))
        except OSError:
            return None

    def _publish(self, sums: Sums) -> None:
        lines = list(_lines(sums))
        md5, _ = md5_and_size(lines)
        if md5 != self._delivered():
            os.makedirs(os.path.join(self._source.base, self._run), exist_ok=True)
            self._write(words.ROLLUP, lines)
            self._has_published = True
        self.now = self.now._replace(rollup=md5)

    def _write(self, name: bytes, lines: Iterable[bytes]) -> None:
        try:
            write_inside(self._source.base, self._run, name, lines)
        except OSError as error:
            raise RunFailed(
                f"{shown(name)} cannot be written: {error.strerror}", self._run
            ) from error

    # -- fetching -----------------------------------------------------------------------

    def _fetch_all(self, missing: Sums, here: Sums) -> Dict[bytes, str]:
        """Fetch slice by slice, and list each as it lies here; what is wrong with single files."""
        begun = time.monotonic()
        files, size = self.files, self.bytes
        trouble: Dict[bytes, str] = {}
        paths = list(missing)
        for start in range(0, len(paths), _SLICE_FILES):
            part = {path: missing[path] for path in paths[start : start + _SLICE_FILES]}
            trouble.update(self._fetch(part, here))
            self._publish(here)
        if self.files > files:
            took = human_time(time.monotonic() - begun)
            count, size = plural(self.files - files, "file"), self.bytes - size
            self._log(words.LOG_SYNC, f"{count}, {human_size(size)} fetched in {took}")
        return trouble

    def _fetch(self, part: Sums, here: Sums) -> Dict[bytes, str]:
        """Fetch files and read them here; what has the sum that it should have joins `here`."""
        if not self.now.first_at:
            self.now = self.now._replace(first_at=int(time.time()))
        complaints: List[str] = []
        # Twice: what lies here and looks the same may have been broken off by a power cut.
        for anew in (False, True):
            left = [path for path in part if path not in here]
            if not left:
                return {}
            names = [self._run + b"/" + path for path in left]
            source = self._source
            call, complaints = fetch_files(source.transport, source.base, names, anew)
            self.files += call.files
            self.bytes += call.bytes
            here.update(self._right(part, left))
        said = complaints[0] if complaints else "it has another sum than its roll-up lists"
        return {path: said for path in part if path not in here}

    def _right(self, part: Sums, paths: Iterable[bytes]) -> Sums:
        try:
            with opened_inside(self._source.base, self._run) as directory:
                tasks = (Task(path, path_of(directory) + b"/" + path, 0) for path in paths)
                return {
                    each.key: each.md5
                    for batch in take_sums(tasks, self._source.jobs)
                    for each in batch
                    if each.steady and each.md5 == part[each.key]
                }
        except FileNotFoundError:  # nothing came, not even a directory
            return {}

    def _judge(self, trouble: Dict[bytes, str], wanted: str) -> None:
        """A roll-up newer than the bytes, or older, is in order once: the next `hash` mends it."""
        before, uneven = self.now.uneven, wanted if trouble else ""
        self.now = self.now._replace(uneven=uneven)
        if not trouble:
            return
        # Two roll-ups of one second may look the same to rsync: have it fetched anew.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._rollup)
        named = _named(f"{shown(path)}: {why}" for path, why in sorted(trouble.items()))
        if uneven == before:
            raise FileFailed(
                f"{named}; does `ontpush hash` run there? If it does, the sum is wrong or the disk"
                " there is failing: `ontpush retry RUN` there has the next `hash` read it again",
                self._run,
            )
        self._log(words.LOG_WARN, f"not what the roll-up lists, fetched again next: {named}")

    def _count(self, wanted: Sums, here: Sums) -> None:
        size = 0
        for path in here:
            with contextlib.suppress(FileNotFoundError):
                size += os.lstat(os.path.join(self._source.base, self._run, path)).st_size
        self.now = self.now._replace(
            files=len(wanted.keys() | here.keys()), bytes=size, here_files=len(here)
        )

    # -- finishing ----------------------------------------------------------------------

    def _finish(self, wanted: Sums, here: Sums) -> None:
        summaries = [path for path in wanted if b"/" not in path and is_final_summary(path)]
        if not summaries:
            self._rest()
            return
        run = os.path.join(self._source.base, self._run)
        warning = warning_of_counts(run, summaries, here)
        if warning and warning != self.now.warning:
            self._log(words.LOG_WARN, warning)
        self.now = self.now._replace(warning=warning, state=words.WAITING)
        found = vouched(self._source.base, self._run)
        is_as_marked = found is not None and found.rollup == self.now.rollup
        if is_as_marked and not self._corrupt_under and not self._has_published:
            self.now = self.now._replace(state=words.DONE, mark=self._trace())
            return
        unlike = self._unlike(wanted)
        looks_other = unlike & wanted.keys()
        if looks_other:
            # Touched over there, or changed here since it was listed: it is read here again.
            for path in looks_other:
                here.pop(path, None)
            if not self._fill(wanted, here):
                return
            unlike = self._unlike(wanted)
        if not unlike:
            self._mark()
        elif self._idle() >= self._source.stall_seconds:
            raise FileFailed(
                f"{shown(min(unlike))}: has had no sum over there, or looks other here, for"
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

    def _unlike(self, wanted: Sums) -> Set[bytes]:
        """A fresh look at the sequencer: what there is new, changed, gone or without a sum."""
        source = self._source
        look = fresh_look(source.transport, source.base, self._run)
        excluded = exclusion(source.exclude)
        beside = look.same | look.different | look.links
        unlisted = {
            path
            for path in (look.same | look.different) - wanted.keys()
            if not _is_own(path, beside) and not excluded(path)
        }
        return unlisted | (wanted.keys() - look.same)

    def _mark(self) -> None:
        now = time.time()
        facts = {
            "run": shown(self._run),
            "instrument": self._source.name,
            "destination": shown(self._source.base),
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


def _is_file(path: bytes) -> bool:
    """Whether a file lies there, and no link to one."""
    return os.path.isfile(path) and not os.path.islink(path)


def _is_directory(path: bytes) -> bool:
    """Whether a directory lies there, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def _named(names: Iterable[str]) -> str:
    """The first of many, and how many more."""
    listed = list(names)
    more = len(listed) - _NAMED_FILES
    return "; ".join(listed[:_NAMED_FILES]) + (
        f"; and {plural(more, 'file')} more" if more > 0 else ""
    )


def _read(rollup: bytes) -> Sums:
    """What a roll-up of the sequencer's lists. RunFailed where it leads out of its run."""
    try:
        listed = dict(read_rollup(rollup))
    except (OSError, BadLine) as error:
        raise RunFailed(f"the roll-up over there cannot be used: {error}") from error
    for path in listed:
        if {b"", b".", b".."} & set(path.split(b"/")) or b"\0" in path:
            raise RunFailed(f"the roll-up over there leads out of its run: {shown(path)}")
        # In a run of this one's directories a mark of ours would stand for what was never checked.
        if finished_name(path) in words.OWN_FILES or path.endswith(_VERIFIED_MARKS):
            raise RunFailed(f"the roll-up over there lists {shown(path)}, which is ours")
    return listed


def _lines(sums: Sums) -> Iterable[bytes]:
    return (line_for(path, md5) for path, md5 in sorted(sums.items()))


def _is_own(path: bytes, beside: Set[bytes]) -> bool:
    """Whether a file over there is ontpush's own, also one that was never finished."""
    path = finished_name(path)
    if path in words.OWN_FILES:
        return True
    suffix = words.SIDECAR_SUFFIX
    return path.endswith(suffix) and path[: -len(suffix)] in beside
