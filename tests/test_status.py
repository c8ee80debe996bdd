"""`ontpush status`: how every run stands."""

from __future__ import annotations

from pathlib import Path

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import Program, wait_for


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
