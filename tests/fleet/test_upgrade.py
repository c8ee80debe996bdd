"""A new version takes over once it has shown that it works; until then the old one runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ontpush import __version__
from tests.fleet.hosts import CHECKOUT, LONG, Fleet, Machine, Played
from tests.fleet.under_way import push_under_way

pytestmark = LONG
NEWER = "99.0.0"
PARTS = ("ontpush", "playbooks", "roles")


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A checkout of a newer version."""
    for part in PARTS:
        shutil.copytree(CHECKOUT / part, tmp_path / part)
    shutil.copy(CHECKOUT / "ansible.cfg", tmp_path)
    version = tmp_path / "ontpush" / "__init__.py"
    version.write_text(re.sub(r'"[\d.]+"$', f'"{NEWER}"', version.read_text(), flags=re.MULTILINE))
    return tmp_path


@pytest.fixture
def machine(fleet: Fleet) -> Machine:
    """The sequencer that is upgraded."""
    return fleet.sequencers[-1]


def install(fleet: Fleet, machine: Machine, checkout: Path, *options: str) -> Played:
    return fleet.play("sequencers", "--limit", machine.name, *options, checkout=checkout)


def running(machine: Machine) -> str:
    """The version that cron calls, as it says itself."""
    (program,) = set(re.findall(r"/\S+/ontpush(?= push)", machine.root("cat /etc/cron.d/ontpush")))
    return machine.user(f"{program} --version").stdout.strip()


def test_a_version_that_fails_its_check_never_runs(
    fleet: Fleet, machine: Machine, newer: Path
) -> None:
    module = newer / "ontpush" / "commands" / "check.py"
    # As a version does that wants what this host cannot give.
    fault = '    yield _wrong("moon", "is not full: wait")\n'
    sound = module.read_text()
    faulty = re.sub(r"(?m)^def _clock\(.*\n", lambda match: match[0] + fault, sound)
    assert faulty != sound
    module.write_text(faulty)
    played = install(fleet, machine, newer)
    assert played.code != 0
    assert f"ontpush {NEWER} does not pass its check" in played.out
    assert "is not full: wait" in played.out
    assert running(machine) == __version__
    assert machine.user("ontpush check").returncode == 0


@pytest.mark.newest
def test_a_version_that_works_takes_over_between_ticks_and_can_be_left_again(
    fleet: Fleet, machine: Machine, newer: Path, tmp_path: Path
) -> None:
    with push_under_way(fleet, machine, tmp_path / "run", "during an upgrade") as name:
        played = install(fleet, machine, newer)
        assert played.code == 0, played.out
        assert running(machine) == NEWER
    # It has ended with the version that it began with, and well.
    assert fleet.heartbeat(machine)["version"] == __version__
    assert fleet.arrived(machine, name)
    machine.go_on()
    played = install(fleet, machine, CHECKOUT, "--extra-vars", f"ontpush_version={__version__}")
    assert played.code == 0, played.out
    assert running(machine) == __version__


def test_a_configuration_or_program_that_fails_its_check_leaves_the_one_in_charge(
    fleet: Fleet, machine: Machine
) -> None:
    in_charge = (
        "cat /etc/ontpush/config.yml; ls /usr/local/lib/ontpush; md5sum $(command -v ontpush)"
    )
    before = machine.root(in_charge)
    played = install(fleet, machine, CHECKOUT, "-e", '{"ontpush_config": {"ssh_port": 2222}}')
    assert played.code != 0
    assert "does not pass its check" in played.out
    assert machine.root(in_charge) == before
    assert machine.user("ontpush check").returncode == 0
