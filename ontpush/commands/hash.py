"""`hash`: checksums only; the roll-up, and by default the sidecars, of each run."""

import os
from functools import partial
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional

from ontpush.engine.carry import slices
from ontpush.engine.find import Found, left_out, open_run
from ontpush.engine.gone import (
    check_source,
    note_gone_elsewhere,
    require_own_state,
    search_noting_gone,
)
from ontpush.engine.hashing import FileTrouble, Hashing, OnFile, file_trouble, sum_files
from ontpush.engine.heartbeat import LeftHeartbeat, at_large, run_facts
from ontpush.engine.hidden import hidden_runs
from ontpush.engine.ledger import FileRecord, Ledger, RunRecord, damage_set_aside, open_ledger
from ontpush.engine.lock import only_one
from ontpush.engine.log import EventLog
from ontpush.engine.look import Rules, exclusion
from ontpush.engine.mark import disown, md5_of_rollup, remove_marks
from ontpush.engine.progress import InHand, Progress
from ontpush.engine.reread import each_doubted, read_again, renew_sidecar
from ontpush.engine.rollup import line_for, md5_and_size, write_whole
from ontpush.engine.settling import this_moment
from ontpush.engine.skipped import Skipped, heed_skip
from ontpush.engine.stock import take_stock, unreadable_paths, update
from ontpush.facts.names import below, for_json, from_argument, human_size, plural, shown
from ontpush.facts.trouble import RunFailed, Trouble, WrongCall, run_failed, unwritten
from ontpush.facts.words import (
    FAILED,
    HIDDEN,
    LEFT_OUT,
    LOG_FAIL,
    LOG_SCAN,
    LOG_WARN,
    NO_RUN_OF_ITS_OWN,
    ROLLUP,
    SKIPPED,
)
from ontpush.result import Result, table
from ontpush.settings import courteous, existing_source, patience, state_dir

Show = Callable[[Optional[InHand]], None]
Listen = Callable[[str], None]


class _Work(NamedTuple):
    """What the runs of one call have in common."""

    ledger: Ledger
    rules: Rules
    how: Hashing
    log: EventLog
    progress: Progress
    on_file: OnFile
    source: Optional[bytes]

    def heed_skip(self, run: bytes) -> None:
        """Skipped, unless it was the user who named the run."""
        if self.source:
            heed_skip(run)


class _Hashed(NamedTuple):
    """A run and how many of its files changed too recently to have a sum."""

    record: RunRecord
    unsettled: int


class _Came(NamedTuple):
    """What came of a call; `unsent` tells of what looks like data and belongs to no run."""

    hashed: List[_Hashed]
    skipped: List[bytes]
    troubles: List[Trouble]
    unsent: List[str]


def hash(settings: Mapping[str, Any], show: Show, listen: Listen) -> Result:
    """Hash the runs named, or with `all` every run below the one directory named."""
    came = _Came([], [], [], [])
    source = _source(settings) if settings["all"] else None
    named = [] if source else _named(settings)
    heartbeat = LeftHeartbeat(source, settings["instrument"]) if source else None
    state = state_dir(settings)
    log = EventLog(settings["log"], settings["verbose"], listen)
    courteous(settings, log)
    with only_one(state, patience=patience(settings)):
        ledger = open_ledger(state)
        progress = Progress(state, show)

        def on_file(files: int, size: int) -> None:
            progress.advance(files, size)
            if heartbeat:
                heartbeat.touch()

        with ledger, damage_set_aside(ledger):
            work = _Work(
                ledger,
                Rules(
                    settings["settle"],
                    exclusion(settings["exclude"]),
                    can_tell=ledger.tell_time(this_moment()) >= settings["settle"],
                    asks_disk=True,
                ),
                Hashing(settings["jobs"], settings["sidecars"] is not False),
                log,
                progress,
                on_file,
                source,
            )
            if source:
                require_own_state(ledger, state)
            try:
                founds = _below(work, source, came) if source else named
                _hash_each(work, founds, came)
            finally:
                progress.end()
            if heartbeat and source:
                check_source(ledger, source)
                note_gone_elsewhere(ledger, source)
                failed = _failed(ledger, source, founds, came.troubles)
                _leave(heartbeat, source, came, failed)
    return Result(
        "hash",
        lambda: {"runs": [_facts(each) for each in came.hashed]},
        lambda: _lines(came.hashed),
        came.troubles,
    )


def _named(settings: Mapping[str, Any]) -> List[Found]:
    if not settings["words"]:
        raise WrongCall("which run? give its directory, or --all and the directory of all runs")
    return [open_run(from_argument(word)) for word in settings["words"]]


def _source(settings: Mapping[str, Any]) -> bytes:
    if len(settings["words"]) > 1:
        raise WrongCall("--all takes one directory, that of all runs")
    place = dict(settings)
    if settings["words"]:
        place.update(source=settings["words"][0], by_flag=frozenset(["source"]))
    return existing_source(place)


def _below(work: _Work, source: bytes, came: _Came) -> List[Found]:
    """Every run below the source; those that are no longer there are noted as gone first."""

    def pass_over(path: bytes, why: str) -> None:
        work.log.event(LOG_WARN, path, why)
        came.unsent.append(f"{shown(below(path, source))}: {why}")

    def complain(error: RunFailed) -> None:
        work.log.event(LOG_FAIL, error.run or b"", error.message)
        came.troubles.append(error)

    def no_run(found: Found) -> None:
        for folder in left_out(found):
            pass_over(folder, LEFT_OUT)
        try:
            disown(found.path, found.names, partial(work.log.event, LOG_WARN))
        except RunFailed as error:
            complain(error)

    founds = search_noting_gone(work.ledger, source, complain, no_run).founds
    for path in hidden_runs(source):
        pass_over(path, HIDDEN)
    return founds


