"""The log: one line per run and event, safe under logrotate because each line opens the file."""

import os
import time
from typing import Callable, Optional

from ontpush.engine.mark import date_text
from ontpush.facts.names import from_argument, shown
from ontpush.facts.trouble import BadConfiguration, Trouble
from ontpush.facts.words import ONLY_WITH_VERBOSE


class EventLog:
    """Writes events to the file at `path`, if there is one, and tells `listen` of each."""

    def __init__(self, path: Optional[str], verbose: bool, listen: Callable[[str], None]) -> None:
        self._path = path
        self._verbose = verbose
        self._listen = listen
        self.trouble: Optional[Trouble] = None
        if path:
            try:
                self._append(path, b"")
            except OSError as error:
                raise BadConfiguration(self._told(error)) from error

    def event(self, word: str, run: bytes, details: str = "") -> None:
        """Log that `word` happened to `run` (a path relative to the source)."""
        if word in ONLY_WITH_VERBOSE and not self._verbose:
            return
        line = " ".join(part for part in (word, shown(run), details) if part)
        line = " ".join(line.split("\n"))
        self._listen(line)
        if self._path and not self.trouble:
            text = f"{date_text(time.time())} {line}\n"
            try:
                self._append(self._path, text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                # The runs matter more than the log: go on, and tell at the end.
                self.trouble = Trouble(self._told(error))

    def _told(self, error: OSError) -> str:
        return (
            f"the log {shown(from_argument(self._path or ''))} cannot be written: {error.strerror}"
        )

    @staticmethod
    def _append(path: str, line: bytes) -> None:
        # A pipe that nobody reads must not hold a tick up.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        descriptor = os.open(from_argument(path), flags, 0o644)
        try:
            if line:
                os.write(descriptor, line)
        finally:
            os.close(descriptor)
