"""Brings one run from a sequencer that only hashes: fetch, verify here, publish, mark done.

The order is the safety, as in a push: a sum is listed here only after the bytes that lie here
were read and have it; what is to be fetched anew leaves the roll-up first; the mark comes last.
"""

import contextlib
import os
import time
from typing import Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Set, Tuple

from ontpush import __version__
from ontpush.cluster.arrivals import vouched
from ontpush.cluster.fetch import fetch_files, fresh_look
from ontpush.cluster.inside import opened_inside, path_of, write_inside
from ontpush.cluster.memory import CORRUPT, Remembered
from ontpush.engine.counts import warning_of_counts
from ontpush.engine.inspect import inspect_run
from ontpush.engine.log import EventLog
from ontpush.engine.look import exclusion
from ontpush.engine.mark import mark_lines, md5_of_rollup
from ontpush.engine.rollup import BadLine, line_for, md5_and_size, read_rollup
from ontpush.engine.sums import Task, take_sums
from ontpush.engine.transport import Transport
from ontpush.facts import words
from ontpush.facts.minknow import is_final_summary
from ontpush.facts.names import human_size, human_time, plural, shown
from ontpush.facts.trouble import FileFailed, RunFailed

_SLICE_FILES = 5000
_NAMED_FILES = 5

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

    `token` tells one roll-up of the sequencer's from the next without reading it; `uneven` is the
    MD5 of the one that the bytes did not fit when it was looked at last.
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
    uneven: str = ""


