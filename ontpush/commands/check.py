"""`check`: is everything in order for a tick on this host, and what to do where it is not."""

import os
import re
import shutil
import subprocess
import sys
import time
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Optional

from ontpush.cluster.fleet import instruments
from ontpush.cluster.mail import NotTold, probe_mail_server
from ontpush.cluster.tell import make_notifiers
from ontpush.engine.find import find_runs
from ontpush.engine.lock import close_state
from ontpush.engine.send import Comparing
from ontpush.engine.transport import Destination, parse_destination, require_rsync
from ontpush.facts.names import human_size, shown
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, run_failed, unwritable
from ontpush.facts.words import KINDS
from ontpush.result import Result, table
from ontpush.settings import (
    existing_source,
    fleet_root,
    state_dir,
    transport,
    transport_from,
)

OK, WARN, WRONG = "ok", "warn", "WRONG"
_SAFE_RSYNC = (3, 5)
_LITTLE_SPACE = 10 * 10**9
_NOT_BEFORE = 1760000000  # October 2025: a clock that says less has lost its battery


class Finding(NamedTuple):
    """What was looked at, how it is, and what it is or what to do; `trouble` where it is wrong."""

    what: str
    verdict: str
    text: str
    trouble: Optional[Trouble] = None


Look = Callable[[Mapping[str, Any]], Iterator[Finding]]


def check(settings: Mapping[str, Any], *_: Callable[..., None]) -> Result:
    """Look at everything, also after something was found wrong."""
    is_cluster = settings["root"] and not settings["destination"]
    looks = CLUSTER_LOOKS if is_cluster else LOOKS
    findings = [finding for look in looks for finding in _look(look, settings)]
    rows = [[each.verdict, each.what, each.text] for each in findings]
    data = {"checks": [{"what": a, "verdict": b, "text": c} for a, b, c, _ in findings]}
    troubles = [each.trouble for each in findings if each.trouble]
    return Result("check", lambda: data, lambda: table(["", "", ""], rows)[1:], troubles)


def _look(look: Look, settings: Mapping[str, Any]) -> List[Finding]:
    what = (look.__doc__ or "").rstrip(".")
    try:
        return list(look(settings))
    except Trouble as error:
        return [Finding(what, WRONG, error.message, error)]
    except OSError as error:
        return [_wrong(what, run_failed(error, b"").message)]


def _wrong(what: str, text: str) -> Finding:
    return Finding(what, WRONG, text, RunFailed(f"{what}: {text}"))


