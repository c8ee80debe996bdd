"""Has runs verified by Slurm: one job a run, followed from tick to tick, tried again when lost.

What counts is the verdict that a job leaves, not what Slurm says of the job: states are asked
for only to tell a job that is still to come from one that never will.
"""

import os
import re
import shlex
import tempfile
import time
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from ontpush.cluster.checking import Check, Checker, program_environment, verify_command
from ontpush.cluster.memory import UNCHECKED, Standing
from ontpush.cluster.verdict import LOG_SUFFIX
from ontpush.engine.children import Child
from ontpush.engine.log import EventLog
from ontpush.engine.orphans import tick_mark
from ontpush.engine.private import make_private
from ontpush.engine.transport import environment
from ontpush.facts.limits import LARGEST_ANSWER
from ontpush.facts.names import from_json, human_size, shown
from ontpush.facts.words import LOG_WARN

_NAME = "ontpush-verify"
_LIMIT = 60.0  # seconds for one call of Slurm's programs
# A verdict on NFS may show later than the end of the job that left it.
_GRACE = 60
_LONG_PENDING = 86400


class SlurmTrouble(Exception):
    """A program of Slurm's failed; the message says which and why."""


class SlurmHangs(SlurmTrouble):
    """A program of Slurm's did not answer in time: asking again costs as long again."""


class Wishes(NamedTuple):
    """What the configuration says of jobs: options of sbatch, tries a run, jobs at a time."""

    flags: Tuple[str, ...]
    tries: int
    at_once: int


def make_wishes(settings: Mapping[str, object]) -> Wishes:
    """The options for sbatch, those with a key of their own first."""
    flags = [
        f"--{key}={settings['slurm_' + key]}"
        for key in ("partition", "account", "time")
        if settings["slurm_" + key]
    ]
    more, tries, at_once = (settings["slurm_" + key] for key in ("options", "tries", "jobs"))
    flags.append(f"--cpus-per-task={settings['jobs']}")
    flags += [str(each) for each in more] if isinstance(more, list) else []
    return Wishes(tuple(flags), int(str(tries)), int(str(at_once)))