class Pull:
    """One run in one tick: `now` is how it stands, `files` and `bytes` what was fetched."""

    def __init__(self, source: Source, run: bytes, rollup: bytes, before: Optional[Pulled]) -> None:
        self._source = source
        self._run = run
        self._rollup = rollup
        found = os.stat(rollup)
        token = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        self._before = before
        self._is_new = before is None or before.token != token
        self.now = (before or Pulled("", words.NEW))._replace(token=token, error=None)
        self._changed_at = found.st_mtime
        self._was_corrupt = False
        self.files = self.bytes = 0

    def go(self, remembered: Remembered) -> None:
        """Bring it as far as it goes now. Trouble."""
        self._was_corrupt = self._is_corrupt(remembered)
        was_done = self.now.state == words.DONE
        if was_done and not self._is_new and not self._was_corrupt and self._is_marked():
            self._log(words.LOG_DONE)
            return
        self.now = self.now._replace(state=words.SENDING)
        self._bring(was_done)

    def _is_corrupt(self, remembered: Remembered) -> bool:
        """Whether the monitor found the run bad since it was marked last."""
        verdict = remembered.runs.get(self._run.decode("utf-8", "surrogateescape"))
        if verdict is None or verdict.verdict != CORRUPT:
            return False
        return vouched(self._source.base, self._run) == (verdict.rollup, verdict.marked)

    def _is_marked(self) -> bool:
        run = os.path.join(self._source.base, self._run)
        names = (words.DONE_MARK, words.ROLLUP)
        return all(os.path.lexists(os.path.join(run, name)) for name in names)

    def _bring(self, was_done: bool) -> None:
        wanted = _read(self._rollup)
        here = self._here()
        missing = [path for path, md5 in wanted.items() if here.get(path) != md5]
        if was_done and missing:
            self._log(words.LOG_REOPEN, "it is no longer what its done mark vouches for")
        self._withdraw(here, missing)
        trouble = self._fetch_all({path: wanted[path] for path in missing}, here)
        # What has gone over there lies here still, and stays listed.
        self._publish(here)
        self._count(wanted, here)
        self._judge(trouble, md5_and_size(_lines(wanted))[0])
        if not trouble:
            self._finish(wanted, here)

    # -- what lies here -----------------------------------------------------------------

    def _here(self) -> Sums:
        """What the roll-up here lists: all of it was read here when it was written."""
        try:
            with opened_inside(self._source.base, self._run) as directory:
                listed = dict(read_rollup(path_of(directory) + b"/" + words.ROLLUP))
                if self._was_corrupt:
                    for path in self._corrupt(path_of(directory)):
                        listed.pop(path, None)
        except (FileNotFoundError, BadLine):
            return {}
        return listed

    def _corrupt(self, run: bytes) -> List[bytes]:
        """What the monitor found changed here since."""
        source = self._source
        seen = inspect_run(run, source.jobs, exclusion(source.exclude), (), lambda *_: None)
        bad = [each.path for each in seen.bad if each.problem != "extra"]
        for path in bad[:_NAMED_FILES]:
            self._log(words.LOG_WARN, f"differs here, fetched again: {shown(path)}")
        return bad

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
        self.now = self.now._replace(rollup=md5)

    def _write(self, name: bytes, lines: Iterable[bytes]) -> None:
        try:
            write_inside(self._source.base, self._run, name, lines)
        except OSError as error:
            raise RunFailed(
                f"{shown(name)} cannot be written: {error.strerror}", self._run
            ) from error

    # -- fetching -----------------------------------------------------------------------

    def _fetch_all(self, missing: Sums, here: Sums) -> List[str]:
        """Fetch slice by slice, and list each as it lies here; what is wrong with single files."""
        begun = time.monotonic()
        trouble: List[str] = []
        paths = list(missing)
        for start in range(0, len(paths), _SLICE_FILES):
            part = {path: missing[path] for path in paths[start : start + _SLICE_FILES]}
            trouble += self._fetch(part, here)
            self._publish(here)
        if self.files:
            took = human_time(time.monotonic() - begun)
            count, size = plural(self.files, "file"), human_size(self.bytes)
            self._log(words.LOG_SYNC, f"{count}, {size} fetched in {took}")
        return trouble

    def _fetch(self, part: Sums, here: Sums) -> List[str]:
        """Fetch files and read them here; what has the sum that it should have joins `here`."""
        if not self.now.first_at:
            self.now = self.now._replace(first_at=int(time.time()))
        complaints: List[str] = []
        # Twice: what lies here and looks the same may have been broken off by a power cut.
        for anew in (False, True):
            left = [path for path in part if path not in here]
            if not left:
                return []
            names = [self._run + b"/" + path for path in left]
            source = self._source
            call, complaints = fetch_files(source.transport, source.base, names, anew)
            self.files += call.files
            self.bytes += call.bytes
            here.update(self._right(part, left))
        return self._complaints([path for path in part if path not in here], complaints)

    def _right(self, part: Sums, paths: Iterable[bytes]) -> Sums:
        with opened_inside(self._source.base, self._run) as directory:
            tasks = (Task(path, path_of(directory) + b"/" + path, 0) for path in paths)
            return {
                each.key: each.md5
                for batch in take_sums(tasks, self._source.jobs)
                for each in batch
                if each.steady and each.md5 == part[each.key]
            }

    def _complaints(self, wrong: List[bytes], complaints: List[str]) -> List[str]:
        said = complaints[0] if complaints else "it has another sum than its roll-up lists"
        return [f"{shown(path)}: {said}" for path in wrong]

    def _judge(self, trouble: List[str], wanted: str) -> None:
        """A roll-up newer than the bytes, or older, is in order once: the next `hash` mends it."""
        before, uneven = self.now.uneven, wanted if trouble else ""
        self.now = self.now._replace(uneven=uneven)
        if not trouble:
            return
        # Two roll-ups of one second may look the same to rsync: have it fetched anew.
        os.unlink(self._rollup)
        named = "; ".join(trouble[:_NAMED_FILES])
        if len(trouble) > _NAMED_FILES:
            named += "; and {} more".format(plural(len(trouble) - _NAMED_FILES, "file"))
        if uneven == before:
            raise FileFailed(f"{named}; does `ontpush hash` run there?", self._run)
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
        if found and found.rollup == self.now.rollup and not self._was_corrupt:
            self.now = self.now._replace(state=words.DONE)
            return
        unlike = self._unlike(frozenset(wanted))
        if not unlike:
            self._mark()
        elif self._idle() >= self._source.stall_seconds:
            raise FileFailed(
                f"{shown(min(unlike))}: is over there, and its sum is not, for"
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
        if state == words.STALLED and not (self._before and self._before.state == words.STALLED):
            self._log(words.LOG_STALL, f"no final summary, no new sum for {human_time(idle)}")
        self.now = self.now._replace(state=state)

    def _unlike(self, wanted: FrozenSet[bytes]) -> Set[bytes]:
        """A fresh look at the sequencer: what there is new, changed, gone or without a sum."""
        source = self._source
        look = fresh_look(source.transport, source.base, self._run)
        excluded = exclusion(source.exclude)
        unknown = (look.same | look.different) - wanted
        unlisted = {path for path in unknown if not _is_own(path, wanted) and not excluded(path)}
        return unlisted | (wanted - look.same)

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
        self.now = self.now._replace(state=words.DONE, done_at=int(now))
        count, size = plural(self.now.files, "file"), human_size(self.now.bytes)
        self._log(words.LOG_MARK_DONE, f"{count}, {size}")

    def _log(self, word: str, details: str = "") -> None:
        self._source.log.event(word, self._run, details)


def _read(rollup: bytes) -> Sums:
    """What a roll-up of the sequencer's lists. RunFailed where it leads out of its run."""
    try:
        listed = dict(read_rollup(rollup))
    except (OSError, BadLine) as error:
        raise RunFailed(f"the roll-up over there cannot be used: {error}") from error
    for path in listed:
        if {b"", b".", b".."} & set(path.split(b"/")) or b"\0" in path:
            raise RunFailed(f"the roll-up over there leads out of its run: {shown(path)}")
        if path in words.OWN_FILES:
            raise RunFailed(f"the roll-up over there lists {shown(path)}, which is ours")
    return listed


def _lines(sums: Sums) -> Iterable[bytes]:
    return (line_for(path, md5) for path, md5 in sorted(sums.items()))


def _is_own(path: bytes, wanted: FrozenSet[bytes]) -> bool:
    """Whether a file over there is ontpush's own, also one that was never finished."""
    if path.endswith(words.UNFINISHED_SUFFIX):
        path = path[: -len(words.UNFINISHED_SUFFIX)]
    if path in words.OWN_FILES:
        return True
    suffix = words.SIDECAR_SUFFIX
    return path.endswith(suffix) and path[: -len(suffix)] in wanted
