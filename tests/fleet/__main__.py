"""`python -m tests.fleet`: the whole sequence of Molecule on a lab of its own, with one Ansible.

Whatever happens, the lab is gone at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.fleet.hosts import CHECKOUT
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.podman import LabError

SCENARIO: Final = "fleet"


def main() -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fleet", description="Test roles on real hosts.")
    parser.add_argument("--ansible", type=Path, required=True, metavar="DIR", help="its programs")
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="of the lab")
    parser.add_argument("--without", default="", metavar="HOST", help="leave this host out")
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="as pytest -k")
    arguments = parser.parse_args()
    try:
        return molecule(arguments.ansible.resolve(), arguments)
    except LabError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1


def molecule(programs: Path, arguments: argparse.Namespace) -> int:
    """Let Molecule go through its sequence and return its exit code."""
    lab = Lab(arguments.state)
    lab.down()
    with TemporaryDirectory(prefix="ontpush-molecule-") as own:
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), *os.get_exec_path()]),
            "MOLECULE_EPHEMERAL_DIRECTORY": own,
            "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
            # Its colours are for a terminal, and end up in files.
            "NO_COLOR": "1",
            "ONTPUSH_LAB": str(lab.state),
            "ONTPUSH_ONLY": arguments.only,
            "ONTPUSH_PYTHON": sys.executable,
            "ONTPUSH_WITHOUT": arguments.without,
        }
        command = [str(programs / "python"), "-m", "molecule", "test", "--scenario-name", SCENARIO]
        try:
            return subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode
        finally:
            lab.down()


if __name__ == "__main__":
    sys.exit(main())
