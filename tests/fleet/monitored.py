"""A cluster that looks after the runs: what its inventory says, and what comes of it there."""

from __future__ import annotations

import json
from typing import Final

from tests.fleet.hosts import Fleet
from tests.lab.hosts.table import RUNS

# What a lab would write into its inventory: Slurm verifies, people are told by mail.
SETTINGS: Final = {
    "verify_in": "slurm",
    "slurm_partition": "short",
    "silent_minutes": 2.5,
    "notify": [{"url": "mailto:lab@example.org"}],
    "on_verified": ["echo $ONTPUSH_RUN >>$HOME/followed"],
    "disk_percent": 100,
}
# All of the login user's home but what people sent and Ansible keeps for itself.
HOME: Final = f"""
    crontab -u seqdata -l 2>/dev/null || true
    find /home/seqdata -not -path '*/.ssh*' -not -path '*/.ansible*' -not -path '{RUNS}*' | sort
"""


def variables(**settings: object) -> tuple[str, str]:
    """The options of a playbook that make the cluster look after the runs, every minute."""
    facts = {
        "ontpush_monitor": True,
        "ontpush_monitor_every": 1,
        "ontpush_monitor_config": {**SETTINGS, **settings},
    }
    return "-e", json.dumps(facts)


def sources(fleet: Fleet) -> list[str]:
    """The instruments that the cluster is configured to read from."""
    config = json.loads(fleet.cluster.root("cat /home/seqdata/.config/ontpush/config.yml"))
    return [each["instrument"] for each in config.get("pull", [])]


def switch_off(fleet: Fleet) -> None:
    """Have the cluster look after the runs no more; what people keep beside is taken away, too."""
    played = fleet.play("cluster")
    assert played.code == 0, played.out
    fleet.cluster.user("rm -f ~/followed")


def is_on(fleet: Fleet) -> bool:
    """Whether cron at the cluster is to call the monitor."""
    return "ontpush monitor" in fleet.cluster.root("crontab -u seqdata -l 2>/dev/null || true")
