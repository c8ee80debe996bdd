"""A cluster whose rsync has known holes: its entry has links stored so that they lead nowhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.minknow import SimulatedRun
from tests.lab.oldrsync import fetched
from tests.program import CHECKOUT, Program, coreutils_agree, is_done


@pytest.fixture
def older_cluster(program: Program) -> Iterator[Cluster]:
    """A login node with rsync 3.2.7, and the entry that the role writes for it."""
    with Cluster() as cluster:
        let_in_by_old_rsync(cluster)
        program.settings.update(cluster.config())
        yield cluster


def let_in_by_old_rsync(cluster: Cluster) -> None:
    rrsync = fetched(CHECKOUT, "bookworm").rrsync
    cluster.forced_command(f"{rrsync} -wo -no-del -munge {cluster.directory}")


def let_in_by_new_rsync(cluster: Cluster) -> None:
    cluster.forced_command(f"/usr/bin/rrsync -wo -no-del {cluster.directory}")


def test_a_run_with_links_is_done_behind_an_entry_that_puts_them_out_of_use(
    program: Program, run: SimulatedRun, data: Path, older_cluster: Cluster
) -> None:
    run.write_all()
    (run.path / "link").symlink_to("/etc/passwd")
    (run.path / "pod5_pass" / "another").symlink_to("../link")
    (state,) = program.pushed(data, older_cluster.destination).values()
    assert (state["state"], state["warning"]) == ("done", None)
    there = older_cluster.directory / run.path.relative_to(data)
    assert is_done(there)
    assert (there / "link").readlink() == Path("/rsyncd-munged/etc/passwd")
    assert (there / "pod5_pass" / "another").readlink() == Path("/rsyncd-munged/../link")
    (state,) = program.pushed(data, older_cluster.destination).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    assert differing(run, older_cluster) == []
    run.late_file("late")
    (state,) = program.pushed(data, older_cluster.destination).values()
    assert (state["state"], state["sent_files"]) == ("done", 1)
    assert coreutils_agree(there)


def test_links_follow_the_entry_when_their_run_is_compared_once_more(
    program: Program, run: SimulatedRun, data: Path, older_cluster: Cluster
) -> None:
    for _ in run.reads():
        pass
    link = run.path / "link"
    link.symlink_to("/etc/passwd")
    there = older_cluster.directory / link.relative_to(data)
    let_in_by_new_rsync(older_cluster)
    program.pushed(data, older_cluster.destination)
    assert there.readlink() == Path("/etc/passwd")
    let_in_by_old_rsync(older_cluster)
    run.finish()
    (state,) = program.pushed(data, older_cluster.destination).values()
    assert state["state"] == "done"
    assert there.readlink() == Path("/rsyncd-munged/etc/passwd")
    let_in_by_new_rsync(older_cluster)
    assert program.run("retry", run.path).code == 0
    (state,) = program.pushed(data, older_cluster.destination).values()
    assert state["state"] == "done"
    assert there.readlink() == Path("/etc/passwd")
    assert differing(run, older_cluster) == []


def differing(run: SimulatedRun, cluster: Cluster) -> list[str]:
    """The files and links that rsync itself would send once more."""
    path = run.path.relative_to(run.root)
    compare = ["rsync", "--archive", "--omit-dir-times", "--dry-run", "--itemize-changes"]
    compare += ["--relative", "-e", cluster.ssh, f"{run.root}/./{path}", cluster.destination]
    return subprocess.run(compare, capture_output=True, text=True, check=True).stdout.splitlines()
