"""Starts what a lab wants to follow a verified run: each command once for each vouched roll-up.

That a command was started is written down before it starts: it may be broken off, it is never
started twice. What it printed stays beside that.
"""

import contextlib
import os
import time
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ontpush.cluster.arrivals import rollups_allowed, trace, vouched
from ontpush.cluster.hooks_today import HooksToday
from ontpush.cluster.memory import GOOD, Standing, read_json, write_json
from ontpush.cluster.messages import Message, View, final_summary, shown_run
from ontpush.cluster.turns import in_turns
from ontpush.engine.allowance import TooMuch
from ontpush.engine.children import Child
from ontpush.engine.private import make_private, open_private
from ontpush.engine.sums import md5_of_text
from ontpush.facts.names import from_argument, from_json, human_time, shown
from ontpush.facts.trouble import TryLater
from ontpush.facts.words import HOOK_FAILED

_AT_ONCE = 8
_BROKEN_OFF = (
    "was at work when its tick was killed or the disk of the state was full; it is not started"
    " again: see how far it came"
)
_VARIABLES = (
    ("SAMPLE", "sample_id"),
    ("EXPERIMENT", "protocol_group_id"),
    ("FLOW_CELL", "flow_cell_id"),
    ("DEVICE", "instrument"),
)


class Hooks(NamedTuple):
    """The commands of the configuration, where their outcomes go, and their time in seconds."""

    state: bytes
    commands: Tuple[str, ...]
    limit: float


class Hook(NamedTuple):
    """A command to be started for a run, the file that tells of it, and what it told to the look.

    `outcome` is empty, or has `started`, then `ended`, `code` and `why` it failed. `told` stands
    there when its failure has been told.
    """

    view: View
    run: str
    standing: Standing
    command: str
    path: bytes
    outcome: Dict[str, Any]

    @property
    def instrument(self) -> str:
        """The name of the instrument whose run it is."""
        return self.view.instrument.name

    @property
    def output(self) -> bytes:
        """Where what it prints goes."""
        return self.path[: -len(b".json")] + b".out"


def hooks_of(hooks: Hooks, today: HooksToday, view: View) -> Tuple[List[Hook], int]:
    """Every command for the runs of an instrument that are still to be followed.

    But for those that wait for tomorrow: how many these are.
    """
    has_had_all = today.has_had_all(view.instrument.name)
    found: List[Hook] = []
    waiting = 0
    for run, standing in view.remembered.runs.items():
        if not standing.follow or standing.verdict != GOOD:
            continue
        for command in hooks.commands:
            path = _path(hooks, view, run, command)
            if has_had_all and not os.path.lexists(path):
                waiting += 1
            else:
                found.append(Hook(view, run, standing, command, path, read_json(path)))
    return found, waiting


def _path(hooks: Hooks, view: View, run: str, command: str) -> bytes:
    rollup = view.remembered.runs[run].rollup
    what = "\0".join([view.instrument.name, run, rollup, command])
    name = md5_of_text(what)[:20]
    return os.path.join(hooks.state, b"hooks", name.encode() + b".json")


def run_hooks(hooks: Hooks, due: Iterable[Hook]) -> bool:
    """Start a few of those that were not started yet, and wait; whether there may be more.

    An instrument comes before those that have had more started today. TryLater, OSError.
    """
    make_private(os.path.join(hooks.state, b"hooks"))
    today = HooksToday(hooks.state)
    read: Set[str] = set()
    running: List[Tuple[Hook, Child]] = []
    troubles: List[TryLater] = []
    with contextlib.ExitStack() as stack:
        for hook in _in_turn(due, today):
            if len(running) == _AT_ONCE:
                break
            try:
                child = _start(hook, hooks.limit) if _may_start(hook, today, read) else None
            except TryLater as error:  # those at work are not to be ended for that
                troubles.append(error)
                break
            if child:
                running.append((hook, stack.enter_context(child)))
        for hook, child in running:
            code = child.wait()
            why = f"ended with {code}" if code else ""
            if child.timed_out:
                why = f"was ended after {human_time(hooks.limit)}: let it hand the work to sbatch"
            try:
                _end(hook, code, why)
            except TryLater as error:
                troubles.append(error)
    if troubles:
        raise troubles[0]
    return len(running) == _AT_ONCE


