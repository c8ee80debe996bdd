"""Child processes: each with a time limit, in a group of its own that is ended whole."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from typing import IO, Any, Iterator, List, Mapping, NoReturn, Optional, Union

from ontpush.engine.lock import step_forward
from ontpush.facts.limits import LARGEST_ANSWER, LONGEST_LINE, MOST_SAID
from ontpush.facts.names import human_size, shown
from ontpush.facts.trouble import Interrupted, RunFailed

_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.02
_PIECE = 64 << 10


class _Signals:
    """Whether an interrupt is to wait because a child is just being started."""

    held = False
    waiting: Optional[int] = None


def catch_signals() -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into Interrupted, so that everything is left in order."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    if _Signals.held:
        _Signals.waiting = number
    else:
        _stop(number)


def _ignore(*_: object) -> None:
    """Unlike SIG_IGN, also good for a signal that has come but not yet been handled."""


def _stop(number: int) -> NoReturn:
    # A second signal must not break off the cleaning up after the first.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _ignore)
    raise Interrupted(number)


class _Said:
    """What comes out of a pipe, read by a thread of its own: the beginning and the end of it.

    Whoever is at its other end may print without end.
    """

    def __init__(self, pipe: int) -> None:
        self.is_whole = True
        self._pipe = pipe
        self._first = self._last = b""
        self._has_ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for piece in iter(lambda: os.read(self._pipe, _PIECE), b""):
            room = MOST_SAID - len(self._first)
            self._first += piece[:room]
            last = self._last + piece[room:]
            self._last = last[-MOST_SAID:]
            self.is_whole = self.is_whole and last == self._last
        os.close(self._pipe)
        self._has_ended.set()

    def text(self) -> bytes:
        """All that was kept once the program has ended."""
        # What it left behind may hold the pipe for ever. Not Thread.join: see `Call`.
        self._has_ended.wait(_GRACE_SECONDS)
        return self._first + b"\n" * (not self.is_whole) + self._last


class Child:
    """A running program whose standard output is read as it comes; of what it says, a part is kept.

    Ends the whole group when `limit` seconds are over, and at the end of the with block,
    which must begin at once: until then interrupts wait, so that no child is ever forgotten.
    """

    def __init__(
        self,
        command: List[bytes],
        stdin: IO[bytes],
        limit: float,
        environment: Union[Mapping[str, str], Mapping[bytes, bytes]],
    ) -> None:
        self._name = command[0]
        _Signals.held = True
        try:
            reader, writer = os.pipe()
            try:
                self._said = _Said(reader)
                self._process: Any = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=writer,
                    env=environment,
                    start_new_session=True,
                )
            finally:
                os.close(writer)
        except BaseException:
            _Signals.held = False
            raise
        self.timed_out = False
        self._told_to_end = False
        # Held while the group is signalled, and while the leader is reaped.
        self._reaping = threading.Lock()
        self._timer = threading.Timer(limit, self._time_is_up)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> "Child":
        try:
            _Signals.held = False
            if _Signals.waiting is not None:
                _stop(_Signals.waiting)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def lines(self) -> Iterator[bytes]:
        """Each line of standard output as it comes, without its newline. RunFailed."""
        for line in iter(lambda: self._process.stdout.readline(LONGEST_LINE), b""):
            if len(line) == LONGEST_LINE:
                raise RunFailed(
                    f"{shown(self._name)} prints a line of more than {human_size(LONGEST_LINE)}:"
                    " see which program is called by that name here"
                )
            yield line.rstrip(b"\n")

    def pieces(self) -> Iterator[bytes]:
        """Standard output in pieces, as it comes."""
        return iter(lambda: bytes(self._process.stdout.read1(_PIECE)), b"")

    def answer(self) -> Optional[bytes]:
        """All of standard output; None where that is too much to be held in memory."""
        kept: List[bytes] = []
        size = 0
        for piece in self.pieces():
            size += len(piece)
            kept.append(piece)
            if size > LARGEST_ANSWER:  # the rest is read so that it can end
                kept.clear()
        return b"".join(kept) if size <= LARGEST_ANSWER else None

    def said(self) -> bytes:
        """What it said on standard error, once it has ended: the beginning and the end."""
        return self._said.text()

    def said_all(self) -> bool:
        """Whether `said` leaves nothing out."""
        return self._said.is_whole

    def wait(self) -> int:
        """The exit code, negative for a signal. What is left of the group is not ended by it."""
        code = self._exit_code(os.WEXITED)
        self._timer.cancel()
        return code or 0

    def _exit_code(self, how: int) -> Optional[int]:
        """The leader's exit code once it has ended, which leaves it a zombie until `end`.

        As long as it is one its number, by which the group is signalled, is nobody else's.
        """
        if self._process.returncode is not None:
            return int(self._process.returncode)
        ended = os.waitid(os.P_PID, self._process.pid, how | os.WNOWAIT)
        if ended is None:
            return None
        return int(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)

    def _time_is_up(self) -> None:
        with self._reaping:
            # It may have ended long ago, and nobody has waited for it yet.
            self.timed_out = self._exit_code(os.WEXITED | os.WNOHANG) is None
        self._tell_to_end()
        threading.Timer(_GRACE_SECONDS, self._signal_group, [signal.SIGKILL]).start()

    def end(self) -> None:
        """End whatever of the group still runs, also when its leader has gone, and wait for it."""
        self._timer.cancel()
        until = time.monotonic() + _GRACE_SECONDS
        self._tell_to_end()
        while self._runs() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        self._signal_group(signal.SIGKILL)
        with self._reaping:
            self._process.wait()
        self._process.stdout.close()
        step_forward()

    def _runs(self) -> bool:
        leader = self._process.pid
        return self._exit_code(os.WEXITED | os.WNOHANG) is None or _has_others(leader)

    def _tell_to_end(self) -> None:
        """Once: told again, rsync may leave out what it was about to clean up."""
        if not self._told_to_end:
            self._told_to_end = True
            self._signal_group(signal.SIGTERM)

    def _signal_group(self, number: int) -> None:
        with self._reaping:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)


def _has_others(group: int) -> bool:
    """Whether a process of the group runs that is not its leader."""
    for number in map(int, filter(str.isdigit, os.listdir("/proc"))):
        # Asked of every process of this host: to open its files takes ten times as long.
        with contextlib.suppress(OSError):
            if number != group and os.getpgid(number) == group and _is_alive(number):
                return True
    return False


def _is_alive(number: int) -> bool:
    """Whether a process has not ended yet; an error where there is none."""
    with open(f"/proc/{number}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
