"""Makes the runs that are measured: MinKNOW's frame around any number of files of any size."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.lab.minknow import BLOCK, SUFFIXES, WRITTEN_ELSEWHERE, SimulatedRun, age

LONG_AGO = 120.0  # seconds; longer than anybody waits for a file to settle


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

    The frame is the simulated sequencer's. It could write the data too, but does so step by step,
    and remembers every file.
    """
    run = SimulatedRun(root, sample=sample, folders=(), files=0)
    for _ in run.steps() if finished else run.reads():
        pass
    shutil.rmtree(root / WRITTEN_ELSEWHERE, ignore_errors=True)  # empty, and no part of the data
    age(run.path, LONG_AGO)
    for folder in folders:
        _fill(run.path, folder, files, size)
    return run.path


def barcoded(folder: str, count: int) -> Sequence[str]:
    """The folders of `count` barcodes in a data folder."""
    return [f"{folder}/barcode{number:02}" for number in range(1, count + 1)]


def _fill(run: Path, folder: str, files: int, size: int) -> None:
    """Write old files that are random but for their beginnings, which tell them apart."""
    directory = run / folder
    directory.mkdir(parents=True)
    [suffix, *_] = SUFFIXES[folder.partition("_")[0]]
    block = random.Random(0).randbytes(min(size, BLOCK))
    old = (time.time() - LONG_AGO,) * 2
    for number in range(files):
        with open(directory / f"FBA12345_{directory.name}_{number}{suffix}", "wb") as file:
            left = size - file.write(f"{folder} {number} ".encode()[:size])
            while left > 0:
                left -= file.write(block[:left])
            file.flush()
            os.utime(file.fileno(), old)
    for place in (directory, directory.parent):
        os.utime(place, old)
