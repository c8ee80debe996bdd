"""Other calls beside a tick: however slow a disk is, none keeps another from the state for long."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun
from tests.program import Program, Ran, is_done, rollup, wait_for

# The call that is told of a gate stops before it asks the disk for a file of this name.
GATE = """
import os, time
_gate, _lstat = os.environ.get("GATE"), os.lstat
def _gated(path, *more, **how):
    if os.path.basename(os.fsencode(path)) == os.environb[b"GATED"]:
        open(_gate + ".reached", "w").close()
        while not os.path.exists(_gate):
            time.sleep(0.01)
    return _lstat(path, *more, **how)
if _gate:
    os.lstat = _gated
"""


@contextlib.contextmanager
def stopped_at(
    program: Program, file: Path, *arguments: str | Path, code: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """A call that waits for the disk to tell of a file; it goes on at the end of the block."""
    (program.modules / "sitecustomize.py").write_text(GATE)
    gate = program.home / "gate"
    gate.unlink(missing_ok=True)
    gated = {**program.environment, "GATE": str(gate), "GATED": file.name}
    command, *words = arguments
    with program.started(command, *program.configured(), *words, env=gated) as process:
        wait_for(gate.with_name("gate.reached").exists, "the file is not asked for")
        yield process
        gate.touch()
        out, err = process.communicate()
        assert process.returncode == code, Ran(process.returncode, out.decode(), err.decode())


@pytest.fixture
def done(program: Program, run: SimulatedRun, data: Path, arrived: Path) -> SimulatedRun:
    """A done run."""
    run.write_all()
    program.pushed(data, arrived)
    return run


def test_a_verification_that_waits_for_its_disk_keeps_no_tick_from_writing(
    program: Program, done: SimulatedRun, data: Path, arrived: Path
) -> None:
    file = done.final_summary
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    with stopped_at(program, file, "verify", done.path):
        assert program.pushed(data, arrived)[str(other.path.relative_to(data))]["state"] == "done"


def test_a_tick_that_waits_for_its_disk_keeps_nobody_from_the_state(
    program: Program, done: SimulatedRun, data: Path, arrived: Path
) -> None:
    new = SimulatedRun(data, group="zz", files=1)
    new.write_all()
    file = next((new.path / "fastq_pass").iterdir())
    with stopped_at(program, file, "push", data, arrived):
        assert program.run("status").code == 0
        assert program.run("verify", done.path).code == 0
        assert program.run("retry", done.path).code == 0
    program.pushed(data, arrived)
    assert is_done(arrived / done.path.relative_to(data))
    assert is_done(arrived / new.path.relative_to(data))


def test_a_tick_killed_in_the_middle_of_a_long_look_leaves_no_file_of_a_done_run_behind(
    program: Program, done: SimulatedRun, data: Path, arrived: Path
) -> None:
    folder = done.path / "fastq_pass"
    files = [folder / f"late_{number:04}.fastq" for number in range(4100)]
    for file in files:
        file.touch()
    with stopped_at(program, files[-1], "push", data, arrived, code=-9) as tick:
        tick.kill()
        tick.wait()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    there = arrived / done.path.relative_to(data)
    assert is_done(there)
    assert len(rollup(there)) == state["files"] > 4100


def test_a_roll_up_is_sorted_by_path_however_files_and_folders_are_named(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    for name in ("a", "a-b/x", "a.b/x/y", "a.b/x.y", "a0/x", "b/c/d/e", "b/c-d", "b.c", "z/a"):
        run.late_file(name if name != "a" else "a ")
    assert program.run("hash", "--no-sidecars", run.path).code == 0
    listed = list(rollup(run.path))
    assert listed == sorted(listed)
    assert {b"a ", b"a-b/x", b"a.b/x/y", b"a.b/x.y", b"a0/x", b"b/c/d/e"} <= set(listed)
