"""Calls, right and wrong, and the object that every command prints for programs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import CHECKOUT, Program, mark

pytestmark = pytest.mark.newest

COMMANDS = ["push", "hash", "status", "verify", "check", "skip", "retry", "pull", "monitor"]


# -- wrong calls ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["--frobnicate"],
        ["push", "--frobnicate"],
        ["push", "/data"],
        ["push", "--settle", "x", "/data", "/dest"],
        ["push", "--settle"],
        ["push", "--settle", "-1", "/data", "/dest"],
        ["push", "--settle", "nan", "/data", "/dest"],
        ["push", "--settle", "inf", "/data", "/dest"],
        ["push", "--jobs", "0", "/data", "/dest"],
        ["push", "--jobs", "1.5", "/data", "/dest"],
        ["push", "--jobs", "65", "/data", "/dest"],
        ["push", "--nice", "20", "/data", "/dest"],
        ["push", "--ionice", "realtime", "/data", "/dest"],
        ["push", "--log", "", "/data", "/dest"],
        ["push", "--state-dir", "", "/data", "/dest"],
        ["push", "", "/dest"],
        ["hash"],
        ["verify"],
        ["skip"],
        ["retry"],
        ["retry", "a", "b"],
        ["check", "a", "b", "c"],
        ["status", "run"],
    ],
)
def test_a_wrong_call_is_one_line_and_exit_64(program: Program, arguments: list[str]) -> None:
    program.environment["ONTPUSH_CONFIG"] = program.configured()[1]
    ran = program.call(*arguments)
    assert ran.code == 64, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("ontpush: ")


def test_a_wrong_call_for_programs_is_an_object(program: Program) -> None:
    ran = program.call("push", "--json", "--frobnicate")
    assert ran.code == 64
    assert ran.json["command"] == "push"
    assert ran.json["errors"][0]["code"] == "usage"


def test_a_tick_without_places_says_which_are_missing(program: Program, data: Path) -> None:
    ran = program.run("push")
    assert ran.code == 64
    assert "source" in ran.err
    program.settings["source"] = str(data)
    ran = program.run("push")
    assert ran.code == 64
    assert "destination" in ran.err


# -- help and version -------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(program: Program, command: str) -> None:
    ran = program.call(command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"usage: ontpush {command} ")
    for option in ("--config FILE", "-v, ", "-q, ", "--json", "--version", "--help"):
        assert option in ran.out


def test_help_names_every_command(program: Program) -> None:
    ran = program.call("--help")
    assert ran.code == 0
    assert all(f"    {command} " in ran.out for command in COMMANDS)


def test_the_version_is_told_everywhere(program: Program) -> None:
    version = program.call("--version").out
    assert version.count(".") == 2
    for command in COMMANDS:
        assert program.call(command, "--version").out == version
    assert program.call("status", "--json", "--state-dir", program.state).json["ontpush"] == (
        version.strip()
    )


def test_the_program_needs_nothing_from_its_directory_or_environment(
    program: Program, tmp_path: Path
) -> None:
    done = subprocess.run(
        [program.python, "-m", "ontpush", "--version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_options_may_come_in_any_order_before_the_places(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings = {}
    options = ["push", "--json", "--settle=0", "--no-sidecars", "-q", "--jobs", "2"]
    places: list[str | Path] = [
        "--state-dir",
        program.state,
        "--log",
        program.log_file,
        data,
        arrived,
    ]
    ran = program.call(*options, *places)
    assert ran.code == 0
    assert ran.runs.popitem()[1]["state"] == "done"


# -- the object for programs ------------------------------------------------------------

RUN_FIELDS = {
    "run": (str,),
    "state": (str,),
    "files": (int,),
    "bytes": (int,),
    "sent_files": (int,),
    "sent_bytes": (int,),
    "error": (str, type(None)),
}
STATES = {"new", "sending", "waiting", "stalled", "done", "skipped", "failed"}


def check_envelope(envelope: dict[str, Any], command: str, code: int) -> dict[str, Any]:
    """Hold an object against the interface; its data."""
    assert list(envelope) == ["ontpush", "command", "status", "exit_code", "data", "errors"]
    assert envelope["command"] == command
    assert envelope["exit_code"] == code
    assert envelope["status"] == {0: "ok", 1: "partial"}.get(code, "error")
    for error in envelope["errors"]:
        assert set(error) == {"code", "message", "run"}
        assert isinstance(error["code"], str)
        assert error["message"]
        assert "\n" not in error["message"]
        assert error["run"] is None or isinstance(error["run"], str)
    assert bool(envelope["errors"]) == (code != 0)
    data = envelope["data"]
    assert isinstance(data, dict)
    return data


def test_every_command_prints_one_object_of_the_same_form(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    calls: list[list[str | Path]] = [
        ["push", "--dry-run", "--json", data, arrived],
        ["push", "--json", data, arrived],
        ["status", "--json"],
        ["hash", "--json", run.path],
        ["verify", "--json", run.path],
        ["skip", "--json", run.path, "reason"],
        ["retry", "--json", run.path],
    ]
    for command, *arguments in calls:
        ran = program.run(str(command), *arguments)
        assert ran.err == ""
        found = check_envelope(ran.json, str(command), 0)
        if command in ("push", "status"):
            (facts,) = found["runs"]
            for field, kinds in RUN_FIELDS.items():
                assert type(facts[field]) in kinds
            assert facts["state"] in STATES
        if command == "verify":
            assert found["runs"][0]["bad"] == []
    check_envelope(program.run("check", "--json", data, arrived).json, "check", 0)


def test_the_sent_figures_of_a_tick_are_its_own_and_those_of_status_all_there_is(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    first = program.pushed(data, arrived).popitem()[1]
    assert (first["sent_files"], first["sent_bytes"]) == (first["files"], first["bytes"])
    run.finish()
    second = program.pushed(data, arrived).popitem()[1]
    assert second["sent_files"] == second["files"] - first["files"]
    all_there_is = program.run("status", "--json").runs.popitem()[1]
    assert all_there_is["sent_files"] == all_there_is["files"] == second["files"]


def test_trouble_has_the_same_form(program: Program, run: SimulatedRun, data: Path) -> None:
    run.write_all()
    ran = program.push(data, data.parent / "nowhere", "--json")
    check_envelope(ran.json, "push", 69)
    ran = program.run("skip", "--json", run.path)
    check_envelope(ran.json, "skip", 64)
    (run.path / "md5sum").mkdir()
    (run.path / "md5sum" / "x").touch()
    ran = program.push(data, data.parent, "--json")
    check_envelope(ran.json, "push", 1)


def test_a_fault_that_nobody_foresaw_is_one_line_and_one_object(program: Program) -> None:
    (program.modules / "sitecustomize.py").write_text(
        "import os\n"
        "def geteuid():\n"
        "    raise ZeroDivisionError('two\\nlines')\n"
        "os.geteuid = geteuid\n"
    )
    with program.started("status", "--json") as process:
        out, err = process.communicate()
    told = json.loads(out)
    assert check_envelope(told, "status", 1) == {}
    (error,) = told["errors"]
    assert error["code"] == "unexpected"
    assert "ZeroDivisionError: two lines (in " in error["message"]
    assert err.decode() == f"ontpush: {error['message']}\n"


@pytest.mark.parametrize("arguments", [["status", "--json"], ["status"], ["--version"]])
def test_an_output_that_is_lost_is_told_and_no_success(
    program: Program, arguments: list[str]
) -> None:
    program.environment["ONTPUSH_CONFIG"] = program.configured()[1]
    with open("/dev/full", "wb") as full, program.started(*arguments, stdout=full) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines() == [b"ontpush: the output cannot be written: No space left on device"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("place", ["/dev/full", "closed pipe"])
def test_the_exit_code_of_trouble_stays_whatever_becomes_of_the_output(
    program: Program, data: Path, stream: str, place: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    if place == "/dev/full":
        os.close(writer)
        writer = os.open(place, os.O_WRONLY)
    arguments = ["push", *program.configured(), "--json", str(data), str(data.parent / "nowhere")]
    with program.started(*arguments, **{stream: writer}) as process:
        os.close(writer)
        process.communicate()
    assert process.returncode == 69


def test_names_that_are_not_utf_8_are_given_with_surrogate_escapes_by_every_command(
    program: Program, data: Path, arrived: Path
) -> None:
    name = os.fsdecode(b"\xff\xfe")
    run = data / name / "run"
    (run / "pod5").mkdir(parents=True)
    (run / "pod5" / name).write_text("x")
    for command, *arguments in (
        ["push", data, arrived],
        ["status"],
        ["hash", run],
        ["skip", run, name],
        ["retry", run],
    ):
        ran = program.run(str(command), "--json", *arguments)
        assert ran.code == 0
        assert "\\udcff\\udcfe" in ran.out
    (run / "pod5" / name).write_text("y")
    ran = program.run("verify", "--json", run)
    assert ran.json["data"]["runs"][0]["bad"] == [{"path": f"pod5/{name}", "problem": "md5"}]


# -- a dry run --------------------------------------------------------------------------


def everything(*directories: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of everything below some directories."""
    paths = [path for directory in directories for path in [directory, *directory.rglob("*")]]
    return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths}


