"""A tick to a cluster behind ssh: rrsync in both its versions, rsync old and new at either end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import RRSYNC, Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.oldrsync import OldRsync
from tests.program import Program, coreutils_agree, is_done


@pytest.fixture(scope="module")
def older_cluster(older: OldRsync) -> Iterator[Cluster]:
    """A login node of some years ago: rsync 3.2.3 and the rrsync written in perl."""
    with Cluster(rrsync=older.rrsync) as cluster:
        yield cluster


def check_life_of_a_run(program: Program, run: SimulatedRun, cluster: Cluster) -> None:
    """Half of it, a damaged copy, a file that grew, all of it: it arrives and is done."""
    there = cluster.directory / run.path.relative_to(run.root)
    for _ in run.reads():
        pass
    program.pushed(run.root, cluster.destination)
    assert coreutils_agree(there)
    victim = next(there.glob("pod5_pass/*.pod5"))
    times = victim.stat()
    victim.write_bytes(b"X" * times.st_size)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    with run.sequencing_summary.open("a") as summary:
        summary.write("one more line\n")
    (run.path / "link").symlink_to("/etc/passwd")
    run.finish()
    (state,) = program.pushed(run.root, cluster.destination).values()
    assert (state["state"], state["warning"]) == ("done", None)
    assert is_done(there)
    assert snapshot(run.path) == snapshot(there)


def test_real_runs_arrive_byte_for_byte_through_rrsync(
    program: Program, real_runs: list[Path], data: Path, cluster: Cluster
) -> None:
    states = program.pushed(data, cluster.destination)
    assert [state["state"] for state in states.values()] == ["done", "done"]
    assert [state["warning"] for state in states.values()] == [None, None]
    assert snapshot(data) == snapshot(cluster.directory, without=[".ontpush"])
    for run in real_runs:
        assert coreutils_agree(run)
        assert is_done(cluster.directory / run.relative_to(data))


@pytest.mark.newest
def test_the_life_of_a_run_behind_the_rrsync_of_today(
    program: Program, run: SimulatedRun, cluster: Cluster
) -> None:
    check_life_of_a_run(program, run, cluster)


def test_the_life_of_a_run_from_an_old_rsync_to_the_rrsync_of_today(
    program: Program, run: SimulatedRun, cluster: Cluster, older: OldRsync
) -> None:
    program.put_program("rsync", f'exec {older.rsync} "$@"')
    check_life_of_a_run(program, run, cluster)


def test_the_life_of_a_run_from_todays_rsync_to_an_old_one_behind_perl(
    program: Program, run: SimulatedRun, older_cluster: Cluster
) -> None:
    program.settings.update(older_cluster.config())
    check_life_of_a_run(program, run, older_cluster)


def test_the_life_of_a_run_with_an_old_rsync_to_a_directory(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, older: OldRsync
) -> None:
    program.put_program("rsync", f'exec {older.rsync} "$@"')
    run.write_all()
    run.late_file("two\nlines \\#012 ü")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))
    run.late_file("late")
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 1)
    assert snapshot(data) == snapshot(arrived, without=[".ontpush"])


def test_an_account_without_forced_command_serves_too(
    program: Program, run: SimulatedRun, data: Path, cluster: Cluster
) -> None:
    run.write_all()
    cluster.forced_command(None)
    try:
        program.pushed(data, cluster.destination)
    finally:
        cluster.forced_command("rrsync -wo")
    assert is_done(cluster.directory / run.path.relative_to(data))


def test_a_directory_below_that_of_the_forced_command_serves_too(
    program: Program, run: SimulatedRun, data: Path, cluster: Cluster
) -> None:
    run.write_all()
    (cluster.directory / "sub").mkdir()
    program.pushed(data, f"{cluster.destination}/sub")
    assert is_done(cluster.directory / "sub" / run.path.relative_to(data))


def test_the_heartbeat_arrives_through_the_same_key(
    program: Program, data: Path, cluster: Cluster
) -> None:
    program.pushed(data, cluster.destination)
    facts = json.loads((cluster.directory / ".ontpush" / "lab.json").read_text())
    assert facts["instrument"] == "lab"


@pytest.mark.newest
def test_a_key_in_a_directory_with_spaces_and_quotes_is_found(
    program: Program, run: SimulatedRun, data: Path, cluster: Cluster, tmp_path: Path
) -> None:
    for _ in run.reads():
        pass
    odd = tmp_path / "my 'keys'"
    odd.mkdir()
    for name in ("ssh_key", "ssh_known_hosts"):
        copy = odd / name
        copy.write_bytes(Path(str(program.settings[name])).read_bytes())
        copy.chmod(0o600)
        program.settings[name] = str(copy)
    program.pushed(data, cluster.destination)
    assert coreutils_agree(cluster.directory / run.path.relative_to(data))


def test_what_a_login_prints_is_no_trouble_of_a_push(
    program: Program, run: SimulatedRun, data: Path, cluster: Cluster
) -> None:
    run.write_all()
    cluster.forced_command(f"echo Welcome >&2; exec /usr/bin/rrsync -wo {cluster.directory}")
    try:
        assert program.push(data, cluster.destination).is_silent
        assert is_done(cluster.directory / run.path.relative_to(data))
        program.settings["rsync_flags"] = ["--exclude=*.pod5"]
        run.late_file("pod5_pass/late.pod5")
        ran = program.push(data, cluster.destination)
        assert ran.code == 1
        assert "left out by a flag" in ran.err
    finally:
        cluster.forced_command(RRSYNC)
