"""One round over all runs below the source: a visit to each, and the heartbeat at the end."""

import os
import sqlite3
from functools import partial
from typing import Callable, Iterable, Iterator, List, NamedTuple, Tuple

from ontpush.engine.asked import wake_asked
from ontpush.engine.claims import give_way
from ontpush.engine.find import Complain, Found, left_out
from ontpush.engine.gone import check_source, note_gone_elsewhere, search_noting_gone
from ontpush.engine.heartbeat import at_large, send_heartbeat
from ontpush.engine.hidden import hidden_runs
from ontpush.engine.ledger import RunRecord
from ontpush.engine.look import Tokens
from ontpush.engine.mark import disown
from ontpush.engine.tick import Tick
from ontpush.engine.visit import Visit
from ontpush.facts.names import below, shown
from ontpush.facts.trouble import (
    RunFailed,
    SourceLost,
    Trouble,
    Unexpected,
    exit_code_of,
    run_failed,
)
from ontpush.facts.words import DONE, HIDDEN, LEFT_OUT, LOG_FAIL, LOG_WARN, SKIPPED


class RunReport(NamedTuple):
    """How a run stands after its visit, and the files and bytes that went over in it."""

    record: RunRecord
    sent_files: int
    sent_bytes: int


class Round(NamedTuple):
    """What came of a round: every run that was found, and every trouble."""

    runs: List[RunReport]
    troubles: List[Trouble]


def go_round(tick: Tick) -> Round:
    """Visit every run, and send the heartbeat however that ended.

    A run that fails stops no other; a source or a destination out of reach stops all.
    """
    reports: List[RunReport] = []
    rested: List[RunRecord] = []
    troubles: List[Trouble] = []

    def complain(error: RunFailed) -> None:
        error.run = below(error.run or b"", tick.source)
        tick.log.event(LOG_FAIL, error.run, error.message)
        troubles.append(error)

    unsent: List[str] = []

    def passed_over(path: bytes, why: str) -> None:
        pass_over(tick, path, why)
        unsent.append(f"{shown(below(path, tick.source))}: {why}")

    founds: List[Found] = []
    try:
        founds = _sort_out(tick, complain, passed_over)
    except SourceLost as error:
        tick.log.event(LOG_FAIL, b"", error.message)
        troubles.append(error)
    for path in hidden_runs(tick.source):
        passed_over(path, HIDDEN)
    tokens = tick.ledger.tokens()
    for found, record in _those_in_trouble_last(tick, founds):
        report = RunReport(record, 0, 0)
        if exit_code_of(troubles) <= RunFailed.exit_code:
            report, trouble = _visit(tick, found, record, tokens.get(record.id, {}))
            troubles += trouble
        reports.append(report)
        if _has_rested(record, report.record):
            rested.append(report.record)
    if not _is_lost(troubles):
        troubles += _lost(tick)
    note_gone_elsewhere(tick.ledger, tick.source)
    lost = _beat(tick, reports, troubles, unsent, rested)
    return Round(_as_they_are_now(tick, reports, lost), troubles + lost)


def _sort_out(
    tick: Tick, complain: Complain, passed_over: Callable[[bytes, str], None]
) -> List[Found]:
    """Every run; what is none has lost its marks then. SourceLost."""

    def no_run(found: Found) -> None:
        for folder in left_out(found):
            passed_over(folder, LEFT_OUT)
        try:
            disown(found.path, found.names, partial(pass_over, tick))
        except RunFailed as error:
            complain(error)

    return search(tick, complain, no_run)


def _as_they_are_now(tick: Tick, reports: List[RunReport], lost: List[Trouble]) -> List[RunReport]:
    """A run may have lost its place after its visit."""
    runs = {each.run for each in lost}
    return [
        report._replace(record=tick.ledger.run(report.record.path) or report.record)
        if below(report.record.path, tick.source) in runs
        else report
        for report in reports
    ]


def pass_over(tick: Tick, path: bytes, why: str) -> None:
    """Tell of something that is no run and part of none."""
    tick.log.event(LOG_WARN, below(path, tick.source), why)


def _is_lost(troubles: List[Trouble]) -> bool:
    return any(isinstance(each, SourceLost) for each in troubles)