def _hash_each(work: _Work, founds: Iterable[Found], came: _Came) -> None:
    for found in founds:
        try:
            came.hashed.append(_hash_run(work, found))
            continue
        except Skipped:
            came.skipped.append(found.path)
            continue
        except RunFailed as error:
            error.run = found.path
            trouble = error
        except OSError as error:
            trouble = run_failed(error, found.path)
        work.log.event(LOG_FAIL, found.path, trouble.message)
        came.troubles.append(trouble)


def _hash_run(work: _Work, found: Found) -> _Hashed:
    """Sums of every settled file of one run, and its roll-up. RunFailed, Skipped."""
    work.heed_skip(found.path)
    ledger = work.ledger
    with ledger.writing():
        record = ledger.run(found.path) or ledger.add_run(found.path)
        if work.source and record.gone_at:
            # What lies at its place is not known any more either: see `round`.
            back = {"source": work.source, "destination": None, "gone_at": None}
            record = update(ledger, record, back)
        elif work.source and record.source is None:
            record = update(ledger, record, {"source": work.source})
    known = ledger.tokens_of(record.id)
    look, record = take_stock(ledger, work.rules, record, found, known, full=True)
    for path in remove_marks(found.path, look.marks if look else ()):
        work.log.event(LOG_WARN, found.path, f"{shown(path)} {NO_RUN_OF_ITS_OWN}")
    work.progress.begin(found.path, "hashing", record.files, record.bytes)
    trouble = unreadable_paths(look, found.path) if look else []
    if record.destination is None and ledger.doubted_after(record.id) is not None:
        trouble += _reread(work, record)
    for files in slices(ledger.unsummed, record.id):
        work.heed_skip(found.path)
        trouble += sum_files(ledger, found.path, files, work.how, work.on_file)[1]
    work.heed_skip(found.path)
    _write_rollup(ledger, record, look.unsettled if look else 0)
    if trouble:
        raise file_trouble(found.path, trouble, "the other files have their sums")
    work.log.event(LOG_SCAN, found.path, "{} with sums".format(plural(record.files, "file")))
    return _Hashed(record, look.unsettled if look else 0)


def _reread(work: _Work, record: RunRecord) -> List[FileTrouble]:
    """Take anew the sums that `retry` put in doubt; no copy is known that tells who was right."""

    def warn(message: str) -> None:
        work.log.event(LOG_WARN, record.path, message)

    def judge(files: List[FileRecord]) -> List[FileTrouble]:
        work.heed_skip(record.path)
        found = read_again(record.path, files, work.how.jobs, work.on_file)
        with work.ledger.writing():
            work.ledger.store_sums(found.other)
            work.ledger.distrust(found.touched)
        for file in found.other:
            warn(
                f"{shown(file.path)} reads otherwise than when it was hashed, and nobody changed"
                " it: its sum was wrong, or this disk is failing; it is listed as it reads now"
            )
            renew_sidecar(record.path, file, warn)
        return found.trouble

    return each_doubted(work.ledger, record.id, judge)


def _write_rollup(ledger: Ledger, record: RunRecord, unsettled: int) -> None:
    """Write the roll-up, unless the one that lies there says the same.

    One without a line is none for `md5sum -c`: where every file is too new there is no roll-up, and
    where there is no file at all the one that lies there is the last that is known of them.
    """

    def lines() -> Iterator[bytes]:
        return (line_for(*listed) for listed in ledger.summed(record.id))

    there = md5_of_rollup(record.path)
    if there and there == md5_and_size(lines())[0]:
        return
    path = os.path.join(record.path, ROLLUP)
    try:
        if next(lines(), None) is not None:
            write_whole(path, lines())
        elif unsettled and there:
            os.unlink(path)
    except OSError as error:
        raise unwritten(ROLLUP, error, record.path) from error


def _failed(
    ledger: Ledger, source: bytes, founds: Iterable[Found], troubles: Iterable[Trouble]
) -> Dict[bytes, str]:
    """Why runs may lack sums; those known that were not found and are not gone are among them.

    Whoever pulls takes what is not named for gone.
    """
    visited = {found.path for found in founds}
    unseen = {each.path for each in ledger.runs(source)} - visited
    runs = visited | unseen
    failed = dict.fromkeys(unseen, "may be there: what it lies in cannot be read")
    failed.update((each.run, each.message) for each in troubles if each.run in runs)
    return failed


def _leave(heartbeat: LeftHeartbeat, source: bytes, came: _Came, failed: Dict[bytes, str]) -> None:
    """Leave the heartbeat, for whoever pulls. Trouble."""
    errors = at_large(came.troubles, failed, source)
    runs = _runs_left(source, came, failed)
    heartbeat.leave(1 if came.troubles else 0, errors, runs, came.unsent)


def _runs_left(source: bytes, came: _Came, failed: Dict[bytes, str]) -> List[Dict[str, Any]]:
    """How every run stands, for whoever pulls."""
    runs = [
        *((run, FAILED, why) for run, why in sorted(failed.items())),
        *((run, SKIPPED, None) for run in came.skipped),
    ]
    return [
        *(
            {"run": for_json(below(run, source)), "state": state, "error": error}
            for run, state, error in runs
        ),
        *(run_facts(each.record, source) for each in came.hashed),
    ]


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
