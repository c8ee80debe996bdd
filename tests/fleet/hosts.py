"""The hosts of a lab as a test meets them: scripts that run there, runs written, playbooks."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import pytest

from tests.lab.hosts.lab import Lab
from tests.lab.hosts.podman import call, podman
from tests.lab.hosts.table import CLUSTER, RUNS, Host
from tests.lab.minknow import SimulatedRun

CHECKOUT: Final = Path(__file__).resolve().parents[2]
# Two ticks of cron, should the first have begun just before, and a very busy machine.
PATIENCE: Final = 300.0  # seconds
# A test that plays, or waits for cron, takes many minutes there; what takes longer hangs.
LONG: Final = pytest.mark.timeout(2400)
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RECAP: Final = re.compile(
    r"^(?P<host>\S+) +: ok=\d+ +changed=(?P<changed>\d+) +unreachable=(?P<unreachable>\d+) "
    r"+failed=(?P<failed>\d+)",
    re.MULTILINE,
)


class Played(NamedTuple):
    """A playbook that has ended: its exit code and all that it printed."""

    code: int
    out: str

    @property
    def changed(self) -> dict[str, int]:
        """How much has changed on each host."""
        return {match["host"]: int(match["changed"]) for match in _RECAP.finditer(self.out)}


@dataclass(frozen=True)
class Machine:
    """One host that is up."""

    host: Host
    lab: Lab

    @property
    def name(self) -> str:
        """Its name in the inventory."""
        return self.host.name

    @functools.cached_property
    def pid(self) -> int:
        """The process that this host is, to the machine below it."""
        container = self.lab.container(self.name)
        return int(podman("inspect", "--format", "{{.State.Pid}}", container))

    def root(self, script: str) -> str:
        """Run a shell script as root and return what it printed; an error where it fails."""
        return call(*self._inside("/root"), "sh", "-eu", stdin=script)

    def user(self, script: str, seconds: int = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell script as the host's user, however it ends."""
        return subprocess.run(
            [*self._as_user(), "sh"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def _as_user(self) -> list[str]:
        user = self.host.user
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*self._inside(f"/home/{user}"), *become]

    def _inside(self, home: str) -> list[str]:
        """What runs a command on this host; podman exec takes a quarter of a second for it."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        return [*enter, "--cgroup", "env", "-i", f"PATH={PATH}", f"HOME={home}"]

    def rest(self) -> None:
        """Let cron begin no tick, and wait for the end of one under way.

        Seen from the shell on that cron calls: a tick that is about to begin holds no lock yet.
        """
        self.root("systemctl stop cron")
        at_work = "pgrep -f '[o]ntpush (push|hash)( |$)' || true"
        wait_for(lambda: not self.root(at_work), f"a tick does not end on {self.name}")

    def go_on(self) -> None:
        """Let cron begin ticks again."""
        self.root("systemctl start cron")

    def begin_and_stop(self, call: str) -> None:
        """Begin a call as the host's user, and stop it before it has done anything."""
        script = shlex.quote(f"kill -STOP $$; exec {call}")
        self.user(f"setsid sh -c {script} </dev/null >/dev/null 2>&1 &")

    def continue_stopped(self, call: str) -> None:
        """Let that call go on."""
        self.root(f"pkill -CONT -f {shlex.quote(call)}")

    def holds(self, path: str) -> bool:
        """Whether there is anything under this path."""
        return "yes" in self.root(f"test -e {shlex.quote(path)} && echo yes || true")

    def receive(self, run: SimulatedRun, data: str = "/data") -> None:
        """Take over what has been written of a run, with its user as owner."""
        pack = [
            "tar",
            "-C",
            str(run.root),
            "--sort=name",
            "-c",
            str(run.path.relative_to(run.root)),
        ]
        packed = subprocess.run(pack, capture_output=True, check=True).stdout
        # -m: written now, whenever it was made up.
        unpack = [*self._as_user(), "tar", "-C", data, "-m", "-x"]
        subprocess.run(unpack, input=packed, check=True)


class Fleet:
    """All hosts of the lab at a state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state.resolve()
        lab = Lab(self.state)
        up = (self.state / "inventory" / "hosts.yml").read_text()
        known = [host for host in lab.hosts if re.search(rf"^ +{host.name}:$", up, re.MULTILINE)]
        self.machines = {host.name: Machine(host, lab) for host in known}

    @property
    def cluster(self) -> Machine:
        """The login node where runs arrive."""
        return self.machines[CLUSTER.name]

    @property
    def sequencers(self) -> list[Machine]:
        """The hosts where runs are written."""
        return [machine for machine in self.machines.values() if machine.host.is_sequencer]

    def play(self, playbook: str, *options: str, checkout: Path = CHECKOUT) -> Played:
        """Run a playbook of a checkout on this fleet, with the Ansible that is on PATH."""
        with self._playing(playbook, options, checkout) as process:
            out, _ = process.communicate()
        return Played(process.returncode, out)

    def play_until(self, line: str, playbook: str, *options: str) -> bool:
        """Kill a playbook, as a power cut does, once it says this; whether it got so far."""
        # Killed, Mitogen leaves its socket where temporary files go.
        with (
            TemporaryDirectory(prefix="ontpush-fleet-") as folder,
            self._playing(playbook, options, CHECKOUT, TMPDIR=folder) as process,
        ):
            assert process.stdout is not None
            said = any(text.startswith(line) for text in process.stdout)
            os.killpg(process.pid, signal.SIGKILL)
        return said

    def _playing(
        self, playbook: str, options: Sequence[str], checkout: Path, **more: str
    ) -> subprocess.Popen[str]:
        command = ["ansible-playbook", "-i", str(self.state / "inventory"), *options]
        # What Molecule sets for its own Ansible would lead to the roles of this checkout. Whether
        # Mitogen plays is for the caller to say.
        of_molecule = re.compile(r"ANSIBLE_(?!STRATEGY)")
        own = {name: value for name, value in os.environ.items() if not of_molecule.match(name)}
        return subprocess.Popen(
            [*command, f"playbooks/{playbook}.yml"],
            cwd=checkout,
            env={**own, "ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_NOCOLOR": "1", **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def who_holds(self, machine: Machine, private_key: str) -> list[str]:
        """Where a private key of a host lies: HOST:PATH on any host, PATH beside the inventory."""
        secret = machine.root(f"cat {private_key}").splitlines()[2]
        search = f"grep -rlsF '{secret}' /etc /home /root /tmp /var || true"
        found = [
            f"{each.name}:{path}"
            for each in self.machines.values()
            for path in each.root(search).split()
        ]
        files = [file for file in self.state.rglob("*") if file.is_file()]
        return [*found, *[str(file) for file in files if secret.encode() in file.read_bytes()]]

    def heartbeat(self, machine: Machine) -> dict[str, Any]:
        """The last heartbeat of a sequencer that lies at the cluster; empty if there is none."""
        path = f"{RUNS}/{machine.name}/.ontpush/{machine.name}.json"
        text = self.cluster.root(f"cat {path} 2>/dev/null || echo '{{}}'")
        beat: dict[str, Any] = json.loads(text)
        return beat

    def entries(self, machine: Machine) -> list[str]:
        """The lines of the cluster's authorized_keys that let a sequencer in."""
        lines = self.cluster.root("cat /home/seqdata/.ssh/authorized_keys").splitlines()
        own = [line for line in lines if f'/{machine.name}"' in line]
        return [line for line in own if line.startswith("restrict")]

    def arrived(self, machine: Machine, run: str) -> bool:
        """Whether a run of a sequencer is done at the cluster, and its sums are right there."""
        place = shlex.quote(f"{RUNS}/{machine.name}/{run}")
        script = f"""
            cd {place} 2>/dev/null && test -e rsync.done || exit 0
            grep -qF "rollup: $(md5sum < md5sum | cut -c-32)" rsync.done
            md5sum -c --quiet --strict md5sum && echo arrived
        """
        return "arrived" in self.cluster.root(script)


def wait_for(condition: Callable[[], object], complaint: str, patience: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; fail when it takes far too long."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(1)
