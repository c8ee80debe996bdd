"""Runs that two sequencers send to the same place: nobody can tell whose bytes lie there.

An instrument that was given another name left its old heartbeat behind, which names the same runs.
So only heartbeats count that are seen to be renewed beside each other.
"""

import os
import time
from typing import Dict, Iterable, List, Mapping, Tuple

from ontpush.cluster.arrivals import check_again, take_mark_back
from ontpush.cluster.fleet import Instrument, heartbeats_in
from ontpush.cluster.heartbeats import BadHeartbeat, read_heartbeat
from ontpush.cluster.memory import CONTESTED, GOOD, Memory, Standing, read_json, write_json
from ontpush.facts import limits
from ontpush.facts.names import for_json, from_json, quoted, shortened, shown
from ontpush.facts.words import SKIPPED

_LONGEST_NAME = 60  # characters
# The runs, by their path, each with the names of those who send it.
Contested = Dict[str, Tuple[str, ...]]


def contests(
    fleet: Iterable[Instrument], memory: Memory, silent_seconds: float
) -> Dict[bytes, Contested]:
    """What is contested below each directory that instruments push to. TryLater.

    A heartbeat that was not renewed for `silent_seconds` counts no more. When each was first seen
    beside another is written down: two looks are needed.
    """
    path = os.path.join(memory.directory, b"heartbeats.json")
    known = read_json(path)
    first: Dict[str, int] = {}
    found: Dict[bytes, Contested] = {}
    for base in {each.base for each in fleet if not each.pulled}:
        since = time.time() - silent_seconds
        beats = [each for each in sorted(heartbeats_in(base)) if each[0] / 10**9 > since]
        if len(beats) < 2:
            continue
        first.update((for_json(beat), known.get(for_json(beat), at)) for at, beat in beats)
        renewed = [beat for at, beat in beats if first[for_json(beat)] != at]
        found[base] = _sent_by_several(renewed)
    if first != known:
        write_json(path, first)
    return found


def _sent_by_several(heartbeats: List[bytes]) -> Contested:
    """The runs that more than one of them names: of the newest, as many as may be read."""
    senders: Dict[str, List[str]] = {}
    left = limits.LARGEST_HEARTBEATS
    for path in reversed(heartbeats if len(heartbeats) > 1 else []):
        name = shown(os.path.basename(path)[: -len(b".json")])
        try:
            left -= os.lstat(path).st_size
            told = read_heartbeat(path).runs if left >= 0 else {}
        except (BadHeartbeat, OSError, MemoryError):  # which is told where it is heard
            continue
        for run, facts in told.items():
            if facts.state != SKIPPED:
                senders.setdefault(for_json(run), []).append(name)
    return {run: tuple(sorted(names)) for run, names in senders.items() if len(names) > 1}


def hold(
    instrument: Instrument, runs: Dict[str, Standing], contested: Mapping[str, Tuple[str, ...]]
) -> List[str]:
    """Let us vouch for no run that is contested, nor ask for it; those that are so since now.

    One that is so no longer is verified as it is vouched for then.
    """
    now = int(time.time())
    new = []
    for run, names in contested.items():
        before = runs.get(run)
        if before is None and len(runs) >= limits.MOST_RUNS:
            continue
        standing = before or Standing("", "", CONTESTED, now)
        where = from_json(run)
        one, other = (quoted(shortened(name, _LONGEST_NAME)) for name in names[:2])
        more = f", and {len(names) - 2} more," if len(names) > 2 else ""
        error = f"{one} and {other}{more} send a run to the same place"
        why = take_mark_back(instrument.base, where, standing.rollup)
        error += f"; {why}" if why else ""
        again = standing.again or standing.verdict == GOOD
        if before is None or standing.verdict != CONTESTED:
            new.append(run)
            standing = standing._replace(verdict=CONTESTED, since=now, job="", again=again)
        runs[run] = standing._replace(error=error)
    for run, standing in list(runs.items()):
        if standing.verdict == CONTESTED and run not in contested:
            if standing.rollup:
                runs[run] = check_again(standing, now)._replace(error="", tries=0)
            else:
                del runs[run]
    return new
