"""Every fault that was seen in the original, each gone."""

from __future__ import annotations

import os
from pathlib import Path

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import OWN_FILES, Program, coreutils_agree, is_done, rollup


def test_every_file_of_a_barcoded_run_has_a_sum(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1, barcodes=["barcode01", "unclassified"]).write_all()
    files = snapshot(run)
    program.pushed(data, arrived)
    assert set(rollup(run)) == set(files)
    assert coreutils_agree(run)


def test_a_run_with_many_data_folders_is_visited_once(
    program: Program, data: Path, arrived: Path
) -> None:
    folders = ["fast5_pass", "pod5", "pod5_pass", "pod5_fail", "pod5_skip", "fastq_pass"]
    SimulatedRun(data, files=1, folders=folders).write_all()
    assert len(program.pushed(data, arrived, "-q")) == 1
    program.push(data, arrived, "-v", "-q")
    assert len(program.told("MARK DONE")) == 1
    assert len(program.told("SCAN")) == 1


def test_a_space_in_a_name_pushes_that_run_and_nothing_else_of_data(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, group="a test lib", sample="two  words", files=1).write_all()
    (data / "not a run").mkdir()
    (data / "not a run" / "secret.txt").write_text("not to be sent")
    program.pushed(data, arrived)
    assert is_done(arrived / run.relative_to(data))
    assert [path.name for path in arrived.iterdir() if path.name != ".ontpush"] == ["a test lib"]


def test_a_run_with_two_final_summaries_gets_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    run.another().write_all()
    assert len(list(run.path.glob("final_summary*"))) == 2
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert state["warning"] is None
    assert is_done(arrived / run.path.relative_to(data))


def test_files_that_come_after_done_are_sent(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    late = run.late_file("bam_pass/late.bam")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert (there / "bam_pass/late.bam").read_bytes() == late.read_bytes()
    assert b"bam_pass/late.bam" in rollup(there)
    assert is_done(there)
    assert len(program.told("REOPEN")) == 1


def test_the_done_mark_reaches_the_destination(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data) / "rsync.done"
    assert there.read_bytes() == (run.path / "rsync.done").read_bytes()


def test_a_corrupt_copy_of_equal_size_and_time_is_found_mended_and_named(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    victim = next(there.glob("pod5_pass/*.pod5"))
    times = victim.stat()
    victim.write_bytes(b"X" * times.st_size)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    run.finish()
    program.pushed(data, arrived)
    assert is_done(there)
    assert snapshot(run.path) == snapshot(there)
    name = f"pod5_pass/{victim.name}"
    assert any(name in text for text in program.told("WARN"))


def test_an_unreachable_host_exits_69_and_is_logged(
    program: Program, run: SimulatedRun, data: Path
) -> None:
    run.write_all()
    program.settings["ssh_port"] = 1
    ran = program.push(data, "127.0.0.1:runs")
    assert ran.code == 69
    assert "127.0.0.1" in ran.err
    assert any("127.0.0.1" in text for text in program.told("FAIL"))
    assert not any((run.path / name).exists() for name in OWN_FILES)


def test_a_run_of_25000_files_gets_done(program: Program, data: Path, arrived: Path) -> None:
    # The original failed at 20,000; this is also more than one call of rsync is given.
    run = SimulatedRun(data, files=0).write_all()
    for folder in ("pod5_pass", "fastq_pass"):
        (run / folder).mkdir()
        for number in range(12_550):
            name = f"{folder}/FBA12345_pass_0123abcd_4567cdef_{number}"
            os.close(os.open(run / name, os.O_CREAT | os.O_WRONLY))
    (state,) = program.pushed(data, arrived).values()
    assert state["files"] > 25_100
    assert state["state"] == "done"
    assert is_done(arrived / run.relative_to(data))


def test_a_run_of_bam_alone_is_found(program: Program, data: Path, arrived: Path) -> None:
    run = SimulatedRun(data, files=1, folders=["bam_pass"])
    for _ in run.reads():
        pass
    run.sequencing_summary.unlink()
    program.pushed(data, arrived)
    assert (arrived / run.path.relative_to(data) / "bam_pass").is_dir()
