"""Fetches from a sequencer by the system's rsync: its heartbeat, roll-ups, the files they list.

The same calls as a push, in the other direction: the key there can read and nothing else.
"""

import contextlib
import os
from typing import Dict, FrozenSet, Iterable, List, Optional, Set, Tuple

from ontpush.cluster.fleet import heartbeats_in
from ontpush.cluster.heartbeats import BadHeartbeat, Heartbeat, read_heartbeat
from ontpush.cluster.listing import DIFFERENT, LINK, SAME, Saw
from ontpush.engine.complaints import has_vanished, is_of_rsync, why_not
from ontpush.engine.send import Call, Sending
from ontpush.engine.transport import Transport
from ontpush.facts import limits
from ontpush.facts.directories import walk
from ontpush.facts.names import from_rsync, human_size, shown
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import HEARTBEAT_DIRECTORY, ROLLUP

_PAGE = 1000


def fetch_heartbeat(transport: Transport, stage: bytes) -> Heartbeat:
    """What the last `ontpush hash --all` over there left, kept below `stage`. Trouble."""
    place = os.fsdecode(HEARTBEAT_DIRECTORY)
    flags = ["-r", "--delete", f"--include=/{place}/", f"--include=/{place}/*.json", "--exclude=*"]
    flags.append(f"--max-size={limits.LARGEST_HEARTBEAT}")
    with _Heartbeats(transport, stage, None, flags) as call:
        complete, complaints = call.finish()
    if not complete:
        raise RunFailed(f"its heartbeat there cannot be fetched: {why_not(complaints)}")
    found = heartbeats_in(stage)
    if not found:
        raise RunFailed(
            f"there is no heartbeat there of less than {human_size(limits.LARGEST_HEARTBEAT)}:"
            " `ontpush hash --all` has not run yet"
        )
    try:
        # One that was given another name left its old heartbeat behind.
        return read_heartbeat(max(found)[1])
    except BadHeartbeat as error:
        raise RunFailed(
            f"its heartbeat there cannot be read: {error}; the next `ontpush hash --all` writes it"
            " anew"
        ) from error


class _Heartbeats(Call):
    """Fetches heartbeats, and is ended where there are too many."""

    count = 0

    def on_line(self, _item: bytes, _size: int, _name: bytes) -> None:
        """Count it. RunFailed."""
        self.count += 1
        if self.count > limits.MOST_HEARTBEATS:
            raise RunFailed(
                f"more than {limits.MOST_HEARTBEATS:,} heartbeats lie there: remove those of other"
                " names"
            )


