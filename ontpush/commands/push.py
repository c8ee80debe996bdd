"""`push`: one tick over all runs below the source, from finding them to marking them done."""

import contextlib
import os
import shutil
import tempfile
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from ontpush.engine.claims import refuse_contested
from ontpush.engine.find import Found, left_out
from ontpush.engine.gone import require_own_state
from ontpush.engine.hashing import Hashing
from ontpush.engine.heartbeat import run_facts
from ontpush.engine.ledger import Ledger, damage_set_aside, open_ledger, readable_file
from ontpush.engine.lock import only_one
from ontpush.engine.log import EventLog
from ontpush.engine.look import Rules, exclusion
from ontpush.engine.mark import md5_of_rollup, read_mark, vouches
from ontpush.engine.progress import InHand, Progress
from ontpush.engine.round import Round, RunReport, go_round, pass_over, search
from ontpush.engine.send import temporary_trouble
from ontpush.engine.settling import this_moment
from ontpush.engine.stock import take_stock
from ontpush.engine.tick import Tick
from ontpush.engine.transport import Destination, require_rsync
from ontpush.facts import words
from ontpush.facts.names import below, from_argument, human_size, plural, shown
from ontpush.facts.trouble import LedgerDamaged, RunFailed, Trouble, WrongCall, run_failed
from ontpush.result import Result, table
from ontpush.settings import courteous, existing_source, patience, state_dir, transport

Show = Callable[[Optional[InHand]], None]
Listen = Callable[[str], None]


def push(settings: Mapping[str, Any], show: Show, listen: Listen) -> Result:
    """One tick. Trouble of single runs is in the Result; what keeps it from starting is raised."""
    source, state = existing_source(settings), state_dir(settings)
    way = transport(settings)
    _keep_apart(source, way.destination)
    log = EventLog(settings["log"], settings["verbose"], listen)
    courteous(settings, log)
    require_rsync()

    def tick_with(ledger: Ledger) -> Tick:
        return Tick(
            source=source,
            transport=way,
            ledger=ledger,
            outbox=os.path.join(state, b"outbox"),
            rules=Rules(
                settings["settle"],
                exclusion(settings["exclude"]),
                can_tell=ledger.tell_time(this_moment()) >= settings["settle"],
                asks_disk=not settings["dry_run"],
            ),
            hashing=Hashing(settings["jobs"], bool(settings["sidecars"])),
            stall_seconds=settings["stall_hours"] * 3600,
            instrument=settings["instrument"],
            log=EventLog(None, settings["verbose"], listen) if settings["dry_run"] else log,
            progress=Progress(state, show),
            claimed=set(),
        )

    if settings["dry_run"]:
        with _copy_of(state) as copy:
            return _again_if_damaged(lambda: _dry_tick(copy, state, tick_with), lambda _: None)
    with only_one(state, patience=patience(settings)):
        return _again_if_damaged(
            lambda: _tick(state, tick_with),
            lambda error: log.event(words.LOG_WARN, b"", error.message),
        )


def _keep_apart(source: bytes, destination: Destination) -> None:
    """What arrives below the source would be taken for runs to send."""
    if destination.host is None:
        there = os.path.realpath(from_argument(destination.path))
        if (there + b"/").startswith(source.rstrip(b"/") + b"/"):
            raise WrongCall(f"{destination.text} lies in the source: give another place")


def _again_if_damaged(tick: Callable[[], Result], tell: Callable[[Trouble], None]) -> Result:
    """A tick, begun anew if its ledger is damaged: then that has been set aside."""
    try:
        return tick()
    except LedgerDamaged as error:
        tell(error)
        return tick()


def _tick(state: bytes, tick_with: Callable[[Ledger], Tick]) -> Result:
    ledger = open_ledger(state)
    with ledger, damage_set_aside(ledger):
        require_own_state(ledger, state)
        tick = tick_with(ledger)
        try:
            return _result(tick, go_round(tick))
        finally:
            tick.progress.end()


