"""`python -m tests.lab.hosts up` and `down`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.lab.hosts.images import remove_images
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.podman import LabError
from tests.lab.hosts.table import HOSTS

CHECKOUT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Do what the command line says and return the exit code."""
    arguments = parser().parse_args()
    lab = Lab(arguments.state, arguments.without)
    try:
        if arguments.command == "up":
            tell(lab)
        else:
            lab.down()
            if arguments.images:
                remove_images()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    top = argparse.ArgumentParser(prog="tests.lab.hosts", description="A lab of real hosts.")
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make the hosts")
    down = commands.add_parser("down", help="remove the hosts and all that belongs to them")
    down.add_argument("--images", action="store_true", help="also what hosts are made from")
    for command in (up, down):
        command.add_argument("--state", type=Path, default=CHECKOUT / ".lab", metavar="DIR")
    names = [host.name for host in HOSTS]
    up.add_argument("--without", choices=names, action="append", default=[], metavar="HOST")
    down.set_defaults(without=[])
    return top


def tell(lab: Lab) -> None:
    """Bring the lab up and say how to get in."""
    addresses = lab.up()
    state = os.path.relpath(lab.state)
    for host, address in addresses.items():
        print(f"{host.name:12}{address:16}ssh -F {state}/ssh_config {host.name:12}({host.user})")
    print(f"Ansible:    .venv/bin/ansible-playbook -i {state}/inventory playbooks/site.yml")


if __name__ == "__main__":
    sys.exit(main())
