"""`retry`: takes skip, failure or done back, so that the next tick reads the run again."""

import os
from typing import Any, Callable, Dict, Mapping

from ontpush.cluster.memory import Memory
from ontpush.cluster.wanted import can_be_wanted, want
from ontpush.engine.find import open_run
from ontpush.engine.ledger import Ledger, existing_ledger, faults_told
from ontpush.facts.names import for_json, from_argument, shown
from ontpush.facts.trouble import RunFailed, TryLater, WrongCall
from ontpush.facts.words import DONE_MARK, SENDING, SKIP_MARK
from ontpush.result import Result
from ontpush.settings import fleet_root, is_of_fleet, state_dir


def retry(settings: Mapping[str, Any], *_: Callable[..., None]) -> Result:
    """Forget what keeps the run at rest, and doubt all its sums: the next tick takes them anew."""
    if len(settings["words"]) != 1:
        raise WrongCall("give one run")
    run = open_run(from_argument(settings["words"][0]), or_what_was_one=True).path
    if is_of_fleet(settings, run):
        return _verify_again(settings, run)
    ledger = existing_ledger(state_dir(settings))
    if ledger:
        with ledger, faults_told(ledger):
            _wake(ledger, run)
    taken_back = [name for name in (SKIP_MARK, DONE_MARK) if _remove(run, name)]
    what = " and ".join(shown(name) for name in taken_back) or "nothing to take back"
    data = {"run": for_json(run), "removed": [for_json(name) for name in taken_back]}
    line = f"{shown(run)}: {what}; the next tick reads it again"
    return Result("retry", lambda: data, lambda: [line], [])


def _verify_again(settings: Mapping[str, Any], run: bytes) -> Result:
    """At the cluster: the marks stay until the monitor has found what is wrong."""
    state, pulled = state_dir(settings), [each["instrument"] for each in settings["pull"]]
    try:
        can_be = can_be_wanted(fleet_root(settings), pulled, Memory(state), run)
    except OSError as error:
        raise TryLater(f"its marks cannot be read: {error.strerror}; try it again", run) from error
    if not can_be:
        raise RunFailed(
            "the monitor does not know it, and no rsync.done in it vouches for its md5sum: it is"
            " verified when it is done",
            run,
        )
    want(state, run)
    data: Dict[str, Any] = {"run": for_json(run), "removed": []}
    line = f"{shown(run)}: the next tick of the monitor verifies it again"
    return Result("retry", lambda: data, lambda: [line], [])


def _wake(ledger: Ledger, run: bytes) -> None:
    with ledger.writing():
        record = ledger.run(run) or ledger.add_run(run)
        # What another sequencer claimed is to be claimed back.
        ledger.update_run(record.id, state=SENDING, error=None, claim=record.claim or None)
        ledger.doubt_sums(record.id)


def _remove(run: bytes, name: bytes) -> bool:
    path = os.path.join(run, name)
    try:
        (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunFailed(
            f"{shown(name)} cannot be removed: {error.strerror}; move it away yourself", run
        ) from error
    return True
