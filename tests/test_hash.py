"""`ontpush hash`: checksums only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import Program, coreutils_agree, is_done, md5, rollup

pytestmark = pytest.mark.newest


def test_hash_writes_the_roll_up_and_a_sidecar_beside_each_file(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    files = snapshot(run.path)
    assert program.run("hash", run.path).is_silent
    assert set(rollup(run.path)) == set(files)
    assert coreutils_agree(run.path)
    for name, sum_of_file in files.items():
        path = run.path / os.fsdecode(name)
        beside = path.with_name(path.name + ".md5")
        assert beside.read_text() == f"{sum_of_file.decode()}  {path.name}\n"


def test_hash_without_sidecars_writes_the_roll_up_alone(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    files = snapshot(run.path)
    assert program.run("hash", "--no-sidecars", run.path).is_silent
    assert snapshot(run.path, without=["md5sum"]) == files


def test_hash_is_settled_and_idempotent(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    program.run("hash", run.path)
    before = {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")}
    assert program.run("hash", run.path).is_silent
    assert {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_hash_leaves_out_what_has_not_settled_and_says_so(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    age(run.path, 600)
    young = run.late_file("pod5_pass/young.pod5")
    ran = program.run("hash", "--settle", "60", "--json", run.path)
    (facts,) = ran.json["data"]["runs"]
    assert ran.code == 0
    assert facts["unsettled"] == 1
    assert os.fsencode(young.relative_to(run.path)) not in rollup(run.path)


def test_hash_takes_up_what_changed(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    program.run("hash", run.path)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    path.write_text("other")
    late = run.late_file("pod5_pass/late.pod5")
    next(run.path.glob("fastq_pass/*.gz")).unlink()
    assert program.run("hash", run.path).is_silent
    assert rollup(run.path)[os.fsencode(path.relative_to(run.path))] == md5(path)
    assert os.fsencode(late.relative_to(run.path)) in rollup(run.path)
    assert coreutils_agree(run.path)


def test_hash_takes_several_runs_and_with_all_every_run_below_a_directory(
    program: Program, data: Path
) -> None:
    runs = [SimulatedRun(data, group=name, files=1).write_all() for name in ("one", "two")]
    skipped = SimulatedRun(data, group="skipped", files=1).write_all()
    (skipped / "rsync.skip").write_text("no\n")
    assert program.run("hash", "--no-sidecars", *runs).is_silent
    assert all(coreutils_agree(run) for run in runs)
    for run in runs:
        (run / "md5sum").unlink()
    assert program.run("hash", "--no-sidecars", "--all", data).is_silent
    assert all(coreutils_agree(run) for run in runs)
    assert not (skipped / "md5sum").exists()


def test_a_run_that_is_skipped_while_it_is_hashed_gets_no_roll_up(
    program: Program, run: SimulatedRun, data: Path
) -> None:
    run.write_all()
    (program.modules / "sitecustomize.py").write_text(
        "import os\n_readv = os.readv\ndef readv(*words):\n"
        f"    open({str(run.path / 'rsync.skip')!r}, 'w').close()\n    return _readv(*words)\n"
        "os.readv = readv\n"
    )
    assert program.run("hash", "--no-sidecars", "--all", data).is_silent
    assert not (run.path / "md5sum").exists()
    heartbeat = json.loads((data / ".ontpush" / "lab.json").read_text())
    assert [each["state"] for each in heartbeat["runs"]] == ["skipped"]


def test_hash_all_takes_the_source_of_the_configuration(
    program: Program, run: SimulatedRun, data: Path
) -> None:
    run.write_all()
    program.settings["source"] = str(data)
    assert program.run("hash", "--all").is_silent
    assert coreutils_agree(run.path)


def test_a_run_whose_sums_were_taken_before_is_pushed_without_reading_it_twice(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.run("hash", run.path)
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"
    there = arrived / run.path.relative_to(data)
    assert is_done(there)
    assert not list(there.rglob("*.md5"))


def test_hash_of_a_done_run_with_a_late_file_lets_the_next_tick_open_it_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    run.late_file("pod5_pass/late.pod5")
    program.run("hash", run.path)
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"
    there = arrived / run.path.relative_to(data)
    assert is_done(there)
    assert b"pod5_pass/late.pod5" in rollup(there)


def test_hash_of_a_run_that_is_half_sent_disturbs_nothing(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    run.finish()
    program.run("hash", run.path)
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert is_done(there)
    assert is_done(run.path)


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_threads_give_the_same_sums(program: Program, data: Path, jobs: str) -> None:
    run = SimulatedRun(data, files=100, size=300).write_all()
    assert program.run("hash", "--no-sidecars", "--jobs", jobs, run).is_silent
    assert len(rollup(run)) > 400
    assert coreutils_agree(run)


def test_a_name_too_long_for_a_sidecar_still_gets_its_sum(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    (run.path / ("1" * 250)).write_text("x")
    program.run("hash", run.path)
    assert b"1" * 250 in rollup(run.path)


def test_files_that_go_while_they_are_hashed_are_no_fault(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    (run.path / "dangling").symlink_to("nowhere")
    assert program.run("hash", run.path).is_silent
    assert b"dangling" not in rollup(run.path)


@pytest.mark.parametrize("words", [[], ["/nonexistent"], ["DATA"], ["--all", "a", "b"]])
def test_hash_wants_runs(program: Program, data: Path, words: list[str]) -> None:
    ran = program.run("hash", *(str(data) if word == "DATA" else word for word in words))
    assert ran.code == 64
    assert len(ran.err.splitlines()) == 1


def test_a_run_that_goes_meanwhile_is_told_and_the_others_are_hashed(
    program: Program, data: Path
) -> None:
    runs = [SimulatedRun(data, group=name, files=1).write_all() for name in ("one", "two", "three")]
    (program.modules / "sitecustomize.py").write_text(
        "import os, shutil\n"
        "read = os.readv\n"
        "def readv(*arguments):\n"
        f"    shutil.rmtree({str(runs[1])!r}, ignore_errors=True)\n"
        "    return read(*arguments)\n"
        "os.readv = readv\n"
    )
    ran = program.run("hash", "--json", *runs)
    assert ran.code == 1
    assert [run["run"] for run in ran.json["data"]["runs"]] == [str(runs[0]), str(runs[2])]
    assert [error["run"] for error in ran.json["errors"]] == [str(runs[1])]
    assert coreutils_agree(runs[2])


def test_a_run_in_which_everything_is_too_new_has_no_roll_up(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    program.settings["settle"] = 3600
    assert program.run("hash", run.path).code == 0
    assert not (run.path / "md5sum").exists()
    age(run.path, 7200)
    put_clock = program.put_clock_forward
    put_clock(7200)
    assert program.run("hash", run.path).code == 0
    assert coreutils_agree(run.path)
    for path in run.path.rglob("*"):
        if path.is_file() and path.name != "md5sum":
            path.write_text("other")
    put_clock(0)
    assert program.run("hash", run.path).code == 0
    assert not (run.path / "md5sum").exists()


def test_the_roll_up_of_a_run_without_a_file_is_kept(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    assert program.run("hash", "--no-sidecars", run.path).code == 0
    before = (run.path / "md5sum").read_bytes()
    for path in run.path.rglob("*"):
        if path.is_file() and path.name != "md5sum":
            path.unlink()
    assert program.run("hash", run.path).code == 0
    assert (run.path / "md5sum").read_bytes() == before
