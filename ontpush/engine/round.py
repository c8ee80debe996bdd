"""One round over all runs below the source: a visit to each, and the heartbeat at the end."""

import os
from typing import Iterable, List, Mapping, NamedTuple, Tuple

from ontpush.engine.asked import wake_asked
from ontpush.engine.find import Found, find_runs
from ontpush.engine.gone import check_source, note_gone, note_gone_elsewhere
from ontpush.engine.heartbeat import send_heartbeat
from ontpush.engine.hidden import hidden_runs
from ontpush.engine.ledger import RunRecord
from ontpush.engine.look import Tokens
from ontpush.engine.tick import Tick
from ontpush.engine.visit import Visit
from ontpush.facts.names import below, shown
from ontpush.facts.trouble import RunFailed, SourceLost, Trouble, exit_code_of, run_failed
from ontpush.facts.words import DONE, LOG_FAIL, LOG_WARN, SKIPPED


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
    records = {record.path: record for record in tick.ledger.runs(tick.source)}
    tokens = tick.ledger.tokens()

    def complain(error: RunFailed) -> None:
        error.run = below(error.run or b"", tick.source)
        tick.log.event(LOG_FAIL, error.run, error.message)
        troubles.append(error)

    founds = _those_in_trouble_last(find_runs(tick.source, complain), records)
    troubles += _lost(tick)
    _tell_hidden(tick)
    for found in founds:
        record = records.pop(found.path, None) or _record_of(tick, found)
        report = RunReport(record, 0, 0)
        if exit_code_of(troubles) <= RunFailed.exit_code:
            report, trouble = _visit(tick, found, record, tokens.get(record.id, {}))
            troubles += trouble
        reports.append(report)
        if _has_rested(record, report.record):
            rested.append(report.record)
    if not _is_lost(troubles):
        troubles += _lost(tick)
    if not _is_lost(troubles):
        _tell_gone(tick, note_gone(tick.ledger, records.values(), sure=not troubles))
    note_gone_elsewhere(tick.ledger, tick.source)
    troubles += _beat(tick, reports, troubles, rested)
    return Round(reports, troubles)


def _tell_hidden(tick: Tick) -> None:
    for path in hidden_runs(tick.source):
        relative = below(path, tick.source)
        message = "a run where none is looked for: move it if it is to be sent"
        tick.log.event(LOG_WARN, relative, message)


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


def _those_in_trouble_last(
    founds: Iterable[Found], records: Mapping[bytes, RunRecord]
) -> List[Found]:
    """So that one that breaks off every tick keeps no other from its turn."""

    def was_in_trouble(found: Found) -> bool:
        record = records.get(found.path)
        return record is not None and record.error is not None

    return sorted(founds, key=was_in_trouble)


def _has_rested(before: RunRecord, after: RunRecord) -> bool:
    """Whether a run is done, and was not compared with what lies there in this very tick."""
    return after.state == DONE and after.done_at == before.done_at


def _record_of(tick: Tick, found: Found) -> RunRecord:
    with tick.ledger.writing():
        record = tick.ledger.run(found.path) or tick.ledger.add_run(found.path)
        if record.source != tick.source:
            # Below another source it goes to another place.
            record = record._replace(source=tick.source, destination=None)
        # Nobody knows what was done to it while it was out of sight.
        record = record._replace(gone_at=None, looked_at=0)
        tick.ledger.update_run(record)
    return record


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
    tick: Tick, reports: List[RunReport], troubles: List[Trouble], rested: List[RunRecord]
) -> List[Trouble]:
    """Send the heartbeat, and hear in passing which of the runs at rest the cluster asks for."""
    visited = {report.record.path for report in reports}
    at_large = [
        f"{shown(each.run)}: {each.message}" if each.run else each.message
        for each in troubles
        if os.path.join(tick.source, each.run or b"") not in visited
    ]
    try:
        if send_heartbeat(tick, exit_code_of(troubles), at_large):
            wake_asked(tick, rested)
    except Trouble as error:
        if type(error) in map(type, troubles) and not isinstance(error, RunFailed):
            return []  # the heartbeat met what had stopped the runs, and that has been told
        tick.log.event(LOG_FAIL, b"", f"heartbeat: {error.message}")
        return [error]
    return []
