"""`absent` leaves a host as it was before: what came goes, what was there stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.hosts import Fleet, Machine, wait_for
from tests.fleet.traces import noted, traces
from tests.lab.hosts.table import RUNS

pytestmark = [pytest.mark.timeout(900), pytest.mark.newest]
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
    keys = "/home/seqdata/.ssh/authorized_keys"
    first, *_, last = [machine.name for machine in fleet.sequencers]
    fleet.cluster.root(f"""
        sed -i 's/^restrict\\(.* ontpush:{first}\\)$/expiry-time="20400101",restrict\\1/' {keys}
        sed -i 's/ ontpush:{last}$/&\\r/' {keys}
    """)
    before = data(fleet)
    tried = fleet.play("remove", "--check")
    assert tried.code == 0, tried.out
    assert all(machine.holds("/etc/ontpush/config.yml") for machine in fleet.sequencers)
    # One tick has begun, and has done nothing yet when the role comes.
    tick, last_machine = "ontpush push --dry-run", fleet.sequencers[-1]
    last_machine.begin_and_stop(tick)
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(fleet.play, "remove")
        wait_for(
            lambda: playing.done() or not last_machine.holds("/etc/cron.d/ontpush"), "cron goes on"
        )
        assert last_machine.holds("/usr/local/bin/ontpush")
        last_machine.continue_stopped(tick)
    played = playing.result()
    assert played.code == 0, played.out
    for machine in fleet.sequencers:
        machine.go_on()
    return before, data(fleet)


def test_no_data_is_touched(removed: tuple[dict[str, str], dict[str, str]]) -> None:
    before, after = removed
    assert after == before
    assert any("md5sum" in listing for listing in before.values())


def test_a_sequencer_is_as_it_was(
    fleet: Fleet, sequencer: Machine, removed: tuple[dict[str, str], dict[str, str]]
) -> None:
    assert differences(fleet, sequencer) == []


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


def differences(fleet: Fleet, machine: Machine) -> list[str]:
    """The lines that were not there before, and those that are missing."""
    before, now = set(noted(fleet)[machine.name]), set(traces(machine))
    return sorted({f"+ {line}" for line in now - before} | {f"- {line}" for line in before - now})
