"""Claims the place of each run at its destination: two sequencers that send to one are told.

A claim is a small file there with the name of the instrument. The key can only write; so ours is
offered, and rsync tells whether another lies there. Then the place is contested, and that is what
its claim says from then on: neither of the two has it until a person decides, and none has to
remember it.
"""

import contextlib
import os
import time
from typing import Dict, List, NamedTuple, Set

from ontpush.engine.complaints import why_not
from ontpush.engine.deliver import exchange
from ontpush.engine.ledger import RunRecord
from ontpush.engine.mark import mark_lines, take_back
from ontpush.engine.send import Swapped
from ontpush.engine.sums import new_md5
from ontpush.engine.tick import Tick
from ontpush.facts.names import below, shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed, run_failed
from ontpush.facts.words import DONE_MARK, FAILED, OWNERS_DIRECTORY, SKIP_MARK, VOUCHING_MARKS

_DAY = 86400
_CONTESTED = b"contested\n"
# What the ledger says of a claim.
ANOTHERS = ""


class _Place(NamedTuple):
    """A run, and where its claim lies at the destination."""

    record: RunRecord
    name: bytes


def claim_of(instrument: str) -> bytes:
    """What the claims of an instrument say."""
    return f"instrument: {instrument}\n".encode("utf-8", "backslashreplace")


def refuse_contested(tick: Tick, record: RunRecord) -> None:
    """RunFailed where another sequencer sends to the place of this run, as far as we heard."""
    if record.claim == ANOTHERS and _is_known(tick, record):
        raise _contested(tick, record)


def claim_place(tick: Tick, record: RunRecord) -> RunRecord:
    """Before anything of the run is sent: claim its place, unless another sequencer has. Trouble.

    Those of all other runs that need it too are claimed in the same calls. RunFailed if it is
    another's. As the ledger has the run then.
    """
    if record.id not in tick.claimed:
        others = tick.ledger.runs(tick.source)
        needy = [each for each in others if each.id != record.id and _needs_claim(tick, each)]
        _claim(tick, [_place(tick, each) for each in (record, *needy)])
    record = tick.ledger.run(record.path) or record
    refuse_contested(tick, record)
    return record


def give_way(tick: Tick, another_was_heard: bool) -> Dict[bytes, RunFailed]:
    """Hear at the end of a tick whose places others have claimed meanwhile. Trouble.

    Those runs fail, and are called done neither here nor there. Asked where another instrument
    `was_heard` at this destination, and once a day: whoever is killed may have missed it. Why each
    failed, by its path.
    """
    now = int(time.time())
    is_due = tick.ledger.claims_are_due(tick.source, now - _DAY, now)
    if not (is_due or another_was_heard):
        return {}
    runs = tick.ledger.runs(tick.source)
    places = [_place(tick, each) for each in runs if each.claim and _is_known(tick, each)]
    lost = _others(tick, places)
    kept = [place for place in places if place not in lost]
    renamed = [place for place in kept if place.record.claim != tick.instrument]
    _write(tick, {place.name: claim_of(tick.instrument) for place in renamed})
    _retract_marks(tick, lost)
    _note_contested(tick, lost)
    with tick.ledger.writing():
        for place in kept if is_due else renamed:
            tick.ledger.update_run(place.record.id, claim=tick.instrument, claim_seen_at=now)
    return {place.record.path: _contested(tick, place.record) for place in lost}


def _is_known(tick: Tick, record: RunRecord) -> bool:
    """Whether what the ledger has of the run is about this destination."""
    return record.destination == tick.transport.destination.text


def _needs_claim(tick: Tick, record: RunRecord) -> bool:
    is_claimed = record.claim is not None and _is_known(tick, record)
    return not is_claimed and not os.path.lexists(os.path.join(record.path, SKIP_MARK))


def _place(tick: Tick, record: RunRecord) -> _Place:
    digest: str = new_md5(below(record.path, tick.source)).hexdigest()
    return _Place(record, OWNERS_DIRECTORY + b"/" + digest.encode())


