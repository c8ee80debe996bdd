"""Fetches from a sequencer by the system's rsync: roll-ups, the files they list, a fresh look.

The same calls as a push, in the other direction: the key there can read and nothing else.
"""

import os
from typing import Dict, Iterable, List, Optional, Set, Tuple

from ontpush.engine.complaints import why_not
from ontpush.engine.send import Call, Sending
from ontpush.engine.transport import Transport
from ontpush.facts.minknow import DATA_KINDS, SERVICE_DIRECTORIES
from ontpush.facts.names import from_rsync
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import HEARTBEAT_DIRECTORY, ROLLUP, SKIP_MARK


class RollupsFetched(Call):
    """Brings every roll-up and skip mark below the source into `stage`, and drops what is gone.

    And the heartbeat that the hashing over there left.

    Data folders and MinKNOW's own are passed over: no file of reads is looked at over there.
    """

    def __init__(self, transport: Transport, stage: bytes) -> None:
        flags = ["-r", "-m", "--delete", *_rollup_filters()]
        super().__init__(transport, stage, None, flags)


def _rollup_filters() -> List[str]:
    heartbeats = os.fsdecode(HEARTBEAT_DIRECTORY)
    names = [f"/{os.fsdecode(name)}/" for name in sorted(SERVICE_DIRECTORIES)] + ["tmp/", ".*/"]
    for kind in DATA_KINDS:
        names.append(f"{kind}/")
        for part in ("pass", "fail", "skip"):
            names += [f"{kind}_{part}/", f"{kind}_{part}[!A-Za-z]*/"]
    kept = [os.fsdecode(ROLLUP), os.fsdecode(SKIP_MARK)]
    return [
        f"--include=/{heartbeats}/",
        f"--include=/{heartbeats}/*.json",
        *(f"--exclude={name}" for name in names),
        "--include=*/",
        *(f"--include={name}" for name in kept),
        "--exclude=*",
    ]


def fetch_rollups(transport: Transport, stage: bytes) -> Optional[str]:
    """Make `stage` hold the roll-ups that are there now; what kept some away. Trouble."""
    os.makedirs(stage, exist_ok=True)
    with RollupsFetched(transport, stage) as call:
        complete, complaints = call.finish()
    return None if complete else why_not(complaints)


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
    """Names every file of one run over there, and whether size and time are as here."""

    def __init__(self, transport: Transport, base: bytes, run: bytes) -> None:
        self.same: Set[bytes] = set()
        self.different: Set[bytes] = set()
        self._prefix = run + b"/"
        super().__init__(transport, base, [run + b"/"], ["-r", "-n"])

    def on_line(self, item: bytes, _size: int, name: bytes) -> None:
        """Keep the path in the run."""
        path = from_rsync(name)
        if item[1:2] == b"f" and path.startswith(self._prefix):
            (self.same if item[:1] == b"." else self.different).add(path[len(self._prefix) :])


def fresh_look(transport: Transport, base: bytes, run: bytes) -> FreshLook:
    """Look at the run over there. RunFailed where not everything could be seen."""
    with FreshLook(transport, base, run) as call:
        complete, complaints = call.finish()
    if not complete:
        raise RunFailed(f"cannot be looked at: {why_not(complaints)}", run)
    return call


def staged_runs(stage: bytes) -> Dict[bytes, bytes]:
    """The path of every staged roll-up, by the path of its run below the source."""
    found: Dict[bytes, bytes] = {}
    for directory, directories, names in os.walk(stage):
        if ROLLUP in names and directory != stage:
            found[os.path.relpath(directory, stage)] = os.path.join(directory, ROLLUP)
            directories.clear()  # nothing in a run is a run
    return dict(sorted(found.items()))
