"""Memory does not grow with the number of files in a run, nor the cost of a file with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.program import Program, coreutils_agree

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


def left_by_hash(data: Path, runs: list[str]) -> None:
    """The heartbeat of a sequencer that has hashed these runs."""
    (data / ".ontpush").mkdir()
    facts = {"instrument": "lab", "time": "2026-01-01T00:00:00+00:00", "version": "0.1.0"}
    told = {**facts, "runs": [{"run": run, "state": "done"} for run in runs]}
    (data / ".ontpush" / "lab.json").write_text(json.dumps(told))


def test_the_memory_of_pull_does_not_grow_with_the_files_that_are_listed(
    program: Program, data: Path, root: Path
) -> None:
    # A slice is held in several forms at once: a small one tells nothing of the whole.
    smaller = "import ontpush.cluster.pulling\nontpush.cluster.pulling._SLICE_FILES = 250\n"
    (program.modules / "sitecustomize.py").write_text(PEAK + smaller)
    peaks = []
    for files in (5_000, 12_000):
        source = data / f"of{files}"
        run = wide_run(source / "run", files)
        (run / "final_summary_x.txt").write_text("")
        with (run / "md5sum").open("a") as rollup:
            rollup.write(f"{EMPTY}  final_summary_x.txt\n")
        left_by_hash(source, ["run"])
        served = {"instrument": f"of{files}", "source": str(source)}
        program.settings.update(root=str(root), pull=[served])
        ran = program.run("pull", "--json", f"of{files}")
        assert (ran.code, ran.err) == (0, "")
        assert [each["state"] for each in ran.runs.values()] == ["done"]
        assert len((root / f"of{files}" / "run" / "md5sum").read_bytes().splitlines()) == files + 1
        peaks.append(peak(program))
    assert peaks[1] < peaks[0] + 4_000, peaks


SLOW = """\
import os, time
import ontpush.cluster.pulling
ontpush.cluster.pulling._SLICE_FILES = 20
_rename = os.rename
def _slow(source, *more, **how):
    if source == b"md5sum.ontpush-new":
        with open(os.environ["ONTPUSH_TEST"] + "/published", "a") as file:
            file.write("x")
        time.sleep(0.5)
    _rename(source, *more, **how)
os.rename = _slow
"""


def test_what_is_pulled_is_published_as_often_as_takes_a_small_share_of_the_time(
    program: Program, data: Path, root: Path
) -> None:
    run = wide_run(data / "run", 200)
    (run / "md5sum").rename(run / "sums")
    lines = (run / "sums").read_text().replace(f"{DEEP}/", "")
    (run / "sums").unlink()
    for path in run.rglob("*.pod5"):
        path.rename(run / "pod5_pass" / "0" / path.name)
    (run / "md5sum").write_text(lines)
    left_by_hash(data, ["run"])
    program.settings.update(root=str(root), pull=[{"instrument": "lab", "source": str(data)}])
    (program.modules / "sitecustomize.py").write_text(SLOW)
    counted = f"echo >>{program.home}/calls; [ $(wc -l <{program.home}/calls) -ge 10 ]"
    program.wrap_rsync(after=f"{counted} && kill -9 -$(ps -o pgid= $PPID | tr -d ' ')")
    program.within = ["setsid", "-w"]
    program.call("pull", *program.configured(), "lab")
    program.kill_all()
    program.within = []
    (program.programs / "rsync").unlink()
    assert coreutils_agree(root / "lab" / "run")
    listed = len((root / "lab" / "run" / "md5sum").read_bytes().splitlines())
    arrived = len(list((root / "lab" / "run").rglob("*.pod5")))
    assert listed < arrived
    ran = program.run("pull", "--json", "lab")
    ((_, facts),) = ran.runs.items()
    assert facts["sent_files"] == 200 - arrived
    assert len((root / "lab" / "run" / "md5sum").read_bytes().splitlines()) == 200
    # Two slices are fetched in a tick of a second at least; eight roll-ups would have been written.
    assert len((program.home / "published").read_text()) <= 5
