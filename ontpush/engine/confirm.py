"""Compares a whole run with what lies at the destination, by content, before it is done."""

from typing import List

from ontpush.engine.carry import slices, unheard_sums
from ontpush.engine.complaints import why_not
from ontpush.engine.ledger import Totals
from ontpush.engine.send import Comparing
from ontpush.engine.skipped import heed_skip
from ontpush.engine.tick import RunInHand, Tick
from ontpush.facts.names import shown
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import ROLLUP


def confirm(tick: Tick, run: RunInHand, totals: Totals) -> List[bytes]:
    """The paths in the run, sorted, that differ at the destination; the roll-up may be one.

    Goes through the same write-only key as the files did. RunFailed where rsync could not
    compare a file, or a flag made it leave something out. Skipped between two calls of rsync.
    """
    different: List[bytes] = []
    prefix = run.relative + b"/"
    also = [prefix + ROLLUP]
    tick.progress.begin(run.relative, "verifying", totals.files, totals.bytes)
    for files in slices(tick.ledger.all_files, run.id):
        heed_skip(run.path)
        names = [prefix + file.path for file in files] + also
        also = []
        with Comparing(
            tick.transport, tick.source, names, tick.progress.advance, unheard_sums(files)
        ) as comparing:
            complete, complaints = comparing.finish()
        if not complete:
            raise RunFailed(f"cannot be verified: {why_not(complaints)}", run.relative)
        left_out = set(names) - comparing.same - comparing.different
        if left_out:
            first = shown(min(left_out)[len(prefix) :])
            raise RunFailed(f"{first}: cannot be verified: {why_not([])}", run.relative)
        different += [path[len(prefix) :] for path in comparing.different]
    return sorted(different)
