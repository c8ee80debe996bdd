"""A run is found by what it holds, never by its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.lab.deep import DEPTH, deep_directory
from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program

DATA_FOLDERS = [
    f"{kind}{status}"
    for kind in ("fast5", "pod5", "fastq", "bam")
    for status in ("", "_pass", "_fail", "_skip", "_fail_2")
]
SERVICE_DIRECTORIES = [
    "queued_reads",
    "intermediate",
    "persistence",
    "pings",
    "logs",
    "Install_logs",
    "reads",
    "reports",
    "core-dump-db",
    "devices",
    "lost+found",
    "network",
    "user_scripts",
    "epi2me_inside",
    "tmp",
    ".Trash",
]


def fill(path: Path) -> None:
    """Make a file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(path))


def test_every_data_folder_makes_a_run(program: Program, data: Path, arrived: Path) -> None:
    for name in DATA_FOLDERS:
        fill(data / "experiment" / f"run of {name}" / name / "reads")
    found = set(program.pushed(data, arrived))
    assert found == {f"experiment/run of {name}" for name in DATA_FOLDERS}


@pytest.mark.parametrize(
    "name", ["final_summary_X_1.txt", "final_summary.txt", "sequencing_summary_X.txt"]
)
def test_a_summary_makes_a_run(program: Program, data: Path, arrived: Path, name: str) -> None:
    fill(data / "experiment" / "sample" / "run" / name)
    assert set(program.pushed(data, arrived)) == {"experiment/sample/run"}


@pytest.mark.parametrize(
    "name", ["bam_only", "pod5s", "fastq_passed", "my_pod5", "FASTQ_PASS", "fast5_test run"]
)
def test_an_experiment_that_sounds_like_a_data_folder_is_none(
    program: Program, data: Path, arrived: Path, name: str
) -> None:
    fill(data / name / "sample" / "run" / "pod5_pass" / "reads.pod5")
    assert set(program.pushed(data, arrived)) == {f"{name}/sample/run"}


def test_a_file_or_link_named_as_a_data_folder_makes_no_run(
    program: Program, data: Path, arrived: Path, tmp_path: Path
) -> None:
    fill(data / "experiment" / "one" / "pod5_pass")
    (data / "experiment" / "two").mkdir()
    (data / "experiment" / "two" / "pod5_pass").symlink_to(tmp_path)
    (data / "experiment" / "three" / "final_summary_is_a_directory.txt").mkdir(parents=True)
    assert program.pushed(data, arrived) == {}


def test_pooled_data_is_a_run_of_the_sample(program: Program, data: Path, arrived: Path) -> None:
    first = SimulatedRun(data, files=1, pooled=True)
    first.write_all()
    first.another().write_all()
    assert set(program.pushed(data, arrived)) == {f"{first.group}/{first.sample}"}


def test_a_run_directly_below_the_source_is_one(
    program: Program, data: Path, arrived: Path
) -> None:
    fill(data / "run" / "pod5" / "reads.pod5")
    assert set(program.pushed(data, arrived)) == {"run"}


def test_nothing_inside_a_run_is_a_run(program: Program, data: Path, arrived: Path) -> None:
    outer = data / "experiment" / "run"
    fill(outer / "pod5_pass" / "reads.pod5")
    fill(outer / "sample_sheet_X.csv")
    fill(outer / "rebasecalled" / "fastq_pass" / "reads.fastq.gz")
    fill(outer / "rebasecalled" / "final_summary_2.txt")
    assert set(program.pushed(data, arrived)) == {"experiment/run"}
    assert (arrived / "experiment/run/rebasecalled/fastq_pass/reads.fastq.gz").exists()


@pytest.mark.parametrize(
    "name",
    [
        "sample_sheet_X.csv",
        "throughput_X.csv",
        "pore_activity_X.csv",
        "duty_time_X.csv",
        "report_X.html",
        "output_hash_X.csv",
        "barcode_alignment_X.tsv",
    ],
)
def test_a_data_folder_with_what_minknow_writes_beside_it_is_a_run_though_runs_lie_below(
    program: Program, data: Path, arrived: Path, name: str
) -> None:
    fill(data / "experiment" / "pod5" / "reads.pod5")
    fill(data / "experiment" / "sample" / "run" / "final_summary_X.txt")
    assert set(program.pushed(data, arrived)) == {"experiment/sample/run"}
    fill(data / "experiment" / name)
    assert set(program.pushed(data, arrived)) == {"experiment"}


def test_a_data_folder_alone_is_a_run_whatever_lies_in_its_own_data_folders(
    program: Program, data: Path, arrived: Path
) -> None:
    fill(data / "experiment" / "run" / "pod5" / "old" / "pod5_pass" / "reads.pod5")
    fill(data / "experiment" / "run" / "notes" / "x.txt")
    assert set(program.pushed(data, arrived)) == {"experiment/run"}