def _in_turn(due: Iterable[Hook], today: HooksToday) -> List[Hook]:
    """One of each instrument, then the next of each: none holds up those of another."""
    fewest_first = sorted(due, key=lambda hook: today.of(hook.instrument))
    return in_turns(fewest_first, lambda hook: hook.instrument)


def _start(hook: Hook, limit: float) -> Optional[Child]:
    """The command at work, to be entered at once; None where it cannot be, which is noted."""
    with open(os.devnull, "rb") as nothing:
        try:
            os.close(open_private(hook.output, os.O_WRONLY))
            return Child(_command(hook), nothing, limit, _environment(hook))
        except OSError as error:
            _end(hook, -1, f"could not be started: {error.strerror}")
            return None


def _may_start(hook: Hook, today: HooksToday, read: Set[str]) -> bool:
    """Write down that it starts; False where it has been before, or nothing vouches any more.

    Or where it has to wait for tomorrow.

    TryLater where that cannot be written: then it does not start. Only one tick at a time does so.
    """
    if os.path.lexists(hook.path):
        if "ended" not in read_json(hook.path):
            _end(hook, -1, _BROKEN_OFF)
        return False
    if today.has_had_all(hook.instrument) or not _is_vouched(hook, read):
        return False
    facts = {"run": hook.run, "command": hook.command, "started": int(time.time())}
    today.count(hook.instrument)
    write_json(hook.path, facts)
    return True


def _is_vouched(hook: Hook, read: Set[str]) -> bool:
    """Whether the run is still vouched for as it was verified.

    Read where it does not look so: one run of an instrument in each pass, noted in `read`.
    """
    base, where = hook.view.instrument.base, from_json(hook.run)
    seen = hook.standing.seen
    if seen and trace(base, where) == seen:
        return True
    if hook.instrument in read:
        return False
    read.add(hook.instrument)
    try:
        with rollups_allowed():
            found = vouched(base, where)
    except (OSError, TooMuch):
        return False  # a later tick will know
    return found is not None and found.rollup == hook.standing.rollup


def _end(hook: Hook, code: int, why: str) -> None:
    facts = dict(read_json(hook.path), ended=int(time.time()), code=code, why=why)
    write_json(hook.path, facts)


def _command(hook: Hook) -> List[bytes]:
    script = b'exec >>"$ONTPUSH_OUTPUT" 2>&1\n' + from_argument(hook.command)
    return [b"/bin/sh", b"-c", script]


def _environment(hook: Hook) -> Mapping[bytes, bytes]:
    """Ours and the facts of the run; as bytes: without a locale Python 3.6 knows but ASCII."""
    base, run = hook.view.instrument.base, from_json(hook.run)
    summary, told = final_summary(base, run), hook.view.facts(hook.run)
    facts = {
        "RUN": os.path.join(base, run),
        "RUN_NAME": run,
        "INSTRUMENT": hook.view.instrument.name.encode(),
        "ROLLUP": hook.standing.rollup.encode(),
        "FILES": b"%d" % hook.standing.files,
        "BYTES": b"%d" % hook.standing.bytes,
        "OUTPUT": hook.output,
        "WARNING": told.warning.encode() if told else b"",
    }
    facts.update((name, summary.get(key, "").encode()) for name, key in _VARIABLES)
    variables = dict(os.environb)
    variables.update((b"ONTPUSH_" + name.encode(), value) for name, value in facts.items())
    return variables


def all_ended(hooks: Sequence[Hook]) -> bool:
    """Whether nothing is left to be done for a run."""
    return all("ended" in hook.outcome for hook in hooks)


def of_failed_hook(hook: Hook) -> Optional[Message]:
    """That a command failed; None where it did not, or where that was told."""
    outcome = hook.outcome
    why = outcome.get("why")
    if not why or "told" in outcome:
        return None
    return Message(
        (HOOK_FAILED,),
        "hook failed",
        hook.view.instrument.name,
        shown_run(hook.run),
        f"a command of on_verified {why}",
        f"Read what it printed: {shown(hook.output)}. The run itself is verified.",
        tuple(hook.command.splitlines()[:5]),
    )


def note_told(hook: Hook) -> None:
    """Write down that its failure, if it failed, has been told. TryLater."""
    if of_failed_hook(hook):
        write_json(hook.path, dict(hook.outcome, told=int(time.time())))
