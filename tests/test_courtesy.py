"""The work gives way to the sequencing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun
from tests.program import RSYNC, Program, is_done

pytestmark = pytest.mark.newest

NICE_NOW = os.getpriority(os.PRIO_PROCESS, 0)


@pytest.fixture
def seen(program: Program) -> Path:
    """Where the niceness and disk class of each rsync are noted."""
    path = program.home / "seen"
    program.wrap_rsync(before=f'echo "$(nice) $(ionice -p $$)" >>{path}')
    return path


def test_everything_runs_at_the_lowest_priority_unless_told_otherwise(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, seen: Path
) -> None:
    for _ in run.reads():
        pass
    del program.settings["nice"]
    del program.settings["ionice"]
    program.pushed(data, arrived)
    assert set(seen.read_text().splitlines()) == {"19 idle"}
    assert program.log()[-1].word == "SYNC"


def test_priorities_can_be_set(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, seen: Path
) -> None:
    for _ in run.reads():
        pass
    nice = max(NICE_NOW, 7)
    program.settings.update(nice=nice, ionice="best-effort")
    program.pushed(data, arrived)
    (line,) = set(seen.read_text().splitlines())
    assert line.startswith(f"{nice} best-effort")
    seen.unlink()
    program.pushed(data, arrived, "--nice", "19", "--ionice", "idle")
    assert set(seen.read_text().splitlines()) == {"19 idle"}


def test_a_tick_that_is_nicer_already_stays_so(
    program: Program, data: Path, arrived: Path, seen: Path
) -> None:
    program.settings["nice"] = 3
    program.within = ["nice", "-n", "19"]
    program.pushed(data, arrived)
    assert {line.split()[0] for line in seen.read_text().splitlines()} == {"19"}


@pytest.mark.parametrize("script", ["", "echo cannot >&2; exit 1"])
def test_a_host_without_disk_classes_gets_a_warning_and_its_runs(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, script: str
) -> None:
    run.write_all()
    program.settings["ionice"] = "idle"
    if script:
        program.put_program("ionice", script)
    else:
        program.put_program("rsync", f'exec {RSYNC} "$@"')
        program.environment["PATH"] = str(program.programs)
    assert program.push(data, arrived).is_silent
    assert is_done(arrived / run.path.relative_to(data))
    assert len(program.told("WARN")) == 1


def test_hash_and_verify_give_way_too(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    noted = program.home / "noted"
    program.put_program("ionice", f"echo $2 $(cut -d' ' -f19 /proc/$4/stat) >>{noted}")
    program.settings.update(nice=19, ionice="idle")
    for command in ("hash", "verify"):
        assert program.run(command, run.path).code == 0
    assert noted.read_text() == "3 19\n" * 2


# Notes which thread opens each large file; where there are two, each waits for the other.
THREADS = """
import os, threading
really_open, together = os.open, threading.Barrier({threads})
def noting(path, *rest, **more):
    if os.path.basename(os.fsencode(path)) in (b"large 1", b"large 2"):
        together.wait(60)
        with open({noted!r}, "a") as noted:
            noted.write("%d\\n" % threading.get_ident())
    return really_open(path, *rest, **more)
os.open = noting
"""


@pytest.mark.parametrize(("told", "threads"), [({}, 1), ({"jobs": 2}, 2)])
def test_sums_are_taken_by_one_thread_unless_told_otherwise(
    program: Program, run: SimulatedRun, told: dict[str, int], threads: int
) -> None:
    run.write_all()
    for number in (1, 2):
        # Of no more than one such file does a thread take care at a time.
        (run.path / f"large {number}").touch()
        os.truncate(run.path / f"large {number}", 16 << 20)
    noted = program.home / "noted"
    code = THREADS.format(threads=threads, noted=str(noted))
    (program.modules / "sitecustomize.py").write_text(code)
    program.settings.update(told)
    assert program.run("hash", run.path).code == 0
    opened_by = noted.read_text().split()
    assert len(opened_by) == 2
    assert len(set(opened_by)) == threads
