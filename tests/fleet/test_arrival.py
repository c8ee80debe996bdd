"""cron itself, and nobody else, brings runs from every sequencer to the cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.fleet.hosts import LONG, Fleet, Machine, wait_for
from tests.fleet.prepare import going_on
from tests.lab.hosts.table import RUNS
from tests.lab.minknow import SimulatedRun

pytestmark = [LONG, pytest.mark.newest]


@pytest.fixture(scope="module", autouse=True)
def deployed() -> float:
    """When the fleet was left to cron: beside a deploy a tick may meet what the check transfers."""
    return time.time()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRun:
    """The run that goes on on every sequencer since before the roles came."""
    return going_on(tmp_path_factory.mktemp("run"))


def name(run: SimulatedRun) -> str:
    """A run's path below /data, and below its instrument's directory at the cluster."""
    return str(run.path.relative_to(run.root))


def test_a_run_is_sent_while_it_goes_on(
    fleet: Fleet, sequencer: Machine, run: SimulatedRun
) -> None:
    place = f"{RUNS}/{sequencer.name}/{name(run)}"
    wait_for(lambda: fleet.cluster.holds(f"{place}/md5sum"), f"nothing arrives at {place}")
    fleet.cluster.root(f"cd '{place}' && md5sum -c --quiet md5sum")
    assert not fleet.cluster.holds(f"{place}/rsync.done")


@pytest.fixture(scope="module")
def finished(fleet: Fleet, run: SimulatedRun) -> str:
    """The name of the run, which has ended everywhere."""
    before = {path for path in run.path.rglob("*") if path.is_file()}
    run.finish()
    for path in before:
        path.unlink()
    for machine in fleet.sequencers:
        machine.receive(run)
    return name(run)


def test_a_finished_run_arrives_verified_and_done(
    fleet: Fleet, sequencer: Machine, finished: str
) -> None:
    wait_for(
        lambda: fleet.arrived(sequencer, finished), f"{finished} of {sequencer.name} is not done"
    )
    wait_for(lambda: state(sequencer, finished) == ("done", None), "the sequencer does not know")
    assert sequencer.holds(f"/data/{finished}/rsync.done")


def state(sequencer: Machine, run: str) -> tuple[str, str | None]:
    """What `ontpush status` on a sequencer says of a run: its state and last error."""
    told = json.loads(sequencer.user("ontpush status --json").stdout)
    (row,) = [row for row in told["data"]["runs"] if row["run"] == run]
    return row["state"], row["error"]


def test_every_file_of_the_sequencer_is_at_the_cluster(
    fleet: Fleet, sequencer: Machine, finished: str
) -> None:
    sums = "find . -type f -exec md5sum {} + | sort -k 2"
    here = sequencer.root(f"cd '/data/{finished}' && {sums}")
    assert here.count("\n") > 20
    assert here == fleet.cluster.root(f"cd '{RUNS}/{sequencer.name}/{finished}' && {sums}")


def test_cron_has_nothing_to_mail(sequencer: Machine, deployed: float) -> None:
    # A host without a mail server has cron say so, once for each mail that it would send.
    told = sequencer.root(f"journalctl --quiet --unit cron --since @{deployed:.0f}")
    assert "ontpush push" in told
    assert "discarding output" not in told, sequencer.root("tail -n 50 /var/log/ontpush/*.log")


def test_the_heartbeat_tells_the_instrument(fleet: Fleet, sequencer: Machine) -> None:
    assert fleet.heartbeat(sequencer)["instrument"] == sequencer.name


def test_the_key_never_left_its_host(fleet: Fleet, sequencer: Machine) -> None:
    key = "/etc/ontpush/id_ed25519"
    assert fleet.who_holds(sequencer, key) == [f"{sequencer.name}:{key}"]


def test_the_user_alone_reads_the_key(sequencer: Machine) -> None:
    mode = sequencer.root("stat -c '%a %U' /etc/ontpush/id_ed25519").split()
    assert mode == ["600", sequencer.host.user]


def test_no_host_is_asked_for_more_than_the_inventory_says(fleet: Fleet) -> None:
    assert fleet.cluster.user("sudo -n true").returncode != 0
    assert Path(fleet.state / "key").stat().st_mode & 0o077 == 0
