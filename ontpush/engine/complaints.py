"""What rsync, rrsync and ssh say of trouble, turned into the one line that a person needs."""

import collections
import io
import itertools
import re
from typing import List, Tuple, Type

from ontpush.engine.transport import Transport
from ontpush.facts.limits import MOST_COMPLAINTS
from ontpush.facts.names import shown
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, TryLater

_VANISHED = re.compile(r"file has vanished: |link_stat .* failed: No such file or directory")
_NO_FILE_THERE = re.compile(
    r"failed to stat .*: Not a directory|could not make way for new regular file: "
)
# What rsync says of something at the destination that it must not delete.
_IN_THE_WAY = [
    (
        re.compile(r"could not make way for new "),
        "a directory lies there in its place: have it moved away",
    ),
    (
        re.compile(r"failed to stat .*: (?:Not a directory|Too many levels of symbolic links)"),
        "a file or link lies there in the place of its directory: have it moved away",
    ),
]
_MOST_SEARCHED = 100
_NOISE = re.compile(
    r"rsync error:|rsync: connection unexpectedly closed|rsync: \[\w+\] (?:write|safe_write) error"
    r"|@@@|Warning: Permanently added|Could not chdir to home directory|\s*$"
)


# What may be said of a file that did not go; a login that says so too is shown, which does no harm.
_TROUBLE = re.compile(
    r"rsync|vanish|error|warn|fail|can ?not|could not|skip|denied|invalid", re.IGNORECASE
)


def worth_showing(printed: bytes) -> List[str]:
    """The lines worth showing of what rsync and ssh wrote to standard error, else all.

    Of very many the first and the last.
    """
    all_lines = (shown(line.strip()) for line in io.BytesIO(printed) if line.strip())
    lines = list(itertools.islice(all_lines, MOST_COMPLAINTS))
    lines += collections.deque(all_lines, MOST_COMPLAINTS)
    return [line for line in lines if not _NOISE.match(line)] or lines


def without_greeting(complaints: List[str]) -> List[str]:
    """What was complained of without what a login printed before, where that can be told apart."""
    for place, line in enumerate(complaints):
        if _TROUBLE.search(line):
            return complaints[place:]
    return complaints


def why_not(complaints: List[str], name: bytes = b"") -> str:
    """The first complaint, of the file of that name if there is one.

    Without any complaint, a flag for rsync has left the file out.
    """
    if not complaints:
        return "left out by a flag for rsync; use `exclude` instead"
    line = (name and of_file(complaints, name)) or complaints[0]
    return next((text for pattern, text in _IN_THE_WAY if pattern.search(line)), line)


def of_file(complaints: List[str], name: bytes) -> str:
    """The first complaint that names this file; empty where none of the first ones does."""
    text = shown(name)
    return next((line for line in complaints[:_MOST_SEARCHED] if text in line), "")


def only_vanished(complaints: List[str]) -> bool:
    """Whether nothing is wrong but that files went away while they were sent."""
    return bool(complaints) and all(map(has_vanished, complaints))


def has_vanished(complaint: str) -> bool:
    """Whether the complaint is that a file is not there, or no more."""
    return _VANISHED.search(complaint) is not None


def nothing_to_replace(complaints: List[str]) -> bool:
    """Whether nothing is wrong but that there is no file: a directory, or a file in one's place."""
    return bool(complaints) and all(_NO_FILE_THERE.search(line) for line in complaints)


def is_of_rsync(complaint: str) -> bool:
    """Whether rsync itself complains, and not of a file that is not there."""
    return complaint.startswith("rsync: ") and not has_vanished(complaint)


def trouble_of(
    transport: Transport, code: int, complaints: List[str], had_begun: bool = False
) -> Trouble:
    """What a failed call means and what to do.

    Where it had begun, and both ends had spoken of files, it is no fault of the way between them
    that would stop every other run as well.
    """
    trouble = _trouble_of(transport, code, complaints)
    if had_begun and isinstance(trouble, (OutOfReach, TryLater)):
        line = complaints[0] if complaints else f"rsync ended with {code}"
        return RunFailed(f"the transfer broke off: {line}; the next tick goes on")
    return trouble


def _trouble_of(transport: Transport, code: int, complaints: List[str]) -> Trouble:
    text = "\n".join(complaints)
    place = transport.destination.host or transport.destination.path
    for pattern, kind, advice in _KNOWN_TROUBLE:
        found = re.search(pattern, text)
        if found:
            line = next((line for line in complaints if found.group().split("\n")[0] in line), "")
            to = transport.destination.text
            receiver = "this end" if transport.fetches else to
            return kind(advice.format(place=place, line=line, to=to, receiver=receiver))
    # What the far end said of a full disk is sometimes lost together with the connection.
    silence = "no space left, or a disk that fails, at one end" if code == 11 else "no word why"
    line = complaints[0] if complaints else silence
    if code in (1, 4):
        return transport.flags_trouble(f"rsync refuses its flags: {line}")
    if code in _ENDED_FROM_OUTSIDE or code < 0:
        return TryLater(f"the transfer was ended from outside: {line}; the next tick goes on")
    if code in (10, 30, 35, 255):
        return OutOfReach(f"{place} cannot be reached: {line}")
    if code in (2, 5, 12, 14, 126, 127) and transport.destination.host is not None:
        return OutOfReach(
            f"{place} refuses rsync: {line}; the key's forced command must be `rrsync"
            f" -{'r' if transport.fetches else 'w'}o DIRECTORY`, or the account must have rsync"
        )
    return RunFailed(f"rsync ended with {code}: {line}")


# A process of rsync crashed, was killed or told to end, at either end.
_ENDED_FROM_OUTSIDE = (15, 16, 19, 20, 137, 143)

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
        r"Identity file .* not accessible.*|Load key .*|Permissions \d+ for .* are too open.*",
        OutOfReach,
        "the ssh key cannot be used: {line}",
    ),
    (
        r"Permission denied \((?:publickey|gssapi|password|keyboard|hostbased).*",
        OutOfReach,
        "{place} refuses the key: is its line in authorized_keys there, and does from= allow"
        " this host?",
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
        r"mkdir .* failed: No such file or directory|destination \".*\": Not a directory",
        OutOfReach,
        "{to} is not there, or no directory: is its disk mounted? ontpush does not make it",
    ),
    (
        r"(?:FileNotFoundError|NotADirectoryError|PermissionError): .*"
        r"|(?:chdir|change_dir|change dir).* failed|(?:can't|unable to|cannot) (?:chdir|cd) .*",
        OutOfReach,
        "{to} cannot be entered: {line}",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        RunFailed,
        "no space left at {receiver}: {line}",
    ),
]
