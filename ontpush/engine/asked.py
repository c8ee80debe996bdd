"""Hears which done runs the cluster asks for again, through a key that can only write.

A request is a file there that is not empty. An empty one is sent over each that may be there:
rsync tells which took the place of another, and that silences the request.
"""

from typing import List

from ontpush.engine.deliver import exchange
from ontpush.engine.ledger import RunRecord
from ontpush.engine.mark import take_back
from ontpush.engine.sums import new_md5
from ontpush.engine.tick import Tick
from ontpush.facts.names import below
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import LOG_REOPEN, REQUEST_DIRECTORY, SENDING


def request_name(run: bytes) -> bytes:
    """What a request for the run at this path, relative to the destination, is called."""
    name: str = new_md5(run).hexdigest()
    return name.encode()


def wake_asked(tick: Tick, rested: List[RunRecord]) -> None:
    """Let the next tick read and compare again those runs that the cluster asks for. Trouble.

    Silenced first: whoever is killed in between is asked once more, because the cluster asks for
    as long as it finds the run as it is.
    """
    requests = {
        REQUEST_DIRECTORY + b"/" + request_name(below(record.path, tick.source)): record
        for record in rested
    }
    files = dict.fromkeys(requests, b"")
    replaced = exchange(tick.transport, tick.outbox, files, only_over_another=True).replaced
    asked = [record for name, record in requests.items() if name in replaced]
    with tick.ledger.writing():
        for record in asked:
            tick.ledger.update_run(record.id, state=SENDING, error=None, looked_at=0)
            tick.ledger.doubt_sums(record.id)
    for record in asked:
        run = below(record.path, tick.source)
        tick.log.event(LOG_REOPEN, run, "the cluster asks for it to be compared again")
        try:
            # At once: the good copy is here, and must not look done to whoever frees space.
            take_back(record.path, record.destination)
        except RunFailed as error:
            error.run = run
            raise
