"""Notes which runs are gone from this host: somebody made room, or renamed a directory.

Where all are gone at once it is more likely that a disk is: then nothing is noted. One that is no
run any more is gone too: it lies in a run now, or runs lie in it. All that happens before any run
is visited, so that one that comes back is looked at as for the first time.
"""

import os
import socket
import time
from typing import Callable, Iterable, List, NamedTuple, Set

from ontpush.engine.find import Complain, Found, find_runs
from ontpush.engine.ledger import Ledger, RunRecord
from ontpush.facts.names import shown
from ontpush.facts.trouble import BadConfiguration, RunFailed, SourceLost
from ontpush.facts.words import HEARTBEAT_DIRECTORY


class Searched(NamedTuple):
    """The runs below a source; paths of those that are new to the ledger, and those now gone."""

    founds: List[Found]
    new: Set[bytes]
    gone: List[RunRecord]


def search_noting_gone(
    ledger: Ledger, source: bytes, complain: Complain, no_run: Callable[[Found], None]
) -> Searched:
    """Find every run below the source, and note those of the ledger that are not there any more.

    What is told to `complain` and `no_run` is said in `find_runs`. SourceLost.
    """
    unread: List[RunFailed] = []

    def cannot_read(error: RunFailed) -> None:
        unread.append(error)
        complain(error)

    founds = list(find_runs(source, cannot_read, no_run))
    check_source(ledger, source)
    paths = {found.path for found in founds}
    known = ledger.runs(source)
    unseen = [record for record in known if record.path not in paths]
    gone = note_gone(ledger, unseen, paths, sure=not unread)
    return Searched(founds, paths - {record.path for record in known}, gone)


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


def note_gone(
    ledger: Ledger, unseen: Iterable[RunRecord], found: Set[bytes], sure: bool
) -> List[RunRecord]:
    """Of the runs that a search did not find, those that are gone.

    `found` are the paths of the runs that it did find. `sure` is a search that could read every
    directory: the disk need not be asked again.
    """
    around = {path for run in found for path in directories_above(run)}
    gone = [
        record
        for record in unseen
        if sure
        or record.path in around
        or found.intersection(directories_above(record.path))
        or _is_gone(record.path)
    ]
    if gone:
        with ledger.writing():
            for record in gone:
                ledger.update_run(record.id, gone_at=int(time.time()))
            ledger.drop_long_gone(time.time())
    return gone


def note_gone_elsewhere(ledger: Ledger, source: bytes) -> None:
    """Of the runs that are not below `source`, those that are gone with or from their own source.

    No tick looks for them any more, but where another source shares the state. One whose source is
    empty may lie on a disk that is not mounted.
    """
    runs = ledger.runs_elsewhere(source)
    away = {place for place in {run.source for run in runs} if place and _is_empty(place)}
    note_gone(ledger, (run for run in runs if run.source not in away), set(), sure=False)


def _is_gone(path: bytes) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # nobody knows
        return False
    return False


def _is_empty(directory: bytes) -> bool:
    try:
        return not os.listdir(directory)
    except OSError:
        return False


def require_own_state(ledger: Ledger, state_dir: bytes) -> None:
    """BadConfiguration where the state is that of another host: its paths mean nothing here."""
    here = socket.gethostname()
    owner = ledger.host(here)
    if owner != here:
        raise BadConfiguration(
            "{}: is the state of {}, and this is {}: name another with --state-dir or `state_dir`,"
            " as where two hosts share a home; if this host was renamed, remove {}".format(
                *map(shown, (state_dir, owner.encode(), here.encode())),
                shown(os.path.join(state_dir, b"ledger.sqlite3")),
            )
        )


def directories_above(path: bytes) -> List[bytes]:
    """Every directory above a path, its parent last; of a relative one but the place it is in."""
    return [path[:place] for place, byte in enumerate(path) if byte == ord("/") and place]
