"""What the steps of a tick share: the tick's own settings, and the run in hand."""

from typing import NamedTuple, Set

from ontpush.engine.hashing import Hashing
from ontpush.engine.ledger import Ledger
from ontpush.engine.log import EventLog
from ontpush.engine.look import Rules
from ontpush.engine.progress import Progress
from ontpush.engine.transport import Transport


class Tick(NamedTuple):
    """One call of `ontpush push`. Paths are absolute, times in seconds.

    `claimed` are the numbers of the runs whose places it has claimed, or found claimed.
    """

    source: bytes
    transport: Transport
    ledger: Ledger
    outbox: bytes
    rules: Rules
    hashing: Hashing
    stall_seconds: float
    instrument: str
    log: EventLog
    progress: Progress
    claimed: Set[int]


class RunInHand(NamedTuple):
    """A run: its number in the ledger, its absolute path, and that relative to the source."""

    id: int
    path: bytes
    relative: bytes