def test_a_dry_run_changes_nothing_anywhere_and_tells_what_a_tick_would_send(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    run.finish()
    new = SimulatedRun(data, group="new", files=1)
    new.write_all()
    skipped = SimulatedRun(data, group="skipped", files=1)
    skipped.write_all()
    (skipped.path / "rsync.skip").touch()
    before = everything(data, arrived, program.state), program.log()
    ran = program.push(data, arrived, "--dry-run", "--json")
    assert ran.code == 0
    assert (everything(data, arrived, program.state), program.log()) == before
    would = {name.split("/")[0]: facts["sent_files"] for name, facts in ran.runs.items()}
    done = program.pushed(data, arrived)
    assert would == {name.split("/")[0]: facts["sent_files"] for name, facts in done.items()}
    before = everything(data, arrived, program.state), program.log()
    ran = program.push(data, arrived, "-n", "--json")
    assert {facts["sent_files"] for facts in ran.runs.values()} == {0}
    assert [facts["state"] for facts in ran.runs.values()].count("done") == 2
    assert (everything(data, arrived, program.state), program.log()) == before


def test_a_dry_run_before_the_first_tick_makes_no_state(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    before = snapshot(data)
    (state,) = program.push(data, arrived, "-n", "--json").runs.values()
    assert state["sent_files"] == len(before)
    assert not program.state.exists()
    assert snapshot(data) == before


# -- the heartbeat ----------------------------------------------------------------------


def heartbeat(directory: Path, name: str = "lab") -> dict[str, Any]:
    """What an instrument said last."""
    facts = json.loads((directory / ".ontpush" / f"{name}.json").read_text())
    assert isinstance(facts, dict)
    return facts


def test_the_heartbeat_tells_how_instrument_and_runs_stand(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    facts = heartbeat(arrived)
    assert facts["instrument"] == "lab"
    assert facts["version"] == program.call("--version").out.strip()
    assert facts["time"].endswith("+00:00")
    assert 0 < facts["free_bytes"] < facts["total_bytes"]
    (state,) = facts["runs"]
    assert state["run"] == str(run.path.relative_to(data))
    assert state["state"] == "done"
    assert state["files"] == state["sent_files"] > 0
    assert state["bytes"] == state["sent_bytes"] > 0
    assert state["error"] is None
    assert state["rollup"] == mark(arrived / state["run"])["rollup"]
    assert 0 < state["first_sent_at"] <= state["done_at"]
    assert facts["errors"] == []


def test_every_tick_sends_a_heartbeat_also_an_idle_one_and_one_that_fails(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    program.pushed(data, arrived)
    assert heartbeat(arrived)["runs"] == []
    (arrived / ".ontpush" / "lab.json").unlink()
    program.pushed(data, arrived)
    assert heartbeat(arrived)["runs"] == []
    run.write_all()
    (run.path / "md5sum").mkdir()
    (run.path / "md5sum" / "x").touch()
    assert program.push(data, arrived).code == 1
    (state,) = heartbeat(arrived)["runs"]
    assert state["state"] == "failed"
    assert "md5sum" in state["error"]


@pytest.mark.parametrize(
    ("name", "file"), [("../../evil", "_.._evil"), ("GXB 0123/ü", "GXB_0123__"), (".", "unnamed")]
)
def test_an_instrument_of_any_name_has_a_file_of_its_own(
    program: Program, data: Path, arrived: Path, name: str, file: str
) -> None:
    program.settings["instrument"] = name
    program.pushed(data, arrived)
    assert set(os.listdir(arrived / ".ontpush")) == {f"{file}.bell", f"{file}.json", "owner"}
    path = arrived / ".ontpush" / f"{file}.json"
    assert json.loads(path.read_text())["instrument"] == name


def test_the_instrument_is_the_host_unless_it_has_a_name(
    program: Program, data: Path, arrived: Path
) -> None:
    del program.settings["instrument"]
    program.pushed(data, arrived)
    assert heartbeat(arrived, os.uname().nodename.split(".")[0])
