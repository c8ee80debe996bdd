"""What people play by hand: a push now, the fleet as one table, the lines for a cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.fleet.hosts import LONG, Fleet, Machine, wait_for
from tests.lab.hosts.table import RUNS
from tests.lab.minknow import SimulatedRun

pytestmark = LONG


@pytest.fixture(scope="module")
def machine(fleet: Fleet) -> Machine:
    """The sequencer whose run does not wait for cron."""
    return fleet.sequencers[0]


@pytest.fixture(scope="module")
def run(fleet: Fleet, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run that has settled; its path below /data."""
    run = SimulatedRun(tmp_path_factory.mktemp("run"), group="by hand", files=2)
    run.write_all()
    machine.rest()
    machine.receive(run)
    young = f"find '/data/{run.group}' -type f -newermt '4 seconds ago'"
    wait_for(lambda: not machine.root(young), "it does not settle")
    return str(run.path.relative_to(run.root))


def test_check_mode_finds_nothing_to_do_where_all_is_done(fleet: Fleet, machine: Machine) -> None:
    played = fleet.play("site", "--check", "--limit", machine.name)
    assert played.code == 0, played.out
    assert not any(played.changed.values()), played.out


def test_push_now_sends_without_waiting_for_cron_and_in_check_mode_says_what_it_would(
    fleet: Fleet, machine: Machine, run: str
) -> None:
    tried = fleet.play("push_now", "--check", "--limit", machine.name)
    assert tried.code == 0, tried.out
    assert run in tried.out
    assert not fleet.cluster.holds(f"{RUNS}/{machine.name}/{run}")
    played = fleet.play("push_now", "--limit", machine.name)
    machine.go_on()
    assert played.code == 0, played.out
    assert fleet.arrived(machine, run)


def test_status_shows_every_sequencer_and_how_its_runs_stand(
    fleet: Fleet, machine: Machine, run: str
) -> None:
    played = fleet.play("status")
    assert played.code == 0, played.out
    assert re.search(rf"{machine.name} +done +\d+ +\d+\.\d +100 %  {re.escape(run)}", played.out)
    for each in fleet.sequencers:
        assert re.search(rf"{each.name} +(done|stalled|waiting) ", played.out), played.out


def test_keys_writes_down_for_the_cluster_what_the_role_would_put_there(
    fleet: Fleet, machine: Machine, tmp_path: Path
) -> None:
    lines = written_down(fleet, machine, tmp_path, ontpush_cluster_rrsync_options="-wo -no-del")
    (entry,) = fleet.entries(machine)
    assert entry in lines
    assert f"mkdir -p {RUNS}/{machine.name}" in lines


def test_keys_writes_down_what_is_safe_with_an_rsync_that_has_holes_unless_told_otherwise(
    fleet: Fleet, machine: Machine, tmp_path: Path
) -> None:
    (entry,) = fleet.entries(machine)
    safe = entry.replace(" -no-del ", " -no-del -munge ")
    assert safe != entry
    assert safe in written_down(fleet, machine, tmp_path)


def written_down(fleet: Fleet, machine: Machine, folder: Path, **variables: str) -> list[str]:
    """The lines for a cluster that nobody can log in to but by hand."""
    written = folder / "keys.txt"
    given = {"ontpush_keys_file": str(written), "ontpush_cluster_directory": RUNS, **variables}
    played = fleet.play("keys", "--limit", machine.name, "-e", json.dumps(given))
    assert played.code == 0, played.out
    return written.read_text().splitlines()