def _contested(tick: Tick, record: RunRecord) -> RunFailed:
    run = below(record.path, tick.source)
    return RunFailed(
        f"another sequencer sends a run to the same place, {shown(run)} at"
        f" {tick.transport.destination.text}: rename one of the two or give each a directory of its"
        " own, then `ontpush retry RUN`",
        run,
    )


def _claim(tick: Tick, places: List[_Place]) -> None:
    """Claim places of which nobody knows whose they are. A tick may be killed at any instant."""
    # By `ontpush retry`: a person has decided.
    taken_back = [each for each in places if _is_known(tick, each.record)]
    others = _others(tick, [each for each in places if each not in taken_back])
    ours = [each for each in places if each not in others]
    claims = {each.name: claim_of(tick.instrument) for each in ours}
    claims.update((each.name, _CONTESTED) for each in others)
    replaced = _write(tick, claims)
    # Two that are new there at the same moment.
    late = [
        each
        for each in ours
        if each.name in replaced
        and each not in taken_back
        and each.record.claim in (None, ANOTHERS, tick.instrument)
    ]
    _write(tick, {each.name: _CONTESTED for each in late})
    _note_contested(tick, others + late)
    now = int(time.time())
    with tick.ledger.writing():
        for each in ours:
            if each not in late:
                tick.ledger.update_run(each.record.id, claim=tick.instrument, claim_seen_at=now)
    tick.claimed.update(each.record.id for each in places)


def _others(tick: Tick, places: List[_Place]) -> List[_Place]:
    """Those of the places that others have claimed; those that nobody has are not among them."""
    others = _unlike(tick, {each: each.record.claim or tick.instrument for each in places})
    old = [each for each in others if each.record.claim not in (None, ANOTHERS, tick.instrument)]
    # This instrument had another name: a tick that was killed may have renewed the claim.
    still = _unlike(tick, dict.fromkeys(old, tick.instrument))
    return [each for each in others if each not in old or each in still]


def _unlike(tick: Tick, places: Dict[_Place, str]) -> List[_Place]:
    """Those of the places that are claimed under another name than the one given for each."""
    files = {each.name: claim_of(name) for each, name in places.items()}
    there = _compare(tick, files).replaced
    return [each for each in places if each.name in there]


def _compare(tick: Tick, files: Dict[bytes, bytes]) -> Swapped:
    """What of these files lies there at all, and what of it is other, as `replaced`."""
    return exchange(tick.transport, tick.outbox, files, only_over_another=True, pretended=True)


def _write(tick: Tick, files: Dict[bytes, bytes]) -> Set[bytes]:
    """Send claims: those that took the place of another. RunFailed where one did not arrive."""
    sent = exchange(tick.transport, tick.outbox, files)
    if not sent.arrived.issuperset(files):
        raise RunFailed(f"its place cannot be claimed: {why_not([])}")
    return sent.replaced


def _note_contested(tick: Tick, places: List[_Place]) -> None:
    """Nobody may take such a run for done here, whoever frees space least of all. RunFailed."""
    destination = tick.transport.destination.text
    for each in places:
        try:
            take_back(each.record.path, destination)
        except OSError as error:
            raise run_failed(error, below(each.record.path, tick.source)) from error
    if not places:
        return
    with tick.ledger.writing():
        for each in places:
            why = _contested(tick, each.record).message
            tick.ledger.update_run(
                each.record.id,
                state=FAILED,
                error=why,
                destination=destination,
                claim=ANOTHERS,
                done_at=None,
            )


def _retract_marks(tick: Tick, places: List[_Place]) -> None:
    """Let no mark of ours vouch for these runs at the destination; another's mark stays."""
    marks = {}
    for each in places:
        with contextlib.suppress(OSError), open_regular(
            each.record.path + b"/" + DONE_MARK
        ) as file:
            marks[below(each.record.path, tick.source) + b"/" + DONE_MARK] = file.read()
    found = _compare(tick, marks)
    why = {"retracted": "another sequencer sends a run to the same place"}
    retracted = b"".join(mark_lines(time.time(), why))
    files = {
        os.path.join(os.path.dirname(mark), name): retracted
        for mark in found.arrived - found.replaced
        for name in VOUCHING_MARKS
    }
    exchange(tick.transport, tick.outbox, files, only_over_another=True)
