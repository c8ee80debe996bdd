"""Notes which runs are gone from this host: somebody made room, or renamed a directory."""

import os
import time
from typing import Iterable, List

from ontpush.engine.ledger import Ledger, RunRecord


def note_gone(ledger: Ledger, unseen: Iterable[RunRecord], sure: bool) -> List[RunRecord]:
    """Of the runs that a search did not find, those whose directories are gone.

    `sure` is a search that could read every directory: it need not be asked again.
    """
    gone = [record for record in unseen if sure or not os.path.lexists(record.path)]
    if gone:
        with ledger.writing():
            for record in gone:
                ledger.update_run(record._replace(gone_at=int(time.time())))
            ledger.drop_long_gone(time.time())
    return gone
