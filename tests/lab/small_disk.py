"""A disk that is soon full."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path


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

    def fill(self) -> Path:
        """Leave no space; the file that takes it."""
        filler = self.path / ".filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        return filler
