"""Directories so deep that a program which goes into them by calling itself is at its end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

DEPTH = 1200
# For a program that may call itself a few times only.
DEEP = 300


@contextlib.contextmanager
def deep_directory(top: Path, depth: int = DEPTH) -> Iterator[int]:
    """Make `top/d/d/d/…`, `depth` times `d`, for a while: the lowest one, as a file descriptor."""
    top.mkdir()
    bottom = os.open(top, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=bottom)
            below = os.open("d", os.O_RDONLY, dir_fd=bottom)
            os.close(bottom)
            bottom = below
        yield bottom
    finally:
        os.close(bottom)
        # Python's own rmtree goes down by calling itself.
        subprocess.run(["rm", "-rf", top], check=True)


@contextlib.contextmanager
def deep_files(in_run: Path, above_run: Path) -> Iterator[list[Path]]:
    """A file DEEP levels below one directory, and a run so deep below another: the two files."""
    with deep_directory(in_run, DEEP) as first, deep_directory(above_run, DEEP) as second:
        os.mkdir("pod5", dir_fd=second)
        for bottom, name in ((first, "x"), (second, "pod5/x")):
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=bottom))
        levels = "d/" * DEEP
        yield [in_run / levels / "x", above_run / levels / "pod5/x"]
