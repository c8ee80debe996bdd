"""The hosts: what each is a stand-in for, what is installed on it, and who logs in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

# What every host needs to be one. logrotate and rsync are there because a sequencer is often
# without internet: what a role needs must be on it already.
BASE: Final = (
    "ca-certificates",
    "cron",
    "dbus",
    "iproute2",
    "logrotate",
    "openssh-client",
    "openssh-server",
    "procps",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
)
# A Mk1C has Python 3.6, which no Debian here has: it comes from this machine, these with it. The
# Debian on that host has no Python at all, so that /usr/bin/python3 is free for it.
PYTHON36_NEEDS: Final = (
    "libbz2-1.0",
    "libffi8",
    "liblzma5",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
)


# In a lab one does not want to wait: a tick every minute, and files that settle in no time.
IMPATIENT: Final = (("ontpush_every", 1), ("ontpush_config", {"settle": 2}))
RUNS: Final = "/home/seqdata/runs"


@dataclass(frozen=True, eq=False)
class Host:
    """One host of the lab.

    `user` logs in with the lab's key. On a sequencer it is MinKNOW's user, who owns /data and may
    become root; on the cluster it is nobody in particular. `variables` are the host's own in the
    inventory. `setup` are further shell commands, run by root once the host has booted.
    """

    name: str
    suite: str
    user: str
    group: str
    packages: tuple[str, ...]
    variables: tuple[tuple[str, Any], ...] = IMPATIENT
    old_python: bool = False
    setup: tuple[str, ...] = ()

    @property
    def is_sequencer(self) -> bool:
        """Whether runs are written here."""
        return self.group == "sequencers"


SEQUENCERS: Final = (
    Host("mk1c", "bookworm", "minit", "sequencers", PYTHON36_NEEDS, old_python=True),
    Host("gridion", "bullseye", "grid", "sequencers", ("python3", "python3-apt")),
    Host("promethion", "trixie", "prom", "sequencers", ("python3", "python3-apt")),
)
# What the cluster's own services need goes into `packages` and `setup`.
CLUSTER: Final = Host(
    "hpc",
    "bookworm",
    "seqdata",
    "cluster",
    ("python3",),
    variables=(("ontpush_cluster_directory", RUNS),),
)
HOSTS: Final = (*SEQUENCERS, CLUSTER)