class _Rollups(Sending):
    """Fetches roll-ups, and is ended where they would fill the disk here."""

    staged = 0

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Count also what lies here as it is there. RunFailed."""
        super().on_line(item, size, name)
        self.staged += size
        if self.staged > limits.MOST_STAGED:
            raise RunFailed(f"its roll-ups are more than {human_size(limits.MOST_STAGED)}")


def fetch_rollups(
    transport: Transport, stage: bytes, runs: FrozenSet[bytes]
) -> Tuple[Dict[bytes, bytes], Optional[str]]:
    """The path of each roll-up that came, by its run; what kept others away. Trouble.

    One that is not there is nothing to complain of: its run has just gone, or has no sums yet.
    """
    names = sorted(run + b"/" + ROLLUP for run in runs)
    # What is larger is left out without a word.
    flags = [f"--max-size={limits.LARGEST_ROLLUP}"]
    with _Rollups(transport, stage, names, own_flags=flags) as call:
        _, complaints = call.finish()
    came = {run for run in runs if run + b"/" + ROLLUP in call.arrived}
    worse = list(filter(is_of_rsync, complaints))
    if len(runs - came) > sum(map(has_vanished, complaints)):
        worse += complaints or [f"it is more than {human_size(limits.LARGEST_ROLLUP)}"]
    rollups = {run: os.path.join(stage, run, ROLLUP) for run in sorted(came)}
    # rsync, which is there already, writes below longer paths than one can ask for.
    there = {run: path for run, path in rollups.items() if os.path.lexists(path)}
    beyond = sorted(rollups.keys() - there.keys())
    worse += (f"the path of {shown(run)} is too long here" for run in beyond)
    return there, next(iter(worse), None)


def fetch_young_anew(stage: bytes, rollups: Iterable[bytes]) -> None:
    """Have the next tick fetch what may be written once more and look the same to rsync. OSError.

    That is what is no older, by the second, than the heartbeat that `hash` leaves at its end.
    """
    left_at = max(int(os.stat(path).st_mtime) for _, path in heartbeats_in(stage))
    for path in rollups:
        if os.stat(path).st_mtime >= left_at:
            os.unlink(path)


def clear_stage(stage: bytes, runs: FrozenSet[bytes]) -> None:
    """Remove the roll-ups of runs that are no more. OSError."""
    stage = os.path.realpath(stage)
    kept = {os.path.join(stage, run, ROLLUP) for run in runs}
    # What is passed over has a path that is too long here: see `fetch_rollups`.
    found = list(walk(stage))
    for directory, names in found:
        if directory != os.path.join(stage, HEARTBEAT_DIRECTORY):
            for path in {os.path.join(directory, name) for name in names} - kept:
                os.unlink(path)
    for directory, _ in reversed(found[1:]):
        with contextlib.suppress(OSError):  # there is something in it
            os.rmdir(directory)


def fetch_files(
    transport: Transport, base: bytes, names: Iterable[bytes], anew: bool
) -> Tuple[Sending, List[str]]:
    """Fetch files by their paths below the source; `anew` also those that look the same here.

    Returns the call, which has counted, and what rsync complained of. Trouble of the whole call.
    """
    with Sending(transport, base, names, own_flags=["--ignore-times"] * anew) as call:
        _, complaints = call.finish()
    return call, complaints


class FreshLook(Call):
    """Tells `saw` of files and links of one run over there, and how each looks beside ours.

    Of those at `paths` in the run; where that is None, of all.
    """

    def __init__(
        self,
        transport: Transport,
        base: bytes,
        run: bytes,
        saw: Saw,
        paths: Optional[Iterable[bytes]] = None,
    ) -> None:
        self._page: List[Tuple[bytes, int]] = []
        self._saw = saw
        self._prefix = run + b"/"
        names = [run + b"/"] if paths is None else [self._prefix + path for path in paths]
        super().__init__(transport, base, names, ["-r", "-l", "-n"])

    def on_line(self, item: bytes, _size: int, name: bytes) -> None:
        """Keep the path in the run."""
        path = from_rsync(name)
        if path.startswith(self._prefix):
            kind = SAME if item[:1] == b"." else DIFFERENT
            if item[1:2] == b"L":
                kind = LINK
            self._page.append((path[len(self._prefix) :], kind))
            if len(self._page) == _PAGE:
                self.hand_over()

    def hand_over(self) -> None:
        """Tell of what is left to tell."""
        self._saw(self._page)
        self._page = []


def fresh_look(transport: Transport, base: bytes, run: bytes, saw: Saw) -> None:
    """Look at the run over there. RunFailed where not everything could be seen."""
    with FreshLook(transport, base, run, saw) as call:
        complete, complaints = call.finish()
        call.hand_over()
    if not complete:
        raise RunFailed(f"cannot be looked at: {why_not(complaints)}", run)


def look_the_same(
    transport: Transport, base: bytes, run: bytes, paths: Iterable[bytes]
) -> Set[bytes]:
    """Those of the `paths` in the run that have the same size and time at both ends. Trouble."""
    same: Set[bytes] = set()

    def saw(seen: Iterable[Tuple[bytes, int]]) -> None:
        same.update(path for path, kind in seen if kind == SAME)

    with FreshLook(transport, base, run, saw, paths) as call:
        complete, complaints = call.finish()
        call.hand_over()
    if not complete:
        raise RunFailed(f"cannot be looked at: {why_not(complaints)}", run)
    return same
