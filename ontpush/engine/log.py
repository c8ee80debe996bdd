"""The log: one line per run and event, safe under logrotate because each line opens the file."""

import os
import time
from typing import Callable, Optional

from ontpush.engine.mark import date_text
from ontpush.facts.names import from_argument, shown
from ontpush.facts.trouble import BadConfiguration
from ontpush.facts.words import ONLY_WITH_VERBOSE


class EventLog:
    """Writes events to the file at `path`, if there is one, and tells `listen` of each."""

    def __init__(self, path: Optional[str], verbose: bool, listen: Callable[[str], None]) -> None:
        self._path = path
        self._verbose = verbose
        self._listen = listen
        if path:
            self._append(b"")

    def event(self, word: str, run: bytes, details: str = "") -> None:
        """Log that `word` happened to `run` (a path relative to the source)."""
        if word in ONLY_WITH_VERBOSE and not self._verbose:
            return
        line = " ".join(part for part in (word, shown(run), details) if part)
        line = " ".join(line.split("\n"))
        self._listen(line)
        if self._path:
            text = f"{date_text(time.time())} {line}\n"
            self._append(text.encode("utf-8", "backslashreplace"))

    def _append(self, line: bytes) -> None:
        path = self._path or ""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BadConfiguration(
                f"the log {shown(from_argument(path))} cannot be written: {error.strerror}"
            ) from error
