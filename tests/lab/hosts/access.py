"""How to get into the hosts: a key, the hosts' own keys, an inventory, a configuration for ssh."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.lab.hosts.podman import call
from tests.lab.hosts.table import Host


def make_key(state: Path) -> str:
    """Make the key that lets the controller in, unless it is there; return its public half."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (state / "key.pub").exists():
        (state / "key").unlink(missing_ok=True)
        call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", state / "key")
    return (state / "key.pub").read_text().strip()


def write_known_hosts(state: Path, keys: Mapping[Host, str], addresses: Mapping[Host, str]) -> None:
    """Write the hosts' own public keys by name and address: nobody is trusted at first sight."""
    lines = [
        f"{host.name},{addresses[host]} {' '.join(key.split()[:2])}\n"
        for host in keys
        for key in keys[host].splitlines()
    ]
    (state / "known_hosts").write_text("".join(lines))


def write_inventory(state: Path, addresses: Mapping[Host, str]) -> None:
    """Write what Ansible needs to log in and the roles to work, as `inventory/hosts.yml`."""
    groups: dict[str, Any] = {}
    for host, address in addresses.items():
        variables = {"ansible_host": address, "ansible_user": host.user, **dict(host.variables)}
        groups.setdefault(host.group, {"hosts": {}})["hosts"][host.name] = variables
    options = f"-o UserKnownHostsFile={state / 'known_hosts'} -o StrictHostKeyChecking=yes"
    common = {
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_ssh_private_key_file": str(state / "key"),
        "ansible_ssh_common_args": f"{options} -o IdentitiesOnly=yes",
    }
    folder = state / "inventory"
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump(
        {"all": {"vars": common, "children": groups}}, sort_keys=False, explicit_start=True
    )
    (folder / "hosts.yml").write_text(text)


def write_ssh_config(state: Path, addresses: Mapping[Host, str]) -> None:
    """Write what lets people say `ssh -F .lab/ssh_config mk1c`."""
    hosts = "".join(
        f"Host {host.name}\n  HostName {address}\n  User {host.user}\n"
        for host, address in addresses.items()
    )
    (state / "ssh_config").write_text(
        f"{hosts}Host *\n  IdentityFile {state / 'key'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {state / 'known_hosts'}\n  StrictHostKeyChecking yes\n"
    )
