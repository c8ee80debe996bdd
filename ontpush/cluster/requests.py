"""Asks an instrument to send again what was found wrong here, though it cannot read here.

A request and a rung bell are files that are not empty. The instrument sends empty ones over them
at the end of its ticks, and learns in doing so what lay there: see `engine/asked`.
"""

import os
import time
from typing import Iterator, List

from ontpush.cluster.arrivals import is_as_found
from ontpush.cluster.fleet import Instrument
from ontpush.cluster.inside import is_filled_inside, make_inside, remove_inside, write_inside
from ontpush.cluster.memory import CORRUPT, UNVOUCHED, Remembered, Standing
from ontpush.cluster.verdict import can_be_sent_again, was_sent_in_vain
from ontpush.engine.asked import request_name
from ontpush.engine.heartbeat import bell_of
from ontpush.engine.mark import date_text
from ontpush.facts.names import for_json, from_json, shown
from ontpush.facts.words import HEARTBEAT_DIRECTORY, REQUEST_DIRECTORY


def is_asked_for(instrument: Instrument, standing: Standing) -> bool:
    """Whether the instrument is to send again by itself what is wrong here."""
    is_unvouched = standing.verdict == UNVOUCHED and bool(standing.error)
    is_wrong = standing.verdict == CORRUPT or is_unvouched
    is_sent = not instrument.pulled and can_be_sent_again(standing)
    return is_wrong and is_sent and not was_sent_in_vain(standing)


def request_again(instrument: Instrument, before: Remembered, now: Remembered) -> List[bytes]:
    """Ask for every run that is wrong here, and ring; those that are asked for anew. OSError.

    Requests for runs that are wrong no longer, marked anew or gone are removed. To be called at
    every tick: what the instrument silenced without heeding is asked again.
    """
    wrong = list(_wrong(instrument, now))
    wanted = [run for run in wrong if _is_as_found(instrument, now, run)]
    for run in {*wrong, *_wrong(instrument, before)}.difference(wanted):
        remove_inside(instrument.base, REQUEST_DIRECTORY, request_name(run))
    new = [run for run in wanted if _write_request(instrument, run)]
    if wanted and instrument.heartbeat:
        # After the requests: whoever hears it finds them.
        _ring(instrument.base, os.path.basename(bell_of(instrument.heartbeat)))
    return new


def _wrong(instrument: Instrument, remembered: Remembered) -> Iterator[bytes]:
    for run, standing in remembered.runs.items():
        if is_asked_for(instrument, standing):
            yield from_json(run)


def _is_as_found(instrument: Instrument, now: Remembered, run: bytes) -> bool:
    """Whether the mark is the one under which the run was found wrong, as far as one knows."""
    standing = now.runs[for_json(run)]
    try:
        return is_as_found(instrument.base, run, standing)
    except OSError:
        return True


def _write_request(instrument: Instrument, run: bytes) -> bool:
    """Write a request unless there is one; whether there was none."""
    name = request_name(run)
    if is_filled_inside(instrument.base, REQUEST_DIRECTORY, name):
        return False
    make_inside(instrument.base, REQUEST_DIRECTORY)
    lines = [shown(run).encode() + b"\n", _date()]
    write_inside(instrument.base, REQUEST_DIRECTORY, name, lines)
    return True


def _ring(base: bytes, bell: bytes) -> None:
    if not is_filled_inside(base, HEARTBEAT_DIRECTORY, bell):
        write_inside(base, HEARTBEAT_DIRECTORY, bell, [_date()])


def _date() -> bytes:
    return date_text(time.time()).encode() + b"\n"
