"""Keys are changed while the fleet works, and wherever that is broken off, a key still works."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fleet.attacker import Attacker
from tests.fleet.hosts import LONG, Fleet, Machine, wait_for
from tests.fleet.under_way import push_under_way

pytestmark = LONG
KEY = "/etc/ontpush/id_ed25519"


@pytest.fixture
def machine(fleet: Fleet) -> Machine:
    """The sequencer whose key changes."""
    return next(machine for machine in fleet.sequencers if machine.name == "gridion")


def public_half(machine: Machine) -> str:
    """The public half of the key in use, without its comment."""
    return " ".join(machine.root(f"ssh-keygen -y -f {KEY}").split()[:2])


@pytest.mark.parametrize(
    "moment",
    [
        "PLAY [Let the new key in beside the old one]",
        "PLAY [Switch to the new key]",
        "TASK [ontpush_sequencer : Switch to the new key]",
        "PLAY [Let the old key in no more]",
    ],
)
def test_a_rotation_that_is_killed_leaves_a_key_that_works(
    fleet: Fleet, machine: Machine, moment: str
) -> None:
    assert fleet.play_until(moment, "rotate_keys", "--limit", machine.name)
    wait_for(
        lambda: machine.user("ontpush check").returncode == 0,
        machine.user("ontpush check").stderr,
    )


def test_a_new_key_that_fails_its_proof_leaves_the_old_one_in_use(
    fleet: Fleet, machine: Machine
) -> None:
    machine.rest()
    before = public_half(machine)
    known = "/etc/ontpush/known_hosts"
    # No key proves itself at a host that is not known.
    machine.root(f"cp -a {known} {known}.true; sed -i 's/^[^ ]*/elsewhere/' {known}")
    try:
        played = fleet.play("rotate_keys", "--limit", machine.name)
    finally:
        machine.root(f"mv {known}.true {known}")
    machine.go_on()
    assert played.code != 0
    assert f"{machine.name}: a push with the new key fails, so the old one stays" in played.out
    assert public_half(machine) == before
    assert machine.user("ontpush check").returncode == 0


@pytest.mark.newest
def test_keys_rotate_while_a_push_is_under_way(
    fleet: Fleet, machine: Machine, tmp_path: Path
) -> None:
    before = public_half(machine)
    old = machine.root(f"cat {KEY}")
    with push_under_way(fleet, machine, tmp_path, "during a rotation") as name:
        played = fleet.play("rotate_keys", "--limit", machine.name)
    machine.go_on()
    assert played.code == 0, played.out
    now = public_half(machine)
    (entry,) = fleet.entries(machine)
    assert now != before
    assert now in entry
    wait_for(lambda: fleet.arrived(machine, name), f"{name} is not done")
    assert "Permission denied (publickey" in with_key(fleet, machine, old)


def with_key(fleet: Fleet, machine: Machine, key: str) -> str:
    """What the cluster says to a push with this private key."""
    write = f"(umask 077; cat > key) <<'END'\n{key}END\n"
    push = 'rsync -e "ssh -T -i key $OPTIONS" key.pub $TARGET:'
    return Attacker(fleet, machine).run(f"{write}touch key.pub; {push}; rm key").seen


@pytest.mark.newest
def test_nobody_elses_key_has_changed(fleet: Fleet, sequencer: Machine) -> None:
    (entry,) = fleet.entries(sequencer)
    assert public_half(sequencer) in entry
