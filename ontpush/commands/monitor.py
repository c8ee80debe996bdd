"""`monitor`: one tick on the cluster: verify what arrived, notice what is wrong, tell people."""

import contextlib
import time
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Mapping, Optional

from ontpush.cluster.checking import clear_away, make_checker, verify_side_by_side
from ontpush.cluster.conditions import Limits
from ontpush.cluster.hooks import Hook, Hooks, all_ended, run_hooks
from ontpush.cluster.memory import CHECKING, GOOD, Memory
from ontpush.cluster.messages import View
from ontpush.cluster.sight import Settled, Sight, Watch
from ontpush.cluster.slurm import make_wishes
from ontpush.cluster.tell import make_notifiers
from ontpush.cluster.walk import note_walked, walk
from ontpush.cluster.watch import look
from ontpush.engine.lock import HeldTooLong, only_one
from ontpush.engine.log import EventLog
from ontpush.engine.mark import date_text
from ontpush.engine.progress import InHand
from ontpush.facts.names import human_time, plural
from ontpush.facts.trouble import AtWork, Trouble
from ontpush.result import Result, table
from ontpush.settings import courteous, fleet_root, state_dir

_LOOK_AGAIN_SECONDS = 60.0
_WALK_AGAIN_SECONDS = 600.0
_LONGEST_LOOK_SECONDS = 6 * 3600.0


def monitor(
    settings: Mapping[str, Any],
    _: Callable[[Optional[InHand]], None],
    listen: Callable[[str], None],
) -> Result:
    """One tick. A second one looks and tells while the first still verifies."""
    root, state = fleet_root(settings), state_dir(settings)
    log = EventLog(settings["log"], settings["verbose"], listen)
    log.rotate()
    courteous(settings, log)
    with only_one(state, b"monitor.lock", patience=_LONGEST_LOOK_SECONDS):
        memory = Memory(state)
        memory.claim(root)
        watch = Watch(
            root,
            tuple(each["instrument"] for each in settings["pull"]),
            memory,
            Limits(settings["silent_minutes"] * 60, settings["disk_percent"]),
            settings["remind_hours"] * 3600,
            make_notifiers(settings),
            Hooks(state, tuple(settings["on_verified"]), settings["hook_minutes"] * 60),
            make_checker(state, settings),
            make_wishes(settings) if settings["verify_in"] == "slurm" else None,
            log,
        )
        sight = look(watch)
    sight = _follow(watch, sight)
    # Another tick that verifies looks again when it has.
    with _left_to_another(sight), _long_work(watch, b"work.lock"):
        sight = _work(watch, sight)
    return _result(_follow(watch, sight), log)


@contextlib.contextmanager
def _left_to_another(sight: Sight) -> Iterator[None]:
    """What another tick is at is no trouble, unless it hangs."""
    try:
        yield
    except AtWork:
        pass
    except HeldTooLong as error:
        sight.troubles.append(error)


def _long_work(watch: Watch, name: bytes) -> ContextManager[None]:
    return only_one(watch.memory.directory, name, patience=watch.patience[name])


def _work(watch: Watch, sight: Sight) -> Sight:
    """Verify run after run, and look again in between, so that nobody waits."""
    clear_away(watch.memory.directory)
    sight = _walk(watch, sight)
    has_worked = False
    looked_at = walked_at = time.monotonic()
    # What comes meanwhile of another instrument does not wait for all that was there before.
    work = verify_side_by_side(watch.checker, lambda: sight.due, _LOOK_AGAIN_SECONDS)
    with contextlib.closing(work):
        for _ in work:
            has_worked = True
            if time.monotonic() - looked_at > _LOOK_AGAIN_SECONDS:
                sight = _look_again(watch, sight)
                looked_at = time.monotonic()
                if looked_at - walked_at > _WALK_AGAIN_SECONDS:
                    sight = _walk(watch, sight)
                    looked_at = walked_at = time.monotonic()
            elif watch.hooks.commands:
                # Told later: a letter for each run would bury its reader.
                sight = _look_again(watch, sight, telling=False)
            _start_some(watch, sight)
    return _look_again(watch, sight) if has_worked else sight


def _walk(watch: Watch, sight: Sight) -> Sight:
    """Ask whether files of verified runs are still there; what differs is due to be verified."""
    walked = walk(sight.views.values())
    if not walked:
        return sight
    with only_one(watch.memory.directory, b"monitor.lock", wait=True):
        is_doubted = note_walked(watch.memory, walked, watch.log)
    return _look_again(watch, sight) if is_doubted else sight


def _to_follow(sight: Sight) -> List[Hook]:
    return [hook for hook in sight.hooks if not all_ended([hook])]


def _follow(watch: Watch, sight: Sight) -> Sight:
    """Start all that is to follow the runs that are verified by now.

    Looks again between a few and a few: what is verified meanwhile does not wait for a long list.
    """
    if not _to_follow(sight):
        return sight
    while _start_some(watch, sight):
        sight = _look_again(watch, sight, telling=False)
    return _look_again(watch, sight)


def _start_some(watch: Watch, sight: Sight) -> bool:
    """Start a few of them, unless another tick does; whether there may be more."""
    due, has_more = _to_follow(sight), False
    if due:
        with _left_to_another(sight), _long_work(watch, b"hooks.lock"):
            has_more = run_hooks(watch.hooks, due)
    return has_more


def _look_again(watch: Watch, before: Sight, telling: bool = True) -> Sight:
    """What is to be seen now, with all that ended and went wrong before in this tick.

    What stays wrong is told by every look, and a tick may last for days.
    """
    with only_one(watch.memory.directory, b"monitor.lock", wait=True):
        now = look(watch, telling)
    known = {(each.message, each.run) for each in before.troubles}
    new = [each for each in now.troubles if (each.message, each.run) not in known]
    return now._replace(settled=before.settled + now.settled, troubles=before.troubles + new)


def _result(sight: Sight, log: EventLog) -> Result:
    settled = sight.settled
    views = list(sight.views.values())
    troubles: List[Trouble] = sight.troubles + ([log.trouble] if log.trouble else [])
    return Result(
        "monitor",
        lambda: {
            "instruments": [_instrument_facts(view) for view in views],
            "runs": [_run_facts(each) for each in settled],
        },
        lambda: _lines(views, settled),
        troubles,
    )


def _instrument_facts(view: View) -> Dict[str, Any]:
    standings = view.remembered.runs.values()
    return {
        "instrument": view.instrument.name,
        "heard_at": date_text(view.beat.arrived_at) if view.beat else None,
        "runs": len(view.beat.runs) if view.beat else 0,
        "verified": sum(each.verdict == GOOD for each in standings),
        "checking": sum(each.verdict == CHECKING for each in standings),
        "bad": sum(bool(each.bad_count or each.error) for each in standings),
    }


def _run_facts(settled: Settled) -> Dict[str, Any]:
    return dict(settled._asdict())


def _lines(views: List[View], settled: List[Settled]) -> List[str]:
    headings = ["instrument", "heard", "runs", "verified", "checking", "bad"]
    rows = []
    for view in views:
        facts = _instrument_facts(view)
        heard = f"{human_time(time.time() - view.beat.arrived_at)} ago" if view.beat else "never"
        figures = [f"{facts[key]:,}" for key in headings[2:]]
        rows.append([facts["instrument"], heard, *figures])
    good = sum(each.verdict == GOOD for each in settled)
    count = "{} verified now".format(plural(good, "run"))
    if len(settled) > good:
        count += ", {} found bad".format(plural(len(settled) - good, "run"))
    return [*(table(headings, rows) if rows else ["no instrument has sent a heartbeat"]), count]
