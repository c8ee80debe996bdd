"""Keeps the work from disturbing the sequencing: niceness and disk class, for children too."""

import os
import subprocess
from typing import Callable

_CLASSES = {"idle": "3", "best-effort": "2"}


def be_courteous(nice: int, disk_class: str, complain: Callable[[str], None]) -> None:
    """Take niceness `nice`, if that is nicer than now, and a disk class, unless that is `none`.

    Where the host knows no disk classes, `complain` is told and the work goes on.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    if disk_class not in _CLASSES:
        return
    try:
        ended = subprocess.run(
            ["ionice", "-c", _CLASSES[disk_class], "-p", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        complain(f"no disk class {disk_class}: {error}")
        return
    if ended.returncode:
        complain(f"no disk class {disk_class}: {ended.stderr.decode(errors='replace').strip()}")
