"""Brings the roll-up to the destination, and takes back what it can no longer promise."""

from typing import Iterator

from ontpush.engine.deliver import deliver
from ontpush.engine.rollup import line_for, md5_and_size, write_whole
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.words import ROLLUP


def publish(tick: Tick, run: RunInHand) -> str:
    """Deliver the roll-up of all that lies at the destination; its MD5. Trouble.

    Not yet in the run itself: see `install`.
    """
    with tick.ledger.writing():
        tick.ledger.list_sent(run.id)
    md5, _ = md5_and_size(rollup_lines(tick, run))
    deliver(tick.transport, tick.outbox, run.relative + b"/" + ROLLUP, rollup_lines(tick, run))
    with tick.ledger.writing():
        tick.ledger.unlist_unsent(run.id)
    return md5


def withdraw(tick: Tick, run: RunInHand) -> None:
    """Deliver a roll-up without the files that are about to be sent anew.

    The bytes there never contradict a roll-up beside them, and a done mark that vouched for
    the old roll-up vouches for nothing from here on.
    """
    kept = (line_for(*listed) for listed in tick.ledger.uncontradicted(run.id))
    deliver(tick.transport, tick.outbox, run.relative + b"/" + ROLLUP, kept)
    with tick.ledger.writing():
        tick.ledger.unlist_contradicted(run.id)


def withdraw_everything(tick: Tick, run: RunInHand) -> None:
    """Deliver an empty roll-up over the last one, of which nobody knows what it listed."""
    name = run.relative + b"/" + ROLLUP
    deliver(tick.transport, tick.outbox, name, [], only_over_another=True)
    with tick.ledger.writing():
        tick.ledger.unlist_all(run.id)


def install(tick: Tick, run: RunInHand) -> None:
    """Write the delivered roll-up into the run. OSError."""
    write_whole(run.path + b"/" + ROLLUP, rollup_lines(tick, run))


def rollup_lines(tick: Tick, run: RunInHand) -> Iterator[bytes]:
    """The roll-up of all of the run that lies at the destination."""
    return (line_for(*listed) for listed in tick.ledger.rollup(run.id))
