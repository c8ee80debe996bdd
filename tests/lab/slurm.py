"""A Slurm on loopback: munged, slurmctld and slurmd as processes of ours, in a directory of ours.

One node that calls itself `localhost`, with as many processors as asked for.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final

from tests.lab.cluster import free_port, tied_to_us

PATIENCE: Final = 60.0
CONFIGURATION: Final = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_min_interval=1000
ReturnToService=2
SlurmdTimeout=5
KillWait=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={processors} RealMemory=100 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=60 State=UP
"""


class Slurm:
    """Takes jobs of this user; use it in a `with` block."""

    def __init__(self, processors: int = 2) -> None:
        self._temporary = TemporaryDirectory(prefix="ontpush-slurm-")
        self._home = Path(self._temporary.name)
        self._processors = processors
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.configuration = self._home / "slurm.conf"

    def __enter__(self) -> Slurm:
        try:
            self._prepare()
            self._start("munged")
            _wait_for((self._home / "munge.socket").exists, "munged does not answer")
            self._start("slurmctld")
            self.start_node()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(subprocess.SubprocessError, KeyError):
            if "slurmctld" in self._running:
                self.call("scancel", "-u", pwd.getpwuid(os.geteuid()).pw_name)
                _wait_for(lambda: not self.jobs(), "a job does not end")
        for name in list(self._running)[::-1]:
            self._stop(name)
        self._temporary.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What makes Slurm's programs talk to this one."""
        return {"SLURM_CONF": str(self.configuration)}

    def call(self, *command: str) -> str:
        """What a program of Slurm's prints."""
        environment = {**os.environ, **self.environment}
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        return ended.stdout

    def jobs(self) -> dict[str, str]:
        """The state of every job that has not ended."""
        lines = self.call("squeue", "-h", "-o", "%i %T").splitlines()
        return {line.split()[0]: line.split()[1] for line in lines}

    def wait_until_idle(self) -> None:
        """Return when no job is left."""
        _wait_for(lambda: not self.jobs(), "the jobs do not end")

    def hold(self) -> None:
        """Let no job start from now on."""
        self.call("scontrol", "update", "PartitionName=short", "State=DOWN")

    def release(self) -> None:
        """Let jobs start again."""
        self.call("scontrol", "update", "PartitionName=short", "State=UP")

    def stop_node(self) -> None:
        """Switch the node off: its daemon is gone, and Slurm notices."""
        self._stop("slurmd")
        for step in self._home.glob("spool/*/pid"):
            step.unlink()
        _wait_for(lambda: "down" in self._node(), "Slurm does not notice that the node is down")

    def start_node(self) -> None:
        """Switch the node on."""
        self._start("slurmd")
        _wait_for(lambda: re.match(r"idle|mix|alloc", self._node()), "the node does not come up")

    def _node(self) -> str:
        try:
            return self.call("sinfo", "-h", "-N", "-o", "%t")
        except subprocess.CalledProcessError:
            return ""

    def _prepare(self) -> None:
        for name in ("state", "spool"):
            (self._home / name).mkdir()
        self._home.chmod(0o711)
        key = self._home / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=os.uname().nodename.split(".")[0],
                user=pwd.getpwuid(os.geteuid()).pw_name,
                home=self._home,
                controller=free_port(),
                daemon=free_port(),
                processors=self._processors,
            )
        )

    def _start(self, name: str) -> None:
        with (self._home / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*tied_to_us(), *self._commands()[name]],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _commands(self) -> dict[str, list[str]]:
        home = self._home
        conf = str(self.configuration)
        return {
            "munged": [
                _program("munged"),
                "--foreground",
                "--force",
                f"--socket={home}/munge.socket",
                f"--key-file={home}/munge.key",
                f"--pid-file={home}/munged.pid",
                f"--seed-file={home}/munged.seed",
                f"--log-file={home}/munged.log",
            ],
            "slurmctld": [_program("slurmctld"), "-D", "-f", conf],
            "slurmd": [_program("slurmd"), "-D", "-f", conf],
        }

    def _stop(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def log(self) -> str:
        """What the three wrote so far."""
        return "\n".join(path.read_text(errors="replace") for path in self._home.glob("*.log"))


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


def _wait_for(condition: Callable[[], object], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(0.1)
