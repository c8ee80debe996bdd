"""How many hooks each instrument has had started today: one may have so many, and waits then.

A file of its own in the state directory, written before each start. Lost, the day begins anew.
"""

import os
import time
from typing import Dict

from ontpush.cluster.memory import read_json, write_json
from ontpush.facts import limits

_FILE = b"hooks-today.json"
_DAY = 86400


class HooksToday:
    """As of now; to be changed under the lock of the hooks alone."""

    def __init__(self, state: bytes) -> None:
        self._path = os.path.join(state, _FILE)
        self._day = int(time.time()) // _DAY
        facts = read_json(self._path)
        listed = facts.get("started") if facts.get("day") == self._day else None
        pairs = listed.items() if isinstance(listed, dict) else ()
        self._started: Dict[str, int] = {name: each for name, each in pairs if type(each) is int}

    def of(self, instrument: str) -> int:
        """How many were started for an instrument."""
        return self._started.get(instrument, 0)

    def has_had_all(self, instrument: str) -> bool:
        """Whether what else is to follow its runs waits for tomorrow."""
        return self.of(instrument) >= limits.MOST_HOOKS

    def count(self, instrument: str) -> None:
        """Write down that one more is started. TryLater."""
        self._started[instrument] = self.of(instrument) + 1
        write_json(self._path, {"day": self._day, "started": self._started})
