"""Runs the program under test as its users do, and reads what it leaves behind.

Everything goes through the interface: a command as a subprocess, its output and exit code, the
files it writes. The only liberties are a clock that can be put forward and programs or Python
modules put before the real ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab.zygote import Zygote

CHECKOUT = Path(__file__).resolve().parent.parent
RSYNC = shutil.which("rsync") or "rsync"
PATIENCE = 120.0  # seconds for what takes one or two unless something hangs
OWN_FILES = ("md5sum", "rsync.done", "rsync.skip", "rsync.verified")
# What a cluster has and a sequencer does not, and the other way round.
NOT_THERE = (".ontpush", "rsync.skip")

_EVENT = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00)"
    r" (?P<word>SCAN|SYNC|DONE|SKIP|MARK DONE|FAIL|REOPEN|STALL|WARN)"
    r"(?: (?P<text>.*))?"
)


class Event(NamedTuple):
    """A line of the log: its word, and the run and details after it."""

    word: str
    text: str


class Ran(NamedTuple):
    """A call that has ended: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object that it printed."""
        (line,) = self.out.splitlines()
        envelope = json.loads(line)
        assert isinstance(envelope, dict)
        return envelope

    @property
    def runs(self) -> dict[str, dict[str, Any]]:
        """`data.runs` of that object, by the name of the run."""
        return {run["run"]: run for run in self.json["data"]["runs"]}

    @property
    def is_silent(self) -> bool:
        """Whether cron would have nothing to mail."""
        return (self.code, self.out, self.err) == (0, "", "")


class Program:
    """The program on one Python, with a state directory and a configuration of its own.

    `settings` are the keys of its configuration file, `within` a command that runs it, `programs`
    and `modules` directories whose content goes before the system's. `zygote` does the calls that
    may be forks of one process; without it, each starts Python.
    """

    def __init__(self, python: str, home: Path, zygote: Zygote | None = None) -> None:
        self.python = python
        self.zygote = zygote
        self.home = home
        self.state = home / "state"
        self.log_file = home / "ontpush.log"
        self.programs = home / "programs"
        self.modules = home / "modules"
        self.temporary = home / "tmp"
        for directory in (self.programs, self.modules, self.temporary):
            directory.mkdir(parents=True)
        self.settings: dict[str, Any] = {
            "settle": 0,
            "nice": 0,
            "ionice": "none",
            "instrument": "lab",
            "state_dir": str(self.state),
            "log": str(self.log_file),
        }
        self.within: list[str] = []
        self.environment = {
            "PATH": os.pathsep.join([str(self.programs), os.environ["PATH"], "/usr/sbin", "/sbin"]),
            "PYTHONPATH": os.pathsep.join([str(self.modules), str(CHECKOUT)]),
            "PYTHONWARNINGS": "error",
            "HOME": str(home),
            "TMPDIR": str(self.temporary),
            "ONTPUSH_TEST": str(home),
        }
        self._usual = dict(self.environment)
        self._clock = ""

    # -- calls --------------------------------------------------------------------------

    def call(self, *arguments: str | Path) -> Ran:
        """Run the program with exactly these arguments."""
        if self.zygote and self._may_be_forked(self.zygote):
            words = [os.fsencode(argument) for argument in arguments]
            directory = str(self.home)
            return _ran(*self.zygote.call(words, self.environment, directory, self._clock))
        with self.started(*arguments) as process:
            out, err = process.communicate(timeout=PATIENCE)
            return _ran(process.returncode, out, err)

    def _may_be_forked(self, zygote: Zygote) -> bool:
        """Whether a fork is no other than a new process: nothing but the clock is put before it."""
        customized = {path.name: path.read_text() for path in self.modules.glob("*.py")}
        return (
            not zygote.is_busy
            and not self.within
            and self.environment == self._usual
            and customized == ({"sitecustomize.py": self._clock} if self._clock else {})
        )

    def run(self, command: str, *arguments: str | Path) -> Ran:
        """Run a command under the configuration."""
        return self.call(command, *self.configured(), *arguments)

    def push(
        self, source: Path, destination: str | Path, *options: str, flags: Sequence[str] = ()
    ) -> Ran:
        """One tick: `options` are the program's, `flags` rsync's."""
        return self.run("push", *options, source, destination, *flags)

    def pushed(
        self, source: Path, destination: str | Path, *options: str, flags: Sequence[str] = ()
    ) -> dict[str, dict[str, Any]]:
        """One tick that must go well: how it left each run."""
        ran = self.push(source, destination, "--json", *options, flags=flags)
        assert ran.code == 0, ran
        assert ran.err == "", ran
        return ran.runs

    @contextlib.contextmanager
    def started(self, *arguments: str | Path, **how: Any) -> Iterator[subprocess.Popen[bytes]]:
        """The program at work; killed at the end of the block if it still is."""
        files = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # What is replaced within the same second by as much would be taken for what was compiled.
        shutil.rmtree(self.modules / "__pycache__", ignore_errors=True)
        process = subprocess.Popen(
            [*self.within, self.python, "-m", "ontpush", *arguments],
            cwd=self.home,
            **{**files, "env": self.environment, **how},
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def pushing(
        self, source: Path, destination: str | Path, *options: str, flags: Sequence[str] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A tick at work; see `started`."""
        arguments = ["push", *self.configured(), *options, source, destination, *flags]
        with self.started(*arguments) as process:
            yield process

    def configured(self) -> list[str]:
        """The option that names the configuration, with `settings` as they are now."""
        file = self.home / "config.json"
        file.write_text(json.dumps(self.settings))
        return ["--config", str(file)]

    # -- the world around it ------------------------------------------------------------

    def put_program(self, name: str, script: str) -> Path:
        """Put a shell script before the system's program of this name."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def wrap_rsync(self, before: str = ":", after: str = ":") -> None:
        """Let shell commands run before and after each transfer and comparison by rsync."""
        self.put_program(
            "rsync",
            f'case " $* " in *" --version "*) exec {RSYNC} "$@";; esac\n'
            f'{before}\n{RSYNC} "$@"; code=$?\n{after}\nexit $code',
        )

    def kill_at(self, call: int, moment: str) -> None:
        """Kill the program `before` or `after` a call of rsync, the first being 1."""
        count = self.home / "count"
        kill = f"[ $(wc -l <{count}) = {call} ] && kill -9 $PPID"
        if moment == "before":
            self.wrap_rsync(before=f"echo >>{count}; {kill}")
        else:
            self.wrap_rsync(before=f"echo >>{count}", after=kill)

    def put_clock_forward(self, seconds: float) -> None:
        """Let the program, and nothing else, live in the future: so much time has passed for it."""
        self.put_clock_wrong(0, passed=seconds)

    def put_clock_wrong(self, seconds: float, passed: float = 0) -> None:
        """Let the host's clock, and not those of its disks, be wrong; and so much time have passed.

        In a call after one under another clock, somebody has put it in between.
        """
        self._clock = (
            f"import time\n_now, _of = time.time, time.clock_gettime\n"
            f"time.time = lambda: _now() + {seconds} + {passed}\n"
            f"time.clock_gettime = lambda clock: _of(clock) + {passed}\n"
        )
        (self.modules / "sitecustomize.py").write_text(self._clock)

    def processes(self) -> list[int]:
        """What the program started, or is itself, and still runs."""
        mark = f"ONTPUSH_TEST={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def kill_all(self) -> None:
        """Kill all of `processes`, as a power cut does, and wait until they are gone."""

        def gone() -> bool:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.processes()

        wait_for(gone, "a killed process does not end")

    # -- what it leaves behind ----------------------------------------------------------

    def log(self) -> list[Event]:
        """The log, every line of which must be of its format."""
        if not self.log_file.exists():
            return []
        return events(self.log_file.read_text())

    def told(self, word: str) -> list[str]:
        """What stands after this word in the log, line by line."""
        return [event.text for event in self.log() if event.word == word]


def _ran(code: int, out: bytes, err: bytes) -> Ran:
    ran = Ran(code, out.decode(), err.decode())
    for text in ran[1:]:
        assert "Traceback" not in text, text
        assert "ontpush: unexpected" not in text, text
    return ran


def events(text: str) -> list[Event]:
    """The lines of a log."""
    found = []
    for line in text.splitlines():
        match = _EVENT.fullmatch(line)
        assert match, f"no line of a log: {line!r}"
        found.append(Event(match["word"], match["text"] or ""))
    return found


def wait_for(condition: Callable[[], object], complaint: str) -> None:
    """Return as soon as `condition` holds; fail when it takes far too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.002)


