"""A tick to a directory on this machine: what arrives, and what is said of it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import RSYNC, Program, coreutils_agree, is_done, mark, rollup

pytestmark = pytest.mark.newest


def looks(directory: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, size and time of everything below a directory but the heartbeat."""
    found = {}
    for path in directory.rglob("*"):
        if ".ontpush" not in path.parts:
            status = path.lstat()
            found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def test_real_runs_arrive_byte_for_byte(
    program: Program, real_runs: list[Path], data: Path, arrived: Path
) -> None:
    states = program.pushed(data, arrived)
    assert {state["state"] for state in states.values()} == {"done"}
    assert set(states) == {str(run.relative_to(data)) for run in real_runs}
    for run in real_runs:
        there = arrived / run.relative_to(data)
        assert snapshot(run) == snapshot(there)
        assert is_done(run)
        assert is_done(there)
    assert snapshot(data) == snapshot(arrived, without=[".ontpush"])


def test_times_arrive_too(program: Program, run: SimulatedRun, data: Path, arrived: Path) -> None:
    age(run.write_all(), 86_400)
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert there.joinpath(run.final_summary.name).stat().st_mtime == (
        pytest.approx(run.final_summary.stat().st_mtime, abs=1)
    )


def test_the_counts_of_a_real_final_summary_raise_no_warning(
    program: Program, real_runs: list[Path], data: Path, arrived: Path
) -> None:
    states = program.pushed(data, arrived)
    assert [state["warning"] for state in states.values()] == [None, None]
    assert program.told("WARN") == []


def test_a_file_that_the_final_summary_counts_and_the_run_lacks_is_a_warning_and_blocks_nothing(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data).write_all()
    next(run.glob("pod5_pass/*.pod5")).unlink()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert "counts 6 pod5 files, the run has 5" in state["warning"]
    (warning,) = program.told("WARN")
    assert str(run.relative_to(data)) in warning
    assert "pod5" in program.run("status").out


