"""What must hold whatever happens, in whatever order: random runs, events, crashes.

A `World` is a source with a few runs, a destination on this machine, and the program between
them. Hypothesis makes up a list of events, and after every one of them, crashes among them, the
world is held against what the interface promises for every instant. At the end the program gets
some ticks in peace, and then everything must be as it would be had nothing gone wrong: that is a
function of the source alone, so each run that went through crashes is compared with it, and
through it with a run that went through none.

ONTPUSH_EXAMPLES multiplies the number of examples, for a long hunt.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, note, settings
from hypothesis import strategies as st

from ontpush.engine.rollup import line_for, parse_line
from ontpush.facts.names import from_rsync, shown
from tests.lab.crashing import CRASHED
from tests.lab.trees import (
    MARK,
    OWN,
    ROLLUP,
    SKIP,
    Content,
    below,
    covered,
    inside,
    is_final_summary,
    is_finished,
    is_sidecar,
    is_temporary,
    mark_facts,
    md5,
    read_rollup,
)
from tests.lab.zygote import Crash, Ended, Zygote
from tests.program import CHECKOUT

CRASHING = CHECKOUT / "tests" / "lab" / "crashing.py"
EXAMPLES = float(os.environ.get("ONTPUSH_EXAMPLES", "1"))
PATIENCE = 120.0

RUNS = (b"exp/run1", b"exp/\xff -run*[2]\n", b"run3")
FOLDERS = (
    b"",
    b"pod5_pass",
    b"pod5_pass/barcode01",
    b"pod5_pass/\xfe\n*[a]\\",
    b"fastq_pass",
    b"-other \xc3\xa4",
)
NAMES = (
    b"a.pod5",
    b"a.pod5.md5",
    b"b.md5",
    b"b",
    b"-rf",
    b"*",
    b"x\ny",
    b"\xff\xfe.fastq",
    b"c\\d",
    b" lead",
    b"cr\r",
    b"\\#012",
    b".hidden",
    b"n" * 200,
)
SECOND = 10**9
DAY = 86400


class Status(NamedTuple):
    """What the test knows of a run that is no file of it."""

    covered: frozenset[bytes]
    shrunk: bool


# -- the world --------------------------------------------------------------------------


def is_run(path: bytes) -> bool:
    """Whether a directory is a run, as far as this test makes any."""
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return any(
        (name in (b"pod5_pass", b"fastq_pass") and os.path.isdir(os.path.join(path, name)))
        or is_final_summary(name)
        for name in names
    )


class World:
    """A source, a destination, the program, and what the test remembers to judge them by."""

    def __init__(self, zygote: Zygote, home: bytes, runs: int, settle: int, sidecars: bool) -> None:
        self.zygote = zygote
        self.home = home
        self.source = home + b"/src"
        self.there = home + b"/dst"
        self.away = home + b"/dst.away"
        self.state = home + b"/state"
        self.runs = list(RUNS[:runs])
        self.clock_ns = (int(time.time()) - 1000 * DAY) * SECOND
        self.serial = 0
        # For each path, whatever it ever held at the source.
        self.held: dict[bytes, set[Content]] = {}
        self.status: dict[bytes, Status] = {}
        # What the test itself did to files at the destination, until a new mark says it is mended.
        self.damaged: dict[bytes, set[Content | None]] = {}
        # Changed in a way that no look can see, until a new mark says it was seen.
        self.stealthy: set[bytes] = set()
        self.arrived: set[bytes] = set()
        self.marks: dict[bytes, bytes] = {}
        os.makedirs(self.source)
        os.mkdir(self.there)
        for run in self.runs:
            os.makedirs(os.path.join(self.source, run, b"pod5_pass"))
        configuration = {
            "settle": settle,
            "sidecars": sidecars,
            "nice": 0,
            "ionice": "none",
            "instrument": "lab",
            "state_dir": os.fsdecode(self.state),
            "log": os.fsdecode(home + b"/log"),
        }
        Path(os.fsdecode(home), "config.json").write_text(json.dumps(configuration))
        self.touch_folders()
        self.observe()

    # -- events at the source -----------------------------------------------------------

    def write(self, run: int, folder: bytes, name: bytes, size: int) -> None:
        """A whole file is moved in, as MinKNOW does with reads."""
        path = self.place(run, folder, name)
        if path:
            self.move_in(path, self.fresh(size), self.tick_ns())

    def write_old(self, run: int, folder: bytes, name: bytes, size: int) -> None:
        """A file with an old modification time is moved in."""
        path = self.place(run, folder, name)
        if path:
            self.move_in(path, self.fresh(size), self.clock_ns - 40 * DAY * SECOND)

    def link(self, run: int, folder: bytes, name: bytes, target: bytes) -> None:
        path = self.place(run, folder, name)
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            os.symlink(target, path)
            self.set_time(path, self.tick_ns())
            self.set_time(os.path.dirname(path), self.tick_ns())

    def grow(self, run: int, pick: int, size: int) -> None:
        """A file grows in place, as summaries do."""
        path = self.chosen(run, pick)
        if path and not os.path.islink(path):
            with open(path, "ab") as file:
                file.write(self.fresh(size))
            self.set_time(path, self.tick_ns())

    def replace(self, run: int, pick: int, how: str) -> None:
        """Another file of the same size comes in the place of one."""
        path = self.chosen(run, pick)
        if not path or os.path.islink(path):
            return
        found = os.lstat(path)
        when = {
            "now": self.tick_ns(),
            "same second": found.st_mtime_ns // SECOND * SECOND + self.tick_ns() % SECOND,
            "older": found.st_mtime_ns - 1000 * SECOND - self.tick_ns() % SECOND,
            "same time": found.st_mtime_ns,
        }[how]
        name = os.path.relpath(path, self.source)
        if when == found.st_mtime_ns:
            self.stealthy.add(name)
            self.forgive_unlisted(run, name)
        self.move_in(path, self.fresh(found.st_size), when)

    def rename(self, run: int, pick: int, folder: bytes, name: bytes) -> None:
        old, new = self.chosen(run, pick), self.place(run, folder, name)
        if old and new:
            os.rename(old, new)
            for path in (old, new):
                self.set_time(os.path.dirname(path), self.tick_ns())

    def delete(self, run: int, pick: int) -> None:
        path = self.chosen(run, pick)
        if path:
            os.unlink(path)
            self.set_time(os.path.dirname(path), self.tick_ns())

    def delete_folder(self, run: int, folder: bytes) -> None:
        """Also the run itself, as when space is freed."""
        path = os.path.join(self.run_path(run), folder)
        if os.path.isdir(path):
            shutil.rmtree(path)
            self.set_time(os.path.dirname(path.rstrip(b"/")), self.tick_ns())

    def rename_run(self, run: int) -> None:
        """Somebody gives the run's directory another name."""
        number = run % len(self.runs)
        old = self.runs[number]
        if os.path.isdir(os.path.join(self.source, old)):
            self.runs[number] = old + b"'"
            os.rename(os.path.join(self.source, old), os.path.join(self.source, self.runs[number]))

    def finish(self, run: int, number: int) -> None:
        """A final summary: the first, or another acquisition's."""
        path = self.place(run, b"", b"final_summary_%d.txt" % number)
        if path:
            self.move_in(path, b"acquisition=%d\n" % number + self.fresh(3), self.tick_ns())

    def wait(self, seconds: int) -> None:
        self.clock_ns += seconds * SECOND

    # -- events elsewhere ---------------------------------------------------------------

    def corrupt(self, run: int, pick: int) -> None:
        """A byte turns over at the destination, and neither size nor time tell."""
        path = self.chosen_there(run, pick)
        if path and os.path.getsize(path):
            found = os.lstat(path)
            with open(path, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 255]))
            self.set_time(path, found.st_mtime_ns)
            self.damage(path)

    def lose(self, run: int, pick: int) -> None:
        """A file is lost at the destination."""
        path = self.chosen_there(run, pick)
        if path:
            os.unlink(path)
            self.damage(path)
            self.arrived.discard(os.path.relpath(path, self.there))

    def lose_state(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)

    def unplug(self) -> None:
        """The destination is not there any more, until it is plugged in again."""
        if os.path.isdir(self.there):
            os.rename(self.there, self.away)

    def plug_in(self) -> None:
        if os.path.isdir(self.away):
            os.rename(self.away, self.there)

    # -- events by the program ----------------------------------------------------------

    def tick(self) -> None:
        self.expect(self.push(), 0)

    def crash(self, step: int, orphans: bool) -> None:
        """A tick that is killed."""
        self.expect(self.push(step, orphans), 0, CRASHED)

    def meanwhile(self, step: int, events: list[tuple[Any, ...]]) -> None:
        """A tick during which things happen at the source, between one step and the next."""

        def happen() -> None:
            for name, *arguments in events:
                getattr(self, name)(*arguments)
                self.observe()
            self.check()

        before = set(self.stealthy)
        self.expect(self.push(step, during=happen), 0, 1)
        unseen = self.stealthy - before
        self.observe()
        self.check(new_marks=True)
        # The comparison may have been over when they came.
        self.stealthy |= unseen

    def hash(self, run: int, step: int) -> None:
        """Somebody calls `ontpush hash`; it may be killed too."""
        if is_run(self.run_path(run)):
            self.expect(self.call("hash", self.run_path(run), step=step), 0, CRASHED)

    def skip(self, run: int) -> None:
        if is_run(self.run_path(run)):
            self.expect(self.call("skip", self.run_path(run), b"a reason"), 0)

    def retry(self, run: int) -> None:
        if is_run(self.run_path(run)):
            self.expect(self.call("retry", self.run_path(run)), 0)

    # -- helpers of the events ----------------------------------------------------------

    def run_path(self, run: int) -> bytes:
        return os.path.join(self.source, self.runs[run % len(self.runs)])

    def place(self, run: int, folder: bytes, name: bytes) -> bytes | None:
        """Where a file of this name would go, its directory made; None where one cannot."""
        path = os.path.join(self.run_path(run), folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            return None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def chosen(self, run: int, pick: int) -> bytes | None:
        """One of the files of a run."""
        files = sorted(
            path
            for path in below(self.run_path(run))
            if path not in OWN and not path.endswith(b".ontpush-new")
        )
        return os.path.join(self.run_path(run), files[pick % len(files)]) if files else None

    def chosen_there(self, run: int, pick: int) -> bytes | None:
        """One of the files of a run that lie at the destination."""
        there = os.path.join(self.there, self.runs[run % len(self.runs)])
        files = sorted(
            path
            for path, (kind, _) in below(there).items()
            if kind == "file" and path not in OWN and not is_temporary(path)
        )
        return os.path.join(there, files[pick % len(files)]) if files else None

    def damage(self, path: bytes) -> None:
        name = os.path.relpath(path, self.there)
        now = below(self.there).get(name)
        self.damaged.setdefault(name, set()).add(now)
        if now:
            self.held[name].add(now)

    def forgive_unlisted(self, run: int, name: bytes) -> None:
        """What was in flight at a crash is not looked at again if it looks the same.

        Only the comparison at the end tells; what is listed already needs none.
        """
        listed: dict[bytes, bytes] = {}
        with contextlib.suppress(FileNotFoundError):
            listed = read_rollup(Path(os.fsdecode(self.run_path(run)), "md5sum").read_bytes())
        if os.path.relpath(os.path.join(self.source, name), self.run_path(run)) not in listed:
            self.damaged.setdefault(name, set()).update(self.held[name])

    def fresh(self, size: int) -> bytes:
        """Bytes that were never written before, as far as `size` allows."""
        self.serial += 1
        block = hashlib.sha256(b"%d" % self.serial).digest()
        return (block * (size // len(block) + 1))[:size]

    def tick_ns(self) -> int:
        """The time, which is never the same twice."""
        self.clock_ns += 1_000_001
        return self.clock_ns

    def move_in(self, path: bytes, content: bytes, when_ns: int) -> None:
        made = os.path.join(self.home, b"made")
        with open(made, "wb") as file:
            file.write(content)
        self.set_time(made, when_ns)
        os.rename(made, path)
        self.touch_folders()

    def set_time(self, path: bytes, when_ns: int) -> None:
        if os.path.lexists(path):
            os.utime(path, ns=(when_ns, when_ns), follow_symlinks=False)

    def touch_folders(self) -> None:
        """Bring directories that were changed just now into the program's time."""
        for folder, _, _ in os.walk(self.source):
            if os.lstat(folder).st_mtime_ns > self.clock_ns + DAY * SECOND:
                self.set_time(folder, self.tick_ns())

    # -- the program --------------------------------------------------------------------

    def push(
        self, step: int = 0, orphans: bool = False, during: Callable[[], None] | None = None
    ) -> Ended:
        words = ("--json", self.source, self.there)
        return self.call("push", *words, step=step, orphans=orphans, during=during)

    def call(
        self,
        command: str,
        *words: str | bytes,
        step: int = 0,
        orphans: bool = False,
        during: Callable[[], None] | None = None,
    ) -> Ended:
        """One call of the program, until the last of its processes has ended."""
        clock = self.clock_ns / SECOND
        arguments = [os.fsencode(word) for word in (command, "--config", self.home, *words)]
        arguments[2] += b"/config.json"
        if during:
            ended = self.paused(clock, step, arguments, during)
        else:
            crash = Crash(clock, clock, step, orphans)
            ended = self.zygote.call(arguments, crash=crash)
        self.clock_ns += SECOND // 4
        self.touch_folders()
        assert b"Traceback" not in ended.err, ended.err
        assert b"unexpected" not in ended.err, ended.err
        return ended

    def paused(
        self, clock: float, step: int, arguments: list[bytes], during: Callable[[], None]
    ) -> Ended:
        """One call that waits before a step while other things happen."""
        with subprocess.Popen(
            [self.zygote.python, CRASHING, f"{clock:.3f}", str(step), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        ) as process:
            assert process.stdin
            assert process.stdout
            first = process.stdout.read(1)
            if first == b"\n":
                during()
            out, err = process.communicate(b"\n", timeout=PATIENCE)
        return Ended(process.returncode, first.strip() + out, err)

    def expect(self, ended: Ended, *codes: int) -> None:
        """Judge an exit code; without the destination there is but one for a push."""
        note(f"    exit {ended.code} {ended.err.decode(errors='replace').strip()}")
        if os.path.isdir(self.away):
            codes = (*codes, 69)
        event(f"exit {ended.code}")
        assert ended.code in codes, ended

    # -- what must always hold ----------------------------------------------------------

    def apply(self, name: str, *arguments: Any) -> None:
        """Let one event happen, and look at everything."""
        note(f"{name} {arguments}")
        getattr(self, name)(*arguments)
        self.observe()
        self.check(new_marks=True)

    def observe(self) -> None:
        """Remember what the source holds now."""
        files = below(self.source)
        for path, content in files.items():
            self.held.setdefault(path, set()).add(content)
        for run in self.runs:
            now = frozenset(covered(inside(files, run)))
            before = self.status.get(run, Status(now, False))
            self.status[run] = Status(now, before.shrunk or not before.covered <= now)

    def check(self, new_marks: bool = False) -> None:
        """Hold the destination, and the marks at the source, against the interface."""
        root = self.there if os.path.isdir(self.there) else self.away
        there = below(root)
        if new_marks:
            self.believe_new_marks(there)
        missing = self.arrived - set(there)
        assert not missing, f"deleted at the destination: {missing}"
        self.arrived |= {path for path in there if not is_temporary(path)}
        here = below(self.source)
        for run in {*self.runs, *(os.path.dirname(path) for path in there if is_own(path))}:
            self.check_rollup(run, inside(there, run))
            self.check_local_mark(run, inside(here, run), inside(there, run))
        for path, content in there.items():
            if not path.startswith(b".ontpush/") and not is_own(path):
                known = content in self.held.get(path, ()) or is_temporary(path)
                assert known, f"{path!r} never held {content!r}"

    def believe_new_marks(self, there: dict[bytes, Content]) -> None:
        """A mark that was made just now says that all of its run was compared."""
        for path, (_, content) in there.items():
            if os.path.basename(path) == MARK and self.marks.get(path) != content:
                self.marks[path] = content
                start = os.path.dirname(path) + b"/"
                for name in [name for name in self.damaged if name.startswith(start)]:
                    del self.damaged[name]
                self.stealthy = {name for name in self.stealthy if not name.startswith(start)}

    def check_rollup(self, run: bytes, there: dict[bytes, Content]) -> None:
        """Every file that the roll-up lists lies beside it with that sum."""
        if ROLLUP not in there:
            return
        for path, listed in read_rollup(there[ROLLUP][1]).items():
            found = there.get(path)
            if found not in self.damaged.get(run + b"/" + path, ()):
                assert found, f"{run!r}: listed and not there: {path!r}"
                assert found[0] == "file", f"{run!r}: listed and a link: {path!r}"
                assert md5(found[1]) == listed, f"{run!r}: not as listed: {path!r}"

    def check_local_mark(
        self, run: bytes, here: dict[bytes, Content], there: dict[bytes, Content]
    ) -> None:
        """A local mark that vouches for the local roll-up stands for the same at both ends."""
        if MARK in here and ROLLUP in here:
            facts = mark_facts(here[MARK][1])
            stands = facts["rollup"] == md5(here[ROLLUP][1]).decode()
            if stands and facts["run"] == shown(run).strip():
                for name in (MARK, ROLLUP):
                    assert there.get(name) == here[name], f"{run!r}: not the same {name!r} there"

    # -- what must hold in the end ------------------------------------------------------

    def settle_down(self) -> None:
        """Some days and ticks in peace: everything is as if nothing had happened.

        Our own sidecar of a file that went has the real time, which is the future here: it counts
        when it was seen unchanged for a while.
        """
        self.apply("plug_in")
        self.apply("wait", 2 * DAY)
        self.apply("tick")
        self.apply("wait", 70)
        self.apply("tick")
        note("tick")
        states = self.states(self.push())
        self.observe()
        self.check(new_marks=True)
        self.check_end(states)
        before = self.fingerprint()
        idle = self.push()
        assert not [run for run in json.loads(idle.out)["data"]["runs"] if run["sent_files"]]
        assert self.states(idle) == states
        assert self.fingerprint() == before, "an idle tick sent something"

    def states(self, ended: Ended) -> dict[bytes, str]:
        self.expect(ended, 0)
        runs = json.loads(ended.out)["data"]["runs"]
        return {run["run"].encode("utf-8", "surrogateescape"): run["state"] for run in runs}

    def fingerprint(self) -> dict[bytes, tuple[int, int]]:
        """Shows every file at the destination that was touched, but for the heartbeat."""
        return {
            path: (found.st_ino, found.st_ctime_ns)
            for path in below(self.there)
            if not path.startswith(b".ontpush/")
            for found in [os.lstat(os.path.join(self.there, path))]
        }

    def check_end(self, states: dict[bytes, str]) -> None:
        here, there = below(self.source), below(self.there)
        present = [run for run in self.runs if is_run(os.path.join(self.source, run))]
        assert sorted(states) == sorted(present)
        for run in present:
            if SKIP in inside(here, run):
                assert states[run] == "skipped"
                continue
            local, remote = inside(here, run), inside(there, run)
            if is_finished(local):
                assert states[run] == "done", run
                facts = mark_facts(remote[MARK][1])
                assert facts["rollup"] == md5(remote[ROLLUP][1]).decode()
            else:
                assert states[run] in ("waiting", "stalled", "done"), run
            self.check_equal(run, local, remote)
            self.check_sums(run, local, remote)

    def check_equal(
        self, run: bytes, here: dict[bytes, Content], there: dict[bytes, Content]
    ) -> None:
        """What is in the run lies there."""
        sums = covered(here)
        for path, content in here.items():
            name = run + b"/" + path
            is_link = content[0] == "link" and not is_sidecar(path, here)
            if (path in sums or is_link) and path not in OWN:
                excused = name in self.stealthy or there.get(path) in self.damaged.get(name, ())
                assert excused or there.get(path) == content, f"{name!r} is not the same there"

    def check_sums(
        self, run: bytes, here: dict[bytes, Content], there: dict[bytes, Content]
    ) -> None:
        """The roll-up is that of the run, and coreutils and `verify` find nothing wrong."""
        sums = covered(here)
        odd = {path for path in sums if run + b"/" + path in self.stealthy}
        listed = read_rollup(here[ROLLUP][1]) if ROLLUP in here else {}
        for path, each in sums.items():
            assert path in odd or listed.get(path) == each, f"{run!r}: {path!r} not in the roll-up"
        if self.status[run].shrunk and MARK in there:
            # What is done stays as it was when files go, which frees space.
            return
        assert set(listed) == set(sums), f"{run!r}: the roll-up lists more than there is"
        if self.status[run].shrunk or not sums:
            return
        assert here[ROLLUP] == there[ROLLUP]
        damaged = any(name.startswith(run + b"/") for name in self.damaged)
        for root, wrong in ((self.source, bool(odd)), (self.there, damaged)):
            if not wrong:
                place = os.path.join(root, run)
                self.check_coreutils(place)
                code = self.call("verify", place).code
                assert code == 0, f"verify {place!r}"

    def check_coreutils(self, run: bytes) -> None:
        command = ["md5sum", "-c", "--strict", "--quiet", "md5sum"]
        assert subprocess.run(command, cwd=run, check=False).returncode == 0, run


def is_own(path: bytes) -> bool:
    """Whether a path at the destination is a file of the program's own, in a run."""
    run, name = os.path.split(path)
    return name in OWN and run.rstrip(b"'") in RUNS


# -- events, made up --------------------------------------------------------------------

small = st.integers(0, 7)
run_numbers = st.sampled_from((0, 0, 0, 1))
folders = st.sampled_from(FOLDERS)
odd_names = (
    st.lists(st.integers(1, 255).filter(lambda byte: byte != ord("/")), min_size=1, max_size=8)
    .map(bytes)
    # md5sum takes a lone dash for its standard input.
    .filter(lambda name: name not in (b".", b"..", b"-", *OWN))
)
names = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES[:4]), odd_names)
sizes = st.sampled_from((0, 1, 7, 64, 200_000))
targets = st.sampled_from((b"a.pod5", b"../nowhere", b"/", b"\xff\n"))
steps = st.integers(1, 80)

at_source = (
    st.tuples(st.just("write"), run_numbers, folders, names, sizes),
    st.tuples(st.just("write"), run_numbers, folders, names, sizes),
    st.tuples(st.just("write_old"), run_numbers, folders, names, sizes),
    st.tuples(st.just("link"), run_numbers, folders, names, targets),
    st.tuples(st.just("grow"), run_numbers, small, sizes),
    st.tuples(
        st.just("replace"),
        run_numbers,
        small,
        st.sampled_from(("now", "same second", "older", "same time")),
    ),
    st.tuples(st.just("rename"), run_numbers, small, folders, names),
    st.tuples(st.just("delete"), run_numbers, small),
    st.tuples(st.just("delete_folder"), run_numbers, st.sampled_from((*FOLDERS[1:], b""))),
    st.tuples(st.just("finish"), run_numbers, st.integers(0, 1)),
    st.tuples(st.just("finish"), run_numbers, st.integers(0, 1)),
)
by_others = (
    st.tuples(st.just("corrupt"), run_numbers, small),
    st.tuples(st.just("lose"), run_numbers, small),
    st.tuples(st.just("lose_state")),
    st.tuples(st.just("hash"), run_numbers, st.sampled_from((0, 0, 5, 10, 20))),
    st.tuples(st.just("skip"), run_numbers),
    st.tuples(st.just("retry"), run_numbers),
    st.tuples(st.just("rename_run"), run_numbers),
    st.tuples(st.just("wait"), st.sampled_from((1, 70, DAY, 9 * DAY))),
    st.tuples(st.just("unplug")),
    st.tuples(st.just("plug_in")),
)
ticks = (
    st.tuples(st.just("tick")),
    st.tuples(st.just("tick")),
    st.tuples(st.just("crash"), steps, st.booleans()),
    st.tuples(st.just("crash"), steps, st.booleans()),
    st.tuples(st.just("meanwhile"), steps, st.lists(st.one_of(at_source), min_size=1, max_size=3)),
)
afterwards = st.one_of(st.one_of(at_source), st.one_of(by_others), st.one_of(ticks))
sent = (
    ("write", 0, b"pod5_pass", b"a.pod5", 64),
    ("write", 0, b"pod5_pass/barcode01", b"x\ny", 7),
    ("write", 0, b"", b"b", 7),
    ("wait", 70),
    ("tick",),
    ("wait", 70),
)
done = (*sent[:3], ("finish", 0, 0), *sent[3:])
event_lists = st.tuples(
    st.sampled_from(((), sent, done)), st.lists(afterwards, max_size=14).map(tuple)
).map(lambda parts: parts[0] + parts[1])


def on(examples: int) -> settings:
    """Stable where it decides about a change, and new every time where somebody looks for more."""
    return settings(
        max_examples=int(examples * EXAMPLES),
        deadline=None,
        derandomize="CI" in os.environ,
        print_blob=True,
        phases=[phase for phase in Phase if phase is not Phase.explain],
        suppress_health_check=[HealthCheck.too_slow],
    )


@contextlib.contextmanager
def scratch() -> Iterator[bytes]:
    """A directory, in memory where there is such a place: the program syncs to disk often."""
    memory = "/dev/shm"
    where = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ontpush-", dir=where) as home:
        yield os.fsencode(home)


@pytest.mark.timeout(3600)
@on(examples=30)
@given(
    runs=st.integers(1, 2),
    settle=st.sampled_from((0, 0, 60)),
    sidecars=st.booleans(),
    events=event_lists,
)
# Faults that were found here and did not need a crash at a certain step.
@example(
    runs=1,
    settle=0,
    sidecars=False,
    events=(*sent, ("delete_folder", 0, b"pod5_pass/barcode01"), ("finish", 0, 0)),
)
@example(runs=1, settle=0, sidecars=False, events=(*done, ("rename_run", 0), ("tick",)))
# A sidecar of ours becomes a file like any other when its own goes.
@example(runs=1, settle=60, sidecars=True, events=(*sent, ("delete", 0, 0)))
@example(runs=1, settle=60, sidecars=True, events=(*done, ("rename", 0, 0, b"", b"a.pod5")))
def test_any_sequence_of_events(
    zygote: Zygote, runs: int, settle: int, sidecars: bool, events: tuple[tuple[Any, ...], ...]
) -> None:
    with scratch() as home:
        world = World(zygote, home, runs, settle, sidecars)
        for each in events:
            world.apply(*each)
        world.settle_down()


several_names = st.lists(odd_names, min_size=1, max_size=20, unique=True)


def make_files(home: bytes, file_names: list[bytes]) -> None:
    for name in file_names:
        with open(os.path.join(home, name), "wb") as file:
            file.write(name)


@on(examples=100)
@given(file_names=several_names)
def test_a_line_of_the_roll_up_is_what_md5sum_prints(file_names: list[bytes]) -> None:
    with scratch() as home:
        make_files(home, file_names)
        command: list[str | bytes] = ["md5sum", "--", *file_names]
        printed = subprocess.run(command, cwd=home, check=True, capture_output=True).stdout
    lines = [line_for(name, hashlib.md5(name).digest()) for name in file_names]
    assert b"".join(lines) == printed
    assert [parse_line(line, 1).path for line in lines] == file_names


@on(examples=50)
@given(file_names=several_names)
def test_a_name_is_read_back_from_what_rsync_prints(file_names: list[bytes]) -> None:
    with scratch() as home:
        make_files(home, file_names)
        command: list[str | bytes] = [
            "rsync",
            "-n",
            "-i",
            "-r",
            "--out-format=%n",
            "--",
            home + b"/",
            home + b".there",
        ]
        environment = {**os.environ, "LC_ALL": "C"}
        printed = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert {from_rsync(line) for line in printed.split(b"\n")} >= set(file_names)