def _result(tick: Tick, outcome: Round) -> Result:
    troubles = outcome.troubles + ([tick.log.trouble] if tick.log.trouble else [])
    return Result(
        "push",
        lambda: {"runs": [_facts(tick, report) for report in outcome.runs]},
        lambda: _lines(tick, outcome.runs),
        troubles,
    )


def _facts(tick: Tick, report: RunReport) -> Dict[str, Any]:
    facts = run_facts(report.record, tick.source)
    facts.update(sent_files=report.sent_files, sent_bytes=report.sent_bytes)
    return facts


def _lines(tick: Tick, reports: List[RunReport]) -> List[str]:
    rows = [_row(tick, report) for report in reports]
    count = "{} below {}".format(plural(len(rows), "run"), shown(tick.source))
    return [*(table(["state", "files", "size", "sent now", "run"], rows) if rows else []), count]


def _row(tick: Tick, report: RunReport) -> List[str]:
    record = report.record
    return [
        record.state,
        f"{record.files:,}",
        human_size(record.bytes),
        human_size(report.sent_bytes) if report.sent_files else "",
        shown(below(record.path, tick.source)),
    ]


# -- what a tick would do ---------------------------------------------------------------


@contextlib.contextmanager
def _copy_of(state: bytes) -> Iterator[bytes]:
    """A state directory with a copy of the ledger, to try things on. Trouble."""
    path = readable_file(state)
    try:
        scratch = tempfile.TemporaryDirectory()
    except OSError as error:
        raise temporary_trouble(error) from error
    with scratch as name:
        copy = os.fsencode(name)
        if path is not None:
            try:
                shutil.copy(path, copy)
            except OSError as error:
                raise temporary_trouble(error) from error
        yield copy


def _dry_tick(copy: bytes, state: bytes, tick_with: Callable[[Ledger], Tick]) -> Result:
    ledger = open_ledger(copy)
    with ledger, damage_set_aside(ledger):
        require_own_state(ledger, state)
        tick = tick_with(ledger)
        return _result(tick, _preview(tick))


def _preview(tick: Tick) -> Round:
    """How each run stands now and how much a tick would send, changing nothing anywhere."""
    troubles: List[Trouble] = []

    def complain(error: RunFailed) -> None:
        error.run = below(error.run or b"", tick.source)
        troubles.append(error)

    reports: List[RunReport] = []

    def no_run(found: Found) -> None:
        for folder in left_out(found):
            pass_over(tick, folder, words.LEFT_OUT)

    for found in search(tick, complain, no_run):
        try:
            reports.append(_preview_run(tick, found))
        except RunFailed as error:
            troubles.append(error)
        except OSError as error:
            if os.path.isdir(found.path):
                troubles.append(run_failed(error, below(found.path, tick.source)))
    return Round(reports, troubles)


def _preview_run(tick: Tick, found: Found) -> RunReport:
    ledger = tick.ledger
    record = ledger.run(found.path)
    if record is None:
        raise LedgerDamaged(f"{shown(ledger.path)}: lost a run just written")
    if words.SKIP_MARK in found.names:
        return RunReport(record._replace(state=words.SKIPPED), 0, 0)
    destination = tick.transport.destination.text
    refuse_contested(tick, record)
    if record.destination != destination:
        mark, relative = read_mark(found.path), below(found.path, tick.source)
        rollup = md5_of_rollup(found.path)
        if vouches(mark, rollup, relative, tick.instrument, destination):
            return RunReport(record._replace(state=words.DONE), 0, 0)
        with ledger.writing():
            ledger.forget_deliveries(record.id)
    _, record = take_stock(
        ledger, tick.rules, record, found, ledger.tokens_of(record.id), full=True
    )
    totals = ledger.totals(record.id)
    return RunReport(record, totals.files - totals.sent_files, totals.bytes - totals.sent_bytes)
