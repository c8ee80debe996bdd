"""A run that is pushed from, or to, another place: what it was elsewhere counts for nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import Program, coreutils_agree, is_done, mark

WEEK = 7 * 86400


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Another destination."""
    path = tmp_path / "second"
    path.mkdir()
    return path


def put_back(program: Program, data: Path) -> None:
    """Have all runs again as in the backup, and no ledger."""
    for path in (program.state, data):
        shutil.rmtree(path)
    os.rename(program.home / "backup", data)


def watch(program: Program, run: Path) -> Path:
    """Look at `run` around every transfer; the file that appears if its roll-up ever is wrong."""
    wrong = program.home / "wrong"
    check = f"[ ! -s {run}/md5sum ] || (cd {run} && md5sum -c --status md5sum) || touch {wrong}"
    program.wrap_rsync(before=check, after=check)
    return wrong


def change(run: SimulatedRun) -> Path:
    """Give a data file other bytes of the same size."""
    file = min(run.path.glob("pod5_pass/*"))
    file.write_bytes(file.read_bytes()[::-1])
    return file


def test_a_done_run_below_another_source_goes_to_its_other_place(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    (state,) = program.pushed(run.path.parent, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    assert is_done(arrived / run.path.name)


def test_an_unfinished_run_below_another_source_lists_only_what_lies_at_its_other_place(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    run.late_file("pod5_pass/late.pod5")
    program.pushed(run.path.parent, arrived)
    assert coreutils_agree(arrived / run.path.name)


def test_two_runs_that_would_lie_in_the_same_place_are_refused_by_name(
    program: Program, arrived: Path, tmp_path: Path
) -> None:
    one, two = (tmp_path / name for name in ("one", "two"))
    run = SimulatedRun(one, files=1).write_all()
    shutil.copytree(one, two)
    change(SimulatedRun(two, directory=two / run.relative_to(one)))
    program.pushed(one, arrived)
    before = snapshot(arrived, without=[".ontpush"])
    ran = program.push(two, arrived)
    assert ran.code == 1
    assert str(run) in ran.err
    assert snapshot(arrived, without=[".ontpush"]) == before
    assert program.push(two, arrived).code == 1


def test_a_run_that_is_mounted_elsewhere_too_is_one_run(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, second: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    program.within = ["unshare", "-rm", "sh", "-c", mount, "sh", str(data), str(second)]
    for source in (second, data):
        (state,) = program.pushed(source, arrived).values()
        assert (state["state"], state["sent_files"]) == ("done", 0)
        assert len(program.run("status", "--json").runs) == 1


def test_a_done_run_copied_to_another_sequencer_is_sent_from_there_too(
    program: Program, run: SimulatedRun, data: Path, cluster: Cluster, tmp_path: Path
) -> None:
    run.write_all()
    program.pushed(data, cluster.destination)
    copied = tmp_path / "copied"
    shutil.copytree(data, copied)
    shutil.rmtree(program.state)
    program.settings["instrument"] = "another"
    own = cluster.directory / "another"
    own.mkdir()
    (state,) = program.pushed(copied, cluster.destination + "/another").values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    assert mark(own / run.path.relative_to(data))["instrument"] == "another"


@pytest.mark.parametrize("instrument", ["lab", "another"])
def test_a_done_mark_is_not_believed_where_nothing_lies_at_the_destination(
    program: Program,
    run: SimulatedRun,
    data: Path,
    arrived: Path,
    instrument: str,
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    shutil.rmtree(program.state)
    shutil.rmtree(arrived)
    arrived.mkdir()
    program.settings["instrument"] = instrument
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    assert is_done(arrived / run.path.relative_to(data))


def test_a_roll_up_from_before_another_destination_is_withdrawn_before_anything_is_sent(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, second: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    change(run)
    program.pushed(data, second)
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


@pytest.mark.parametrize("lost", [("state",), ("state", "md5sum", "rsync.done")])
def test_a_roll_up_that_nobody_remembers_is_withdrawn_before_anything_is_sent(
    program: Program,
    run: SimulatedRun,
    data: Path,
    arrived: Path,
    lost: tuple[str, ...],
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    shutil.rmtree(program.state)
    for name in lost[1:]:
        (run.path / name).unlink()
    change(run)
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


@pytest.fixture
def old_state(program: Program, run: SimulatedRun, data: Path, arrived: Path) -> Iterator[None]:
    """The state directory of an earlier tick is put back after a later one."""
    run.write_all()
    program.pushed(data, arrived)
    shutil.copytree(program.state, program.home / "backup")
    change(run)
    program.pushed(data, arrived)
    shutil.rmtree(program.state)
    os.rename(program.home / "backup", program.state)
    yield


def test_a_state_from_before_the_run_was_sent_whole_is_no_reason_to_contradict_the_roll_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    late = run.late_file("pod5_pass/late.pod5")
    program.wrap_rsync(before="exit 12")
    assert program.push(data, arrived).code != 0
    shutil.copytree(program.state, program.home / "backup")
    program.wrap_rsync()
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert is_done(there)
    shutil.rmtree(program.state)
    os.rename(program.home / "backup", program.state)
    late.write_bytes(b"another version")
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


def test_a_done_run_put_back_from_a_backup_is_no_reason_to_contradict_the_roll_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    shutil.copytree(data, program.home / "backup")
    change(run)
    program.pushed(data, arrived)
    put_back(program, data)
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


def test_a_file_put_back_that_looks_like_the_one_there_is_not_listed_before_it_was_compared(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    shutil.copytree(data, program.home / "backup")
    changed = min(run.path.glob("pod5_pass/*"))
    second = changed.stat().st_mtime_ns // 10**9 * 10**9
    changed.write_bytes(changed.read_bytes()[::-1])
    os.utime(changed, ns=(second, second))
    program.pushed(data, arrived)
    put_back(program, data)
    # As if the copy was made in the second of the mark, and one file came later.
    mark = run.path / "rsync.done"
    date, *facts = mark.read_text().splitlines()
    mark.write_text("\n".join([date.replace("20", "21", 1), *facts, ""]))
    run.late_file("pod5_pass/late.pod5")
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


@pytest.mark.usefixtures("old_state")
def test_a_state_that_is_older_than_the_run_is_no_reason_to_contradict_the_roll_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = arrived / run.path.relative_to(data)
    change(run)
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


def test_a_done_run_that_comes_back_changed_after_weeks_is_not_vouched_for_meanwhile(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    elsewhere = run.path.rename(data.with_name("elsewhere"))
    for weeks in (1, 3):
        program.put_clock_forward(weeks * WEEK)
        program.pushed(data, arrived)
    elsewhere.rename(run.path)
    change(run)
    wrong = watch(program, there)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not wrong.exists()


def test_a_done_run_inside_a_new_run_is_vouched_for_no_more(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    outer = run.path.parent
    (outer / "final_summary_of_all.txt").write_text("processing_stopped=now\n")
    (state,) = program.pushed(data, arrived).values()
    assert state["run"] == str(outer.relative_to(data))
    change(run)
    program.put_clock_forward(2 * 86400)
    program.pushed(data, arrived)
    assert is_done(arrived / outer.relative_to(data))
    assert "rollup" not in mark(there)
    assert program.run("verify", there.parent).code == 0