def _lost(tick: Tick) -> List[Trouble]:
    """What keeps the whole source from being read, if anything does."""
    try:
        check_source(tick.ledger, tick.source)
    except SourceLost as error:
        tick.log.event(LOG_FAIL, b"", error.message)
        return [error]
    return []


def search(tick: Tick, complain: Complain, no_run: Callable[[Found], None]) -> List[Found]:
    """Every run below the source. The ledger has each of them then, and no other as there.

    What is told to `complain` and `no_run` is said in `find_runs`. SourceLost.
    """
    searched = search_noting_gone(tick.ledger, tick.source, complain, no_run)
    _tell_gone(tick, searched.gone)
    with tick.ledger.writing():
        for path in searched.new:
            _take_up(tick, path)
    return searched.founds


def _take_up(tick: Tick, path: bytes) -> None:
    """A run that is new, goes to another place, or comes back: look as for the first time.

    Nobody knows what was done to it, here and at its place, while it was out of sight.
    """
    record = tick.ledger.run(path) or tick.ledger.add_run(path)
    tick.ledger.update_run(
        record.id, source=tick.source, destination=None, gone_at=None, looked_at=0
    )


def _those_in_trouble_last(
    tick: Tick, founds: Iterable[Found]
) -> Iterator[Tuple[Found, RunRecord]]:
    """Each run as the ledger has it when its turn comes.

    One that breaks off every tick keeps no other from its turn.
    """
    troubled = {record.path for record in tick.ledger.runs(tick.source) if record.error is not None}
    for found in sorted(founds, key=lambda found: found.path in troubled):
        record = tick.ledger.run(found.path)
        if record:
            yield found, record


def _has_rested(before: RunRecord, after: RunRecord) -> bool:
    """Whether a run is done, and was not compared with what lies there in this very tick."""
    return after.state == DONE and after.done_at == before.done_at


def _visit(
    tick: Tick, found: Found, record: RunRecord, known: Tokens
) -> Tuple[RunReport, List[Trouble]]:
    visit = Visit(tick, found, record, known)
    troubles: List[Trouble] = []
    try:
        visit.go()
    except RunFailed as error:
        error.run = visit.run.relative
        troubles.append(error)
    except Trouble as error:
        troubles.append(error)
    except OSError as error:
        if os.path.isdir(found.path):
            troubles.append(run_failed(error, visit.run.relative))
    except sqlite3.Error:
        raise  # the ledger serves all runs
    except Exception as error:  # noqa: BLE001 - whatever one run brings to light stops no other
        troubles.append(Unexpected(error, visit.run.relative))
    # Where the whole source is gone, that is what befell the run.
    lost = _lost(tick) if troubles else []
    for trouble in [] if lost else troubles:
        tick.log.event(LOG_FAIL, visit.run.relative, trouble.message)
        visit.note_trouble(trouble)
    return RunReport(visit.record, visit.carried.files, visit.carried.bytes), lost or troubles


def _tell_gone(tick: Tick, gone: List[RunRecord]) -> None:
    for record in gone:
        if record.state not in (DONE, SKIPPED):
            relative = os.path.relpath(record.path, tick.source)
            tick.log.event(LOG_WARN, relative, "its directory is gone, and it was not done")


def _beat(
    tick: Tick,
    reports: List[RunReport],
    troubles: List[Trouble],
    unsent: List[str],
    rested: List[RunRecord],
) -> List[Trouble]:
    """Send the heartbeat, and hear in passing which of the runs at rest the cluster asks for."""
    visited = {report.record.path for report in reports}
    errors = at_large(troubles, visited, tick.source)
    try:
        heard = send_heartbeat(tick, exit_code_of(troubles), errors, unsent)
        lost = give_way(tick, heard.another)
        if heard.bell:
            wake_asked(tick, [each for each in rested if each.path not in lost])
    except Trouble as error:
        if type(error) in map(type, troubles) and not isinstance(error, RunFailed):
            return []  # the heartbeat met what had stopped the runs, and that has been told
        tick.log.event(LOG_FAIL, b"", f"heartbeat: {error.message}")
        return [error]
    for each in lost.values():
        tick.log.event(LOG_FAIL, each.run or b"", each.message)
    return list(lost.values())
