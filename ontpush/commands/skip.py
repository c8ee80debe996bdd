"""`skip`: leaves a run alone from now on, and says why."""

import os
from typing import Any, Callable, Mapping

from ontpush.engine.find import open_run
from ontpush.engine.rollup import write_whole
from ontpush.facts.names import for_json, from_argument, shown
from ontpush.facts.trouble import WrongCall, unwritten
from ontpush.facts.words import SKIP_MARK
from ontpush.result import Result


def skip(settings: Mapping[str, Any], *_: Callable[..., None]) -> Result:
    """Write `rsync.skip` into the run; what was sent already stays where it is."""
    if len(settings["words"]) != 2 or not settings["words"][1].strip():
        raise WrongCall("give the run and, as one word in quotes, the reason")
    run = open_run(from_argument(settings["words"][0])).path
    reason = from_argument(settings["words"][1])
    try:
        write_whole(os.path.join(run, SKIP_MARK), [reason + b"\n"])
    except OSError as error:
        raise unwritten(SKIP_MARK, error, run) from error
    data = {"run": for_json(run), "reason": for_json(reason)}
    line = f"{shown(run)}: skipped: {shown(reason)}"
    return Result("skip", lambda: data, lambda: [line], [])
