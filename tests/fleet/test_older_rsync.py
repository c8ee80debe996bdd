"""A cluster whose rsync has known holes: what its entries keep out, and where there are none."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.attacker import Attacker, Tried
from tests.fleet.hosts import CHECKOUT, LONG, Fleet, Machine, Played
from tests.lab.hosts.table import RUNS
from tests.lab.minknow import SimulatedRun
from tests.lab.oldrsync import fetched

pytestmark = LONG
SSH = "/home/seqdata/.ssh"
# The first rrsync that knows -munge came with 3.2.4, the last that does not with 3.2.3.
KNOWS_MUNGE, KNOWS_NONE = "bookworm", "bullseye"


@pytest.fixture(scope="module")
def machine(fleet: Fleet) -> Iterator[Machine]:
    """The sequencer that somebody takes over; its cron rests."""
    machine = fleet.sequencers[-1]
    machine.rest()
    yield machine
    machine.root("rm -rf /tmp/tmp.*")
    machine.go_on()


@pytest.fixture(scope="module")
def before(fleet: Fleet, machine: Machine) -> Iterator[str]:
    """The entry that the cluster had for it; at the end, its rsync and the entry are back."""
    entry = only_entry(fleet, machine)
    fleet.cluster.root("cp -a /usr/bin/rsync /usr/bin/rrsync /root/")
    yield entry
    fleet.cluster.root("cd /root && mv rsync rrsync /usr/bin/")
    played = let_in(fleet, machine)
    assert played.code == 0, played.out
    assert " -munge " not in only_entry(fleet, machine)
    fleet.cluster.root(f"cd {RUNS}/{machine.name} && rm -rf link-* old")


def only_entry(fleet: Fleet, machine: Machine) -> str:
    """The one line that lets a sequencer in."""
    (entry,) = fleet.entries(machine)
    return entry


def install(cluster: Machine, rrsync_of: str) -> None:
    """Have rsync 3.2.7 at the cluster, behind the rrsync of a Debian release."""
    # Its own: one of another release would miss its libraries there.
    program = fetched(CHECKOUT, cluster.host.suite).rsync.parents[1] / "usr" / "bin" / "rsync"
    older = fetched(CHECKOUT, rrsync_of)
    script = older.rrsync.read_text().replace(str(older.rsync), "/usr/bin/rsync")
    for name, content in (("rsync", program.read_bytes()), ("rrsync", script.encode())):
        packed = base64.encodebytes(content).decode()
        cluster.root(
            f"cd /usr/bin; base64 -d > {name}.new <<'END'\n{packed}END\n"
            f"chmod 755 {name}.new; mv {name}.new {name}"
        )


def let_in(fleet: Fleet, machine: Machine, *options: str) -> Played:
    """Play what writes the entry."""
    return fleet.play("entries", "--limit", machine.name, *options)


def said(played: Played) -> str:
    """What a playbook printed, without where lines end."""
    return " ".join(played.out.split())


def plant(attacker: Attacker, name: str, text: str) -> Tried:
    """Write into ~/.ssh at the cluster, through a link that was sent before."""
    link = f"link-{uuid.uuid4().hex}"
    return attacker.run(
        f'ln -s {SSH} {link}; rsync -l -e "$SSH" {link} $TARGET:; rm {link}; mkdir {link}\n'
        f"echo '{text}' > {link}/{name}\n"
        f'rsync -R --no-implied-dirs -e "$SSH" {link}/{name} $TARGET:'
    )


def test_a_planted_link_leads_to_the_entries_and_after_the_next_deployment_nowhere(
    fleet: Fleet, machine: Machine, before: str
) -> None:
    install(fleet.cluster, KNOWS_MUNGE)
    attacker = Attacker(fleet, machine)
    assert " -munge " not in before
    planted = plant(attacker, "planted", "mine")
    # Else what follows would show nothing.
    assert fleet.cluster.root(f"cat {SSH}/planted; rm {SSH}/planted") == "mine\n", planted.seen
    played = let_in(fleet, machine)
    assert played.code == 0, played.out
    assert "rsync 3.2.7 here lacks the security fixes of" in said(played)
    assert only_entry(fleet, machine) == before.replace(" -no-del ", " -no-del -munge ")
    entries = fleet.cluster.root(f"cat {SSH}/authorized_keys")
    plant(attacker, "authorized_keys", "ssh-ed25519 AAAA mine")
    assert fleet.cluster.root(f"cat {SSH}/authorized_keys") == entries


def test_a_run_with_a_link_is_done_there_and_a_second_tick_has_nothing_to_do(
    fleet: Fleet, machine: Machine, before: str, tmp_path: Path
) -> None:
    run = SimulatedRun(tmp_path, group="with a link", files=1)
    run.write_all()
    (run.path / "link").symlink_to("../somewhere")
    machine.receive(run)
    name = str(run.path.relative_to(run.root))
    sent = []
    for _ in range(2):
        pushed = machine.user("ontpush push --json --settle 0", 300)
        assert pushed.returncode == 0, pushed
        runs = json.loads(pushed.stdout)["data"]["runs"]
        (state,) = (state for state in runs if state["run"] == name)
        assert state["state"] == "done", state
        sent.append(state["sent_files"])
    assert sent[0] > 0
    assert sent[1] == 0
    assert fleet.arrived(machine, name)
    link = fleet.cluster.root(f"readlink '{RUNS}/{machine.name}/{name}/link'")
    assert link == "/rsyncd-munged/../somewhere\n"


def test_new_keys_come_into_such_an_entry_too(fleet: Fleet, machine: Machine, before: str) -> None:
    old = only_entry(fleet, machine)
    played = fleet.play("rotate_keys", "--limit", machine.name)
    assert played.code == 0, played.out
    new = only_entry(fleet, machine)
    assert new != old
    assert new.split(" ssh-")[0] == old.split(" ssh-")[0]
    assert machine.user("ontpush check").returncode == 0


def test_where_rrsync_knows_no_remedy_an_entry_is_written_only_if_the_inventory_says_so(
    fleet: Fleet, machine: Machine, before: str
) -> None:
    old = only_entry(fleet, machine)
    install(fleet.cluster, KNOWS_NONE)
    played = let_in(fleet, machine)
    assert played.code != 0
    assert "knows no -munge" in said(played)
    assert only_entry(fleet, machine) == old
    played = let_in(fleet, machine, "-e", "ontpush_cluster_unsafe_rrsync=true")
    assert played.code == 0, played.out
    assert f'"/usr/bin/rrsync -wo {RUNS}/{machine.name}"' in only_entry(fleet, machine)
    assert machine.user("ontpush check").returncode == 0
