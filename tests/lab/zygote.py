"""Calls of the program without the start of Python, which costs more than most calls do.

    PYTHON tests/lab/zygote.py FD

A process of the host's Python that has imported the program once, and forks for each call that it
is told of on its socket. `Zygote` is its other end. What a call may be told besides its words:
clocks that stand still, the host's and its disk's, and the step before which it is killed; see
`crashing`. Where the program calls itself in a process of its own, it forks once more.

Runs on Python 3.6 and needs nothing but the standard library.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, NamedTuple

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


class Zygote:
    """The forking process on `python`, ended with the block."""

    def __init__(self, python: str) -> None:
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [python, os.path.join(HERE, "zygote.py"), str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            env=dict(os.environ, PYTHONWARNINGS="error", PYTHONPATH=CHECKOUT),
        )
        there.close()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def call(
        self,
        words: List[bytes],
        clock: float,
        disk: float,
        step: int = 0,
        orphans: bool = False,
    ) -> Ended:
        """One call, until the last of its processes has ended."""
        told = {
            "words": [os.fsdecode(word) for word in words],
            "clock": clock,
            "disk": disk,
            "step": step,
            "orphans": orphans,
        }
        reading, writing = os.pipe()
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as out:
            files = array.array("i", [out.fileno(), errors.fileno(), writing])
            self._socket.sendmsg(
                [json.dumps(told).encode("utf-8", "surrogatepass")],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)],
            )
            os.close(writing)
            self._socket.settimeout(_PATIENCE)
            code = int(self._socket.recv(100))
            os.read(reading, 1)  # the end of it: nobody holds the other end any more
            os.close(reading)
            out.seek(0)
            errors.seek(0)
            return Ended(code, out.read(), errors.read())


def main() -> None:
    """Fork for each call, until the other end is closed."""
    import ontpush.command_line  # noqa: F401
    from ontpush.__main__ import main as program

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
        _, status = os.waitpid(pid, 0)
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        calls.send(str(code).encode())


def _perform(call: Dict[str, Any], files: List[int], program: Any) -> None:
    """Be the call."""
    out, errors, held = files
    os.dup2(out, 1)
    os.dup2(errors, 2)
    for number in (out, errors):
        os.close(number)
    os.set_inheritable(held, True)
    live_at(call["clock"], call["disk"])
    blow = arm(call["step"], Blow.ORPHANS if call["orphans"] else Blow.ALL, held)
    _fork_instead(program, blow, held)
    _end_with(program, call["words"])


def _end_with(program: Any, words: List[str]) -> None:
    try:
        code = program(words)
    except BaseException:  # noqa: BLE001 - as Python itself would
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _fork_instead(program: Any, blow: Blow, held: int) -> None:
    """Where the program starts itself, fork: the child never comes to start another Python."""
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
                blow.disarm()
                os.environ.clear()
                os.environ.update(environment)
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
