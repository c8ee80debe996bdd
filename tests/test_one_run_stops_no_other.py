"""One run in trouble stops no other, and the heartbeat tells how every tick ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.deep import deep_files
from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import RSYNC, Program, few_levels, is_done


@pytest.fixture
def runs(data: Path) -> list[SimulatedRun]:
    """Two finished runs, by path."""
    runs = [SimulatedRun(data, group=name, files=1) for name in ("a", "b")]
    for each in runs:
        each.write_all()
    return runs


def heartbeat(arrived: Path) -> dict[str, Any]:
    """What the tick told the cluster last."""
    told = json.loads((arrived / ".ontpush/lab.json").read_text())
    assert isinstance(told, dict)
    return told


def break_transfers_of(program: Program, run: SimulatedRun, words: str) -> None:
    """Let shell words end each call of rsync that sends files of this run's folders."""
    names = program.home / "names"
    program.put_program(
        "rsync",
        f'case " $* " in *--files-from*) tr "\\0" "\\n" >{names};'
        f" if grep -q '^/{run.group}/.*/pod5_pass/.*pod5$' {names}; then"
        f' tr "\\n" "\\0" <{names} | {{ {words}; }}; exit $?; fi;'
        f' tr "\\n" "\\0" <{names} | {RSYNC} "$@"; exit $?;; esac\nexec {RSYNC} "$@"',
    )


@pytest.mark.parametrize("code", [10, 12, 20, 30, 255])
def test_a_transfer_that_breaks_off_when_files_have_gone_over_stops_no_other_run(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path, code: int
) -> None:
    stuck, other = runs
    break_transfers_of(
        program, stuck, f'{RSYNC} "$@"; echo "rsync: connection lost" >&2; exit {code}'
    )
    ran = program.push(data, arrived, "--json")
    assert ran.code == 1, ran
    (error,) = ran.json["errors"]
    assert error["run"] == str(stuck.path.relative_to(data))
    assert "connection lost" in error["message"]
    assert is_done(arrived / other.path.relative_to(data))
    states = {each["run"]: each["state"] for each in heartbeat(arrived)["runs"]}
    assert states == {error["run"]: "failed", str(other.path.relative_to(data)): "done"}
    (program.programs / "rsync").unlink()
    program.pushed(data, arrived)
    assert is_done(arrived / stuck.path.relative_to(data))


