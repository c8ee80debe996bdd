"""What somebody here wants verified again: a file each in the monitor's state directory.

Whoever asks needs no lock: the next look takes it up, and removes it when that is written down.
"""

import os
from typing import Dict

from ontpush.cluster.memory import read_json, write_json
from ontpush.engine.sums import new_md5
from ontpush.facts.names import for_json


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
    return {
        run.encode("utf-8", "surrogateescape"): path for run, path in told if isinstance(run, str)
    }
