"""A lab from nothing to hosts that one can log in to, and back."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.lab.hosts import access
from tests.lab.hosts.images import ensure_image, image
from tests.lab.hosts.oldpython import find_python36
from tests.lab.hosts.podman import LABEL, LabError, on_host, podman
from tests.lab.hosts.table import HOSTS, Host

FIRST_ADDRESS: Final = 10  # of a host in its network; those below are the network's own
BOOT_SECONDS: Final = 180
AT_ONCE: Final = 2  # images made, or hosts booted, at the same time

COMPILED: Final = Path(__file__).with_name("compiled")
PACKAGES: Final = Path("/usr/lib/python3/dist-packages")  # of Debian's Python
# systemd 256 and newer start on a machine with the older cgroups only if they are told to.
INIT: Final = ("/sbin/init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1")
# Whoever has no user yet is new, and has the host keys of the image: the same as other hosts.
PREPARE: Final = """\
id {user} >/dev/null 2>&1 || {{
    rm -f /etc/ssh/ssh_host_*
    ssh-keygen -A >/dev/null
    systemctl restart ssh
    useradd --create-home --shell /bin/bash {user}
}}
install -d -m 700 -o {user} -g {user} /home/{user}/.ssh
cd /home/{user}/.ssh
grep -qxF '{key}' authorized_keys 2>/dev/null || echo '{key}' >> authorized_keys
chown {user}: authorized_keys
"""
SEQUENCER: Final = """\
echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}
install -d -o {user} -g {user} /data
"""


class Lab:
    """The hosts that belong to one state directory, whether they are up or not."""

    def __init__(self, state: Path, without: Sequence[str] = ()) -> None:
        self.state = state.resolve()
        self.hosts = [host for host in HOSTS if host.name not in without]
        digest = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:8]
        self.name = f"ontpush-{digest}"

    def up(self) -> dict[Host, str]:
        """Make all that is missing; return each host's address."""
        require_root()
        key = access.make_key(self.state)
        python = find_python36() if any(host.old_python for host in self.hosts) else None
        self.make_images()
        addresses = self._addresses()
        self._for_all(lambda host: self._boot(host, addresses, python), self.hosts)
        self._for_all(lambda host: self._prepare(host, key), self.hosts)
        access.write_known_hosts(self.state, self._host_keys(), addresses)
        access.write_inventory(self.state, addresses)
        access.write_ssh_config(self.state, addresses)
        return addresses

    def make_images(self) -> None:
        """Make what the hosts boot from, where it is missing."""
        # Two hosts may share an image.
        self._for_all(ensure_image, list({image(host): host for host in self.hosts}.values()))

    def down(self) -> None:
        """Remove every container, network, key and file of this lab; nothing is no error."""
        require_root()
        mine = f"label={LABEL}={self.name}"
        for container in podman("ps", "--all", "--quiet", "--filter", mine).split():
            podman("rm", "--force", "--time", "0", "--volumes", container)
        for network in podman("network", "ls", "--quiet", "--filter", mine).split():
            podman("network", "rm", network)
        if self.state.exists():
            shutil.rmtree(self.state)

    def container(self, host: str) -> str:
        """The name by which podman knows a host."""
        return f"{self.name}-{host}"

    def _host_keys(self) -> dict[Host, str]:
        """The public host keys of each host, read on it, one a line."""
        command = "cat /etc/ssh/ssh_host_*_key.pub"
        return {host: on_host(self.container(host.name), command) for host in self.hosts}

    def _addresses(self) -> dict[Host, str]:
        """Give each host an address of the lab's network, which is made where it is missing."""
        mine = f"label={LABEL}={self.name}"
        if not podman("network", "ls", "--quiet", "--filter", mine).split():
            label = f"--label={LABEL}={self.name}"
            podman("network", "create", "--disable-dns", label, self.name)
        subnet = ipaddress.ip_network(_subnet(self.name))
        return {host: str(subnet[FIRST_ADDRESS + HOSTS.index(host)]) for host in self.hosts}

    def _boot(self, host: Host, addresses: dict[Host, str], python: Path | None) -> None:
        """Start a host, or start it again, and wait until its systemd has started all."""
        container = self.container(host.name)
        if not podman("ps", "--all", "--quiet", "--filter", f"name=^{container}$").strip():
            podman("create", *self._options(host, addresses, python), image(host), *INIT)
        podman("start", container)
        until = "until systemctl is-system-running --wait; do sleep 0.2; done"
        try:
            on_host(container, f"timeout {BOOT_SECONDS} sh -c '{until}' >/dev/null 2>&1")
        except LabError:
            failed = on_host(container, "systemctl --failed --no-legend --plain || true")
            raise LabError(f"{host.name} has not booted in {BOOT_SECONDS} s: {failed}") from None

    def _options(self, host: Host, addresses: dict[Host, str], python: Path | None) -> list[str]:
        """What `podman create` is told about a host."""
        named = [f"--add-host={other.name}:{address}" for other, address in addresses.items()]
        options = [
            f"--name={self.container(host.name)}",
            f"--hostname={host.name}",
            f"--label={LABEL}={self.name}",
            f"--network={self.name}",
            f"--ip={addresses[host]}",
            "--systemd=always",
            *named,
        ]
        if not host.old_python:
            kept = COMPILED.glob("compiled.*")
            options += [f"--volume={path}:{PACKAGES / path.name}:ro" for path in kept]
        elif python:
            # What somebody once installed for it on this machine is not on a Mk1C.
            packages = python / "lib/python3.6/site-packages"
            options += [f"--volume={python}:{python}:ro", f"--volume={COMPILED}:{packages}:ro"]
        return options

    def _prepare(self, host: Host, key: str) -> None:
        """Make the user, let the key in, and do what else the host asks for."""
        scripts = [PREPARE, *[SEQUENCER] * host.is_sequencer]
        if host.old_python:
            scripts.append(_show_python(find_python36()))
        script = "".join(scripts).format(user=host.user, key=key)
        on_host(self.container(host.name), script + "\n".join(host.setup))

    @staticmethod
    def _for_all(work: Callable[[Host], None], hosts: Sequence[Host]) -> None:
        """Do something for several hosts, some of them at the same time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(work, hosts))


def require_root() -> None:
    """Only root can make hosts that boot; LabError for anybody else."""
    if os.geteuid():
        raise LabError("only root can make the lab's hosts: call it with sudo")


def _subnet(network: str) -> str:
    """The subnet that podman chose for a network; it tells so in two ways, by its version."""
    (described,) = json.loads(podman("network", "inspect", network))
    found = described.get("subnets")
    return str(found[0]["subnet"])


def _show_python(python: Path) -> str:
    """Shell lines that make this the host's Python, for every user, at the usual path."""
    parents = [str(folder) for folder in reversed(python.parents[:-1])]
    lines = [f"chmod o+x {folder}" for folder in parents]
    return "\n".join([*lines, f"ln -sfn {python}/bin/python3.6 /usr/bin/python3", ""])
