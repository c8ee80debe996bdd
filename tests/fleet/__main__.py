"""`python -m tests.fleet`: Molecule's sequence on real hosts, for several Ansibles.

Each has a lab of its own; they share nothing but the machine. Whatever happens, the labs are gone
at the end. Of a run that fails, all that it said is shown, of the others the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from tests.fleet.hosts import CHECKOUT
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.podman import LabError
from tests.lab.hosts.table import HOSTS

# The last ansible-core that manages a host with Python 3.6.
FOR_OLD_PYTHON: Final = "2.16."
# What the cluster does and refuses has nothing to do with who set it up: once is enough. What it
# does takes minutes of cron, beside which the rest need not wait: it has a lab of its own, where
# also is tried what people do by hand. What it refuses is tried in the lab with the least to do.
LONGEST: Final = "cluster"
IN_LONGEST: Final = "cluster_side or monitor_set_up or by_hand"
ATTACKS: Final = "forced_command"
# A Debian as new as the newest Ansible: the oldest one sets it up for the cluster's lab alone. That
# has no use for a third sequencer: the one between is set up in both the others.
NEW_DEBIAN: Final = "promethion"
BETWEEN: Final = "gridion"
# To check, and to converge once more, is for one of the scenarios that set up the same hosts.
ALL_STEPS: Final = ("check", "converge", "idempotence", "verify")
FEW_STEPS: Final = ("converge", "verify")
NEWEST_STEPS: Final = ("converge", "idempotence", "verify")
# Each Ansible converges once, and each kind of host is set up once, as it is for everybody: ssh,
# sudo and Python are started for each task, which is most of what a playbook costs. In all else,
# and in the cluster's lab, Mitogen keeps them.
AS_EVERYBODY: Final = "converge"
OLD: Final = [host.name for host in HOSTS if host.old_python]
TELLING: Final = re.compile(r" ➜ | passed| failed", re.IGNORECASE)


class Scenario:
    """Molecule's sequence with the Ansible of one virtual environment; `which` tests, as pytest."""

    def __init__(
        self,
        programs: Path,
        without: list[str],
        name: str,
        which: Sequence[str],
        steps: Sequence[str] = ALL_STEPS,
    ) -> None:
        self.programs = programs
        self.version = core_version(programs)
        self.without = without if self.manages_old_python else [*without, *OLD]
        self.name = name
        self.lab = Lab(CHECKOUT / f".lab-{self.version}-{name}", self.without)
        self.which = which
        # For the others there is time until that one has ended.
        self._gives_way = name != LONGEST
        self.steps = steps
        self._own = tempfile.TemporaryDirectory(prefix="ontpush-molecule-")
        self._said = Path(self._own.name) / "said"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def manages_old_python(self) -> bool:
        """Whether a Mk1C is within reach."""
        return self.version.startswith(FOR_OLD_PYTHON)

    def start(self) -> None:
        """Begin, without waiting."""
        self._begun = time.time()
        self.lab.down()
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(self.programs), *os.get_exec_path()]),
            "MOLECULE_EPHEMERAL_DIRECTORY": f"{self._own.name}/molecule",
            "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
            # Its colours are for a terminal, and end up in files.
            "NO_COLOR": "1",
            "ONTPUSH_LAB": str(self.lab.state),
            "ONTPUSH_PYTHON": sys.executable,
            "ONTPUSH_WHICH": json.dumps(self.which),
            "ONTPUSH_WITHOUT": " ".join(self.without),
        }
        calls = [shlex.join(call) for call in self._calls()]
        command = [*["nice"] * self._gives_way, "sh", "-ec", "\n".join(calls)]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _calls(self) -> Iterator[list[str]]:
        """Molecule's steps, one after the other."""
        molecule = [str(self.programs / "python"), "-m", "molecule"]
        through_mitogen = ["env", *by_mitogen(self.programs)]
        for step in self.steps:
            is_plain = step == AS_EVERYBODY and self.name != LONGEST
            yield [*([] if is_plain else through_mitogen), *molecule, step, "--no-command-borders"]

    def wait(self) -> int:
        """Wait for the end, show what there is to show and return the exit code."""
        assert self._process is not None
        code = self._process.wait()
        said = self._said.read_text(encoding="utf-8").splitlines()
        shown = said if code else [line.strip() for line in said if TELLING.search(line)]
        hosts = "all hosts" if not self.without else f"without {', '.join(self.without)}"
        took = self._said.stat().st_mtime - self._begun
        title = f"\nansible-core {self.version}, {hosts}, {self.name}, {took:.0f} s:"
        print(title, *shown, sep="\n", flush=True)
        return code

    def end(self) -> None:
        """End it if it still runs, and leave nothing."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
        self.lab.down()
        self._own.cleanup()


def main() -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fleet", description="Test roles on real hosts.")
    parser.add_argument("programs", nargs="+", type=Path, metavar="DIR", help="where an Ansible is")
    parser.add_argument("--without", action="append", default=[], metavar="HOST")
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="as pytest -k")
    parser.add_argument("--all", action="store_true", help="with every Ansible all that it can do")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        programs = [folder.absolute() for folder in given.programs]
        return run(programs, given.without, given.only, given.all)
    except LabError as error:
        print(f"fleet: {error}", file=sys.stderr)
        return 1


def run(programs: list[Path], without: list[str], only: str, all: bool) -> int:
    """Run the scenarios of every Ansible and return the highest exit code.

    They run side by side: each waits for cron and ssh most of the time. What its hosts boot from
    is made before one begins, unless it was for one before it.
    """
    begin = time.monotonic()
    scenarios = list(chosen(programs, without, only) if only else all_parts(programs, without, all))
    try:
        for scenario in scenarios:
            scenario.lab.make_images()
            scenario.start()
        return max([scenario.wait() for scenario in scenarios])
    finally:
        for scenario in scenarios:
            scenario.end()
        print(f"\nThe fleet took {time.monotonic() - begin:.0f} s", flush=True)


def chosen(programs: list[Path], without: list[str], only: str) -> Iterator[Scenario]:
    """What the caller wants to see, with the first Ansible."""
    yield Scenario(programs[0], without, "chosen", ["-k", only])


def all_parts(programs: list[Path], without: list[str], all: bool) -> Iterator[Scenario]:
    """Everything with the first Ansible, with the others what they may break, or `all` they can."""
    first, *others = programs
    at_cluster = [] if all else [BETWEEN]
    yield Scenario(first, without or at_cluster, LONGEST, ["-k", IN_LONGEST], FEW_STEPS)
    here = f"not ({IN_LONGEST})" + f" and not {ATTACKS}" * bool(others)
    elsewhere = [NEW_DEBIAN] if others and not all else []
    yield Scenario(first, [*without, *elsewhere], "sequencers", ["-k", here])
    for folder in others:
        which = "not cluster_side" + f" and (newest or {NEW_DEBIAN})" * (not all)
        steps = ALL_STEPS if all else NEWEST_STEPS
        yield Scenario(folder, without, "set-up", ["-k", which], steps)


def core_version(programs: Path) -> str:
    """The version of ansible-core in a virtual environment."""
    return answer(programs, "import ansible.release as it; print(it.__version__)")


def by_mitogen(programs: Path) -> list[str]:
    """What makes the Ansible of a virtual environment work through Mitogen, as NAME=VALUE."""
    package = answer(programs, "import ansible_mitogen as it; print(it.__path__[0])")
    return [
        "ANSIBLE_STRATEGY=mitogen_linear",
        f"ANSIBLE_STRATEGY_PLUGINS={package}/plugins/strategy",
    ]


def answer(programs: Path, question: str) -> str:
    """What the Python of a virtual environment prints."""
    command = [str(programs / "python"), "-c", question]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def stop(number: int, _: FrameType | None) -> None:
    """Let SIGTERM end everything in order, as an interrupt does."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
