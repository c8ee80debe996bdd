"""Writes what a call has to say; a stream that takes no more does not change what came of it."""

import os
import sys
from typing import Iterable, Optional, TextIO


def ended(exit_code: int, lines: Iterable[str], complaints: Iterable[str]) -> int:
    """Write `lines` to standard output and `complaints` to standard error; the exit code.

    0 becomes 1 where the lines are lost, but not where the reader has closed the pipe: it wanted
    no more.
    """
    complaints = list(complaints)
    lost = write_lines(sys.stdout, lines)
    if lost is not None and not isinstance(lost, BrokenPipeError):
        complaints.append(f"ontpush: the output cannot be written: {lost.strerror}")
        exit_code = exit_code or 1
    untold = write_lines(sys.stderr, complaints)
    for stream, fault in ((sys.stdout, lost), (sys.stderr, untold)):
        if fault is not None:
            _lead_nowhere(stream)
    return exit_code


def write_lines(stream: TextIO, lines: Iterable[str]) -> Optional[OSError]:
    """Write lines whatever the locale, odd characters as escapes; what kept them from going out."""
    try:
        stream.flush()
        for line in lines:
            stream.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")
        stream.flush()
    except OSError as error:
        return error
    return None


def _lead_nowhere(stream: TextIO) -> None:
    """Python itself would fail at its end on what is left in the stream."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
