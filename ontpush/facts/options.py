"""Every option of ontpush, once: the configuration file, the flags and the help come from here."""

import re
from typing import Any, FrozenSet, Mapping, NamedTuple, Optional, Pattern, Tuple

from ontpush.facts.words import KINDS

# Kinds of value: what the file must hold, and how a flag is read. RECORDS is a list of mappings,
# each with the keys that `fields` names; CHOICES a list of some of `choices`.
TEXT, PATH, INTEGER, NUMBER, CHOICE, SWITCH, TEXTS, CHOICES, RECORDS = (
    "text",
    "path",
    "integer",
    "number",
    "choice",
    "switch",
    "texts",
    "choices",
    "records",
)

_TICK = frozenset(["push", "pull"])
_SUMS = frozenset(["push", "hash", "verify"])
_TAKERS = frozenset(["push", "hash"])
# A part of a path that a search comes by: nothing is called `.`, `..` or nothing at all.
_PART = r"(?!\.{1,2}(?:/|\Z))[^/]+"
_CLUSTER = frozenset(["monitor", "pull"])
_LOGGERS = _SUMS | _CLUSTER
EVERY = _LOGGERS | frozenset(["status", "check", "skip", "retry"])


class Option(NamedTuple):
    """One key of the configuration and, for the commands in `flag_of`, one flag.

    Numbers lie between `low` and `high`; each text is to match `pattern`, which `wanted` puts in
    words.
    `fields` are the keys of each item of a list of records; one that is `required` must be there.
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
    fields: "Tuple[Option, ...]" = ()
    required: bool = False

    @property
    def flag(self) -> str:
        """`state_dir` is `--state-dir`."""
        return "--" + self.key.replace("_", "-")


_NOTIFIER = (
    Option(
        "url",
        TEXT,
        None,
        "mailto:WHO@WHERE, smtp://HOST/?to=WHO@WHERE, smtps://…, or any URL of the Apprise library",
        required=True,
    ),
    Option("kinds", CHOICES, None, "what is told there; else everything", choices=KINDS),
)

_PULLED = (
    Option("instrument", TEXT, None, "its name, and its directory's below root", required=True),
    Option("source", TEXT, None, "where its runs are: USER@HOST:DIRECTORY", required=True),
    Option("ssh_key", PATH, None, "else the one for all"),
    Option("ssh_known_hosts", PATH, None, "else the one for all"),
    Option("ssh_port", INTEGER, None, "else the one for all", low=1, high=65535),
)

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
    Option("jobs", INTEGER, 1, "threads that take sums", _LOGGERS, "N", 1, 64),
    Option(
        "sidecars", SWITCH, None, "write FILE.md5 beside each file (hash: yes, push: no)", _TAKERS
    ),
    Option("log", PATH, None, "append one line per run and event to this file", _LOGGERS, "FILE"),
    Option(
        "state_dir",
        PATH,
        None,
        "cache of sums and history of runs; else /var/lib/ontpush for root,"
        " $XDG_STATE_HOME/ontpush otherwise",
        EVERY,
        "DIR",
    ),
    Option("nice", INTEGER, 19, "processor niceness of the work", _LOGGERS, "N", 0, 19),
    Option(
        "ionice",
        CHOICE,
        "idle",
        "disk class of the work",
        _LOGGERS,
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
    Option("root", PATH, None, "on the cluster: the directory with one directory an instrument"),
    Option("pull", RECORDS, [], "the sequencers that `pull` fetches from", fields=_PULLED),
    Option("pull_jobs", INTEGER, 2, "sequencers to fetch from at the same time", low=1, high=64),
    Option("notify", RECORDS, [], "who is told of what", fields=_NOTIFIER),
    Option("mail_from", TEXT, None, "sender of mail; else this user at this host"),
    Option("remind_hours", NUMBER, 24, "what is still wrong is told again after this", low=0.01),
    Option(
        "silent_minutes",
        NUMBER,
        90,
        "an instrument that sends nothing for so long is silent: three of its ticks",
        low=0.01,
    ),
    Option(
        "disk_percent", NUMBER, 90, "a disk that is fuller is told, at both ends", low=0, high=100
    ),
    Option(
        "verify_in",
        CHOICE,
        "local",
        "where the monitor has runs verified: in its own tick, or in one Slurm job a run",
        choices=("local", "slurm"),
    ),
    Option("slurm_partition", TEXT, None, "partition of the jobs that verify"),
    Option("slurm_account", TEXT, None, "account of the jobs that verify"),
    Option("slurm_time", TEXT, None, "time limit of a job that verifies, as sbatch takes it"),
    Option("slurm_options", TEXTS, [], "more options for sbatch"),
    Option("slurm_jobs", INTEGER, 100, "jobs of ours in Slurm's queue at a time", low=1),
    Option("slurm_tries", INTEGER, 3, "tries for a job that is lost or fails", low=1, high=100),
    Option("on_verified", TEXTS, [], "commands for sh, each started once for a verified run"),
    Option(
        "hook_minutes", NUMBER, 10, "a command of on_verified that lasts longer is ended", low=0.01
    ),
    Option("verify_hours", NUMBER, 24, "a verification that takes longer is ended", low=0.01),
)

BY_KEY: Mapping[str, Option] = {option.key: option for option in OPTIONS}