def test_a_transfer_that_lasts_too_long_stops_no_other_run(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    stuck, other = runs
    program.settings["transfer_hours"] = 0.01
    (program.modules / "sitecustomize.py").write_text(
        "import threading\n"
        "timer = threading.Timer\n"
        "threading.Timer = lambda seconds, *more: timer(seconds / 20, *more)\n"
    )
    break_transfers_of(program, stuck, f'{RSYNC} "$@"; exec >&- 2>&-; sleep 60')
    ran = program.push(data, arrived, "--json")
    assert ran.code == 1, ran
    assert "transfer_hours" in ran.json["errors"][0]["message"]
    assert is_done(arrived / other.path.relative_to(data))


def test_the_heartbeat_goes_also_where_the_cluster_was_out_of_reach_for_a_run(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    break_transfers_of(program, runs[0], 'echo "ssh: Connection refused" >&2; exit 255')
    ran = program.push(data, arrived)
    assert ran.code == 69
    assert len(ran.err.splitlines()) == 1
    told = heartbeat(arrived)
    assert told["exit_code"] == 69
    assert "Connection refused" in told["errors"][0]


# -- the source as a whole --------------------------------------------------------------


def test_a_source_that_goes_in_the_middle_of_a_tick_is_told_and_forgets_no_run(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    away = data.with_name("away")
    program.wrap_rsync(before=f"[ -e {away} ] || mv {data} {away}")
    ran = program.push(data, arrived)
    assert ran.code == 69, ran
    (line,) = ran.err.splitlines()
    assert f"{data}: the source cannot be read any more" in line
    assert "is its disk mounted?" in line
    assert line.split(": ", 1)[1] in heartbeat(arrived)["errors"]
    assert len(program.told("FAIL")) == 1
    away.rename(data)
    (program.programs / "rsync").unlink()
    states = program.pushed(data, arrived)
    assert [each["state"] for each in states.values()] == ["done", "done"]
    assert all(is_done(arrived / each.path.relative_to(data)) for each in runs)


def test_a_source_whose_disk_is_not_mounted_is_refused_and_no_run_is_gone(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    program.pushed(data, arrived)
    before = snapshot(arrived, without=[".ontpush"])
    known = program.run("status", "--json").runs
    disk = data.rename(data.with_name("disk"))
    data.mkdir()
    for options in ((), ("--dry-run",)):
        ran = program.push(data, arrived, *options)
        assert ran.code == 69, ran
        (line,) = ran.err.splitlines()
        assert f"{data}: is empty, and 2 runs were there; is its disk mounted?" in line
    told = heartbeat(arrived)
    assert told["exit_code"] == 69
    assert "is its disk mounted?" in told["errors"][0]
    assert {each["state"] for each in told["runs"]} == {"done"}
    assert program.run("hash", "--all", data).code == 69
    assert not list(data.iterdir())
    assert program.run("status", "--json").runs == known
    data.rmdir()
    disk.rename(data)
    assert [each["sent_files"] for each in program.pushed(data, arrived).values()] == [0, 0]
    assert snapshot(arrived, without=[".ontpush"]) == before


def test_what_is_advised_for_runs_that_are_gone_for_good_helps(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    data.rename(data.with_name("old"))
    data.mkdir()
    refused = program.push(data, arrived)
    assert refused.code == 69
    Path(refused.err.rstrip().rsplit("remove ", 1)[1]).unlink()
    assert program.pushed(data, arrived) == {}
    assert heartbeat(arrived)["errors"] == []


def test_the_last_run_may_be_removed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    run.path.rename(data.with_name("gone"))
    assert program.pushed(data, arrived) == {}


# A fault of the program itself that one run brings to light.
FAULT = """\
import ontpush.engine.visit
_take_stock = ontpush.engine.visit.take_stock
def _faulty(ledger, rules, record, *more):
    if b"/a/" in record.path:
        raise KeyError("never thought of")
    return _take_stock(ledger, rules, record, *more)
ontpush.engine.visit.take_stock = _faulty
"""


def test_a_fault_of_the_program_in_one_run_stops_no_other(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    faulty, other = (str(run.path.relative_to(data)) for run in runs)
    (program.modules / "sitecustomize.py").write_text(FAULT)
    with program.pushing(data, arrived, "--json") as tick:
        out, _ = tick.communicate()
    assert tick.returncode == 1
    (error,) = json.loads(out)["errors"]
    assert (error["code"], error["run"]) == ("unexpected", faulty)
    assert "KeyError: 'never thought of'" in error["message"]
    assert is_done(arrived / other)
    states = {each["run"]: each["state"] for each in heartbeat(arrived)["runs"]}
    assert states == {faulty: "failed", other: "done"}
    (program.modules / "sitecustomize.py").unlink()
    program.pushed(data, arrived)
    assert is_done(arrived / faulty)


def test_a_path_that_is_too_long_for_the_state_directory_fails_its_run_alone(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    assert runs
    # SQLite takes a path of 512 bytes, and a path may have 4,096.
    program.settings["state_dir"] = str(program.state.joinpath("s" * 100, "s" * 100))
    long = data.joinpath(*["0" * 200] * 18, "0" * (200 - len(str(data)) // 2), "0" * 90)
    (long / "pod5").mkdir(parents=True)
    (long / "final_summary_x.txt").write_text("x=1\n")
    ran = program.push(data, arrived, "--json")
    states = [run["state"] for run in ran.runs.values()]
    assert (ran.code, sorted(states)) == (1, ["done", "done", "failed"])
    (error,) = ran.json["errors"]
    assert error["run"] == str(long.relative_to(data))
    assert "its path is too long for the state directory" in error["message"]
    assert heartbeat(arrived)["runs"]


def test_a_run_of_any_depth_arrives_and_stops_no_other(
    program: Program, runs: list[SimulatedRun], data: Path, arrived: Path
) -> None:
    few_levels(program)
    with deep_files(runs[0].path / "pod5_pass/deep", data / "deep") as deep:
        states = {name: run["state"] for name, run in program.pushed(data, arrived).items()}
        assert sorted(states.values()) == ["done", "done", "waiting"]
        for path in deep:
            assert (arrived / path.relative_to(data)).exists()
