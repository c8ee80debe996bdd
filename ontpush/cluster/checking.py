"""Has a run verified here and now, by `ontpush verify` in a process of its own."""

import contextlib
import os
import sys
import time
from typing import Dict, Iterable, List, Mapping, NamedTuple

import ontpush
from ontpush.cluster.memory import write_json
from ontpush.engine.children import Child
from ontpush.engine.private import make_private, open_private
from ontpush.engine.transport import environment
from ontpush.facts.names import shown
from ontpush.facts.trouble import Stopped, unwritable

_KEPT_SECONDS = 30 * 86400
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


def in_order(due: Iterable[Check]) -> List[Check]:
    """What has waited longest comes first; what failed, or was broken off, after all others.

    One that takes all the time there is keeps no other from its turn. The second run of an
    instrument comes after the first one of each, and so on.
    """
    by_age = sorted(
        due, key=lambda each: (each.has_failed or os.path.exists(each.unfinished), each.since)
    )
    turn: Dict[str, int] = {}
    turns = []
    for each in by_age:
        turn[each.instrument] = turn.get(each.instrument, 0) + 1
        turns.append((turn[each.instrument], each))
    return [each for _, each in sorted(turns, key=lambda pair: pair[0])]


def verify_here(checker: Checker, check: Check) -> None:
    """Verify one run and leave its verdict; without one, the next tick tries again. Trouble."""
    try:
        _verify_here(checker, check)
    except OSError as error:
        advice = "let this user write there"
        raise unwritable(f"a verdict in {shown(checker.state)}", error, advice) from error


def _verify_here(checker: Checker, check: Check) -> None:
    make_private(os.path.dirname(check.verdict))
    unfinished = check.unfinished
    command = verify_command(checker, check.path)
    descriptor = open_private(unfinished, os.O_WRONLY | os.O_TRUNC)
    with open(descriptor, "wb") as printed:
        with open(os.devnull, "rb") as nothing:
            child = Child(command, nothing, checker.hours * 3600, program_environment())
        with child:
            for piece in child.pieces():
                printed.write(piece)
            code = child.wait()
    if child.timed_out:
        why = f"it took longer than {checker.hours:g} hours: raise verify_hours"
        write_json(check.verdict, {"data": {}, "errors": [{"message": why}]})
    elif code < 0:
        why = f"its process was ended by signal {-code}: is there memory enough?"
        error = {"code": Stopped.code, "message": why}
        write_json(check.verdict, {"data": {}, "errors": [error]})
    else:
        with contextlib.suppress(FileNotFoundError):  # another tick does not wait for it any more
            os.replace(unfinished, check.verdict)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)
