"""Rebuilds what the ledger should know of a run from what lies in the run itself.

The roll-up there tells what the destination may list. A done mark that vouches for it, and
fits the files, tells that all of it lies at the destination: nothing is hashed again.
"""

import itertools
import os
from typing import Dict, Optional

from ontpush.engine.ledger import Totals
from ontpush.engine.mark import date_of, md5_of_rollup, read_mark, vouches
from ontpush.engine.publish import withdraw_everything
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.words import LOG_WARN, ROLLUP


def recover_listed(tick: Tick, run: RunInHand) -> Optional[str]:
    """For a run new to the ledger: take up its roll-up. Its MD5 if a mark vouches for it.

    To be followed by a full look, and `believe_mark` where this returned an MD5. Trouble.
    """
    mark, rollup = read_mark(run.path), md5_of_rollup(run.path)
    destination = tick.transport.destination.text
    if vouches(mark, rollup, run.relative, destination):
        return rollup if _adopt(tick, run) else None
    if mark and mark.get("destination") == destination:
        # The mark stands for another roll-up or run, and that may be the one at the destination.
        withdraw_everything(tick, run)
    else:
        _adopt(tick, run)
    return None


def believe_mark(tick: Tick, run: RunInHand) -> bool:
    """After a full look: whether all that is in the run is what its mark vouches for.

    Files that are newer than the mark, or that its roll-up does not list, stay to be sent. If
    the mark's counts do not fit the rest, something was put in a file's place: nothing is
    believed and all sums are taken again.
    """
    mark = read_mark(run.path) or {}
    date = date_of(mark)
    tick.ledger.believe_listed(run.id, int((date or 0) * 10**9))
    totals = tick.ledger.totals(run.id)
    if totals.unsent == 0 and not _fits(mark, totals):
        tick.ledger.disbelieve_listed(run.id)
        return False
    return totals.unsent == 0


def _fits(mark: Dict[str, str], totals: Totals) -> bool:
    return (mark.get("files"), mark.get("bytes")) == (str(totals.files), str(totals.bytes))


def _adopt(tick: Tick, run: RunInHand) -> bool:
    """Take up the run's roll-up as what the destination may list; False if it cannot be read."""
    lines = (listed for listed in read_rollup(run.path + b"/" + ROLLUP) if _is_inside(listed))
    try:
        with tick.ledger.writing():
            for path, names in itertools.groupby(lines, key=_directory_of):
                directory = tick.ledger.directory(run.id, path)
                tick.ledger.adopt(directory, ((each.path[len(path) :], each.md5) for each in names))
    except FileNotFoundError:
        return False
    except (OSError, BadLine) as error:
        tick.log.event(LOG_WARN, run.relative, f"md5sum cannot be used: {error}")
        return False
    return True


def _directory_of(listed: Listed) -> bytes:
    return listed.path[: listed.path.rfind(b"/") + 1]


def _is_inside(listed: Listed) -> bool:
    parts = listed.path.split(b"/")
    return not os.path.isabs(listed.path) and b".." not in parts and b"" not in parts
