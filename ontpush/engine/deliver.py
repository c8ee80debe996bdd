"""Delivers our own small files - roll-up, done mark, heartbeat - each in a transfer of its own.

They go from an outbox in the state directory, so that a file lies in the run only after it
has arrived: a done mark in a run is never one that the cluster does not have.
"""

import os
import shutil
from typing import Iterable

from ontpush.engine.rollup import write_whole
from ontpush.engine.send import send
from ontpush.engine.transport import Transport


def deliver(
    transport: Transport,
    outbox: bytes,
    name: bytes,
    lines: Iterable[bytes],
    only_over_another: bool = False,
) -> None:
    """Send a file made of `lines` to `name`, relative to the destination. Trouble."""
    path = os.path.join(outbox, name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_whole(path, lines)
        send(transport, outbox, name, only_over_another)
    finally:
        shutil.rmtree(outbox, ignore_errors=True)
