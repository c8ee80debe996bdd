"""What a tick of the monitor shares, and what one look of it saw."""

from typing import Dict, List, NamedTuple, Optional, Tuple

from ontpush.cluster.checking import Check, Checker
from ontpush.cluster.conditions import Limits
from ontpush.cluster.hooks import Hook, Hooks
from ontpush.cluster.memory import Memory
from ontpush.cluster.messages import View
from ontpush.cluster.slurm import Slurm, Wishes
from ontpush.cluster.tell import Notifier
from ontpush.engine.log import EventLog
from ontpush.facts.trouble import Trouble

_BETWEEN = 3600.0


class Watch(NamedTuple):
    """What all looks of a tick share. Paths are absolute, times in seconds.

    `pulled` are the instruments that are fetched from; `slurm` says how Slurm verifies, if it does.
    """

    root: bytes
    pulled: Tuple[str, ...]
    memory: Memory
    limits: Limits
    remind_seconds: float
    notifiers: List[Notifier]
    hooks: Hooks
    checker: Checker
    slurm: Optional[Wishes]
    log: EventLog

    @property
    def patience(self) -> Dict[bytes, float]:
        """For how many seconds each lock of long work may be held without a step forward.

        A step is a verification, or some commands at a time, and what is done in between.
        """
        longest = {b"work.lock": self.checker.hours * 3600, b"hooks.lock": self.hooks.limit}
        return {name: seconds + _BETWEEN for name, seconds in longest.items()}


class Settled(NamedTuple):
    """A run whose verification has ended, as `rsync.verified` or a condition says it."""

    instrument: str
    run: str
    verdict: str
    rollup: str
    files: int
    bytes: int
    bad: List[str]


class Sight(NamedTuple):
    """What a look saw: verifications that ended, what is still to be done, and every trouble."""

    views: Dict[str, View]
    settled: List[Settled]
    due: List[Check]
    hooks: List[Hook]
    slurm: Optional[Slurm]
    troubles: List[Trouble]
