"""A cluster's login node on this machine: a private sshd on loopback that takes pushes.

It runs as whoever starts it and lets only that user in, with a key of its own, by default with
rrsync as forced command. Nothing outside its temporary directory is touched, save that root's
sshd insists on the directory `/run/sshd`: that is made when missing and left, since another sshd
may have come to rely on it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final

HOST: Final = "127.0.0.1"
RRSYNC: Final = "rrsync -wo"
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")
PATIENCE: Final = 60.0  # seconds to wait for what takes milliseconds unless the machine is busy

# StrictModes looks at all folders above the key file, and the temporary folder is open to all.
# ONTPUSH_LAB marks what the sessions start, so that it is found when its parents are gone. With
# SHLVL set, a bash of Debian's does not take itself for a login and reads no .bashrc of the user.
# The exchange of keys that is left out costs more than all else that a session does.
SSHD_CONFIG: Final = """\
ListenAddress {host}
Port {port}
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile {home}/sshd.pid
SetEnv ONTPUSH_LAB={home} SHLVL=1
KexAlgorithms -sntrup761*
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
X11Forwarding no
PrintMotd no
UseDNS no
MaxStartups 100
LoginGraceTime 30
LogLevel VERBOSE
"""


class ClusterError(Exception):
    """The private sshd does not work; the message holds its log."""


class Cluster:
    """A login node to push to; use it in a `with` block.

    `directory` is where the data arrives, a new one in the temporary directory by default.
    `forced_command` is RRSYNC for `RRSYNC_PROGRAM -wo DIRECTORY`, any other command line, or
    None for a key without restrictions.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        rrsync: Path = Path("/usr/bin/rrsync"),
        forced_command: str | None = RRSYNC,
    ) -> None:
        self.user = pwd.getpwuid(os.geteuid()).pw_name
        self.port = 0
        self._rrsync = rrsync
        self._command = forced_command
        self._temporary = TemporaryDirectory(prefix="ontpush-cluster-")
        self._home = Path(self._temporary.name)
        self._sshd: subprocess.Popen[bytes] | None = None
        self.directory = directory or self._home / "arrived"
        self.key = self._home / "client_key"
        self.known_hosts = self._home / "known_hosts"

    def __enter__(self) -> Cluster:
        try:
            self._prepare()
            self.start()
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._temporary.cleanup()

    @property
    def destination(self) -> str:
        """The DEST of a push: `directory` itself, which is `.` behind a forced command."""
        path = self.directory if self._command is None else "."
        return f"{self.user}@{HOST}:{path}"

    @property
    def ssh(self) -> str:
        """The `rsync -e` argument that reaches this cluster and nothing of the user's own ssh."""
        options = {
            "UserKnownHostsFile": self.known_hosts,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ControlMaster": "no",
        }
        told = [f"-o{name}={value}" for name, value in options.items()]
        return shlex.join(["ssh", "-F", "none", "-i", f"{self.key}", "-p", f"{self.port}", *told])

    def config(self, **more: object) -> dict[str, object]:
        """The keys of an ontpush configuration that reach this cluster, and `more`."""
        keys = {"ssh_key": str(self.key), "ssh_known_hosts": str(self.known_hosts)}
        return {**keys, "ssh_port": self.port, **more}

    def log(self) -> str:
        """What sshd wrote so far."""
        return (self._home / "sshd.log").read_text(errors="replace")

    def start(self) -> None:
        """Take connections, again on the same port after `stop`."""
        if self._sshd is not None:
            return
        fixed = self.port
        for _ in range(5):
            self.port = fixed or free_port()
            if self._listen():
                break
        else:
            raise ClusterError(f"sshd does not start:\n{self.log()}")
        if not fixed:
            self._pin_host_key()

    def stop(self) -> None:
        """Refuse connections and end all that runs, as a machine that is switched off."""
        if self._sshd is None:
            return
        _wait_for(self._quiet, "the sessions do not end")
        self._sshd.kill()
        self._sshd.wait()
        self._sshd = None

    def sessions(self) -> list[int]:
        """Process ids of the programs that run for clients: rrsync, rsync, a shell."""
        return _marked(f"ONTPUSH_LAB={self._home}")

    def hang_up(self) -> int:
        """Break the connections, as a network does, and return how many there were.

        What runs for the clients sees its input end, and is waited for: it gets no signal.
        """
        if self._sshd is None:
            return 0
        connections = _children().get(self._sshd.pid, [])
        for pid in _below(self._sshd.pid):
            if _name(pid).startswith("sshd"):
                _kill(pid)
        _wait_for(lambda: not self.sessions(), "a program does not notice that it was hung up")
        return len(connections)

    def forced_command(self, command: str | None) -> None:
        """Let the key do something else from the next connection on; see the class."""
        self._command = command
        self.accept_key()

    def refuse_key(self) -> None:
        """Let nobody in."""
        (self._home / "authorized_keys").write_text("")

    def accept_key(self) -> None:
        """Let the client's key in, the state at the start."""
        public = self.key.with_suffix(".pub").read_text()
        (self._home / "authorized_keys").write_text(f"{self._restrictions()}{public}")

    def change_host_key(self) -> None:
        """Come back with another host key, as a machine that was installed anew."""
        self.stop()
        self._write_key("host_key")
        self.start()

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._write_key("host_key")
        self._write_key("client_key")
        self.accept_key()
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)

    def _write_key(self, name: str) -> None:
        path = self._home / name
        path.unlink(missing_ok=True)
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(keygen, check=True, stdin=subprocess.DEVNULL)

    def _restrictions(self) -> str:
        """The options before the key in `authorized_keys`."""
        if self._command is None:
            return ""
        command = self._command
        if command == RRSYNC:
            command = shlex.join([str(self._rrsync), "-wo", str(self.directory)])
        quoted = command.replace('"', '\\"')
        return f'restrict,command="{quoted}" '

    def _listen(self) -> bool:
        """Start sshd and wait until it answers; False when it gave up, as for a taken port."""
        self._write_configuration()
        config = self._home / "sshd_config"
        with (self._home / "sshd.log").open("ab") as log:
            self._sshd = subprocess.Popen(
                [*tied_to_us(), _sshd(), "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _wait_for(lambda: self._ended() or self._answers(), "sshd does not answer")
        except BaseException:
            self.stop()
            raise
        if self._ended():
            self._sshd = None
        return self._sshd is not None

    def _ended(self) -> bool:
        return self._sshd is None or self._sshd.poll() is not None

    def _answers(self) -> bool:
        """Whether our sshd, and not another program on this port, greets who connects."""
        if not (self._home / "sshd.pid").exists():
            return False
        try:
            with socket.create_connection((HOST, self.port), timeout=PATIENCE) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _quiet(self) -> bool:
        """Kill what runs for clients; True, and sshd suspended, when there was nothing."""
        if self._sshd is None:
            return True
        self._sshd.send_signal(signal.SIGSTOP)  # so that no session begins meanwhile
        running = {*_below(self._sshd.pid), *self.sessions()}
        for pid in running:
            _kill(pid)
        if running:
            self._sshd.send_signal(signal.SIGCONT)  # so that sshd takes note of their end
        return not running

    def _write_configuration(self) -> None:
        (self._home / "sshd.pid").unlink(missing_ok=True)
        config = SSHD_CONFIG.format(host=HOST, port=self.port, home=self._home)
        if _openssh_version() >= (9, 8):  # else a few refused logins lock all later ones out
            config += "PerSourcePenalties no\n"
        (self._home / "sshd_config").write_text(config)

    def _pin_host_key(self) -> None:
        kind, key, *_ = (self._home / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {kind} {key}\n")


def _wait_for(condition: Callable[[], bool], complaint: str) -> None:
    """Return as soon as `condition` holds; raise ClusterError when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(complaint)
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _sshd() -> str:
    """The full path of sshd, which refuses to start under a relative one."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which("sshd", path=places)
    if found is None:
        raise ClusterError("sshd is not installed")
    return found


@functools.cache
def _openssh_version() -> tuple[int, int]:
    told = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def tied_to_us() -> list[str]:
    """A prefix that ends a command when the thread that started it is killed."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children() -> dict[int, list[int]]:
    """The processes of this machine by the id of their parent."""
    children: dict[int, list[int]] = {}
    for pid, stat in _read_all("stat"):
        _state, parent = stat.rpartition(b")")[2].split()[:2]
        children.setdefault(int(parent), []).append(pid)
    return children


def _below(pid: int) -> list[int]:
    """The descendants of a process, parents first."""
    children = _children()
    found = list(children.get(pid, []))
    for child in found:  # grows while it is read
        found += children.get(child, [])
    return found


def _marked(mark: str) -> list[int]:
    """The processes that have `mark`, a `NAME=value`, in their environment."""
    wanted = mark.encode()
    return [pid for pid, environ in _read_all("environ") if wanted in environ.split(b"\0")]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _read_all(name: str) -> Iterator[tuple[int, bytes]]:
    """The file `/proc/PID/name` of every process that allows it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / name).read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
