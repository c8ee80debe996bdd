"""How the destination is reached: its address, the calls of rsync and ssh, and flags for them.

The transport asks nobody anything and trusts no host that was not pinned.
"""

import os
import re
import subprocess
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

from ontpush.engine.orphans import tick_mark
from ontpush.facts.names import from_argument, named_in_mark
from ontpush.facts.trouble import OutOfReach, Trouble, WrongCall

OLDEST_RSYNC = (3, 1)
# Every end since OpenSSH 6.2 has the first, and most processors help with it: it takes two thirds
# of the time that ssh's own first choice takes.
_CIPHERS = (
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"
    "aes128-ctr,aes192-ctr,aes256-ctr"
)
_REMOTE = re.compile(
    r"(?P<host>(?:[^/:@]+@)?(?:\[[^]/]+\]|[^/:\[\]]+)):(?P<path>(?!:).*)\Z", re.DOTALL
)


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
        raise WrongCall(
            f"{text}: is an rsync daemon, which nobody checks; give USER@HOST:DIRECTORY"
        )
    remote = _REMOTE.match(text)
    if not remote:
        path = os.path.abspath(text)
        return Destination(named_in_mark(from_argument(path)), None, path)
    if text.startswith("-") or re.search(r"[\s*?\[\]{}\\'\"$`;&|<>()!#]", remote.group("path")):
        raise WrongCall(
            f"{text}: white space, wildcards and quotes in a directory on another host are changed"
            " on their way; use a name without, or a link to it"
        )
    return Destination(
        named_in_mark(from_argument(text)), remote.group("host"), remote.group("path")
    )


class Transport(NamedTuple):
    """How rsync is called: options of the configuration that matter to it.

    With `fetches` files come from the place that is called the destination elsewhere. Where rsync
    refuses its flags, it is `flags_trouble`.
    """

    destination: Destination
    ssh_key: Optional[str]
    ssh_known_hosts: Optional[str]
    ssh_port: Optional[int]
    connect_timeout: int
    io_timeout: int
    transfer_hours: float
    bwlimit: Optional[str]
    flags: Tuple[str, ...]
    flags_trouble: Type[Trouble] = WrongCall
    fetches: bool = False

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
            f"Ciphers={_CIPHERS}",
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


def command_line(
    transport: Transport, root: bytes, own_flags: List[str], by_name: bool, patience: int
) -> List[bytes]:
    """The call of rsync that sends what is named on its standard input, or what flags select.

    It ends when one end hears nothing of the other for `patience` seconds.

    What is fetched comes from a host that is trusted with its own runs alone: no links, and no
    modes of a stranger's. New files have those that this user's umask gives.
    """
    if transport.fetches:
        command = ["rsync", "-t", "--chmod=D777,F666"]
    else:
        # Directories there are the cluster's own: a link to one is followed, a file not replaced.
        command = ["rsync", "-lpt", "--no-implied-dirs"]
    if by_name:
        command += ["--files-from=-", "--from0"]
    # What is equal is named too: a file that is not named at all was left out by a flag.
    command += ["-i", "-i"]
    command.append(f"--timeout={patience}")
    if transport.bwlimit:
        command.append("--bwlimit=" + transport.bwlimit)
    if transport.destination.host is not None:
        command += ["-e", " ".join(_quoted(part) for part in transport.ssh_command())]
    command += transport.flags
    if transport.fetches:
        command += ["--no-perms", "--no-links", "--no-D"]
    command += own_flags
    # With --partial a file that was broken off would stand there under its own name; with
    # --hard-links not every name would be told.
    command += ["--no-partial", "--no-hard-links", "--outbuf=L", "--out-format=ontpush>%i %l %n"]
    words = [from_argument(word) for word in [*command, "--"]]
    ends = [root + b"/", from_argument(transport.destination.root)]
    return [*words, *(reversed(ends) if transport.fetches else ends)]


def _quoted(part: str) -> str:
    """As rsync takes apart the words of `-e`: quotes, and a quote in quotes doubled."""
    return part if re.match(r"[\w@%+=:,./-]+\Z", part) else "'{}'".format(part.replace("'", "''"))