def test_files_in_the_fallback_folder_are_a_warning(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    with run.final_summary.open("a") as summary:
        summary.write("pod5_files_in_fallback=7\n")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert "7 pod5 files" in state["warning"]


def test_more_files_than_counted_are_no_warning(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    run.late_file("bam_pass/basecalled_later.bam")
    (state,) = program.pushed(data, arrived).values()
    assert state["warning"] is None


def test_a_count_that_stands_twice_is_right_if_one_of_the_two_is(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    with run.final_summary.open("a") as summary:
        summary.write("fastq_files_in_final_dest=9999\n")
    (state,) = program.pushed(data, arrived).values()
    assert state["warning"] is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage=\xff\n=\n\n", b"x" * 3_000_000])
def test_a_final_summary_of_any_content_ends_the_run(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, content: bytes
) -> None:
    run.write_all()
    run.final_summary.write_bytes(content)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["warning"]) == ("done", None)


def test_an_idle_tick_sends_nothing_and_touches_nothing(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    SimulatedRun(data, group="unfinished", files=1).write_all()
    next(data.glob("unfinished/*/*/final_summary*")).unlink()
    program.pushed(data, arrived)
    before = looks(data), looks(arrived), program.log()
    states = program.pushed(data, arrived)
    assert before == (looks(data), looks(arrived), program.log())
    assert {state["sent_files"] for state in states.values()} == {0}
    assert {state["sent_bytes"] for state in states.values()} == {0}


def test_nothing_is_deleted_at_the_destination(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    there = arrived / run.path.relative_to(data)
    there.mkdir(parents=True)
    (there / "notes.txt").write_text("put here by somebody else")
    program.pushed(data, arrived)
    gone = next(run.path.glob("pod5_pass/*.pod5"))
    gone.unlink()
    run.finish()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert (there / "notes.txt").exists()
    assert (there / "pod5_pass" / gone.name).exists()
    assert f"pod5_pass/{gone.name}".encode() not in rollup(there)
    assert coreutils_agree(there)


def test_a_file_that_stands_where_a_directory_should_is_not_deleted(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    in_the_way = arrived / run.path.relative_to(data).parts[0]
    in_the_way.write_text("put here by somebody else")
    ran = program.push(data, arrived)
    assert ran.code != 0
    assert in_the_way.read_text() == "put here by somebody else"
    assert len(ran.err.splitlines()) == 1


def test_a_file_that_arrived_is_not_deleted_for_a_directory_of_its_name(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "notes").write_text("the first")
    program.pushed(data, arrived)
    (run.path / "notes").unlink()
    (run.path / "notes").mkdir()
    (run.path / "notes" / "more").write_text("more")
    there = arrived / run.path.relative_to(data)
    ran = program.push(data, arrived)
    assert ran.code == 1
    assert "notes/more" in ran.err
    assert (there / "notes").read_text() == "the first"


def test_a_link_to_a_directory_at_the_destination_is_kept(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, tmp_path: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    elsewhere = tmp_path / "archive"
    elsewhere.mkdir()
    there.parent.mkdir(parents=True)
    there.symlink_to(elsewhere)
    ran = program.push(data, arrived)
    assert there.is_symlink()
    # rsync follows it, or from 3.5 on does not trust it.
    assert is_done(elsewhere) if ran.code == 0 else run.path.name in ran.err


def test_a_done_run_stays_done_when_its_files_are_cleared_away(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    before = snapshot(arrived, without=[".ontpush"])
    for path in run.path.glob("pod5_pass/*"):
        path.unlink()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert snapshot(arrived, without=[".ontpush"]) == before


def test_a_run_that_is_gone_is_told_only_if_it_was_not_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    run.path.rename(data.parent / "elsewhere")
    assert program.pushed(data, arrived) == {}
    assert program.told("WARN") == []
    other = SimulatedRun(data, group="other", files=1)
    for _ in other.reads():
        pass
    program.pushed(data, arrived)
    other.path.rename(data.parent / "elsewhere too")
    program.pushed(data, arrived)
    (warning,) = program.told("WARN")
    assert str(other.path.relative_to(data)) in warning


def test_a_run_that_comes_back_is_known_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    run.path.rename(data.parent / "elsewhere")
    program.pushed(data, arrived)
    (data.parent / "elsewhere").rename(run.path)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)


def test_the_done_mark_says_what_it_vouches_for(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (state,) = program.pushed(data, arrived).values()
    facts = mark(arrived / run.path.relative_to(data))
    assert facts["run"] == str(run.path.relative_to(data))
    assert facts["instrument"] == "lab"
    assert facts["destination"] == str(arrived)
    assert facts["files"] == str(state["files"])
    assert facts["bytes"] == str(state["bytes"])
    assert facts["date"].startswith("20")


def test_relative_places_are_those_of_the_caller(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(Path("../data/"), "../arrived/")
    assert is_done(arrived / run.path.relative_to(data))


def test_a_source_that_is_a_link_is_followed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    link = data.parent / "link"
    link.symlink_to(data)
    program.pushed(link, arrived)
    assert is_done(arrived / run.path.relative_to(data))


def test_source_and_destination_with_odd_names(program: Program, tmp_path: Path) -> None:
    data, arrived = tmp_path / "data: [ab]* 'x'", tmp_path / 'arrived # {1,2} ?\\ "y"'
    arrived.mkdir()
    run = SimulatedRun(data, files=1)
    run.write_all()
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))
    assert program.pushed(data, arrived).popitem()[1]["sent_files"] == 0


def test_each_file_is_sent_once_over_the_ticks_of_a_run(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=3, folders=["pod5_pass"])
    sent = 0
    for path in run.steps():
        if path.suffix in (".pod5", ".txt"):
            sent += sum(state["sent_files"] for state in program.pushed(data, arrived).values())
    written = len(snapshot(run.path, without=["md5sum", "rsync.done"]))
    grown = ("sequencing_summary", "throughput")
    again = sum(1 for text in os.listdir(run.path) if text.startswith(grown)) * run.files
    assert written <= sent <= written + again
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.parametrize("where", [".", "backup", ".."])
def test_source_and_destination_inside_one_another_are_refused(
    program: Program, run: SimulatedRun, data: Path, where: str
) -> None:
    run.write_all()
    (data / "backup").mkdir()
    before = snapshot(data)
    ran = program.push(data, (data / where).resolve())
    if where == "..":
        # The destination holds the source: nobody would want that, but it does no harm.
        assert ran.code in (0, 64)
    else:
        assert ran.code == 64
        assert snapshot(data) == before


def test_a_clock_that_is_a_day_behind_does_no_harm(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.put_clock_forward(-86_400)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    program.put_clock_forward(0)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    run.late_file("late")
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


def test_nothing_below_the_source_changes_but_that_its_run_gets_roll_up_and_mark(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (data / "notes.txt").write_text("of the lab")
    (data / "empty").mkdir()

    def everything() -> dict[str, tuple[int, int, int]]:
        """Each path with its mode, size and time; a directory's change with what comes into it."""
        found = {str(path.relative_to(data)): path.lstat() for path in data.rglob("*")}
        return {
            path: (each.st_mode, 0, 0)
            if stat.S_ISDIR(each.st_mode)
            else (each.st_mode, each.st_size, each.st_mtime_ns)
            for path, each in found.items()
        }

    before = everything()
    program.pushed(data, arrived)
    after = everything()
    ours = {str((run.path / name).relative_to(data)) for name in ("md5sum", "rsync.done")}
    assert after.keys() - before.keys() == ours
    assert {path: after[path] for path in before} == before


def test_a_done_run_leaves_rsync_no_file_to_bring(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    compare = [RSYNC, "-a", "-n", "-i", f"{run.path}/", f"{arrived / run.path.relative_to(data)}/"]
    lines = subprocess.run(compare, capture_output=True, text=True, check=True).stdout.splitlines()
    # Directories have the times at which something came into them.
    assert [line for line in lines if line[1] != "d"] == []
    # rsync looks at seconds alone, and both ends write within one.
    for name in ("md5sum", "rsync.done"):
        here, there = run.path / name, arrived / run.path.relative_to(data) / name
        assert here.stat().st_mtime_ns == there.stat().st_mtime_ns
