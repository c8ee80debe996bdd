"""The kinds of trouble, each with its exit code: errors are part of the interface.

A message is one line that says what happened, to which run or file, and what to do.
"""

import errno
import os
from typing import Iterable, List, Optional

from ontpush.facts.names import shown

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# What a file server, or this host, fails to give now and may well give later.
_PASSING = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOLINK,
    errno.EREMOTEIO,
    errno.EPROTO,
    errno.ESHUTDOWN,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
)


class Trouble(Exception):
    """Something a person has to know; `code` is the stable word that scripts key on."""

    exit_code = 1
    code = "run-failed"

    def __init__(self, message: str, run: Optional[bytes] = None) -> None:
        super().__init__(message)
        self.message = message
        self.run = run


def exit_code_of(troubles: Iterable[Trouble]) -> int:
    """0; 1 where only runs failed; else the code of the first trouble that is more."""
    codes = [each.exit_code for each in troubles]
    return next((code for code in codes if code != 1), 1 if codes else 0)


class RunFailed(Trouble):
    """One run could not be brought further; all others go on."""


class FileFailed(RunFailed):
    """A file of a run could not be read or does not arrive; the rest of the run goes on."""

    code = "file-failed"


class WrongCall(Trouble):
    """The command line asks for something that cannot be."""

    exit_code = 64
    code = "usage"


class OutOfReach(Trouble):
    """The destination cannot be used now: nothing of this tick would arrive."""

    exit_code = 69
    code = "unreachable"


class SourceLost(OutOfReach):
    """The source is gone, or empty as a disk leaves it that is not mounted."""


class TryLater(Trouble):
    """A passing fault, or another tick at work: the next tick will do."""

    exit_code = 75
    code = "temporary"


class AtWork(TryLater):
    """Another tick holds the lock, and does what this one would."""

    code = "at-work"


class LedgerDamaged(TryLater):
    """The database of sums cannot be read; it has been set aside to be made anew."""


class BadConfiguration(Trouble):
    """The configuration, or what it leads to on this host, is wrong; one fault a line."""

    exit_code = 78
    code = "configuration"

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: List[str] = list(faults)


class Unexpected(Trouble):
    """A fault that nobody foresaw: the place is for whoever mends it."""

    code = "unexpected"

    def __init__(self, error: BaseException, run: Optional[bytes] = None) -> None:
        what = str(error).replace("\n", " ")
        super().__init__(
            f"unexpected {type(error).__name__}: {what} (in {_place_of(error)}); what ends so marks"
            " nothing done; please report it",
            run,
        )


def _place_of(error: BaseException) -> str:
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return "no place"
    return f"{os.path.basename(step.tb_frame.f_code.co_filename)} line {step.tb_lineno}"


class Stopped(Trouble):
    """The call was ended by a signal."""

    code = "interrupted"

    def __init__(self, exit_code: int) -> None:
        super().__init__("interrupted; the next call goes on from here")
        self.exit_code = exit_code


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came in: stop the children, leave everything consistent."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


def run_failed(error: OSError, run: bytes) -> RunFailed:
    """What the system says of one file of a run, or of the run itself."""
    return RunFailed(f"{place_in(run, error)}: {error.strerror or error}", run)


def place_in(run: bytes, error: OSError) -> str:
    """What an error is about, for a line that names the run: what lies in it from there on."""
    path = os.fsencode(error.filename) if error.filename else b""
    _, is_inside, inside = (path + b"/").partition(b"/" + run.strip(b"/") + b"/")
    return shown(inside[:-1] if is_inside else path) or "the run"


def why_unread(error: OSError) -> str:
    """What keeps a file from being read: it is `missing`, `unreadable` by this user, or `passing`.

    What passes may well be read at the next try.
    """
    if error.errno in _NOT_THERE:
        return "missing"
    return "passing" if error.errno in _PASSING else "unreadable"


def unread(place: str, error: OSError, run: bytes) -> Trouble:
    """Why something of a run could not be read."""
    why = why_unread(error)
    what = f"{place}: {error.strerror or error}"
    if why == "passing":
        return TryLater(f"{why}: {what}; verify it again", run)
    advice = "" if why == "missing" else "; let this user read it"
    return FileFailed(f"{why}: {what}{advice}", run)


def unwritable(place: str, error: OSError, advice: str) -> Trouble:
    """Why a place of our own on this host cannot be used: a full disk passes, the rest does not."""
    what = f"{place} cannot be written: {error.strerror or error}"
    if error.errno in _FULL:
        return TryLater(f"{what}; make room on that disk, the next tick tries again")
    return BadConfiguration(f"{what}; {advice}")


def unwritten(name: bytes, error: OSError, run: bytes) -> RunFailed:
    """Why one of our own files could not be put into a run."""
    advice = "let this user write in the run"
    if error.errno in _FULL:
        advice = "make room on that disk"
    elif error.errno == errno.EISDIR:
        in_the_way = os.path.basename(os.fsencode(error.filename2 or error.filename or name))
        advice = f"a directory is called {shown(in_the_way)}: move it away"
    return RunFailed(f"{shown(name)} cannot be written: {error.strerror}; {advice}", run)