def _configuration(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """configuration."""
    # It was read whole before any command began: a fault would have ended the call there.
    yield Finding("configuration", OK, settings["config_file"] or "no file: flags and defaults")
    transport(settings)


def _software(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """programs."""
    yield Finding("configuration", OK, settings["config_file"] or "no file: flags and defaults")
    yield Finding("python", OK, sys.version.split()[0])
    if settings["pull"]:
        yield _rsync()
        yield _program("ssh", ["ssh", "-V"], "install the package openssh-client")


def _programs(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """programs."""
    yield Finding("python", OK, sys.version.split()[0])
    yield _rsync()
    if _destination(settings).host is not None:
        yield _program("ssh", ["ssh", "-V"], "install the package openssh-client")
    if shutil.which("ionice") is None and settings["ionice"] != "none":
        yield Finding("ionice", WARN, "is missing: the work has the same claim to the disk as all")


def _rsync() -> Finding:
    version = require_rsync()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < _SAFE_RSYNC:
        text = f"{version} lacks the security fixes of 3.5.0: update it when the host allows"
        return Finding("rsync", WARN, text)
    return Finding("rsync", OK, version)


def _program(name: str, command: List[str], advice: str) -> Finding:
    printed = _output(command)
    return _wrong(name, f"is missing: {advice}") if printed is None else Finding(name, OK, printed)


def _output(command: List[str]) -> Optional[str]:
    """The first line that a program prints; None where it fails or cannot be run."""
    lines = _output_lines(command)
    return lines[0] if lines else None


def _output_lines(command: List[str]) -> List[str]:
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [] if ended.returncode else ended.stdout.decode("utf-8", "replace").splitlines()


def _destination(settings: Mapping[str, Any]) -> Destination:
    return parse_destination(settings["destination"] or "")


def _key(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """key."""
    path = settings["ssh_key"]
    if _destination(settings).host is None or not path:
        return
    try:
        found = os.stat(path)
    except OSError as error:
        yield _wrong("key", f"{path}: {error.strerror}: make one with ssh-keygen -t ed25519")
        return
    if found.st_mode & 0o077:
        yield _wrong("key", f"{path} can be read by others, so ssh refuses it: chmod 600 {path}")
    elif found.st_uid != os.geteuid():
        yield _wrong("key", f"{path} belongs to another user: chown it to this one")
    else:
        yield Finding("key", OK, path)


def _host_key(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """host key."""
    host = _destination(settings).host
    known_hosts = settings["ssh_known_hosts"]
    if host is None or not known_hosts:
        return
    name = host.rpartition("@")[2].strip("[]")
    if settings["ssh_port"] and settings["ssh_port"] != 22:
        name = f"[{name}]:{settings['ssh_port']}"
    if _output(["ssh-keygen", "-F", name, "-f", known_hosts]):
        yield Finding("host key", OK, f"{name} is in {known_hosts}")
    else:
        yield _wrong("host key", f"{name} is not in {known_hosts}: have its key confirmed, add it")


def _probe(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """destination."""
    way = transport(settings)
    destination = way.destination
    if destination.host is None:
        if not os.path.isdir(destination.path):
            raise OutOfReach(f"{destination.text} is not there: is its disk mounted?")
        if not os.access(destination.path, os.W_OK | os.X_OK):
            raise OutOfReach(f"{destination.text} cannot be written by this user")
    with Comparing(way, b"/", []) as probe:
        probe.finish()
    yield Finding("destination", OK, f"{destination.text} takes a probe push of nothing")


def _write_access(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """write access."""
    source = existing_source(settings)
    troubles: List[RunFailed] = []
    runs = list(find_runs(source, troubles.append))
    for error in troubles:
        yield _wrong("source", f"{shown(error.run or b'')} {error.message}")
    locked = [run.path for run in runs if not os.access(run.path, os.W_OK | os.X_OK)]
    if locked:
        first = shown(os.path.relpath(locked[0], source))
        text = f"{len(locked)} of {len(runs)} runs cannot be written, so not be done: {first}"
        yield _wrong("source", text)
    else:
        yield Finding("source", OK, f"{shown(source)} holds {len(runs)} runs, all can be written")


def _state(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """state directory."""
    state = state_dir(settings)
    close_state(state)
    try:
        probe = os.path.join(state, b"check")
        with open(probe, "wb"):
            os.unlink(probe)
    except OSError as error:
        place = f"the state directory {shown(state)}"
        raise unwritable(place, error, "name another with --state-dir") from error
    yield Finding("state directory", OK, shown(state))


def _disk(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """disk."""
    yield from _disks(existing_source(settings), state_dir(settings))


def _disks(*paths: bytes) -> Iterator[Finding]:
    for path in paths:
        disk = os.statvfs(path)
        free = disk.f_bavail * disk.f_frsize
        verdict = WARN if free < _LITTLE_SPACE and free * 10 < disk.f_blocks * disk.f_frsize else OK
        yield Finding("disk", verdict, f"{human_size(free)} free at {shown(path)}")


def _instruments(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """instruments."""
    root = fleet_root(settings)
    found = instruments(root, [each["instrument"] for each in settings["pull"]])
    locked = [each.base for each in found if not os.access(each.base, os.W_OK | os.X_OK)]
    locked = [base for base in locked if os.path.exists(base)]
    if locked:
        yield _wrong("instruments", f"{shown(locked[0])} cannot be written by this user")
    elif found:
        yield Finding("instruments", OK, f"{len(found)} below {shown(root)}")
    else:
        yield Finding("instruments", WARN, f"none has sent a heartbeat below {shown(root)} yet")


def _notifiers(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """notify."""
    notifiers = make_notifiers(settings)
    if not notifiers:
        yield Finding("notify", WARN, "nobody is told anything: name somebody under `notify`")
    for each in notifiers:
        try:
            if each.server:
                probe_mail_server(each.server, each.sender)
        except NotTold as error:
            yield _wrong(each.name, str(error))
            continue
        yield Finding(each.name, OK, "takes " + ", ".join(k for k in KINDS if k in each.kinds))


def _slurm(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """slurm."""
    if settings["verify_in"] == "slurm":
        yield _program("sbatch", ["sbatch", "--version"], "put Slurm's programs on the PATH")
        yield _program("squeue", ["sinfo", "-h"], "does the controller answer? see sinfo")


def _sequencers(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """sequencers."""
    for each in settings["pull"]:
        name = each["instrument"]
        try:
            with Comparing(transport_from(settings, each), state_dir(settings), []) as probe:
                probe.finish()
        except Trouble as error:
            yield Finding(name, WRONG, error.message, error)
            continue
        yield Finding(name, OK, "lets this key read")


def _own_disks(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """disk."""
    yield from _disks(fleet_root(settings), state_dir(settings))


def _cron(_: Mapping[str, Any]) -> Iterator[Finding]:
    """cron."""
    try:
        with open("/etc/cron.d/ontpush", encoding="utf-8", errors="replace") as file:
            entries = file.read()
    except OSError:
        tables = [_output_lines([program, "-l"]) for program in ("crontab", "scrontab")]
        entries = "\n".join(line for lines in tables for line in lines)
    lines = [line for line in entries.splitlines() if "ontpush" in line and line[:1] != "#"]
    if lines:
        yield Finding("cron", OK, lines[-1].strip())
    else:
        yield Finding("cron", WARN, "no entry calls ontpush: nothing happens by itself")


def _clock(_: Mapping[str, Any]) -> Iterator[Finding]:
    """clock."""
    if time.time() < _NOT_BEFORE:
        yield _wrong("clock", f"says {time.ctime()}: set it, and have it kept by NTP")
        return
    synchronized = _output(["timedatectl", "show", "-p", "NTPSynchronized", "--value"])
    if synchronized == "no":
        yield Finding("clock", WARN, "is not kept by NTP: settle times and dates may be wrong")
    else:
        yield Finding("clock", OK, time.strftime("%Y-%m-%d %H:%M:%S %Z"))


LOOKS: List[Look] = [
    _configuration,
    _programs,
    _key,
    _host_key,
    _state,
    _probe,
    _write_access,
    _disk,
    _cron,
    _clock,
]
CLUSTER_LOOKS: List[Look] = [
    _software,
    _state,
    _instruments,
    _notifiers,
    _slurm,
    _sequencers,
    _own_disks,
    _cron,
    _clock,
]
