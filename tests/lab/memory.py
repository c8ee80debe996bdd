"""Where temporary files cost least: in memory, where there is room for them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

IN_MEMORY: Final = Path("/dev/shm")


def place_in_memory(room: int) -> Path | None:
    """A directory in memory in which `room` bytes are free; None where there is none."""
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > room:
        return IN_MEMORY
    return None
