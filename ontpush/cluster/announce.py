"""Tells what a look saw that is news, and writes down what came of it.

What is told is in the outbox before it counts as told, and whoever cannot be reached is told at a
later tick.
"""

from typing import Dict, List, Set, Tuple

from ontpush.cluster.conditions import Condition
from ontpush.cluster.hooks import Hook, all_ended, note_told, of_failed_hook
from ontpush.cluster.memory import GOOD
from ontpush.cluster.messages import Message, not_too_many, of_verified
from ontpush.cluster.notices import news
from ontpush.cluster.outbox import Outbox
from ontpush.cluster.sight import Sight, Watch
from ontpush.cluster.tell import Outcome, tell
from ontpush.facts.names import from_json, plural, shown
from ontpush.facts.trouble import Trouble
from ontpush.facts.words import LOG_FAIL, LOG_SYNC, LOG_WARN


def announce(watch: Watch, sight: Sight, conditions: List[Condition], unsure: Set[str]) -> None:
    """Put what is new into the outbox, write down that it is there, and deliver. TryLater."""
    outbox = Outbox(watch.memory.directory, watch.notifiers)
    new = news(outbox.notices, conditions, sight.views, unsure, watch.remind_seconds)
    messages = not_too_many(new.messages + _verified(sight) + _failed_hooks(watch, sight))
    for name, count in outbox.put(messages, new.notices).items():
        why = "given up, since too much waits for who does not take it: the oldest {} of {}"
        _fail(watch, sight, why.format(plural(count, "message"), name or "the cluster"))
    _note_told(watch, sight)
    outcomes = tell(outbox.waiting())
    for outcome in outcomes:
        outbox.take_out(outcome)
        _log_tries(watch, sight, outcome)
        if outcome.trouble:
            why = f"{outcome.notifier.name}: {outcome.trouble}; it is tried again at the next tick"
            watch.log.event(LOG_WARN, b"", why)
            if outbox.may_complain(outcome.notifier, watch.remind_seconds):
                sight.troubles.append(Trouble(why))
    if outcomes:
        outbox.save()


def _log_tries(watch: Watch, sight: Sight, outcome: Outcome) -> None:
    name = outcome.notifier.name
    for each in outcome.tries:
        if each.fault is None:
            watch.log.event(LOG_SYNC, b"", f"told {name}: {each.letter.subject}")
        elif each.is_last:
            why = f"{name}: {each.fault}; refused for good, so it is given up: "
            _fail(watch, sight, why + each.letter.subject)


def _fail(watch: Watch, sight: Sight, why: str) -> None:
    watch.log.event(LOG_FAIL, b"", why)
    sight.troubles.append(Trouble(why))


def _verified(sight: Sight) -> List[Message]:
    return [
        of_verified(view, run, standing)
        for view in sight.views.values()
        for run, standing in view.remembered.runs.items()
        if standing.untold and standing.verdict == GOOD
    ]


def _failed_hooks(watch: Watch, sight: Sight) -> List[Message]:
    messages = []
    for hook in sight.hooks:
        message = of_failed_hook(hook)
        place = from_json(f"{hook.view.instrument.name}/{hook.run}")
        if message:
            messages.append(message)
            why = f"{message.what}: {shown(hook.output)}"
            watch.log.event(LOG_FAIL, place, why)
            sight.troubles.append(Trouble(why, place))
    return messages


def _note_told(watch: Watch, sight: Sight) -> None:
    """The outbox has them now: they need not be told once more."""
    hooks: Dict[Tuple[str, str], List[Hook]] = {}
    for hook in sight.hooks:
        note_told(hook)
        hooks.setdefault((hook.instrument, hook.run), []).append(hook)
    for view in sight.views.values():
        runs = view.remembered.runs
        good = {run: each for run, each in runs.items() if each.verdict == GOOD}
        fresh = [run for run, each in good.items() if each.untold or each.follow]
        changed = False
        for run in fresh:
            standing = runs[run]
            own = hooks.get((view.instrument.name, run), [])
            # What waits for tomorrow is not among them.
            is_followed = len(own) == len(watch.hooks.commands) and all_ended(own)
            follow = standing.follow and not is_followed
            runs[run] = standing._replace(untold=False, mended=False, follow=follow)
            changed = changed or runs[run] != standing
        if changed:
            watch.memory.save(view.instrument.name, view.remembered)
