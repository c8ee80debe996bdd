"""An instrument that has been taken over: its key, its addresses, and no good intentions."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import Final

from tests.fleet.hosts import Fleet, Machine

KEY: Final = "/etc/ontpush/id_ed25519"
KNOWN_HOSTS: Final = "/etc/ontpush/known_hosts"
# What a client of today asks for when it begins to send; enough to be let through by rrsync.
SERVER: Final = "rsync --server -vlogDtpre.iLsfxCIvu"


@dataclass(frozen=True)
class Tried:
    """An attempt that is over: its exit code and all that could be seen of it."""

    code: int
    seen: str


class Attacker:
    """Attempts from a sequencer, with its key, against the cluster."""

    def __init__(self, fleet: Fleet, machine: Machine) -> None:
        self.machine = machine
        self.cluster = fleet.cluster
        self.target = f"{fleet.cluster.host.user}@{fleet.cluster.name}"
        options = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={KNOWN_HOSTS}"]
        # Known by its address; called by its name, as an attacker would who has read hosts.
        options += [f"HostKeyAlias={address(fleet)}", "LogLevel=INFO", "ConnectTimeout=10"]
        self._options = shlex.join(word for option in options for word in ("-o", option))

    def run(self, script: str, seconds: int = 20) -> Tried:
        """Run a shell script on the sequencer; $SSH, $OPTIONS, $KEY and $TARGET lead the way in."""
        head = (
            f"KEY={KEY}; TARGET={self.target}; OPTIONS={shlex.quote(self._options)}\n"
            f'SSH="ssh -T -i $KEY $OPTIONS"\ncd "$(mktemp -d)" || exit 99\n'
        )
        call = f"timeout {seconds} sh -c {shlex.quote(head + script)} 2>&1"
        ended: subprocess.CompletedProcess[str] = self.machine.user(call)
        return Tried(ended.returncode, ended.stdout + ended.stderr)

    def found(self, mark: str) -> list[str]:
        """All paths at the cluster that bear a mark in their last part."""
        return self.cluster.root(f"find / /tmp /run /dev/shm -xdev -name '*{mark}*'").splitlines()


def address(fleet: Fleet) -> str:
    """The address of the cluster, as the inventory has it."""
    (line,) = fleet.cluster.root("hostname -I").splitlines()
    return line.split()[0]
