"""The log: one line per run and event, safe under logrotate because each line opens the file."""

import fcntl
import os
import stat
import time
from typing import Callable, Optional, Union

from ontpush.engine.mark import date_text
from ontpush.engine.private import open_log
from ontpush.facts.names import from_argument, shown
from ontpush.facts.trouble import BadConfiguration, Trouble
from ontpush.facts.words import LOG_WARN, ONLY_WITH_VERBOSE

_LARGEST = 16 << 20


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
            except (OSError, BadConfiguration) as error:
                # The runs matter more than the log: go on, and tell at the end.
                self.trouble = Trouble(self._told(error))

    def rotate(self) -> None:
        """Give a log that has grown large the name with `.1`; what had that name goes.

        For a user whose logrotate knows nothing of the log. Of several processes one does it.
        """
        path = from_argument(self._path or "")
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(path, flags)
        except OSError:  # there is none, or a link or pipe that somebody else looks after
            return
        try:
            if _is_to_go(descriptor, path):
                os.replace(path, path + b".1")
        except OSError as error:
            self.event(LOG_WARN, b"", f"the log is large and cannot be renamed: {error.strerror}")
        finally:
            os.close(descriptor)

    def _told(self, error: Union[OSError, BadConfiguration]) -> str:
        if isinstance(error, BadConfiguration):
            return error.message
        where = shown(from_argument(self._path or ""))
        return f"the log {where} cannot be written: {error.strerror}"

    @staticmethod
    def _append(path: str, line: bytes) -> None:
        # A pipe that nobody reads must not hold a tick up.
        descriptor = open_log(from_argument(path), os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
        try:
            if line:
                os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _is_to_go(descriptor: int, path: bytes) -> bool:
    """Whether the log is a large file, which no other process gives another name. OSError."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size < _LARGEST:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Another one may have done so since it was opened.
    return os.path.samestat(found, os.stat(path))