def environment() -> Dict[str, str]:
    """Ours, without what would change rsync behind our back, and with messages in English."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RSYNC_")}
    return {**kept, **tick_mark(), "LC_ALL": "C"}


def require_rsync() -> str:
    """The version of the rsync here. OutOfReach where it is missing or too old."""
    try:
        printed = subprocess.run(
            ["rsync", "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
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
    "--temp-dir": "would show half a file under its name, where it is on another disk",
    "--backup": "would leave older versions among the files of a run",
    "--backup-dir": "would leave older versions among the files of a run",
    "--suffix": "would leave older versions among the files of a run",
    "--force": "would delete directories at the destination",
    "--compare-dest": "would take a file elsewhere for one that has arrived",
    "--copy-dest": "would take a file elsewhere for one that has arrived",
    "--link-dest": "would make two files one",
    "--copy-links": "would follow symbolic links",
    "--copy-unsafe-links": "would follow symbolic links",
    "--copy-dirlinks": "would follow symbolic links",
    "--write-devices": "would write where no file is",
    "--size-only": "would take a changed file for one that has arrived",
    "--remote-option": "would change what the other end does behind ontpush's back",
    "--iconv": "would give files other names than the roll-up has",
    "--fake-super": "would not write links as links",
    "--munge-links": "would not write links as links",
    "--no-relative": "would throw all runs together",
    "--no-R": "would throw all runs together",
    "--old-dirs": "is how ontpush itself names the files",
    "--old-d": "is how ontpush itself names the files",
    "--no-itemize-changes": "would hide what has arrived",
    "--no-i": "would hide what has arrived",
    "--stderr": "would hide what has arrived",
    "--msgs2stderr": "would hide what has arrived",
    "--no-msgs2stderr": "would hide what has arrived",
    "--files-from": "is how ontpush itself names the files",
    "--no-from0": "is how ontpush itself names the files",
    "--quiet": "would hide what has arrived",
    "--dry-run": "would send nothing; use ontpush push --dry-run",
    "--list-only": "would send nothing",
    "--daemon": "would send nothing",
    "--server": "would send nothing",
    "--only-write-batch": "would send nothing",
    "--protect-args": "is refused by rrsync, and ontpush needs none",
    "--secluded-args": "is refused by rrsync, and ontpush needs none",
}
# A directory of its own beside the files, as .rsync-partial: with any other a part of a file may
# stand where a file belongs.
_PARTIAL_DIRECTORY = re.compile(r"\.[^./][^/]*\Z")
_BREAKING_LETTERS = {
    "b": "--backup",
    "T": "--temp-dir",
    "n": "--dry-run",
    "M": "--remote-option",
    "s": "--protect-args",
    "q": "--quiet",
    "L": "--copy-links",
    "k": "--copy-dirlinks",
}


def check_flags(flags: Sequence[str]) -> None:
    """Refuse flags for rsync that would break what ontpush promises. WrongCall."""
    may_be_argument = False
    for flag, following in zip(flags, [*flags[1:], ""]):
        if not flag.startswith("-") and may_be_argument:
            may_be_argument = False
            continue
        if not flag.startswith("-") or flag in ("-", "--"):
            raise WrongCall(f"{flag!r} is no flag for rsync; after DEST only those may come")
        if flag in ("--exclude-from=-", "--include-from=-"):
            raise WrongCall(f"{flag}: standard input holds the list of files; name a file")
        may_be_argument = "=" not in flag
        for name in _long_names(flag):
            _check_flag(name, following if may_be_argument else flag.partition("=")[2])


def _check_flag(name: str, argument: str) -> None:
    if name.startswith("--del") and name != "--delay-updates":
        raise WrongCall(f"{name}: nothing is ever deleted at the destination")
    if name in _BREAKING:
        raise WrongCall(f"{name}: {_BREAKING[name]}")
    if name == "--partial-dir" and not _PARTIAL_DIRECTORY.match(argument):
        raise WrongCall(f"{name}={argument}: may show half a file; give a name as .rsync-partial")


def _long_names(flag: str) -> List[str]:
    if flag.startswith("--"):
        return [flag.split("=")[0]]
    names = []
    for letter in flag[1:]:
        names.append(_BREAKING_LETTERS.get(letter, "-" + letter))
        if letter in _OWN_ARGUMENT:
            break
    return names
