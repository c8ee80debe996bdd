"""How far the run in hand has come: told to the terminal, and to `ontpush status` by a file."""

import json
import os
import threading
import time
from typing import Callable, NamedTuple, Optional

from ontpush.engine.lock import is_held, step_forward
from ontpush.facts.names import for_json
from ontpush.facts.regular import open_regular

_FILE = b"now.json"
_FILE_SECONDS = 2.0


class InHand(NamedTuple):
    """What is being done to which run. Sizes in bytes, times in seconds since the epoch."""

    run: str
    doing: str
    files: int
    files_total: int
    bytes: int
    bytes_total: int
    since: float

    def rate(self, now: float) -> float:
        """Bytes a second since it began."""
        return self.bytes / max(now - self.since, 0.001)

    def time_left(self, now: float) -> Optional[float]:
        """Seconds until the end at that rate; None while there is no telling."""
        rate = self.rate(now)
        return (self.bytes_total - self.bytes) / rate if rate and now - self.since > 1 else None


class Progress:
    """Counts as the work goes on; safe to call from any thread.

    Without a state directory there is no file for `ontpush status`.
    """

    def __init__(
        self, state_dir: Optional[bytes], show: Callable[[Optional[InHand]], None]
    ) -> None:
        self._path = None if state_dir is None else os.path.join(state_dir, _FILE)
        self._show = show
        self._lock = threading.Lock()
        self._now: Optional[InHand] = None
        self._written_at = 0.0

    def begin(self, run: bytes, doing: str, files: int, size: int) -> None:
        """Work on `run` begins, over so many files and bytes."""
        with self._lock:
            self._now = InHand(for_json(run), doing, 0, files, 0, size, time.time())
            self._tell()

    def advance(self, files: int, size: int) -> None:
        """So many more files and bytes are done."""
        with self._lock:
            if self._now:
                now = self._now
                self._now = now._replace(files=now.files + files, bytes=now.bytes + size)
                self._tell()

    def end(self) -> None:
        """Nothing is in hand any more."""
        with self._lock:
            self._now = None
            self._show(None)
            if self._path and self._written_at:
                self._written_at = 0.0
                os.unlink(self._path)

    def _tell(self) -> None:
        self._show(self._now)
        due = time.monotonic() - self._written_at > _FILE_SECONDS
        if self._path and self._now and due:
            with open(self._path + b".new", "w") as file:
                json.dump(self._now._asdict(), file)
            os.replace(self._path + b".new", self._path)
            step_forward()
            self._written_at = time.monotonic()


def in_hand(state_dir: bytes) -> Optional[InHand]:
    """What a tick of this state directory is doing at this moment, if one is at work."""
    try:
        with open_regular(os.path.join(state_dir, _FILE)) as file:
            facts = json.loads(file.read().decode())
    except (OSError, ValueError):
        return None
    is_ours = (
        isinstance(facts, dict)
        and {key: type(value) for key, value in facts.items()} == InHand.__annotations__
    )
    # A tick that was killed has left the file there.
    return InHand(**facts) if is_ours and is_held(state_dir) else None
