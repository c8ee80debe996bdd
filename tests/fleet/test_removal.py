"""`absent` leaves a host as it was before: what came goes, what was there stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.hosts import LONG, Fleet, Machine, wait_for
from tests.fleet.traces import noted, traces
from tests.lab.hosts.table import RUNS

pytestmark = LONG
SUMS = "find {} -printf '%y %m %u %p %l\\n' | sort; find {} -type f -exec md5sum {{}} + | sort"


def data(fleet: Fleet) -> dict[str, str]:
    """All that people's work is, on every host."""
    places = dict.fromkeys(fleet.machines, "/data")
    places[fleet.cluster.name] = RUNS
    return {
        name: fleet.machines[name].root(SUMS.format(place, place)) for name, place in places.items()
    }


@pytest.fixture(scope="module")
def removed(fleet: Fleet) -> tuple[dict[str, str], dict[str, str]]:
    """The data before and after the removal."""
    for machine in fleet.sequencers:
        # What cron still sends would look like a change.
        machine.rest()
    # Somebody has added to an entry, or came by with an editor of another system.
    first, *_, last = fleet.sequencers
    # What came from one lies elsewhere: at the cluster, nothing has ever arrived from it.
    empty = f"{RUNS}/{last.name}"
    fleet.cluster.root(f"""
        cd /home/seqdata/.ssh
        sed -i 's/^restrict\\(.* ontpush:{first.name}\\)$/expiry-time="20400101",restrict\\1/' \\
            authorized_keys
        sed -i 's/ ontpush:{last.name}$/&\\r/' authorized_keys
        mv {empty} {empty}.moved
    """)
    before = data(fleet)
    fleet.cluster.root(f"install -d -o seqdata -g seqdata {empty}")
    tried = fleet.play("remove", "--check")
    assert tried.code == 0, tried.out
    assert all(machine.holds("/etc/ontpush/config.yml") for machine in fleet.sequencers)
    # Two ticks have begun, and have done nothing yet when the role comes. One ends, one does not.
    tick = "ontpush push --dry-run"
    for machine in (first, last):
        machine.begin_and_stop(tick)
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(fleet.play, "remove")
        wait_for(lambda: playing.done() or not last.holds("/etc/cron.d/ontpush"), "cron goes on")
        assert last.holds("/usr/local/bin/ontpush")
        last.continue_stopped(tick)
    played = playing.result()
    assert played.code != 0
    assert f"{first.name}: a tick is still under way; cron begins no further one" in played.out
    assert not first.holds("/etc/cron.d/ontpush")
    assert first.holds("/usr/local/bin/ontpush")
    assert not last.holds("/usr/local/bin/ontpush")
    first.continue_stopped(tick)
    played = fleet.play("remove")
    assert played.code == 0, played.out
    for machine in fleet.sequencers:
        machine.go_on()
    return before, data(fleet)


@pytest.mark.newest
def test_no_data_is_touched(removed: tuple[dict[str, str], dict[str, str]]) -> None:
    before, after = removed
    for host, listing in before.items():
        # Names the lines that differ, of hundreds.
        assert sorted({*listing.splitlines()} ^ {*after[host].splitlines()}) == [], host
    assert after == before
    assert any("md5sum" in listing for listing in before.values())


@pytest.mark.newest
def test_a_sequencer_is_as_it_was(
    fleet: Fleet, sequencer: Machine, removed: tuple[dict[str, str], dict[str, str]]
) -> None:
    assert differences(fleet, sequencer) == []


@pytest.mark.newest
def test_the_cluster_is_as_it_was_but_for_the_runs(
    fleet: Fleet, removed: tuple[dict[str, str], dict[str, str]]
) -> None:
    assert [line for line in differences(fleet, fleet.cluster) if f" {RUNS}" not in line] == []


def test_to_remove_what_is_gone_changes_nothing(
    fleet: Fleet, removed: tuple[dict[str, str], dict[str, str]]
) -> None:
    played = fleet.play("remove")
    assert played.code == 0, played.out
    assert not any(played.changed.values()), played.out


def test_a_first_version_that_fails_its_check_is_not_put_in_charge(
    fleet: Fleet, removed: tuple[dict[str, str], dict[str, str]]
) -> None:
    machine = fleet.sequencers[-1]
    # Without its entry at the cluster, which is gone, too.
    played = fleet.play("sequencers", "--limit", machine.name)
    assert played.code != 0
    assert "does not pass its check, so it is not put in charge" in played.out
    assert not machine.holds("/usr/local/bin/ontpush")
    assert not machine.holds("/etc/cron.d/ontpush")


def differences(fleet: Fleet, machine: Machine) -> list[str]:
    """The lines that were not there before, and those that are missing."""
    before, now = set(noted(fleet)[machine.name]), set(traces(machine))
    return sorted({f"+ {line}" for line in now - before} | {f"- {line}" for line in before - now})
