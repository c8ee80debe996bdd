"""`ontpush status`: how every run stands."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import Program, wait_for

pytestmark = pytest.mark.newest


def test_status_before_any_tick_is_empty_and_writes_nothing(program: Program) -> None:
    ran = program.run("status", "--json")
    assert (ran.code, ran.runs) == (0, {})
    assert "no tick" in program.run("status").out
    assert not program.state.exists()


def test_status_tells_state_files_bytes_sent_and_the_last_error_of_every_run(
    program: Program, data: Path, arrived: Path
) -> None:
    names = ("done", "failed", "skipped", "stalled", "waiting")
    runs = {name: SimulatedRun(data, group=name, files=1) for name in names}
    for name, run in runs.items():
        for _ in run.reads():
            pass
        if name in ("done", "failed", "skipped"):
            run.finish()
    (runs["skipped"].path / "rsync.skip").write_text("no\n")
    (runs["failed"].path / "md5sum").mkdir()
    program.settings["stall_hours"] = 48
    program.push(data, arrived)
    ran = program.run("status", "--json")
    assert ran.code == 0
    states = {name.split("/")[0]: facts["state"] for name, facts in ran.runs.items()}
    assert states == {**{name: name for name in names}, "stalled": "waiting"}
    done = ran.runs[str(runs["done"].path.relative_to(data))]
    assert done["files"] == done["sent_files"] == len(snapshot(runs["done"].path)) - 2
    assert done["bytes"] == done["sent_bytes"] > 0
    assert done["error"] is None
    assert ran.runs[str(runs["failed"].path.relative_to(data))]["error"]
    lines = program.run("status").out.splitlines()
    assert len(lines) == 1 + len(names)
    assert any("100 %" in line and "done" in line for line in lines)


def test_a_run_that_was_just_skipped_is_shown_so(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    program.run("skip", run.path, "reason")
    assert program.run("status", "--json").runs.popitem()[1]["state"] == "skipped"


def test_status_shows_the_run_in_hand_with_its_rate(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1)
    for number in range(12):
        run.late_file(f"pod5_pass/{number}.pod5", size=2_000_000)
    with program.pushing(data, arrived, "--bwlimit", "2m") as tick:
        wait_for(lambda: list(arrived.rglob("*.pod5")), "nothing is sent")

        def in_hand() -> bool:
            facts = program.run("status", "--json").runs.popitem()[1]
            return bool(facts["state"] == "sending" and facts.get("rate"))

        wait_for(in_hand, "status does not show the rate")
        assert "sending" in program.run("status").out
        tick.terminate()
        tick.wait()
    assert program.run("status").code == 0


@pytest.mark.parametrize(
    "facts",
    [
        "[1]",
        "garbage",
        '{"pid": 1}',
        '{"pid": 99999999999999999999}',
        '{"run": 1, "doing": 2, "files": "a", "files_total": 0, "bytes": 0, "bytes_total": 0,'
        ' "since": "x"}',
    ],
)
def test_status_believes_no_progress_that_is_none(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, facts: str
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    (program.state / "now.json").write_text(facts)
    with (program.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert program.run("status", "--json").runs.popitem()[1]["state"] == "done"


def test_status_shows_no_progress_of_a_tick_that_was_killed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    name = str(run.path.relative_to(data))
    facts = {"run": name, "doing": "sending", "files": 0, "files_total": 1, "bytes": 0}
    # A process of this number runs, and is no tick.
    (program.state / "now.json").write_text(
        json.dumps({**facts, "bytes_total": 1, "since": 1.5, "pid": os.getpid()})
    )
    assert program.run("status", "--json").runs[name]["state"] == "done"
    (program.state / "now.json").write_text(json.dumps({**facts, "bytes_total": 1, "since": 1.5}))
    assert program.run("status", "--json").runs[name]["state"] == "done"
    with (program.state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert program.run("status", "--json").runs[name]["state"] == "sending"


def test_status_gives_the_source_for_programs_as_it_is(
    program: Program, tmp_path: Path, arrived: Path
) -> None:
    source = tmp_path / os.fsdecode(b"data\xff")
    SimulatedRun(source, files=1).write_all()
    program.pushed(source, arrived)
    assert program.run("status", "--json").runs.popitem()[1]["source"] == str(source)


def test_status_shows_what_was_hashed_below_its_source_or_by_its_whole_path(
    program: Program, data: Path
) -> None:
    below, alone, gone = (
        SimulatedRun(data / place, group=place, files=1).write_all()
        for place in ("below", "alone", "below/gone")
    )
    program.run("hash", alone)
    program.run("hash", "--all", data / "below")
    shutil.rmtree(gone)
    program.run("hash", "--all", data / "below")
    names = [line.split()[6] for line in program.run("status").out.splitlines()[1:]]
    assert names == [str(alone), str(below.relative_to(data / "below"))]
