"""The kinds of trouble, each with its exit code: errors are part of the interface.

A message is one line that says what happened, to which run or file, and what to do.
"""

from typing import List, Optional


class Trouble(Exception):
    """Something a person has to know; `code` is the stable word that scripts key on."""

    exit_code = 1
    code = "run-failed"

    def __init__(self, message: str, run: Optional[bytes] = None) -> None:
        super().__init__(message)
        self.message = message
        self.run = run


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


class TryLater(Trouble):
    """A passing fault, or another tick at work: the next tick will do."""

    exit_code = 75
    code = "temporary"


class LedgerDamaged(TryLater):
    """The database of sums cannot be read; it has been set aside to be made anew."""


class BadConfiguration(Trouble):
    """The configuration, or what it leads to on this host, is wrong; one fault a line."""

    exit_code = 78
    code = "configuration"

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults: List[str] = list(faults)


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came in: stop the children, leave everything consistent."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number
