"""Has runs verified here and now, each by `ontpush verify` in a process of its own."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections import Counter
from typing import (
    IO,
    Any,
    Callable,
    Collection,
    Dict,
    Generator,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Set,
    Tuple,
)

import ontpush
from ontpush.cluster.memory import write_json
from ontpush.engine.children import Child
from ontpush.engine.private import make_private, open_private
from ontpush.engine.transport import environment
from ontpush.facts.names import shown
from ontpush.facts.trouble import Stopped, unwritable

_KEPT_SECONDS = 30 * 86400
_AT_ONCE = 2
_OUTPUT_KEPT_SECONDS = 400 * 86400


class Check(NamedTuple):
    """A verification to be done: of which run, and where its verdict goes.

    `since` is when it was due, in seconds since the epoch; `has_failed` whether the last one did.
    """

    instrument: str
    run: str
    path: bytes
    verdict: bytes
    since: int
    has_failed: bool

    @property
    def unfinished(self) -> bytes:
        """What is printed while it goes on; there also after a tick that was killed."""
        return self.verdict + b".new"


class Checker(NamedTuple):
    """How verifications are called. `settings` is the configuration file they read."""

    state: bytes
    settings: bytes
    hours: float


def make_checker(state: bytes, settings: Mapping[str, object]) -> Checker:
    """Write down what a verification has to know. TryLater."""
    path = os.path.join(state, b"verify.json")
    kept = {key: settings[key] for key in ("jobs", "nice", "ionice", "exclude")}
    write_json(path, dict(kept, state_dir=os.path.join(os.fsdecode(state), "verify")))
    hours = settings["verify_hours"]
    return Checker(state, path, float(hours) if isinstance(hours, (int, float)) else 24.0)


def clear_away(state: bytes) -> None:
    """Remove what verifications left that nobody waits for, and what hooks printed long ago.

    That a hook was started is remembered for ever: `limits.MOST_HOOKS` files an instrument and day.
    """
    _remove_old(os.path.join(state, b"checks"), b"", _KEPT_SECONDS)
    _remove_old(os.path.join(state, b"hooks"), b".out", _OUTPUT_KEPT_SECONDS)


def _remove_old(directory: bytes, suffix: bytes, seconds: float) -> None:
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(directory)):
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if entry.name.endswith(suffix) and age > seconds:
                os.unlink(entry.path)


def verify_command(checker: Checker, run: bytes) -> List[bytes]:
    """The call that verifies the run at `run` and prints the verdict."""
    python = os.fsencode(sys.executable)
    how = [b"--json", b"--untrusted", b"--config", checker.settings]
    return [python, b"-m", b"ontpush", b"verify", *how, run]


def program_environment() -> Mapping[str, str]:
    """Ours, with which another Python finds this very program."""
    where = os.path.dirname(os.path.dirname(os.path.abspath(ontpush.__file__)))
    paths = [where, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(environment(), PYTHONPATH=os.pathsep.join(paths))


class _Reading(NamedTuple):
    """A verification at work, and the file into which it prints its verdict."""

    check: Check
    child: Child
    printed: IO[bytes]


def verify_side_by_side(
    checker: Checker, due: Callable[[], Iterable[Check]], seconds: float
) -> Generator[None, None, None]:
    """Verify runs and leave their verdicts; comes back when one has ended, or after `seconds`.

    `due` tells what is to be verified by now; a run is verified once.
    A few at a time, and one of each instrument: one that takes long holds up no other. Without a
    verdict the next tick tries again. To be closed at the end: what is at work is ended then.
    Trouble.
    """
    begun: Set[bytes] = set()
    left: Set[bytes] = set()
    turns: Dict[str, int] = Counter()
    at_work: Dict[str, _Reading] = {}
    ended: Any = queue.Queue()
    try:
        with contextlib.suppress(FileNotFoundError):
            left.update(os.listdir(os.path.join(checker.state, b"checks")))
        while True:
            waiting = [check for check in due() if check.path not in begun]
            if not waiting and not at_work:
                break
            for check in _next(waiting, at_work, turns, left):
                begun.add(check.path)
                turns[check.instrument] += 1
                at_work[check.instrument] = _begin(checker, check)
                arguments = (at_work[check.instrument], ended)
                threading.Thread(target=_take_down, args=arguments, daemon=True).start()
            with contextlib.suppress(queue.Empty):
                instrument, trouble = ended.get(timeout=seconds)
                if trouble:
                    raise trouble
                _end(checker, at_work.pop(instrument))
            yield
    except OSError as error:
        advice = "let this user write there"
        raise unwritable(f"a verdict in {shown(checker.state)}", error, advice) from error
    finally:
        for reading in at_work.values():
            _close(reading)


def _next(
    waiting: Iterable[Check], at_work: Collection[str], turns: Mapping[str, int], left: Set[bytes]
) -> List[Check]:
    """The runs that may begin: one of each instrument, and first of those that had fewer turns.

    Of an instrument that has waited longest; what failed, or was broken off and so is `left`, after
    all its others: one that takes all the time there is keeps no other from its turn.
    """

    def age(check: Check) -> Tuple[bool, int, str]:
        has_failed = check.has_failed or os.path.basename(check.unfinished) in left
        return has_failed, check.since, check.run

    first: Dict[str, Check] = {}
    for check in sorted(waiting, key=age):
        if check.instrument not in at_work:
            first.setdefault(check.instrument, check)
    by_turns = sorted(first.values(), key=lambda check: turns[check.instrument])
    return by_turns[: _AT_ONCE - len(at_work)]


def _begin(checker: Checker, check: Check) -> _Reading:
    make_private(os.path.dirname(check.verdict))
    printed = open(open_private(check.unfinished, os.O_WRONLY | os.O_TRUNC), "wb")  # noqa: SIM115
    with open(os.devnull, "rb") as nothing:
        command = verify_command(checker, check.path)
        child = Child(command, nothing, checker.hours * 3600, program_environment())
    reading = _Reading(check, child, printed)
    child.__enter__()
    return reading


def _take_down(reading: _Reading, ended: Any) -> None:
    trouble = None
    try:
        for piece in reading.child.pieces():
            reading.printed.write(piece)
    except OSError as error:
        trouble = error
    except ValueError:  # closed, since the tick ends
        pass
    ended.put((reading.check.instrument, trouble))


def _close(reading: _Reading) -> None:
    reading.child.end()
    reading.printed.close()


def _end(checker: Checker, reading: _Reading) -> None:
    check, child = reading.check, reading.child
    code = child.wait()
    _close(reading)
    if child.timed_out:
        why = f"it took longer than {checker.hours:g} hours: raise verify_hours"
        write_json(check.verdict, {"data": {}, "errors": [{"message": why}]})
    elif code < 0:
        why = f"its process was ended by signal {-code}: is there memory enough?"
        error = {"code": Stopped.code, "message": why}
        write_json(check.verdict, {"data": {}, "errors": [error]})
    else:
        with contextlib.suppress(FileNotFoundError):  # another tick does not wait for it any more
            os.replace(check.unfinished, check.verdict)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(check.unfinished)
