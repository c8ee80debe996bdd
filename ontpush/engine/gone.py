"""Notes which runs are gone from this host: somebody made room, or renamed a directory.

Where all are gone at once it is more likely that a disk is: then nothing is noted.
"""

import os
import time
from typing import Iterable, List

from ontpush.engine.ledger import Ledger, RunRecord
from ontpush.facts.names import shown
from ontpush.facts.trouble import SourceLost
from ontpush.facts.words import HEARTBEAT_DIRECTORY


def check_source(ledger: Ledger, source: bytes) -> None:
    """SourceLost where the source is gone, or empty as a disk leaves it that is not mounted."""
    try:
        names = os.listdir(source)
    except OSError as error:
        raise SourceLost(
            f"{shown(source)}: the source cannot be read any more: {error.strerror};"
            " is its disk mounted?"
        ) from error
    # Our own directory is no sign of a disk.
    known = [] if set(names) - {HEARTBEAT_DIRECTORY} else ledger.runs(source)
    if known:
        raise SourceLost(
            "{}: is empty, and {} there; is its disk mounted? If all are gone for good, remove"
            " {}".format(
                shown(source),
                "a run was" if len(known) == 1 else f"{len(known):,} runs were",
                shown(ledger.path),
            )
        )


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
