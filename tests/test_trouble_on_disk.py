"""Full disks and missing rights, at either end: named, and no obstacle to the rest."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import RRSYNC, Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.small_disk import SmallDisk
from tests.program import RSYNC, Program, Ran, coreutils_agree, is_done, refuse_to_unlink, rollup


@pytest.fixture
def small_destination(program: Program, arrived: Path) -> Iterator[SmallDisk]:
    """A destination of 2 MB."""
    disk = SmallDisk(arrived, "2m")
    program.within = disk.within
    yield disk
    disk.end()


@pytest.fixture
def no_privilege(program: Program) -> None:
    """Take from root the right to read and write everything; another user never had it."""
    if os.geteuid() == 0:
        rights = "-dac_override,-dac_read_search"
        program.within = ["setpriv", "--bounding-set", rights, "--inh-caps", rights]


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """Change the mode of a file or directory for a while."""
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


def errors(ran: Ran) -> list[str]:
    """The messages of all errors of a call with --json."""
    return [error["message"] for error in ran.json["errors"]]


# -- full disks -------------------------------------------------------------------------


def test_a_full_disk_at_the_destination_fails_the_run_and_the_next_tick_goes_on(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, small_destination: SmallDisk
) -> None:
    run.write_all()
    run.late_file("pod5_pass/0_big.pod5", size=1_500_000)
    filler = small_destination.path / "filler"
    filler.write_bytes(b"x" * 1_000_000)
    ran = program.push(data, arrived)
    there = small_destination.path / run.path.relative_to(data)
    assert ran.code == 1
    assert "no space left" in ran.err.lower()
    assert any("no space left" in text.lower() for text in program.told("FAIL"))
    assert not (there / "pod5_pass/0_big.pod5").exists()
    assert not (there / "rsync.done").exists()
    if (there / "md5sum").exists():
        assert coreutils_agree(there)
    filler.unlink()
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["error"]) == ("done", None)
    assert is_done(there)


def test_a_full_disk_on_the_cluster_is_told_as_such(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, cluster: Cluster
) -> None:
    run.write_all()
    run.late_file("pod5_pass/0_big.pod5", size=3_000_000)
    disk = SmallDisk(arrived, "2m")
    cluster.forced_command(f"{' '.join(disk.within)} rrsync -wo {arrived}")
    try:
        ran = program.push(data, cluster.destination)
        assert not (disk.path / run.path.relative_to(data) / "rsync.done").exists()
    finally:
        cluster.forced_command(RRSYNC)
        disk.end()
    assert ran.code == 1
    # rsync's own word is often lost on the way, its exit code never.
    assert "space" in ran.err.lower()


def test_a_full_disk_at_the_source_keeps_nothing_from_being_sent(
    program: Program, data: Path, arrived: Path
) -> None:
    disk = SmallDisk(data, "2m")
    try:
        program.within = disk.within
        run = SimulatedRun(disk.path, files=1)
        run.write_all()
        filler = disk.fill()
        ran = program.push(data, arrived, "--json")
        there = arrived / run.path.relative_to(disk.path)
        assert ran.code == 1
        assert "space" in errors(ran)[0]
        assert coreutils_agree(there)
        assert set(rollup(there)) == set(snapshot(run.path))
        assert not list(run.path.rglob("*.ontpush-new"))
        filler.unlink()
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "done"
        assert is_done(run.path)
        assert is_done(there)
    finally:
        disk.end()


def test_a_full_disk_under_the_state_is_a_passing_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.state.mkdir()
    disk = SmallDisk(program.state, "1m")
    try:
        program.within = disk.within
        filler = disk.fill()
        ran = program.push(data, arrived)
        assert ran.code in (75, 78)
        assert len(ran.err.splitlines()) == 1
        filler.unlink()
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "done"
    finally:
        disk.end()
    assert is_done(arrived / run.path.relative_to(data))


def test_a_disk_under_the_state_that_fills_up_is_a_passing_fault_of_an_idle_tick_too(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.state.mkdir()
    disk = SmallDisk(program.state, "1m")
    try:
        program.within = disk.within
        program.pushed(data, arrived)
        # A folder that has just changed is read once more: only after that is a tick idle.
        program.put_clock_forward(60)
        program.pushed(data, arrived)
        # The lock still has room for its word.
        filler = disk.fill(pages_left=1)
        ran = program.push(data, arrived, "--json")
        assert ran.code == 75
        assert ran.runs.popitem()[1]["state"] == "done"
        assert errors(ran) == [
            f"{program.state}/outbox cannot be written: No space left on device; make room on"
            " that disk, the next tick tries again"
        ]
        filler.unlink()
        program.pushed(data, arrived)
    finally:
        disk.end()


def test_something_in_the_place_of_the_outbox_is_told(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.state.mkdir()
    (program.state / "outbox").write_text("somebody's")
    ran = program.push(data, arrived)
    assert ran.code == 78
    assert f"{program.state}/outbox cannot be written: Not a directory" in ran.err
    (program.state / "outbox").unlink()
    program.pushed(data, arrived)


def test_a_link_in_the_place_of_the_outbox_leads_to_nothing_that_goes(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.state.mkdir()
    (program.state / "outbox").symlink_to(data)
    before = snapshot(run.path)
    program.push(data, arrived)
    assert snapshot(run.path, without=["md5sum", "rsync.done"]) == before
    (program.state / "outbox").unlink()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


def test_what_cannot_be_removed_from_the_outbox_is_in_nobodys_way(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    left = program.state / "outbox" / ".ontpush" / ".nfs01"
    left.parent.mkdir(parents=True)
    for path in (left, left.with_name("owner"), left.with_name("lab.json")):
        path.touch()
    refuse_to_unlink(program, ".nfs01", errno.EBUSY)
    run.late_file("pod5_pass/late.pod5")
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))
    assert left.exists()
    shutil.rmtree(program.state / "outbox")


@pytest.mark.parametrize("options", [[], ["-n"]])
def test_a_full_disk_under_the_temporary_files_is_named(
    program: Program, data: Path, arrived: Path, options: list[str]
) -> None:
    run = SimulatedRun(data, files=1)
    run.write_all()
    program.pushed(data, arrived)
    for number in range(600):
        run.late_file(f"pod5_pass/a name of some length {number}", size=1)
    disk = SmallDisk(program.temporary, "16k")
    try:
        program.within = disk.within
        ran = program.push(data, arrived, *options)
    finally:
        disk.end()
        program.within = []
    assert ran.code == 75
    (line,) = ran.err.splitlines()
    assert f"temporary files, {program.temporary}, cannot be written: No space left" in line
    program.pushed(data, arrived)


def test_a_full_disk_under_the_log_stops_no_tick(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings["log"] = "/dev/full"
    ran = program.push(data, arrived)
    assert "/dev/full" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert is_done(arrived / run.path.relative_to(data))


# -- missing rights ---------------------------------------------------------------------


@pytest.mark.usefixtures("no_privilege")
def test_a_file_that_cannot_be_read_fails_its_run_by_name_and_nothing_else(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    other = SimulatedRun(data, group="zz other", files=1)
    other.write_all()
    secret = next(run.path.glob("pod5_pass/*.pod5"))
    there = arrived / run.path.relative_to(data)
    with mode(secret, 0):
        ran = program.push(data, arrived, "--json")
        assert ran.code == 1
        (error,) = ran.json["errors"]
        assert error["run"] == str(run.path.relative_to(data))
        assert f"pod5_pass/{secret.name}" in error["message"]
        assert secret.name in program.told("FAIL")[0]
        states = ran.runs
        assert states[error["run"]]["state"] == "failed"
        assert states[str(other.path.relative_to(data))]["state"] == "done"
        assert not (there / "rsync.done").exists()
        assert set(rollup(there)) == set(snapshot(there)) - {b"md5sum"}
        assert coreutils_agree(there)
        assert len(rollup(there)) == states[error["run"]]["files"] - 1
        again = program.push(data, arrived)
        assert again.code == 1
    program.pushed(data, arrived)
    assert is_done(there)


@pytest.mark.usefixtures("no_privilege")
@pytest.mark.parametrize("bits", [0, 0o444, 0o111])
def test_a_folder_that_cannot_be_read_fails_its_run_by_name(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, bits: int
) -> None:
    run.write_all()
    with mode(run.path / "pod5_pass", bits):
        ran = program.push(data, arrived, "--json")
        assert ran.code == 1
        assert "pod5_pass" in errors(ran)[0]
        assert not list(arrived.rglob("rsync.done"))
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
def test_a_folder_of_a_known_run_that_can_no_longer_be_read_takes_nothing_back(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    before = rollup(arrived / run.path.relative_to(data))
    run.finish()
    with mode(run.path / "pod5_pass", 0):
        assert program.push(data, arrived).code == 1
        assert before.items() <= rollup(arrived / run.path.relative_to(data)).items()
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
def test_a_folder_of_a_done_run_that_can_no_longer_be_read_is_told(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    late = run.late_file("pod5_pass/late.pod5")
    with mode(run.path / "pod5_pass", 0):
        for _ in range(2):
            ran = program.push(data, arrived, "--json")
            assert ran.code == 1
            assert errors(ran)[0].startswith("pod5_pass: Permission denied")
    program.pushed(data, arrived)
    assert (arrived / late.relative_to(data)).exists()
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
@pytest.mark.parametrize("bits", [0, 0o444])
def test_an_experiment_that_cannot_be_searched_is_told_and_the_others_go_on(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, bits: int
) -> None:
    run.write_all()
    SimulatedRun(data, group="closed", files=1).write_all()
    with mode(data / "closed", bits):
        ran = program.push(data, arrived, "--json")
    assert ran.code == 1
    (error,) = ran.json["errors"]
    assert error["run"].split("/")[0] == "closed"
    assert [state["state"] for state in ran.runs.values()] == ["done"]


@pytest.mark.usefixtures("no_privilege")
def test_a_dry_run_tells_what_it_cannot_search(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (data / "closed").mkdir()
    with mode(data / "closed", 0):
        ran = program.push(data, arrived, "-n", "--json")
    assert ran.code == 1
    assert [error["run"] for error in ran.json["errors"]] == ["closed"]
    assert ran.runs.popitem()[1]["sent_files"]


@pytest.mark.usefixtures("no_privilege")
def test_a_state_that_this_user_may_not_read_is_told_by_whoever_looks(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    for path in (program.state, program.state / "ledger.sqlite3"):
        with mode(path, 0):
            for ran in (
                program.run("status", "--json"),
                program.push(data, arrived, "-n", "--json"),
            ):
                assert ran.code == 78
                assert "ledger.sqlite3 cannot be read: Permission denied" in errors(ran)[0]
    with mode(program.state, 0o555), mode(program.state / "ledger.sqlite3", 0o444):
        assert program.run("status", "--json").runs.popitem()[1]["state"] == "done"


@pytest.mark.usefixtures("no_privilege")
def test_retry_by_a_user_who_may_not_write_the_state_says_that_no_tick_will_help(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    with mode(program.state, 0o555), mode(program.state / "ledger.sqlite3", 0o444):
        ran = program.run("retry", run.path)
    assert ran.code == 78
    assert "may not write" in ran.err
    assert "next tick" not in ran.err
    assert (run.path / "rsync.done").exists()


@pytest.mark.usefixtures("no_privilege")
def test_a_run_that_cannot_be_written_is_sent_and_not_marked_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    with mode(run.path, 0o555):
        ran = program.push(data, arrived, "--json")
        assert ran.code == 1
        assert "cannot be written" in errors(ran)[0]
        assert coreutils_agree(there)
        assert ran.runs.popitem()[1]["state"] == "failed"
    program.pushed(data, arrived)
    assert is_done(there)
    assert is_done(run.path)


@pytest.mark.usefixtures("no_privilege")
def test_a_done_run_that_cannot_be_written_any_more_rests(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    with mode(run.path, 0o555):
        (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)


@pytest.mark.usefixtures("no_privilege")
def test_a_mark_that_no_longer_holds_and_cannot_be_removed_is_told_with_what_to_do(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    run.late_file("pod5_pass/late.pod5")
    with mode(run.path, 0o555):
        (line,) = errors(program.push(data, arrived, "--json"))
    assert line == (
        "rsync.done no longer holds and cannot be removed: Permission denied; let this user write"
        " in the run"
    )
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
def test_a_source_that_cannot_be_read_is_told_before_anything_happens(
    program: Program, data: Path, arrived: Path
) -> None:
    for bits in (0, 0o444):
        with mode(data, bits):
            ran = program.push(data, arrived)
        assert ran.code in (64, 78)
        assert str(data) in ran.err
        assert len(ran.err.splitlines()) == 1


@pytest.mark.usefixtures("no_privilege")
def test_a_destination_that_cannot_be_written_is_told_and_marks_nothing(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    with mode(arrived, 0o555):
        ran = program.push(data, arrived)
    assert ran.code in (1, 69)
    assert "denied" in ran.err
    assert not (run.path / "rsync.done").exists()
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
def test_a_state_directory_that_cannot_be_written_is_a_fault_of_the_configuration(
    program: Program, data: Path, arrived: Path
) -> None:
    del program.settings["log"]
    config = program.configured()
    with mode(program.home, 0o555):
        ran = program.call("push", *config, data, arrived)
    assert ran.code == 78
    assert str(program.state) in ran.err


@pytest.mark.usefixtures("no_privilege")
def test_a_log_that_cannot_be_written_is_a_fault_of_the_configuration(
    program: Program, data: Path, arrived: Path
) -> None:
    program.log_file.touch()
    with mode(program.log_file, 0o444):
        ran = program.push(data, arrived)
    assert ran.code == 78
    assert str(program.log_file) in ran.err


@pytest.mark.usefixtures("no_privilege")
def test_hash_and_verify_name_what_they_cannot_read(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    secret = next(run.path.glob("pod5_pass/*.pod5"))
    with mode(secret, 0):
        ran = program.run("hash", "--no-sidecars", "--json", run.path)
        assert ran.code == 1
        assert secret.name in errors(ran)[0]
    assert len(rollup(run.path)) == len(snapshot(run.path)) - 2
    program.run("hash", "--no-sidecars", run.path)
    with mode(secret, 0):
        ran = program.run("verify", "--json", run.path)
        assert ran.code == 1
        assert secret.name in errors(ran)[0]
    with mode(run.path / "pod5_pass", 0):
        ran = program.run("verify", "--json", run.path)
        assert ran.code == 1
        assert "pod5_pass" in errors(ran)[0]


# -- places that are not there ----------------------------------------------------------


def test_a_source_that_is_not_there_is_told(program: Program, data: Path, arrived: Path) -> None:
    shutil.rmtree(data)
    ran = program.push(data, arrived)
    assert ran.code == 64
    assert str(data) in ran.err
    program.settings.update(source=str(data), destination=str(arrived))
    assert program.run("push").code == 78


def test_a_destination_that_is_not_there_exits_69_and_is_not_made(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    arrived.rmdir()
    ran = program.push(data, arrived)
    assert ran.code == 69
    (line,) = ran.err.splitlines()
    assert "not there" in line
    assert not arrived.exists()
    assert not (run.path / "md5sum").exists()


def test_a_destination_that_is_a_file_is_told(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    arrived.rmdir()
    arrived.write_text("a file")
    ran = program.push(data, arrived)
    assert ran.code in (64, 69)
    assert len(ran.err.splitlines()) == 1
    assert arrived.read_text() == "a file"


def test_a_directory_of_somebody_else_in_a_files_place_fails_the_run_and_is_kept(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    (there / run.final_summary.name).mkdir(parents=True)
    (there / run.final_summary.name / "notes").write_text("kept")
    ran = program.push(data, arrived, "--json")
    assert ran.code == 1
    assert run.final_summary.name in errors(ran)[0]
    assert (there / run.final_summary.name / "notes").read_text() == "kept"
    assert not (there / "rsync.done").exists()
    assert coreutils_agree(there)


def test_what_lies_in_the_way_at_the_destination_is_told_of_each_file_with_what_to_do(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    run.late_file("one/in_one")
    run.late_file("two")
    there = arrived / run.path.relative_to(data)
    there.mkdir(parents=True)
    (there / "one").write_text("a file")
    (there / "two" / "of").mkdir(parents=True)
    (line,) = errors(program.push(data, arrived, "--json"))
    file = "one/in_one: did not arrive: a file or link lies there in the place of its directory"
    assert f"{file}: have it moved away; " in line
    assert "two: did not arrive: a directory lies there in its place: have it moved away; " in line
    (there / "one").unlink()
    shutil.rmtree(there / "two")
    program.pushed(data, arrived)
    assert is_done(there)


def test_a_source_that_rots_does_not_overwrite_the_good_copy(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1)
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    file = next(run.path.glob("pod5_pass/*.pod5"))
    good, times = file.read_bytes(), file.stat()
    # As a failing disk does it: other bytes, and nobody who changed them. Only the ledger knows
    # when the file was changed last, so it is told that it was at this moment.
    file.write_bytes(good[::-1])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with contextlib.closing(sqlite3.connect(program.state / "ledger.sqlite3")) as ledger, ledger:
        of_file = (file.stat().st_ctime_ns, file.name.encode())
        ledger.execute("UPDATE files SET ctime_ns = ? WHERE name = ?", of_file)
    run.finish()
    ran = program.push(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert ran.code == 1
    assert file.name in ran.err
    assert (there / "pod5_pass" / file.name).read_bytes() == good
    assert not (there / "rsync.done").exists()


def test_a_run_that_goes_while_it_is_looked_at_is_no_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    SimulatedRun(data, group="zz other", files=1).write_all()
    program.wrap_rsync(before=f"rm -rf {run.path}")
    ran = program.push(data, arrived, "--json")
    assert ran.runs.popitem()[1]["state"] == "done"
    program.wrap_rsync()
    program.pushed(data, arrived)


@pytest.mark.usefixtures("no_privilege")
def test_a_file_that_cannot_be_read_beside_large_ones_is_the_trouble_of_its_run_alone(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    """A bad disk reads 10 MB in a second, and while sums are compared rsync says nothing."""
    run.write_all()
    for name in "abc":
        os.truncate(run.late_file(f"pod5_pass/{name}.pod5"), 50_000_000)
    program.settings["io_timeout"] = 5
    sums = program.home / "sums"
    silence = "[sender] io timeout after 5 seconds -- exiting"
    program.put_program(
        "rsync",
        'case " $* " in *" -c "*) for word; do case $word in --timeout=*)'
        f" echo ${{word#*=}} >>{sums};"
        f' [ ${{word#*=}} -ge 20 ] || {{ echo "{silence}" >&2; exit 30; }};;'
        f' esac; done;; esac\nexec {RSYNC} "$@"',
    )
    with mode(run.final_summary, 0):
        ran = program.push(data, arrived, "--json")
    assert ran.code == 1, ran
    assert sums.exists()
    (error,) = ran.json["errors"]
    assert error["run"] == str(run.path.relative_to(data))
    assert "Permission denied" in error["message"]
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.usefixtures("no_privilege")
def test_no_message_names_a_run_twice(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    os.mkfifo(run.path / "pipe")
    with mode(run.path, 0o311):
        refused = [
            program.push(data, arrived),
            program.run("verify", run.path),
            program.run("retry", run.path / "pod5_pass"),
        ]
    with mode(run.final_summary, 0):
        refused.append(program.push(data, arrived))
    with mode(arrived / run.path.relative_to(data), 0o555):
        refused.append(program.push(data, arrived))
    for ran in refused:
        assert ran.code, ran
    lines = [line for ran in refused for line in ran.err.splitlines()]
    lines += program.log_file.read_text().splitlines()
    assert any("pipe" in line for line in lines)
    for line in lines:
        # rsync's own words are after `did not arrive:`, and name what lies at the other end.
        assert line.partition("rsync: ")[0].count(run.path.name) <= 1, line
