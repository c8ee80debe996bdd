"""Sends files with the system's rsync, over OpenSSH or to a local directory.

Names go by `--files-from --from0`, so that any name arrives; the transport asks nobody
anything and trusts no host that was not pinned. What rsync says of trouble is turned into
the one line that a person needs.
"""

import os
import re
import subprocess
import tempfile
import threading
from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from ontpush.engine.children import Child
from ontpush.facts.names import from_rsync, human_time
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, TryLater, WrongCall

OLDEST_RSYNC = (3, 1)
_REMOTE = re.compile(
    r"(?P<host>(?:[^/:@]+@)?(?:\[[^]/]+\]|[^/:\[\]]+)):(?P<path>(?!:).*)\Z", re.DOTALL
)
_LINE = re.compile(rb"ontpush>(?P<item>.{11}) (?P<size>\d+) (?P<name>.*)\Z", re.DOTALL)
# A whole pass over a file takes this long at worst while the other end hears nothing.
_SLOWEST_READ = 10 * 10**6

OnFile = Callable[[int, int], None]
Self = TypeVar("Self", bound="Call")


class Destination(NamedTuple):
    """Where runs go: `host` as ssh takes it, or None for a directory on this machine."""

    text: str
    host: Optional[str]
    path: str

    @property
    def root(self) -> str:
        """As rsync takes it. The `/.` keeps rsync from making a directory that is not there."""
        path = self.path.rstrip("/") + "/." if self.path else "."
        return path if self.host is None else f"{self.host}:{path}"


def parse_destination(text: str) -> Destination:
    """DEST as the user gave it. WrongCall for what rsync or a forced command would mistake."""
    if text.startswith("rsync://") or re.match(r"[^/]*::", re.sub(r"\[[^]]*\]", "", text)):
        raise WrongCall(f"{text}: an rsync daemon cannot be pushed to; give USER@HOST:DIRECTORY")
    remote = _REMOTE.match(text)
    if not remote:
        path = os.path.abspath(text)
        return Destination(path, None, path)
    if text.startswith("-") or re.search(r"[\s*?\[\]{}\\'\"$`;&|<>()!#]", remote.group("path")):
        raise WrongCall(
            f"{text}: white space, wildcards and quotes in a directory on another host are changed"
            " on their way; use a name without, or a link to it"
        )
    return Destination(text, remote.group("host"), remote.group("path"))


class Transport(NamedTuple):
    """How rsync is called: options of the configuration that matter to it."""

    destination: Destination
    ssh_key: Optional[str]
    ssh_known_hosts: Optional[str]
    ssh_port: Optional[int]
    connect_timeout: int
    io_timeout: int
    transfer_hours: float
    bwlimit: Optional[str]
    flags: Tuple[str, ...]

    def ssh_command(self) -> List[str]:
        """ssh that asks nothing, shares nothing and gives up in time."""
        options = [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "ControlMaster=no",
            "ControlPath=none",
            "ForwardAgent=no",
            "ForwardX11=no",
            f"ConnectTimeout={self.connect_timeout}",
            "ServerAliveInterval=15",
            f"ServerAliveCountMax={max(2, self.io_timeout // 15)}",
        ]
        if self.ssh_known_hosts:
            options.append(f'UserKnownHostsFile="{self.ssh_known_hosts}"')
        command = ["ssh"] + [part for option in options for part in ("-o", option)]
        if self.ssh_key:
            command += ["-i", self.ssh_key]
        if self.ssh_port:
            command += ["-p", str(self.ssh_port)]
        return command