@pytest.mark.parametrize("name", ["pod5_pass", "final_summary_X.txt"])
def test_the_source_itself_is_no_run(
    program: Program, data: Path, arrived: Path, name: str
) -> None:
    fill(data / name / "x" if name == "pod5_pass" else data / name)
    fill(data / "experiment" / "run" / "pod5" / "reads.pod5")
    assert set(program.pushed(data, arrived)) == {"experiment/run"}


def test_service_directories_are_not_entered(program: Program, data: Path, arrived: Path) -> None:
    for name in SERVICE_DIRECTORIES:
        fill(data / name / "experiment" / "run" / "fastq_pass" / "reads.fastq.gz")
    for name in ("tmp", ".snapshot"):
        fill(data / "experiment" / name / "run" / "fastq_pass" / "reads.fastq.gz")
    assert program.pushed(data, arrived) == {}
    assert {path.name for path in arrived.iterdir()} == {".ontpush"}


def test_a_sample_may_be_called_as_a_service_directory(
    program: Program, data: Path, arrived: Path
) -> None:
    fill(data / "experiment" / "network" / "run" / "pod5" / "reads.pod5")
    assert set(program.pushed(data, arrived)) == {"experiment/network/run"}


def test_directories_that_are_links_are_not_searched(
    program: Program, data: Path, arrived: Path, tmp_path: Path
) -> None:
    SimulatedRun(tmp_path / "elsewhere", files=1).write_all()
    (data / "link").symlink_to(tmp_path / "elsewhere")
    (data / "loop").symlink_to(data)
    assert program.pushed(data, arrived) == {}


def test_an_empty_source_is_no_fault(program: Program, data: Path, arrived: Path) -> None:
    assert program.pushed(data, arrived) == {}


def test_an_empty_run_waits(program: Program, data: Path, arrived: Path) -> None:
    (data / "experiment" / "run" / "pod5_pass").mkdir(parents=True)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] in ("new", "waiting")
    assert (state["files"], state["error"]) == (0, None)


def test_a_run_of_nothing_but_its_final_summary_gets_done(
    program: Program, data: Path, arrived: Path
) -> None:
    (data / "experiment" / "run").mkdir(parents=True)
    (data / "experiment" / "run" / "final_summary_X.txt").touch()
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["files"], state["bytes"]) == ("done", 1, 0)


def test_directories_of_any_depth_are_searched(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    with deep_directory(data / "deep") as bottom:
        ran = program.push(data, arrived, "-n", "--json")
        assert (ran.code, len(ran.runs)) == (0, 1)
        os.mkdir("pod5", dir_fd=bottom)
        ran = program.push(data, arrived, "-n", "--json")
        assert ran.code == 0
        assert "deep" + "/d" * DEPTH in ran.runs


def test_no_file_of_a_run_is_left_behind_because_of_its_folders_name(
    program: Program, data: Path, arrived: Path
) -> None:
    fill(data / "experiment" / "run" / "final_summary_X.txt")
    for name in SERVICE_DIRECTORIES:
        fill(data / "experiment" / "run" / name / "deeper" / name / "x")
    assert set(program.pushed(data, arrived)) == {"experiment/run"}
    for name in SERVICE_DIRECTORIES:
        assert (arrived / "experiment" / "run" / name / "deeper" / name / "x").exists()


@pytest.mark.parametrize("place", ["tmp", ".old", "reports", "queued_reads", "experiment/.x"])
def test_a_run_in_a_hidden_or_service_directory_is_told_and_left_alone(
    program: Program, data: Path, arrived: Path, place: str
) -> None:
    hidden = SimulatedRun(data / place, files=1)
    hidden.write_all()
    assert program.pushed(data, arrived) == {}
    (told,) = program.told("WARN")
    assert told.startswith(f"{hidden.path.relative_to(data)} a run where none is looked for")
    assert not list(arrived.rglob("*.pod5"))


def test_data_that_no_run_takes_along_is_told_to_people_once(
    program: Program, monitor: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    SimulatedRun(data / "experiment", files=1).write_all()
    (data / "experiment/bam").mkdir()
    hidden = SimulatedRun(data / "tmp", files=1)
    hidden.write_all()
    for _ in range(2):
        program.pushed(data, gridion)
        assert monitor.run("monitor").is_silent
    (mail,) = [each for each in mailbox.mails() if "failed" in each["Subject"]]
    text = " ".join(content(mail, "plain").split())
    assert "on gridion lies what no run takes along" in text
    assert "experiment/bam: makes no run" in text
    assert hidden.path.name in text
    (data / "experiment/bam").rmdir()
    shutil.rmtree(data / "tmp")
    program.pushed(data, gridion)
    monitor.run("monitor")
    assert ["back to normal" in subject for subject in mailbox.subjects()] == [True]


def test_what_minknow_keeps_in_its_own_directories_is_no_hidden_run(
    program: Program, data: Path, arrived: Path
) -> None:
    (data / "intermediate/0123/pod5").mkdir(parents=True)
    (data / "intermediate/0123/pod5/half.pod5").touch()
    program.pushed(data, arrived)
    assert program.told("WARN") == []