class Slurm:
    """The queue as one look sees it: asked once, and only if there is a job to follow."""

    def __init__(self, checker: Checker, wishes: Wishes, log: EventLog) -> None:
        self._checker = checker
        self._wishes = wishes
        self._log = log
        self._most = wishes.at_once
        self._jobs: List[str] = []
        self._queue: Optional[Dict[str, str]] = None
        self._sacct_hangs = False
        self.trouble: Optional[SlurmTrouble] = None

    def share(self, instruments: int, jobs: List[str]) -> None:
        """What comes next is of one of so many instruments; the `jobs` are known to be for it.

        Where there are others, it gets half of the queue.
        """
        alone = instruments == 1
        self._most = self._wishes.at_once if alone else max(1, self._wishes.at_once // 2)
        self._jobs = jobs

    def follow(self, check: Check, standing: Standing) -> Standing:
        """How a run stands whose verification has left no verdict yet."""
        if self.trouble:
            return standing
        try:
            return self._follow(check, standing)
        except SlurmTrouble as error:
            self._complain(error)
            return standing

    def _complain(self, trouble: SlurmTrouble) -> None:
        """Nothing more is asked of Slurm in this look."""
        self.trouble = trouble
        self._log.event(LOG_WARN, b"", f"{trouble}; it is tried again at the next tick")

    def _follow(self, check: Check, standing: Standing) -> Standing:
        queue = self._asked()
        if not standing.job:
            return self._submit(check, standing)
        if standing.job in queue:
            return _in_queue(standing, queue[standing.job])
        now = int(time.time())
        state = self._state_of(standing.job)
        missing_at = standing.missing_at or now
        has_failed = state not in ("", "COMPLETED", "COMPLETING", "RUNNING", "PENDING")
        if not has_failed and 0 <= now - missing_at < _GRACE:
            return standing._replace(missing_at=missing_at)
        why = f"Slurm job {standing.job} ended as {state or 'unknown'} and left no verdict"
        lost = standing._replace(job="", missing_at=0)
        if standing.tries >= self._wishes.tries:
            log = shown(check.verdict + LOG_SUFFIX)
            why += f", the {standing.tries}. of {self._wishes.tries} tries: see {log}"
            return _given_up(lost, why)
        place = from_json(f"{check.instrument}/{check.run}")
        self._log.event(LOG_WARN, place, f"{why}; it is tried again")
        return self._submit(check, lost)

    def _asked(self) -> Dict[str, str]:
        if self._queue is None:
            command = ["squeue", "-h", "-u", str(os.geteuid()), "-n", _NAME, "-o", "%i %T"]
            pairs = [line.partition(" ") for line in _ask(command).splitlines()]
            self._queue = {job: state for job, _, state in pairs}
        return self._queue

    def _submit(self, check: Check, standing: Standing) -> Standing:
        """Hand the verification to Slurm, unless enough of them wait there already."""
        queue = self._asked()
        is_full = len(queue) >= self._wishes.at_once
        if is_full or sum(job in queue for job in self._jobs) >= self._most:
            return standing
        make_private(os.path.dirname(check.verdict))
        command = ["sbatch", "--parsable", f"--job-name={_NAME}", "--nodes=1", "--ntasks=1"]
        command += [
            "--chdir=/",
            "--open-mode=append",
            "--output",
            os.fsdecode(check.verdict + LOG_SUFFIX),
        ]
        told = _ask([*command, *self._wishes.flags], _script(self._checker, check))
        tries, now = standing.tries + 1, int(time.time())
        # A site may greet whoever calls sbatch.
        found = re.search(r"^(\d+)(;\S*)?$", told, re.MULTILINE)
        if not found:
            # There may be a job all the same: not one more at every tick.
            why = f"sbatch gave no number of a job: {shown(told.strip().encode())}"
            self._complain(SlurmTrouble(why))
            if tries >= self._wishes.tries:
                return _given_up(standing, why)
            return standing._replace(tries=tries)
        job = found.group(1)
        queue[job] = "PENDING"
        self._jobs.append(job)
        return standing._replace(job=job, tries=tries, missing_at=0, submitted_at=now)

    def _state_of(self, job: str) -> str:
        """How Slurm says a job stands that is not in its queue; empty where it does not know."""
        if not self._sacct_hangs:
            try:
                told = _ask(["sacct", "-n", "-X", "-P", "-j", job, "-o", "State"])
                return (told.split() or [""])[0]
            except SlurmHangs:
                self._sacct_hangs = True
            except SlurmTrouble:
                pass  # without accounting, the controller still knows for some minutes
        try:
            found = re.search(r"\bJobState=(\S+)", _ask(["scontrol", "show", "job", job]))
        except SlurmHangs:
            raise
        except SlurmTrouble:
            return ""
        return found.group(1) if found else ""


def _in_queue(standing: Standing, state: str) -> Standing:
    """A run whose job is still to come, or at work; a job that is held may be so for ever."""
    waited = time.time() - standing.submitted_at
    if state != "PENDING" or waited < _LONG_PENDING or standing.error:
        return standing._replace(missing_at=0)
    job = standing.job
    why = f"Slurm job {job} has waited for more than a day: see why with `squeue -j {job}`"
    return standing._replace(missing_at=0, error=why)


def _given_up(standing: Standing, why: str) -> Standing:
    return standing._replace(job="", verdict=UNCHECKED, error=why, since=int(time.time()))


def _script(checker: Checker, check: Check) -> bytes:
    """What the job does: the verdict shows under its name only when it is whole."""
    command = b" ".join(_quoted(word) for word in verify_command(checker, check.path))
    where = os.fsencode(program_environment()["PYTHONPATH"])
    verdict = _quoted(check.verdict)
    return b"\n".join(
        [
            b"#!/bin/sh",
            b"umask 077",
            b"export LC_ALL=C PYTHONPATH=" + _quoted(where),
            b"new=" + verdict + b".$SLURM_JOB_ID.new",
            command + b' >"$new"',
            b"code=$?",
            b"# Ended by a signal, it has not found anything.",
            b'[ $code -lt 126 ] || { rm -f "$new"; exit $code; }',
            b'mv "$new" ' + verdict,
            b"",
        ]
    )


def _quoted(word: bytes) -> bytes:
    return os.fsencode(shlex.quote(os.fsdecode(word)))


def _environment() -> Dict[str, str]:
    """Without our tick's mark: a job would inherit it, and be ended when a tick is killed."""
    marks = tick_mark()
    return {name: value for name, value in environment().items() if name not in marks}


def _ask(command: List[str], script: bytes = b"") -> str:
    """What a program of Slurm's prints. SlurmTrouble."""
    words = [os.fsencode(word) for word in command]
    try:
        with tempfile.TemporaryFile() as given:
            given.write(script)
            given.seek(0)
            child = Child(words, given, _LIMIT, _environment())
        with child:
            answer, code = child.answer(), child.wait()
    except FileNotFoundError as error:
        raise SlurmTrouble(f"{command[0]} is not here: is Slurm's PATH set?") from error
    except OSError as error:
        raise SlurmTrouble(f"{command[0]}: {error}") from error
    if child.timed_out:
        raise SlurmHangs(f"{command[0]} has not answered for {_LIMIT:.0f} s")
    if code:
        said = child.said().strip().splitlines()
        raise SlurmTrouble(f"{command[0]}: {shown(said[-1]) if said else f'ended with {code}'}")
    if answer is None:
        raise SlurmTrouble(f"{command[0]} prints more than {human_size(LARGEST_ANSWER)}")
    return answer.decode("utf-8", "replace")
