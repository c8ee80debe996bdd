"""What somebody here wants verified again: a file each in the monitor's state directory.

Whoever asks needs no lock: the next look takes it up, and removes it when that is written down.
"""

import os
from typing import Collection, Dict

from ontpush.cluster.arrivals import vouched
from ontpush.cluster.fleet import instruments
from ontpush.cluster.memory import Memory, read_json, write_json
from ontpush.engine.sums import new_md5
from ontpush.facts.names import below, for_json, from_json


def can_be_wanted(root: bytes, pulled: Collection[str], memory: Memory, run: bytes) -> bool:
    """Whether the monitor can verify the run at this real path: it knows it, or a mark vouches.

    OSError where that cannot be told.
    """
    for instrument in instruments(root, pulled):
        base = os.path.realpath(instrument.base)
        if run.startswith(base + b"/"):
            relative = below(run, base)
            is_known = for_json(relative) in memory.load(instrument.name).runs
            if is_known or vouched(base, relative):
                return True
    return False


def want(state: bytes, run: bytes) -> None:
    """Ask for the run at this absolute path. TryLater."""
    name = new_md5(run).hexdigest().encode() + b".json"
    write_json(os.path.join(state, b"wanted", name), {"run": for_json(run)})


def wanted(state: bytes) -> Dict[bytes, bytes]:
    """What is wanted: the absolute path of each run, and the file that says so. OSError."""
    directory = os.path.join(state, b"wanted")
    names = os.listdir(directory) if os.path.isdir(directory) else []
    paths = [os.path.join(directory, name) for name in names if name.endswith(b".json")]
    told = [(read_json(path).get("run"), path) for path in paths]
    return {from_json(run): path for run, path in told if isinstance(run, str)}
