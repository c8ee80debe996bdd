"""Runs commands and reads from the operating system's books what each took."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


class BenchError(Exception):
    """Something did not run, so that there is nothing to compare."""


@dataclass(frozen=True)
class Cost:
    """What a command took, with every process below it.

    `seconds` went by, `processor` seconds were spent as user and system, and `peak` bytes were
    resident in the largest of its processes.
    """

    seconds: float
    processor: float
    peak: int

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            self.seconds + other.seconds,
            self.processor + other.processor,
            max(self.peak, other.peak),
        )


Side = Callable[[], Cost]
Pair = tuple[Cost, Cost]


def alternately(ours: Side, theirs: Side, rounds: int) -> list[Pair]:
    """Measure both sides in turn. Of several rounds the first only warms the caches."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return pairs[1:] or pairs


def cost(command: Sequence[str]) -> Cost:
    """Run a command from the checkout and account for it. BenchError when it fails.

    The peak cannot be less than this process's own, which Linux hands down to what it starts:
    so this one stays small.
    """
    os.sync()  # what was written before must not disturb it
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        code, usage = _wait(_start(command, said.fileno()))
        seconds = time.perf_counter() - begun
        said.seek(0)
        if code:
            _fail(command, code, said.read())
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def output(command: Sequence[str]) -> str:
    """What a command prints. BenchError when it fails."""
    ended = subprocess.run(
        command, cwd=CHECKOUT, env=_environment(), capture_output=True, check=False
    )
    if ended.returncode:
        _fail(command, ended.returncode, ended.stdout + ended.stderr)
    return ended.stdout.decode()


def _start(command: Sequence[str], said: int) -> subprocess.Popen[bytes]:
    """Start it in a group of its own, which can be ended whole."""
    return subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
    """Wait for a command, or end its group when this is interrupted; exit code and account."""
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage


def _environment() -> dict[str, str]:
    """Ours, without the settings of an ontpush that is in use here."""
    ours = {**os.environ, "LC_ALL": "C", "ONTPUSH_CONFIG": ""}
    # A host keeps what Python has compiled.
    ours.pop("PYTHONDONTWRITEBYTECODE", None)
    return ours


def _fail(command: Sequence[str], code: int, said: bytes) -> None:
    last = said.decode(errors="replace").strip().splitlines()[-3:]
    raise BenchError(f"exit code {code} of {shlex.join(command)}: {' / '.join(last)}")
