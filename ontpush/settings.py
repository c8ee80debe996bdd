"""The settings of one call: defaults, then the configuration file, then the flags."""

import contextlib
import os
import socket
from typing import Any, Dict, Iterator, Mapping, Optional

from ontpush.engine.courtesy import be_courteous
from ontpush.engine.log import EventLog
from ontpush.engine.transport import Transport, check_flags, parse_destination
from ontpush.facts.configuration import defaults, read_configuration
from ontpush.facts.names import from_argument, shown
from ontpush.facts.trouble import BadConfiguration, OutOfReach, WrongCall
from ontpush.facts.words import LOG_WARN

_SYSTEM_CONFIGURATION = "/etc/ontpush/config.yml"


def load_settings(config: Optional[str], flags: Mapping[str, Any]) -> Dict[str, Any]:
    """All options by key; `flags` holds those given on the command line. BadConfiguration."""
    settings = defaults()
    path = config or os.environ.get("ONTPUSH_CONFIG")
    if not path and os.path.exists(_SYSTEM_CONFIGURATION):
        path = _SYSTEM_CONFIGURATION
    given = dict(read_configuration(path)) if path else {}
    given.update(flags)
    settings.update({key: value for key, value in given.items() if value is not None})
    settings.update(by_flag=frozenset(flags), config_file=path)
    settings["instrument"] = settings["instrument"] or socket.gethostname().split(".")[0]
    settings["state_dir"] = settings["state_dir"] or default_state_dir()
    return settings


def default_state_dir() -> str:
    """/var/lib/ontpush for root, the user's state directory otherwise. BadConfiguration."""
    if os.geteuid() == 0:
        return "/var/lib/ontpush"
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    if home.startswith("~"):
        raise BadConfiguration(
            "this user has no home directory for the state: name a directory with --state-dir"
        )
    return os.path.join(home, "ontpush")


def state_dir(settings: Mapping[str, Any]) -> bytes:
    """The state directory as an absolute path."""
    return os.path.abspath(from_argument(settings["state_dir"]))


def patience(settings: Mapping[str, Any]) -> float:
    """For how many seconds a tick may hold its lock without a step forward.

    The longest step is a transfer, or to read a large file.
    """
    return max(2 * float(settings["transfer_hours"]), 1) * 3600


def courteous(settings: Mapping[str, Any], log: EventLog) -> None:
    """Give way to the sequencing from here on, as far as this host can."""
    be_courteous(settings["nice"], settings["ionice"], lambda why: log.event(LOG_WARN, b"", why))


def existing_source(settings: Mapping[str, Any]) -> bytes:
    """SRC as a real path, if it can be read. WrongCall, or BadConfiguration for the file's."""
    kind = WrongCall if "source" in settings["by_flag"] else BadConfiguration
    if not settings["source"]:
        raise WrongCall("which runs? give SRC, or `source` in the configuration")
    source = os.path.realpath(from_argument(settings["source"]))
    try:
        os.listdir(source)
        os.lstat(source + b"/.")
    except OSError as error:
        raise kind(
            f"{shown(source)}: the source cannot be read: {error.strerror};"
            " is its disk mounted, and may this user read it?"
        ) from error
    return source


def fleet_root(settings: Mapping[str, Any]) -> bytes:
    """The cluster's directory of instruments as a real path. WrongCall, OutOfReach."""
    if not settings["root"]:
        raise WrongCall("which instruments? give their directory, or `root` in the configuration")
    root = os.path.realpath(from_argument(settings["root"]))
    try:
        os.listdir(root)
    except OSError as error:
        raise OutOfReach(
            f"{shown(root)}: cannot be read: {error.strerror}; is its disk mounted?"
        ) from error
    return root


def is_of_fleet(settings: Mapping[str, Any], run: bytes) -> bool:
    """Whether the run at this real path lies below the cluster's directory of instruments."""
    root = settings["root"]
    return bool(root) and run.startswith(os.path.realpath(from_argument(root)) + b"/")


def transport(settings: Mapping[str, Any]) -> Transport:
    """How to reach the destination. WrongCall, or BadConfiguration for what the file says."""
    if not settings["destination"]:
        raise WrongCall("where to? give DEST, or `destination` in the configuration")
    with _blamed_on(settings, "rsync_flags"):
        check_flags(settings["rsync_flags"])
    with _blamed_on(settings, "destination"):
        destination = parse_destination(settings["destination"])
    return Transport(
        destination,
        settings["ssh_key"],
        settings["ssh_known_hosts"],
        settings["ssh_port"],
        settings["connect_timeout"],
        settings["io_timeout"],
        settings["transfer_hours"],
        settings["bwlimit"],
        tuple(settings["rsync_flags"]),
        WrongCall if "rsync_flags" in settings["by_flag"] else BadConfiguration,
    )


def transport_from(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Transport:
    """How to fetch from a sequencer, one of the records of `pull`. WrongCall."""

    def own(key: str) -> Any:
        return facts.get(key) or settings[key]

    return Transport(
        parse_destination(facts["source"]),
        own("ssh_key"),
        own("ssh_known_hosts"),
        own("ssh_port"),
        settings["connect_timeout"],
        settings["io_timeout"],
        settings["transfer_hours"],
        settings["bwlimit"],
        tuple(settings["rsync_flags"]),
        fetches=True,
    )


@contextlib.contextmanager
def _blamed_on(settings: Mapping[str, Any], key: str) -> Iterator[None]:
    """A value that is wrong is a wrong call, unless it stands in the configuration file."""
    try:
        yield
    except WrongCall as error:
        if key in settings["by_flag"]:
            raise
        file = shown(from_argument(settings["config_file"]))
        raise BadConfiguration(f"{file}: {key}: {error.message}") from error
