"""Memory does not grow with the number of files in a run."""

from __future__ import annotations

import os
from pathlib import Path

from tests.program import Program

# What a process had in memory at most, in kB, kept when it ends.
PEAK = """\
import atexit, os
def _keep():
    with open("/proc/self/status") as file:
        (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
    with open(os.environ["ONTPUSH_TEST"] + "/peaks", "a") as file:
        file.write(peak + "\\n")
atexit.register(_keep)
"""
# Paths so long that a few thousand of them weigh as much as a hundred thousand others.
DEEP = "/".join(letter * 250 for letter in "abc")
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"


def peak(program: Program) -> int:
    """What the largest process since the last question had in memory, in kB."""
    file = program.home / "peaks"
    peaks = [int(line) for line in file.read_text().splitlines()]
    file.unlink()
    return max(peaks)


def wide_run(run: Path, files: int) -> Path:
    """A run of empty files with long paths and a roll-up, in an order that is nobody's."""
    (run / "pod5_pass").mkdir(parents=True)
    lines = []
    for start in range(0, files, 500):
        folder = f"pod5_pass/{start}/{DEEP}"
        (run / folder).mkdir(parents=True)
        here = os.open(run / folder, os.O_RDONLY)
        for number in range(start, min(start + 500, files)):
            os.close(os.open(f"{number}.pod5", os.O_CREAT, dir_fd=here))
            lines.append(f"{EMPTY}  {folder}/{number}.pod5\n")
        os.close(here)
    (run / "md5sum").write_text("".join(reversed(lines)))
    return run


def test_the_memory_of_verify_does_not_grow_with_the_files_that_are_listed(
    program: Program, data: Path
) -> None:
    (program.modules / "sitecustomize.py").write_text(PEAK)
    peaks = []
    for files in (5_000, 20_000):
        run = wide_run(data / str(files), files)
        ran = program.run("verify", "--json", run)
        assert ran.code == 0
        assert ran.json["data"]["runs"][0]["files"] == files
        peaks.append(peak(program))
    assert peaks[1] < peaks[0] + 4_000, peaks
