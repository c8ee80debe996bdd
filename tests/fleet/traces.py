"""What lies on a host: every file with its owner, mode and sum, to be compared later.

What the machine itself writes all the time, and Ansible for its own use, is left out.
"""

from __future__ import annotations

import json
from typing import Final

from tests.fleet.hosts import Fleet, Machine

# Written by the system at any time: logs, caches, timers, random seed, compiled Python, the state
# of Slurm and munge, mail that has come.
RESTLESS: Final = (
    "/data/*",
    "/etc/mtab",
    "/home/*/.ansible*",
    "/root/.ansible*",
    "/srv/mail/*",
    "/tmp/*",
    "/var/backups/*",
    "/var/cache/*",
    "/var/lib/apt/*",
    "/var/lib/logrotate/status",
    "/var/lib/slurm/*",
    "/var/lib/systemd/*",
    "/var/log/btmp",
    "/var/log/journal/*",
    "/var/log/lastlog",
    "/var/log/munge/*",
    "/var/log/slurm/*",
    "/var/log/wtmp",
    "/var/spool/slurmd*",
    "/var/tmp/*",
    "*/__pycache__",
    "*/__pycache__/*",
)
# Type, mode, owner and path; then the target of a link. Directories of other file systems are
# listed, what is in them is not.
LIST: Final = """\
cd /
find / -xdev {leave_out} -printf '%y %m %u:%g %p -> %l\\n'
find / -xdev {leave_out} -type f -exec md5sum {{}} +
"""


def traces(machine: Machine) -> list[str]:
    """One line for each thing and one for each sum, sorted."""
    leave_out = " ".join(f"-not -path '{pattern}'" for pattern in RESTLESS)
    return sorted(machine.root(LIST.format(leave_out=leave_out)).splitlines())


def noted(fleet: Fleet) -> dict[str, list[str]]:
    """What was noted of each host before the roles came."""
    before: dict[str, list[str]] = json.loads((fleet.state / "traces.json").read_text())
    return before


def note(fleet: Fleet) -> None:
    """Write down what lies on each host now."""
    now = {name: traces(machine) for name, machine in fleet.machines.items()}
    (fleet.state / "traces.json").write_text(json.dumps(now, indent=1))
