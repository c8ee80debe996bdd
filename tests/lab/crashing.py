"""Stops the program just before its Nth step: killed, as by a power cut, or pausing.

    PYTHON tests/lab/crashing.py CLOCK N COMMAND ...

A step is a call after which the world outside the process is another: a rename, removal or new
directory, a commit to SQLite, the start of a child process, its first line, its end. N is 0 for
never. As a program this pauses: an empty line is printed, and the program goes on when it has
read one; CLOCK is the time that it sees, standing still. `arm` can kill, too: the exit code is 137
then. The children are killed as well, or left to find out for themselves; whoever reads the
standard output to its end has waited for the last of them.

Runs on Python 3.6 and needs nothing but the standard library.
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import Any, Callable

# Loaded before anything is changed: it looks which functions of os are the system's.
import shutil  # noqa: F401  # isort: skip

CRASHED = 137


class Steps:
    """Counts steps, in whichever thread they come, and strikes just before the chosen one."""

    def __init__(self, chosen: int, strike: Callable[[], None]) -> None:
        self._left = chosen
        self._strike = strike
        self._counting = threading.Lock()

    def step(self) -> None:
        """Another step is about to be taken; other threads wait with theirs."""
        with self._counting:
            self._left -= 1
            if self._left == 0:
                self._strike()

    def before(self, owner: Any, name: str) -> None:
        """Make a step of every call of `owner.name`."""
        real = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return real(*args, **kwargs)

        setattr(owner, name, counted)


class Children:
    """The program's child processes. Each holds the file `held` open while it lives."""

    def __init__(self, held: int) -> None:
        self._all = []  # type: Any
        self._held = held

    def watch(self, steps: Steps) -> None:
        """Count the start of every child, its first line and its end."""
        really_start = subprocess.Popen.__init__
        really_wait = subprocess.Popen.wait

        def start(child: Any, *args: Any, **kwargs: Any) -> None:
            steps.step()
            really_start(child, *args, pass_fds=(self._held,), **kwargs)
            if kwargs.get("start_new_session"):
                self._all.append(child)
                child.stdout = Lines(child.stdout, steps)

        def wait(child: Any, *args: Any, **kwargs: Any) -> Any:
            code = really_wait(child, *args, **kwargs)
            steps.step()
            return code

        patched = subprocess.Popen  # type: Any
        patched.__init__, patched.wait = start, wait

    def kill(self) -> None:
        """Kill each that still runs, with its group."""
        for child in self._all:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)


class Lines:
    """What a child prints; its first line is a step."""

    def __init__(self, lines: Any, steps: Steps) -> None:
        self._lines = lines
        self._steps = steps
        self._has_begun = False
        self.close = lines.close

    def readline(self, size: int) -> bytes:
        """As that of the pipe."""
        return self._come(self._lines.readline(size))

    def read1(self, size: int) -> bytes:
        """As that of the pipe."""
        return self._come(self._lines.read1(size))

    def _come(self, printed: bytes) -> bytes:
        if printed and not self._has_begun:
            self._has_begun = True
            self._steps.step()
        return printed


def watch_databases(steps: Steps) -> None:
    """Count every commit, also that of a statement on its own."""

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            alone = not self.in_transaction and not sql.startswith(("SELECT", "PRAGMA", "BEGIN"))
            if alone or sql.startswith("COMMIT"):
                steps.step()
            return super().execute(sql, *args)

    really_connect = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection = really_connect(*args, factory=Connection, **kwargs)
        assert isinstance(connection, Connection)
        return connection

    setattr(sqlite3, "connect", connect)


def live_at(clock: float, disk: float) -> None:
    """Let the program, and the disk of its runs, live at these times since the epoch.

    The machine has been on since the epoch, and its uptime is not put when its clock is.
    """
    from ontpush.engine import settling

    time.time = lambda: clock
    time.clock_gettime = lambda _: disk
    setattr(settling, "disk_clock_ns", lambda _: int(disk * 10**9))


class Blow:
    """What comes just before the chosen step: `how` is one of the names here."""

    ALL = "all"
    ORPHANS = "orphans"
    PAUSE = "pause"

    def __init__(self, how: str, children: Children) -> None:
        self._how = how
        self._children = children

    def strike(self) -> None:
        """Kill this process, with its children or without; or wait until somebody says go on."""
        if self._how == self.PAUSE:
            os.write(1, b"\n")
            os.read(0, 1)
        elif self._how:
            if self._how == self.ALL:
                self._children.kill()
            os._exit(CRASHED)

    def disarm(self) -> None:
        """Let it do nothing any more."""
        self._how = ""


def arm(chosen: int, how: str, held: int) -> Blow:
    """Count steps in this process from now on, and strike before the chosen one."""
    children = Children(held)
    blow = Blow(how, children)
    steps = Steps(chosen, blow.strike)
    for name in ("rename", "replace", "unlink", "remove", "mkdir"):
        steps.before(os, name)
    children.watch(steps)
    watch_databases(steps)
    return blow


def main() -> int:
    """Pause before the chosen step; the exit code of the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clock", type=float)
    parser.add_argument("chosen", type=int)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    call = parser.parse_args()
    arm(call.chosen, Blow.PAUSE, os.dup(1))
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    live_at(call.clock, call.clock)
    from ontpush.__main__ import main as program

    return program(call.words)


if __name__ == "__main__":
    sys.exit(main())