class Call:
    """One call of rsync, read by a thread of its own so that sums can be taken meanwhile.

    Use as a context manager and `finish()` in it; leaving it early ends rsync.
    """

    def __init__(
        self, transport: Transport, root: bytes, names: Iterable[bytes], own_flags: List[str]
    ) -> None:
        self._transport = transport
        self._list = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        for name in names:
            self._list.write(name + b"\0")
        self._list.seek(0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._fault: Optional[BaseException] = None
        command = command_line(transport, root, own_flags)
        limit = transport.transfer_hours * 3600
        try:
            self._child = Child(command, self._list, self._errors, limit, _environment())
        except FileNotFoundError as error:
            raise OutOfReach("rsync is not installed here: install the package rsync") from error

    def __enter__(self: "Self") -> "Self":
        self._child.__enter__()
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()
        self._reader.join()
        self._list.close()
        self._errors.close()

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Told of every name that rsync itemizes: see `man rsync`, --itemize-changes."""

    def _read(self) -> None:
        try:
            for line in self._child.lines():
                found = _LINE.match(line)
                if found:
                    self.on_line(found.group("item"), int(found.group("size")), found.group("name"))
        except ValueError:  # the pipe was closed because the call was ended
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._fault = error

    def finish(self) -> Tuple[bool, List[str]]:
        """Wait for the end: whether all that is still there went, and what rsync complained of.

        Trouble where the call failed as a whole.
        """
        self._reader.join()
        if self._fault:
            raise self._fault
        code = self._child.wait()
        self._errors.seek(0)
        complaints = _complaints(self._errors.read().decode("utf-8", "backslashreplace"))
        if self._child.timed_out:
            hours = human_time(self._transport.transfer_hours * 3600)
            raise TryLater(
                f"a transfer was ended after {hours}; raise transfer_hours if it may last"
            )
        if code not in (0, 23, 24):
            raise _trouble(self._transport, code, complaints)
        only_vanished = bool(complaints) and all(_VANISHED.search(line) for line in complaints)
        return code == 0 or only_vanished, complaints


class Sending(Call):
    """Sends files; `on_file(files, bytes)` is told of each as it arrives."""

    def __init__(
        self,
        transport: Transport,
        root: bytes,
        names: Iterable[bytes],
        on_file: Optional[OnFile] = None,
        own_flags: Iterable[str] = (),
    ) -> None:
        self.files = self.bytes = 0
        self._on_file = on_file
        super().__init__(transport, root, names, list(own_flags))

    def on_line(self, item: bytes, size: int, name: bytes) -> None:  # noqa: ARG002
        """Count a file whose bytes went over."""
        if item[:2] in (b"<f", b">f"):
            self.files += 1
            self.bytes += size
            if self._on_file:
                self._on_file(1, size)


class Comparing(Call):
    """Compares with what lies at the destination, and changes nothing there.

    `-n -i -c` needs no right to read there. `-ii` names also what is equal, so that a file
    which a flag leaves out is not taken for one that is equal.
    """

    def __init__(
        self,
        transport: Transport,
        root: bytes,
        names: Iterable[bytes],
        on_file: Optional[OnFile] = None,
        largest: int = 0,
        by_content: bool = True,
    ) -> None:
        self.different: Set[bytes] = set()
        self.same: Set[bytes] = set()
        self._on_file = on_file
        patience = transport.io_timeout + largest // _SLOWEST_READ
        flags = ["-n", "-i", "-i"] + (["-c"] if by_content else [])
        super().__init__(transport._replace(io_timeout=patience), root, names, flags)

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Keep the name of a file or link."""
        if item[1:2] not in (b"f", b"L"):
            return
        (self.same if item[:1] == b"." else self.different).add(from_rsync(name))
        if self._on_file:
            self._on_file(1, size)


def send(
    transport: Transport, root: bytes, names: Iterable[bytes], own_flags: Iterable[str] = ()
) -> None:
    """Send a few files and wait for it. RunFailed where one did not go."""
    with Sending(transport, root, names, own_flags=own_flags) as sending:
        complete, complaints = sending.finish()
    if not complete:
        raise RunFailed("rsync: {}".format(complaints[0] if complaints else "not all arrived"))


def command_line(
    transport: Transport, root: bytes, own_flags: List[str]
) -> List[Union[str, bytes]]:
    """The call of rsync that sends what is named on its standard input."""
    command: List[Union[str, bytes]] = ["rsync", "-lpt", "--files-from=-", "--from0"]
    command.append(f"--timeout={transport.io_timeout}")
    if transport.bwlimit:
        command.append("--bwlimit=" + transport.bwlimit)
    if transport.destination.host is not None:
        command += ["-e", " ".join(_quoted(part) for part in transport.ssh_command())]
    command += transport.flags
    command += own_flags
    command += ["--outbuf=L", "--out-format=ontpush>%i %l %n"]
    return [*command, "--", root + b"/", transport.destination.root]


def _quoted(part: str) -> str:
    """As rsync takes apart the words of `-e`: quotes, and a quote in quotes doubled."""
    return part if re.match(r"[\w@%+=:,./-]+\Z", part) else "'{}'".format(part.replace("'", "''"))


def _environment() -> Dict[str, str]:
    """Ours, without what would change rsync behind our back, and with messages in English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RSYNC_")}
    kept["LC_ALL"] = "C"
    return kept


def require_rsync() -> str:
    """The version of the rsync here. OutOfReach where it is missing or too old."""
    try:
        printed = subprocess.run(
            ["rsync", "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            timeout=30,
            check=False,
        ).stdout.decode("utf-8", "replace")
    except FileNotFoundError as error:
        raise OutOfReach("rsync is not installed here: install the package rsync") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutOfReach(f"rsync cannot be run here: {error}") from error
    found = re.search(r"version v?(\d+)\.(\d+)\S*", printed)
    if not found:
        raise OutOfReach("rsync does not tell its version here: install the package rsync again")
    if (int(found.group(1)), int(found.group(2))) < OLDEST_RSYNC:
        raise OutOfReach(f"rsync is too old here ({found.group()}): 3.1 or newer is needed")
    return found.group().split()[1]


_OWN_ARGUMENT = {"e", "f", "B", "M", "T", "@"}
_BREAKING = {
    "--remove-source-files": "would delete runs from the sequencer",
    "--remove-sent-files": "would delete runs from the sequencer",
    "--inplace": "would show half a file under its name",
    "--append": "would show half a file under its name",
    "--append-verify": "would show half a file under its name",
    "--write-devices": "would write where no file is",
    "--files-from": "is how ontpush itself names the files",
    "--dry-run": "would send nothing; use ontpush push --dry-run",
    "--list-only": "would send nothing",
    "--daemon": "would send nothing",
    "--server": "would send nothing",
    "--only-write-batch": "would send nothing",
    "--protect-args": "is refused by rrsync, and ontpush needs none",
    "--secluded-args": "is refused by rrsync, and ontpush needs none",
}
_BREAKING_LETTERS = {"n": "--dry-run", "s": "--protect-args"}


def check_flags(flags: Iterable[str]) -> None:
    """Refuse flags for rsync that would break what ontpush promises. WrongCall."""
    may_be_argument = False
    for flag in flags:
        if not flag.startswith("-") and may_be_argument:
            may_be_argument = False
            continue
        if not flag.startswith("-") or flag in ("-", "--"):
            raise WrongCall(f"{flag!r} is no flag for rsync; after DEST only those may come")
        may_be_argument = "=" not in flag
        for name in _long_names(flag):
            if name.startswith("--del") and name != "--delay-updates":
                raise WrongCall(f"{name}: nothing is ever deleted at the destination")
            if name in _BREAKING:
                raise WrongCall(f"{name}: {_BREAKING[name]}")


def _long_names(flag: str) -> List[str]:
    if flag.startswith("--"):
        return [flag.split("=")[0]]
    names = []
    for letter in flag[1:]:
        if letter in _OWN_ARGUMENT:
            break
        names.append(_BREAKING_LETTERS.get(letter, "-" + letter))
    return names


_VANISHED = re.compile(r"file has vanished: |link_stat .* failed: No such file or directory")
_NOISE = re.compile(
    r"rsync error:|rsync: connection unexpectedly closed|rsync: \[\w+\] (?:write|safe_write) error"
    r"|@@@|Warning: Permanently added|\s*$"
)


def _complaints(text: str) -> List[str]:
    """The lines worth showing of what rsync and ssh wrote to standard error, else all."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if not _NOISE.match(line)] or lines


def _trouble(transport: Transport, code: int, complaints: List[str]) -> Trouble:
    """What a failed call means and what to do."""
    text = "\n".join(complaints)
    place = transport.destination.host or transport.destination.path
    for pattern, kind, advice in _KNOWN_TROUBLE:
        found = re.search(pattern, text)
        if found:
            line = next((line for line in complaints if found.group().split("\n")[0] in line), "")
            return kind(advice.format(place=place, line=line, to=transport.destination.text))
    line = complaints[0] if complaints else "no word why"
    if code == 1:
        return WrongCall(f"rsync refuses its flags: {line}")
    if code in (10, 30, 35, 255):
        return OutOfReach(f"{place} cannot be reached: {line}")
    if code in (2, 4, 5, 12, 14, 126, 127):
        return OutOfReach(
            f"{place} refuses rsync: {line}; the key's forced command must be"
            " `rrsync -wo DIRECTORY`, or the account must have rsync"
        )
    return RunFailed(f"rsync ended with {code}: {line}")


# What ssh, rsync and rrsync say, what kind of trouble it is, and what to tell the user.
_KNOWN_TROUBLE: List[Tuple[str, Type[Trouble], str]] = [
    (
        r"HOST IDENTIFICATION HAS CHANGED",
        OutOfReach,
        "the host key of {place} has changed: ask the cluster's administrators whether that is"
        " right before you put the new one in known_hosts",
    ),
    (
        r"host key is known for|Host key verification failed",
        OutOfReach,
        "the host key of {place} is not known here: put it in the known_hosts file",
    ),
    (
        r"Permission denied \((?:publickey|gssapi|password|keyboard|hostbased).*",
        OutOfReach,
        "{place} refuses the key: is its line in authorized_keys there, and does from= allow"
        " this host?",
    ),
    (
        r"Identity file .* not accessible|Load key .*",
        OutOfReach,
        "the ssh key cannot be used: {line}",
    ),
    (
        r"Another instance of rrsync",
        TryLater,
        "another transfer into {to} is under way; the next tick tries again",
    ),
    (
        r"Could not resolve hostname.*|Connection refused|Connection (?:timed out|closed|reset).*"
        r"|No route to host|Network is unreachable|Operation timed out|Timeout, server.*",
        OutOfReach,
        "{place} cannot be reached: {line}",
    ),
    (
        r"rsync: (?:command )?not found|rsync: No such file or directory",
        OutOfReach,
        "{place} has no rsync: install it there",
    ),
    (
        r"mkdir .* failed: No such file or directory",
        OutOfReach,
        "{to} is not there: is its disk mounted? ontpush does not make it",
    ),
    (
        r"(?:chdir|change_dir|change dir).* failed|(?:can't|unable to|cannot) (?:chdir|cd) .*",
        OutOfReach,
        "{to} cannot be entered: {line}",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        RunFailed,
        "no space left at {to}: {line}",
    ),
]
