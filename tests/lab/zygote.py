"""Calls of the program without the start of Python, which costs more than most calls do.

    PYTHON tests/lab/zygote.py FD

A process of the host's Python that has imported the program once, and forks for each call that it
is told of on its socket. `Zygote` is its other end. A call may be told to crash: then it lives at
clocks that stand still, the host's and its disk's, and is killed before some step; see `crashing`.
Where a call starts the program in a process of its own, that is forked, too.

Runs on Python 3.6 and needs nothing but the standard library.
"""

import array
import ctypes
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
if __name__ == "__main__":
    sys.path[0] = CHECKOUT

from tests.lab.crashing import Blow, arm, live_at  # noqa: E402

_LONGEST_CALL = 1 << 20  # bytes
_PATIENCE = 120.0  # seconds


class Ended(NamedTuple):
    """A call that has ended: its exit code and what it printed."""

    code: int
    out: bytes
    err: bytes


class Crash(NamedTuple):
    """The step before which a call is killed, and its clocks, in seconds since the epoch.

    0 is for no step, None for clocks that are right.
    """

    clock: Optional[float]
    disk: float
    step: int
    orphans: bool


class Zygote:
    """The forking process on `python` in this environment, ended with the block."""

    def __init__(self, python: str, environment: Dict[str, str]) -> None:
        self.python = python
        self._calling = threading.Lock()
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [python, os.path.join(HERE, "zygote.py"), str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        there.close()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    @property
    def is_busy(self) -> bool:
        """Whether a call is at work: there is one at a time."""
        return self._calling.locked()

    def call(
        self,
        words: List[bytes],
        environment: Optional[Dict[str, str]] = None,
        directory: str = "/",
        customize: str = "",
        crash: Optional[Crash] = None,
    ) -> Ended:
        """One call, until all have ended that hold its output or are calls that it made itself.

        With `crash`, until anything has ended that it started.

        `customize` is what would stand in sitecustomize.py.
        """
        told = {
            "words": [os.fsdecode(word) for word in words],
            "environment": environment,
            "directory": directory,
            "customize": customize,
            "crash": crash,
        }
        pipes = [os.pipe() for _ in range(3)]
        files = array.array("i", [writing for _, writing in pipes])
        with self._calling:
            try:
                self._socket.sendmsg(
                    [json.dumps(told).encode("utf-8", "surrogatepass")],
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)],
                )
            finally:
                for number in files:
                    os.close(number)
            self._socket.settimeout(_PATIENCE)
            pid = int(self._socket.recv(100))
            try:
                out, err, _ = _read_to_the_end([reading for reading, _ in pipes])
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                raise
            finally:
                code = int(self._socket.recv(100))
        return Ended(code, out, err)


def _read_to_the_end(pipes: List[int]) -> List[bytes]:
    """What comes through each, read side by side until nobody can write any more."""
    deadline = time.monotonic() + _PATIENCE
    read = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        try:
            while selector.get_map():
                if time.monotonic() > deadline:
                    raise RuntimeError("a call of the program does not end")
                for key, _ in selector.select(1):
                    part = os.read(key.fd, 1 << 16)
                    read[key.fd] += part
                    if not part:
                        selector.unregister(key.fd)
        finally:
            for pipe in pipes:
                os.close(pipe)
    return list(read.values())


def main() -> None:
    """Fork for each call, until the other end is closed."""
    from ontpush.__main__ import main as program

    _load_all()
    # The end of a thread loads it: a fork in the midst of that has half of it, and crashes.
    ctypes.CDLL("libgcc_s.so.1")
    calls = socket.socket(fileno=int(sys.argv[1]))
    while True:
        files = array.array("i")
        said, extra, _, _ = calls.recvmsg(_LONGEST_CALL, socket.CMSG_SPACE(3 * files.itemsize))
        if not said:
            calls.close()
            return
        files.frombytes(extra[0][2])
        pid = os.fork()
        if pid == 0:
            calls.close()
            _perform(json.loads(said.decode("utf-8", "surrogatepass")), list(files), program)
        for number in files:
            os.close(number)
        calls.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        calls.send(str(code).encode())


def _load_all() -> None:
    """Import all modules of the program, but those of its libraries that a host may not have."""
    import ontpush

    for module in pkgutil.walk_packages(ontpush.__path__, "ontpush."):
        importlib.import_module(module.name)


def _perform(call: Dict[str, Any], files: List[int], program: Any) -> None:
    """Be the call."""
    out, errors, held = files
    os.dup2(out, 1)
    os.dup2(errors, 2)
    os.close(out)
    os.close(errors)
    os.chdir(call["directory"])
    if call["environment"] is not None:
        _be_called_with(call["environment"])
    exec(call["customize"], {})  # noqa: S102 - as Python does with sitecustomize.py
    if call["crash"] is None:
        _fork_instead(program, None, held)
        _end_with(program, call["words"])
    crash = Crash(*call["crash"])
    os.set_inheritable(held, True)
    if crash.clock is not None:
        live_at(crash.clock, crash.disk)
    blow = arm(crash.step, Blow.ORPHANS if crash.orphans else Blow.ALL, held)
    _fork_instead(program, blow, held)
    _end_with(program, call["words"])


def _be_called_with(environment: Dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _end_with(program: Any, words: List[str]) -> None:
    try:
        code = program(words)
    except BaseException:  # noqa: BLE001 - as Python itself would
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: to take an interpreter apart costs more than what most calls do.
    os._exit(code)


def _fork_instead(program: Any, blow: Optional[Blow], held: int) -> None:
    """Where the program starts itself, fork: the child never comes to start another Python.

    It has `held` open as long as it lives.
    """
    really_start = subprocess.Popen.__init__
    itself = [os.fsencode(word) for word in (sys.executable, "-m", "ontpush")]

    def start(child: Any, command: Any, *args: Any, **kwargs: Any) -> None:
        words = [os.fsencode(word) for word in command]
        if words[:3] == itself:
            environment = kwargs["env"]

            def be_it() -> None:
                highest = os.sysconf("SC_OPEN_MAX")
                os.closerange(3, held)
                os.closerange(held + 1, min(highest, 4096))
                if blow:
                    blow.disarm()
                _be_called_with(environment)
                _let_interrupts_in()
                _end_with(program, [os.fsdecode(word) for word in words[3:]])

            kwargs["preexec_fn"] = be_it
        really_start(child, command, *args, **kwargs)

    patched = subprocess.Popen  # type: Any
    patched.__init__ = start


def _let_interrupts_in() -> None:
    """As in a process of its own: the one that forked was just starting a child."""
    from ontpush.engine import children

    children._Signals.held = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main()
