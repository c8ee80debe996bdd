"""What has settled, where the clocks of host and disk differ and one of them is put.

The clock of the disk is the real one here; the host's is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import Program, is_done

HOUR, DAY = 3600.0, 86_400.0
DIFFERENCES = [-DAY, -HOUR, -30.0, 30.0, HOUR, DAY]


@pytest.fixture(autouse=True)
def _settle(program: Program) -> None:
    program.settings["settle"] = 60


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_young_run_is_not_taken_however_wrong_the_clock_of_the_host_is(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, difference: float
) -> None:
    run.write_all()
    program.put_clock_wrong(difference)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("waiting", 0)
    program.put_clock_wrong(difference, passed=61)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_an_old_run_is_taken_by_the_first_tick_however_wrong_the_clock_of_the_host_is(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, difference: float
) -> None:
    run.write_all()
    age(run.path, 61)
    program.put_clock_wrong(difference)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert not list(run.path.glob("*.ontpush-new"))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_settle_0_takes_everything_at_once_whatever_the_clocks_say(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, difference: float
) -> None:
    run.write_all()
    future = run.path.stat().st_mtime + DAY
    os.utime(next(run.path.glob("pod5_pass/*.pod5")), (future, future))
    program.put_clock_wrong(difference)
    (state,) = program.pushed(data, arrived, "--settle", "0").values()
    assert state["state"] == "done"


@pytest.mark.parametrize("put", [DAY, -DAY])
def test_a_run_from_before_the_clock_was_put_is_taken_once_it_was_seen_unchanged(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, put: float
) -> None:
    program.put_clock_wrong(-put)
    program.pushed(data, arrived)
    run.write_all()
    age(run.path, put)  # written by the clock that was wrong, and this very moment
    program.put_clock_wrong(0, passed=10)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("waiting", 0)
    program.put_clock_wrong(0, passed=71)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


def test_no_call_that_notices_that_the_clock_was_put_lets_the_next_one_take_a_young_run(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    program.put_clock_wrong(-DAY)
    program.pushed(data, arrived)
    run.write_all()
    age(run.path, DAY)  # written by the clock that was wrong, and this very moment
    program.put_clock_wrong(0, passed=10)
    assert program.run("hash", "--all", data).code == 0
    program.put_clock_wrong(0, passed=12)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("waiting", 0)
    program.put_clock_wrong(0, passed=71)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


def test_a_file_from_the_future_that_grows_is_not_taken_before_it_stops(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    age(run.path, 600)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    future = path.stat().st_mtime + DAY
    there = arrived / path.relative_to(data)
    for tick in range(3):
        with path.open("a") as file:
            file.write("more")
        os.utime(path, (future + tick, future + tick))
        program.put_clock_forward(tick * 1800)
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] != "done"
        assert not there.exists()
    program.put_clock_forward(3 * 1800)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert there.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("difference", [-HOUR, HOUR])
def test_hash_leaves_a_young_file_out_however_wrong_the_clock_of_the_host_is(
    program: Program, run: SimulatedRun, difference: float
) -> None:
    run.write_all()
    age(run.path, 61)
    run.late_file("pod5_pass/young.pod5")
    program.put_clock_wrong(difference)
    ran = program.run("hash", "--json", run.path)
    assert [each["unsettled"] for each in ran.json["data"]["runs"]] == [1]
    program.put_clock_wrong(difference, passed=61)
    ran = program.run("hash", "--json", run.path)
    assert [each["unsettled"] for each in ran.json["data"]["runs"]] == [0]


@pytest.mark.parametrize("difference", [-2 * DAY, 2 * DAY])
def test_a_run_that_grows_has_not_stalled_however_wrong_the_clock_of_the_host_is(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, difference: float
) -> None:
    for _ in run.reads():
        pass
    program.put_clock_wrong(difference)
    for late in range(2):
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "waiting"
        run.late_file(f"pod5_pass/late_{late}.pod5")
    assert program.told("STALL") == []


def test_a_run_has_not_stalled_because_the_clock_was_put_forward(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    for put in (0, 2 * DAY):
        program.put_clock_wrong(put, passed=61)
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "waiting"
    program.put_clock_wrong(2 * DAY, passed=DAY + 200)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "stalled"


def test_a_dry_run_asks_no_disk_for_its_time(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    before, when = snapshot(run.path), run.path.stat().st_mtime_ns
    assert program.push(data, arrived, "--dry-run").code == 0
    assert (snapshot(run.path), run.path.stat().st_mtime_ns) == (before, when)
