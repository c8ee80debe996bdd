"""Every option of ontpush, once: the configuration file, the flags and the help come from here."""

import re
from typing import Any, FrozenSet, Mapping, NamedTuple, Optional, Pattern, Tuple

# Kinds of value: what the file must hold, and how a flag is read.
TEXT, PATH, INTEGER, NUMBER, CHOICE, SWITCH, TEXTS = (
    "text",
    "path",
    "integer",
    "number",
    "choice",
    "switch",
    "texts",
)

_TICK = frozenset(["push"])
_SUMS = frozenset(["push", "hash", "verify"])
_TAKERS = frozenset(["push", "hash"])
# A part of a path that a search comes by: nothing is called `.`, `..` or nothing at all.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/]+"
EVERY = frozenset(["push", "hash", "status", "verify", "check", "skip", "retry"])


class Option(NamedTuple):
    """One key of the configuration and, for the commands in `flag_of`, one flag.

    Numbers lie between `low` and `high`; each text is to match `pattern`, which `wanted` puts in
    words.
    """

    key: str
    kind: str
    default: Any
    help: str
    flag_of: FrozenSet[str] = frozenset()
    metavar: str = ""
    low: Optional[float] = None
    high: Optional[float] = None
    choices: Tuple[str, ...] = ()
    pattern: Optional[Pattern[str]] = None
    wanted: str = ""

    @property
    def flag(self) -> str:
        """`state_dir` is `--state-dir`."""
        return "--" + self.key.replace("_", "-")


OPTIONS = (
    Option("source", PATH, None, "directory that holds the runs, /data on a sequencer"),
    Option("destination", PATH, None, "where runs go: a directory, or USER@HOST:DIRECTORY"),
    Option("rsync_flags", TEXTS, [], "more flags for the rsync that sends"),
    Option(
        "instrument",
        TEXT,
        None,
        "name of this sequencer; else the host's name",
        pattern=re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z"),
        wanted="one line",
    ),
    Option(
        "exclude",
        TEXTS,
        [],
        "names (or, with a slash, paths in a run) to leave out",
        pattern=re.compile(rf"{_PART}(?:/{_PART})*\Z"),
        wanted="names, or paths in a run as other_reports/*.csv, with no slash at either end",
    ),
    Option(
        "settle",
        NUMBER,
        60,
        "a file unchanged for so long is complete",
        _TAKERS,
        "SECONDS",
        0,
        86400,
    ),
    Option(
        "stall_hours",
        NUMBER,
        24,
        "an unfinished run unchanged for so long has stalled",
        low=0.01,
        high=87600,
    ),
    Option("jobs", INTEGER, 1, "threads that take sums", _SUMS, "N", 1, 64),
    Option(
        "sidecars", SWITCH, None, "write FILE.md5 beside each file (hash: yes, push: no)", _TAKERS
    ),
    Option("log", PATH, None, "append one line per run and event to this file", _SUMS, "FILE"),
    Option(
        "state_dir",
        PATH,
        None,
        "cache of sums and history of runs; else /var/lib/ontpush for root,"
        " $XDG_STATE_HOME/ontpush otherwise",
        EVERY,
        "DIR",
    ),
    Option("nice", INTEGER, 19, "processor niceness of the work", _SUMS, "N", 0, 19),
    Option(
        "ionice",
        CHOICE,
        "idle",
        "disk class of the work",
        _SUMS,
        "CLASS",
        choices=("idle", "best-effort", "none"),
    ),
    Option(
        "bwlimit",
        TEXT,
        None,
        "rsync's limit of bandwidth, as 20m for 20 MiB/s",
        _TICK,
        "RATE",
        pattern=re.compile(r"\d+(\.\d+)?([bkmgtp](i?b)?)?\Z", re.ASCII | re.IGNORECASE),
        wanted="a number with or without k, m or g",
    ),
    Option("ssh_key", PATH, None, "private key; else what ssh finds"),
    Option("ssh_known_hosts", PATH, None, "file with the cluster's host keys; else what ssh finds"),
    Option("ssh_port", INTEGER, None, "port of sshd on the cluster", low=1, high=65535),
    Option("connect_timeout", INTEGER, 20, "seconds to wait for a connection", low=1, high=3600),
    Option(
        "io_timeout", INTEGER, 300, "seconds without a byte that end a transfer", low=5, high=86400
    ),
    Option(
        "transfer_hours", NUMBER, 24, "a transfer that takes longer is ended", low=0.01, high=8760
    ),
)

BY_KEY: Mapping[str, Option] = {option.key: option for option in OPTIONS}
