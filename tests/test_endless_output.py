"""What other programs print without end fills no disk and no memory, and hides no reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun
from tests.lab.small_disk import SmallDisk
from tests.program import Program, is_done, is_verified
from tests.test_memory import PEAK, peak
from tests.test_monitor import ticked

ENDLESS = "yes x | head -c 80000000 >&2"
ENDLESS_LINE = "head -c 80000000 /dev/zero"
# What a call of the program is let print first, if this is among its words.
PRINTS = """\
import sys
with open("/proc/self/cmdline", "rb") as file:
    words = file.read().split(b"\\0")
if {word!r} in words and b"--json" in words:
    for _ in range(80):
        sys.{stream}.write("x\\n" * (1 << 19))
"""
MOST = 20_000  # kB more than without


@pytest.fixture
def small_tmp(program: Program) -> Iterator[SmallDisk]:
    """A directory for temporary files of 1 MB."""
    return_to = program.within
    disk = SmallDisk(program.temporary, "1m")
    program.within = disk.within
    yield disk
    program.within = return_to
    disk.end()


@pytest.fixture
def small_tmp_of_monitor(monitor: Program) -> Iterator[SmallDisk]:
    """The same for the monitor."""
    disk = SmallDisk(monitor.temporary, "1m")
    monitor.within = disk.within
    yield disk
    disk.end()


def usual_peak(program: Program, data: Path, arrived: Path) -> int:
    """What a tick that has nothing to do takes."""
    (program.modules / "sitecustomize.py").write_text(PEAK)
    program.pushed(data, arrived)
    return peak(program)


@pytest.mark.usefixtures("small_tmp")
def test_complaints_without_end_fill_no_disk_and_no_memory_and_hide_no_reason(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    usual = usual_peak(program, data, arrived)
    run.write_all()
    reason = "ssh: connect to host cluster port 22: Connection refused"
    program.wrap_rsync(after=f"{ENDLESS}; echo '{reason}' >&2; code=255")
    ran = program.push(data, arrived)
    assert ran.code in (1, 69)
    assert reason in ran.err
    assert peak(program) < usual + MOST


@pytest.mark.usefixtures("small_tmp")
def test_a_transfer_that_goes_well_does_so_whatever_is_printed_beside_it(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    probe, full = "$TMPDIR/probe", program.home / "full"
    room = f"echo >{probe} && rm {probe} || touch {full}"
    program.wrap_rsync(before=f"{ENDLESS}; {room}")
    program.pushed(data, arrived)
    assert not full.exists()
    assert is_done(arrived / run.path.relative_to(data))


def test_a_first_complaint_is_shown_however_much_follows(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    reason = "rsync: [receiver] the first that went wrong"
    program.wrap_rsync(before=f"echo '{reason}' >&2; {ENDLESS}; exit 11")
    ran = program.push(data, arrived)
    assert ran.code == 1
    assert reason in ran.err


def test_a_line_without_end_fails_that_transfer_by_name(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    usual = usual_peak(program, data, arrived)
    run.write_all()
    name = str(run.path.relative_to(data))
    program.wrap_rsync(before=ENDLESS_LINE)
    ran = program.push(data, arrived)
    assert ran.code == 1
    assert f"{name}: " in ran.err
    assert "prints a line of more than" in ran.err
    assert peak(program) < usual + MOST
    (program.programs / "rsync").unlink()
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("small_tmp_of_monitor")
def test_a_verification_that_complains_without_end_fills_no_disk(
    monitor: Program, pushed: Path
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(
        PEAK + PRINTS.format(word=b"verify", stream="stderr")
    )
    ticked(monitor)
    assert is_verified(pushed)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.usefixtures("small_tmp")
def test_a_call_for_a_sequencer_that_prints_without_end_takes_no_memory_and_is_named(
    program: Program, data: Path, root: Path, stream: str
) -> None:
    served = [{"instrument": name, "source": str(data)} for name in ("one", "two")]
    program.settings.update(root=str(root), pull=served)
    (program.modules / "sitecustomize.py").write_text(PEAK)
    assert program.run("pull").code in (1, 69)
    usual = peak(program)
    prints = PRINTS.format(word=b"one", stream=stream)
    (program.modules / "sitecustomize.py").write_text(PEAK + prints)
    ran = program.run("pull")
    assert ran.code in (1, 69)
    assert "one: " in ran.err
    assert ("printed more than" in ran.err) == (stream == "stdout")
    assert peak(program) < usual + 64_000 + MOST


@pytest.mark.parametrize(
    ("prints", "told"), [(ENDLESS, ": the controller is down"), (ENDLESS_LINE, " prints more than")]
)
@pytest.mark.usefixtures("small_tmp_of_monitor")
def test_a_program_of_slurm_that_prints_without_end_takes_no_memory_and_is_named(
    monitor: Program, pushed: Path, prints: str, told: str
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(PEAK)
    monitor.settings["verify_in"] = "slurm"
    monitor.put_program("squeue", "echo the controller is down >&2; exit 1")
    assert "squeue: the controller is down" in monitor.run("monitor").err
    usual = peak(monitor)
    end = "exit 0" if prints == ENDLESS_LINE else "echo the controller is down >&2; exit 1"
    monitor.put_program("squeue", f"{prints}; {end}")
    ran = monitor.run("monitor")
    assert f"squeue{told}" in ran.err
    assert peak(monitor) < usual + 64_000 + MOST
