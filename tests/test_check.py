"""`ontpush check`: is everything in order here, and what to do where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import Program, Ran

pytestmark = pytest.mark.newest

CRON = "echo '*/5 * * * * ontpush push'"


@pytest.fixture
def ready(program: Program, data: Path, arrived: Path) -> Program:
    """A host with all it needs."""
    SimulatedRun(data, files=1).write_all()
    program.settings.update(source=str(data), destination=str(arrived))
    program.put_program("crontab", CRON)
    return program


def verdicts(ran: Ran) -> dict[str, str]:
    """What was looked at and how it is."""
    return {each["what"]: each["verdict"] for each in ran.json["data"]["checks"]}


def wrong(ran: Ran) -> list[str]:
    """What is wrong."""
    return [what for what, verdict in verdicts(ran).items() if verdict == "WRONG"]


def test_a_host_in_order_passes_and_nothing_is_changed(
    ready: Program, data: Path, arrived: Path
) -> None:
    before = snapshot(data), snapshot(arrived)
    ran = ready.run("check", "--json")
    assert (ran.code, ran.err, wrong(ran)) == (0, "", [])
    looked_at = set(verdicts(ran))
    assert {"configuration", "python", "rsync", "destination", "source"} <= looked_at
    assert {"state directory", "disk", "cron", "clock"} <= looked_at
    assert (snapshot(data), snapshot(arrived)) == before
    lines = ready.run("check").out.splitlines()
    assert len(lines) == len(ran.json["data"]["checks"])


def test_a_cluster_in_order_passes(ready: Program, cluster: Cluster) -> None:
    ready.settings["destination"] = cluster.destination
    ran = ready.run("check", "--json")
    assert (ran.code, wrong(ran)) == (0, [])
    assert {"key", "host key", "ssh"} <= set(verdicts(ran))
    assert not list(cluster.directory.iterdir())


def test_every_fault_of_the_way_to_the_cluster_is_told_at_once(
    ready: Program, cluster: Cluster, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(cluster.key.read_bytes())
    key.chmod(0o640)
    (tmp_path / "known_hosts").touch()
    ready.settings.update(
        destination=cluster.destination,
        ssh_key=str(key),
        ssh_known_hosts=str(tmp_path / "known_hosts"),
    )
    ran = ready.run("check", "--json")
    assert ran.code != 0
    assert {"key", "host key", "destination"} <= set(wrong(ran))
    assert f"chmod 600 {key}" in ran.out


def test_a_key_that_is_not_there_is_told(ready: Program, cluster: Cluster) -> None:
    ready.settings.update(destination=cluster.destination, ssh_key="/nonexistent")
    assert "key" in wrong(ready.run("check", "--json"))


def test_a_host_without_rsync_is_told(ready: Program) -> None:
    ready.environment["PATH"] = str(ready.programs)
    ran = ready.run("check", "--json")
    assert ran.code == 69
    assert "install the package rsync" in ran.out


def test_places_that_are_not_there_are_told(ready: Program) -> None:
    ready.settings.update(source="/nonexistent", destination="/nonexistent")
    ran = ready.run("check", "--json")
    assert ran.code in (69, 78)
    assert {"destination"} <= set(wrong(ran))
    assert len(wrong(ran)) >= 2


def test_a_host_without_a_cron_entry_gets_a_warning(ready: Program) -> None:
    ready.put_program("crontab", "echo '# ontpush is not called'; exit 0")
    ran = ready.run("check", "--json")
    assert ran.code == 0
    assert verdicts(ran)["cron"] in ("warn", "ok")


def test_the_places_may_be_given_in_the_call(program: Program, data: Path, arrived: Path) -> None:
    program.put_program("crontab", CRON)
    assert program.run("check", data, arrived).code == 0


def test_a_check_without_places_says_which_are_missing(program: Program) -> None:
    ran = program.run("check")
    assert ran.code == 64
    assert "DEST" in ran.err


def test_a_state_directory_that_cannot_be_made_is_told_and_the_rest_looked_at(
    ready: Program,
) -> None:
    ready.settings["state_dir"] = "/proc/nowhere"
    ran = ready.run("check", "--json")
    assert ran.code == 78
    assert wrong(ran) == ["state directory", "disk"]
    assert {"destination", "source", "cron", "clock"} <= set(verdicts(ran))
    assert "/proc/nowhere" in ran.err