def rollup(run: Path) -> dict[bytes, str]:
    """The roll-up of a run, its names as they stand there."""
    lines = (run / "md5sum").read_bytes().splitlines()
    return {line[line.index(b"  ") + 2 :]: line[: line.index(b"  ")].decode() for line in lines}


def mark(run: Path, name: str = "rsync.done") -> dict[str, str]:
    """A mark in a run: its date, and its `key: value` lines."""
    date, *lines = (run / name).read_text().splitlines()
    pairs = [line.split(": ", 1) for line in lines]
    return {"date": date, **dict(pairs)}


def md5(path: Path) -> str:
    """The MD5 of a file, in hex."""
    return hashlib.md5(path.read_bytes()).hexdigest()


def coreutils_agree(run: Path) -> bool:
    """Whether `md5sum -c` finds every file of the roll-up in the run, and all of it right."""
    check = ["md5sum", "-c", "--strict", "--quiet", "md5sum"]
    return subprocess.run(check, cwd=run, check=False).returncode == 0


def is_done(run: Path) -> bool:
    """Whether a done mark vouches for the roll-up beside it, and that for the bytes."""
    return mark(run)["rollup"] == md5(run / "md5sum") and coreutils_agree(run)


def few_levels(program: Program) -> None:
    """Let the program call itself so few times that it cannot go into `lab.deep.DEEP` levels so."""
    (program.modules / "sitecustomize.py").write_text("import sys\nsys.setrecursionlimit(200)\n")


