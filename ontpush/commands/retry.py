"""`retry`: takes skip, failure or done back, so that the next tick looks at the run again."""

import os
from typing import Any, Callable, Mapping

from ontpush.engine.find import open_run
from ontpush.engine.ledger import Ledger, damage_set_aside, open_ledger
from ontpush.facts.names import for_json, from_argument, shown
from ontpush.facts.trouble import RunFailed, WrongCall
from ontpush.facts.words import DONE_MARK, SENDING, SKIP_MARK
from ontpush.result import Result
from ontpush.settings import state_dir


def retry(settings: Mapping[str, Any], *_: Callable[..., None]) -> Result:
    """Forget what keeps the run at rest; its sums stay, so nothing is hashed without need."""
    if len(settings["words"]) != 1:
        raise WrongCall("give one run")
    run = open_run(from_argument(settings["words"][0])).path
    state = state_dir(settings)
    if os.path.isdir(state):
        ledger = open_ledger(state)
        with ledger, damage_set_aside(ledger):
            _wake(ledger, run)
    taken_back = [name for name in (SKIP_MARK, DONE_MARK) if _remove(run, name)]
    what = " and ".join(shown(name) for name in taken_back) or "nothing to take back"
    data = {"run": for_json(run), "removed": [for_json(name) for name in taken_back]}
    line = f"{shown(run)}: {what}; the next tick looks again"
    return Result("retry", lambda: data, lambda: [line], [])


def _wake(ledger: Ledger, run: bytes) -> None:
    with ledger.writing():
        record = ledger.run(run)
        if record:
            ledger.update_run(record._replace(state=SENDING, error=None))


def _remove(run: bytes, name: bytes) -> bool:
    try:
        os.unlink(os.path.join(run, name))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunFailed(f"{shown(name)} cannot be removed: {error.strerror}", run) from error
    return True
