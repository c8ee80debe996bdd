"""A disk that is soon full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

PAGE: Final = 4096


class SmallDisk:
    """A file system of a few megabytes that only what runs `within` sees; no root needed.

    It lies over `place`; others, as this test, see it as `path`.
    """

    def __init__(self, place: Path, size: str) -> None:
        self._mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "small", str(place)]
        self._holder = subprocess.Popen(
            ["unshare", "-rm", "sh", "-c", '"$@" && echo mounted && exec cat', "sh", *self._mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"
        pid = self._holder.pid
        self.path = Path(f"/proc/{pid}/root{place}")
        self.within = ["nsenter", "-t", str(pid), "-U", "-m", "--preserve-credentials"]

    def end(self) -> None:
        """Let it go."""
        self._holder.communicate()

    def fill(self, pages_left: int = 0) -> Path:
        """Leave no space, or so many pages of 4 KiB; the file that takes it.

        Filled to the brim first: what a disk says is free need not be, nor all that it says.
        """
        filler = self.path / ".filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * PAGE)
        os.truncate(filler, filler.stat().st_size // PAGE * PAGE - pages_left * PAGE)
        return filler