def instead_of_unlink(program: Program, end: str, does: str) -> None:
    """Let the program do this, in Python, where it would remove a file whose path ends so."""
    with (program.modules / "sitecustomize.py").open("a") as file:
        file.write(f"""
import os
_unlink = os.unlink
def unlink(path, *more, **how):
    if os.fsencode(path).endswith({end.encode()!r}):
        {does}
    return _unlink(path, *more, **how)
os.unlink = unlink
""")


def refuse_to_unlink(program: Program, end: str, number: int) -> None:
    """Let the program fail to remove such a file, with this number of an error."""
    instead_of_unlink(program, end, f"raise OSError({number}, os.strerror({number}), path)")


def refuse_to_open(program: Program, end: str) -> None:
    """Let the program, which root runs here, have no right to open a file whose path ends so."""
    _deny(program, "open", f"os.fsencode(path).endswith({end.encode()!r})")


def refuse_to_list(program: Program, directory: Path) -> None:
    """Let the program have no right to list this directory."""
    _deny(program, "scandir", f"os.fsencode(path) == {os.fsencode(directory)!r}")


def _deny(program: Program, call: str, where: str) -> None:
    """Let a call of os be denied where this, in Python, holds of its `path`."""
    with (program.modules / "sitecustomize.py").open("a") as file:
        file.write(f"""
import errno, os
_{call} = os.{call}
def denied(path, *more, **how):
    if {where}:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return _{call}(path, *more, **how)
os.{call} = denied
""")


def is_verified(run: Path) -> bool:
    """Whether the cluster vouches for the roll-up in the run, and that for the bytes."""
    if not (run / "rsync.verified").exists():
        return False
    return mark(run, "rsync.verified")["rollup"] == md5(run / "md5sum") and coreutils_agree(run)


def turn_a_bit(path: Path) -> None:
    """Damage a file, and leave its size and time as they were."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def false_marks(root: Path) -> list[Path]:
    """Every mark anywhere below `root` that vouches for a roll-up that the bytes contradict."""
    marks = [*root.rglob("rsync.done"), *root.rglob("rsync.verified")]
    return [
        path
        for path in marks
        if mark(path.parent, path.name).get("rollup") == md5(path.parent / "md5sum")
        and not coreutils_agree(path.parent)
    ]
