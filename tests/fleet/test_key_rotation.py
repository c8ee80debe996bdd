"""Keys are changed while the fleet works, and wherever that is broken off, a key still works."""

from __future__ import annotations

import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fleet.attacker import Attacker, address
from tests.fleet.hosts import Fleet, Machine, wait_for
from tests.lab.minknow import SimulatedRun

pytestmark = pytest.mark.timeout(900)
KEY = "/etc/ontpush/id_ed25519"
SIZE, RATE = 5_000_000, "1m"  # of each file, and a second: slow enough to be met on the way


@pytest.fixture
def machine(fleet: Fleet) -> Machine:
    """The sequencer whose key changes."""
    return next(machine for machine in fleet.sequencers if machine.name == "gridion")


def entries(fleet: Fleet, machine: Machine) -> list[str]:
    """The lines of the cluster's authorized_keys that let a sequencer in."""
    lines = fleet.cluster.root("cat /home/seqdata/.ssh/authorized_keys").splitlines()
    return [line for line in lines if line.startswith("restrict") and f'/{machine.name}"' in line]


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


@pytest.mark.newest
def test_keys_rotate_while_a_push_is_under_way(
    fleet: Fleet, machine: Machine, tmp_path: Path
) -> None:
    run = SimulatedRun(tmp_path, group="during a rotation", size=SIZE, files=2, folders=["pod5"])
    run.write_all()
    # cron's tick would be faster.
    machine.rest()
    machine.receive(run)
    before = public_half(machine)
    old = machine.root(f"cat {KEY}")
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(push_by_hand, fleet, machine)
        session = f"pgrep -f 'rrsync .*/{machine.name}$' || true"
        wait_for(lambda: fleet.cluster.root(session), "no push begins")
        # It waits for the rotation, with its session open, however long that takes.
        machine.root("pkill -STOP -x rsync")
        try:
            played = fleet.play("rotate_keys", "--limit", machine.name)
        finally:
            machine.root("pkill -CONT -x rsync")
    machine.go_on()
    assert played.code == 0, played.out
    assert pushed.result().returncode == 0, pushed.result()
    now = public_half(machine)
    (entry,) = entries(fleet, machine)
    assert now != before
    assert now in entry
    name = str(run.path.relative_to(run.root))
    wait_for(lambda: fleet.arrived(machine, name), f"{name} is not done")
    assert "Permission denied (publickey" in with_key(fleet, machine, old)


def push_by_hand(fleet: Fleet, machine: Machine) -> subprocess.CompletedProcess[str]:
    """A slow tick, tried again as long as one of cron's holds the lock."""
    destination = shlex.quote(f"{fleet.cluster.host.user}@{address(fleet)}:.")
    push = f"ontpush push --settle 0 /data {destination} --bwlimit={RATE}"
    script = f"while {push}; code=$?; [ $code -eq 75 ]; do sleep 1; done; exit $code"
    return machine.user(script, 200)


def with_key(fleet: Fleet, machine: Machine, key: str) -> str:
    """What the cluster says to a push with this private key."""
    write = f"(umask 077; cat > key) <<'END'\n{key}END\n"
    push = 'rsync -e "ssh -T -i key $OPTIONS" key.pub $TARGET:'
    return Attacker(fleet, machine).run(f"{write}touch key.pub; {push}; rm key").seen


@pytest.mark.newest
def test_nobody_elses_key_has_changed(fleet: Fleet, sequencer: Machine) -> None:
    (entry,) = entries(fleet, sequencer)
    assert public_half(sequencer) in entry
