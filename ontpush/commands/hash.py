"""`hash`: checksums only; the roll-up, and by default the sidecars, of each run."""

import os
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional

from ontpush.engine.carry import slices
from ontpush.engine.find import Found, find_runs, open_run
from ontpush.engine.hashing import Hashing, file_trouble, sum_files
from ontpush.engine.ledger import Ledger, RunRecord, damage_set_aside, open_ledger
from ontpush.engine.lock import only_one
from ontpush.engine.log import EventLog
from ontpush.engine.look import Rules, exclusion
from ontpush.engine.mark import md5_of_rollup
from ontpush.engine.progress import InHand, Progress
from ontpush.engine.rollup import line_for, md5_and_size, write_whole
from ontpush.engine.stock import take_stock, unreadable_paths
from ontpush.facts.names import for_json, from_argument, human_size, plural, shown
from ontpush.facts.trouble import RunFailed, Trouble, WrongCall
from ontpush.facts.words import LOG_FAIL, LOG_SCAN, ROLLUP, SKIP_MARK
from ontpush.result import Result, table
from ontpush.settings import courteous, existing_source, state_dir

Show = Callable[[Optional[InHand]], None]
Listen = Callable[[str], None]


class _Work(NamedTuple):
    """What the runs of one call have in common."""

    ledger: Ledger
    rules: Rules
    how: Hashing
    log: EventLog
    progress: Progress


class _Hashed(NamedTuple):
    """A run and how many of its files changed too recently to have a sum."""

    record: RunRecord
    unsettled: int


def hash(settings: Mapping[str, Any], show: Show, listen: Listen) -> Result:
    """Hash the runs named, or with `all` every run below the one directory named."""
    troubles: List[Trouble] = []
    founds = _below(settings, troubles) if settings["all"] else _named(settings)
    state = state_dir(settings)
    log = EventLog(settings["log"], settings["verbose"], listen)
    courteous(settings, log)
    with only_one(state):
        ledger = open_ledger(state)
        with ledger, damage_set_aside(ledger):
            work = _Work(
                ledger,
                Rules(settings["settle"], exclusion(settings["exclude"])),
                Hashing(settings["jobs"], settings["sidecars"] is not False),
                log,
                Progress(state, show),
            )
            try:
                hashed = list(_hash_each(work, founds, troubles))
            finally:
                work.progress.end()
    return Result(
        "hash",
        lambda: {"runs": [_facts(each) for each in hashed]},
        lambda: _lines(hashed),
        troubles,
    )


def _named(settings: Mapping[str, Any]) -> List[Found]:
    if not settings["words"]:
        raise WrongCall("which run? give its directory, or --all and the directory of all runs")
    return [open_run(from_argument(word)) for word in settings["words"]]


def _below(settings: Mapping[str, Any], troubles: List[Trouble]) -> Iterator[Found]:
    if len(settings["words"]) > 1:
        raise WrongCall("--all takes one directory, that of all runs")
    place = dict(settings)
    if settings["words"]:
        place.update(source=settings["words"][0], by_flag=frozenset(["source"]))

    def complain(error: OSError) -> None:
        path = os.fsencode(error.filename)
        troubles.append(RunFailed(f"cannot be searched: {error.strerror}", path))

    for found in find_runs(existing_source(place), complain):
        if all(entry.name != SKIP_MARK for entry in found.entries):
            yield found


def _hash_each(work: _Work, founds: Iterable[Found], troubles: List[Trouble]) -> Iterator[_Hashed]:
    for found in founds:
        try:
            yield _hash_run(work, found)
        except RunFailed as error:
            work.log.event(LOG_FAIL, found.path, error.message)
            troubles.append(error)


def _hash_run(work: _Work, found: Found) -> _Hashed:
    """Sums of every settled file of one run, and its roll-up. RunFailed."""
    ledger = work.ledger
    with ledger.writing():
        record = ledger.run(found.path) or ledger.add_run(found.path)
    known = ledger.tokens_of(record.id)
    look, record = take_stock(ledger, work.rules, record, found, known, full=True)
    work.progress.begin(found.path, "hashing", record.files, record.bytes)
    trouble = unreadable_paths(look, found.path) if look else []
    for files in slices(ledger.unsummed, record.id):
        trouble += sum_files(ledger, found.path, files, work.how, work.progress.advance)[1]
    _write_rollup(ledger, record)
    if trouble:
        raise file_trouble(found.path, trouble, "the other files have their sums")
    work.log.event(LOG_SCAN, found.path, "{} with sums".format(plural(record.files, "file")))
    return _Hashed(record, look.unsettled if look else 0)


def _write_rollup(ledger: Ledger, record: RunRecord) -> None:
    """Write the roll-up, unless the one that lies there says the same."""

    def lines() -> Iterator[bytes]:
        return (line_for(*listed) for listed in ledger.summed(record.id))

    there = md5_of_rollup(record.path)
    if there and there == md5_and_size(lines())[0]:
        return
    try:
        write_whole(os.path.join(record.path, ROLLUP), lines())
    except OSError as error:
        raise RunFailed(
            f"md5sum cannot be written: {error.strerror}; let this user write in the run",
            record.path,
        ) from error


def _facts(hashed: _Hashed) -> Dict[str, Any]:
    record = hashed.record
    return {
        "run": for_json(record.path),
        "files": record.files,
        "bytes": record.bytes,
        "unsettled": hashed.unsettled,
    }


def _lines(hashed: List[_Hashed]) -> List[str]:
    rows = [
        [f"{record.files:,}", human_size(record.bytes), shown(record.path)] for record, _ in hashed
    ]
    unsettled = sum(each.unsettled for each in hashed)
    late = "{} changed too recently and left out: hash again later".format(
        plural(unsettled, "file")
    )
    return table(["files", "size", "run"], rows) + ([late] if unsettled else [])
