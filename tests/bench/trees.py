"""Makes the runs that are measured: MinKNOW's frame around any number of files of any size."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.lab.minknow import BLOCK, SimulatedRun, age

LONG_AGO = 120.0  # seconds: longer than anybody waits for a file to settle


def make_run(
    root: Path,
    *,
    files: int,
    size: int,
    folders: Iterable[str] = ("pod5_pass",),
    finished: bool = True,
    sample: str = "sample01",
) -> Path:
    """Write a run with `files` data files of `size` bytes in each of `folders`; its directory.

    The frame is the simulated sequencer's. It would write these files too, but one step at a
    time, and remember each.
    """
    run = SimulatedRun(root, sample=sample, folders=(), files=0)
    frame = run.steps() if finished else run.reads()
    for _ in frame:
        pass
    for folder in folders:
        _fill(run.path / folder, files, size)
    age(run.path, LONG_AGO)
    return run.path


def barcodes(count: int) -> Sequence[str]:
    """Data folders of a barcoded run."""
    return [f"fastq_pass/barcode{number:02}" for number in range(1, count + 1)]


def _fill(folder: Path, files: int, size: int) -> None:
    """Write files no two of which are alike: each has a beginning of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    block = random.Random(0).randbytes(min(size, BLOCK))
    for number in range(files):
        with open(folder / f"FBA12345_pass_{number}.dat", "wb") as file:
            left = size - file.write(f"{folder.name} {number} ".encode()[:size])
            while left > 0:
                left -= file.write(block[:left])
