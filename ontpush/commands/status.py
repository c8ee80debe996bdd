"""`status`: how every run stands, as of the last tick and of the one at work."""

import os
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from ontpush.cluster.memory import Memory
from ontpush.cluster.overview import every_run
from ontpush.engine.heartbeat import run_facts
from ontpush.engine.ledger import RunRecord, existing_ledger, faults_told
from ontpush.engine.lock import require_readable
from ontpush.engine.mark import date_text
from ontpush.engine.progress import InHand, in_hand
from ontpush.facts.names import for_json, from_json, human_size, human_time, quoted, shown
from ontpush.facts.words import SENDING, SKIP_MARK, SKIPPED
from ontpush.result import Result, table
from ontpush.settings import fleet_root, state_dir


def status(settings: Mapping[str, Any], *_: Callable[..., None]) -> Result:
    """Every run that the ledger knows, or on the cluster the fleet; reads no run."""
    if settings["root"]:
        return _fleet(settings)
    state = state_dir(settings)
    records: List[RunRecord] = []
    ledger = existing_ledger(state)
    if ledger:
        with ledger, faults_told(ledger):
            records = [_as_it_stands(record) for record in ledger.runs()]
    now = in_hand(state)
    runs = [_facts(record, now) for record in records]
    rows = [_row(record, facts) for record, facts in zip(records, runs)]
    headings = ["state", "files", "size", "sent", "run", "remarks"]
    lines = table(headings, rows) if rows else ["no tick has found a run yet"]
    return Result("status", lambda: {"runs": runs}, lambda: lines, [])


def _fleet(settings: Mapping[str, Any]) -> Result:
    pulled, state = [each["instrument"] for each in settings["pull"]], state_dir(settings)
    require_readable(state)
    runs = list(every_run(fleet_root(settings), pulled, Memory(state)))
    headings = ["instrument", "state", "here", "files", "size", "sent", "run", "remarks"]
    rows = [_fleet_row(facts) for facts in runs]
    lines = table(headings, rows) if rows else ["no instrument has told of a run yet"]
    return Result("status", lambda: {"runs": runs}, lambda: lines, [])


def _fleet_row(facts: Dict[str, Any]) -> List[str]:
    return [
        facts["instrument"],
        facts["state"],
        facts["verdict"] or "",
        "{:,}".format(facts["files"]),
        human_size(facts["bytes"]),
        _percent(facts),
        shown(from_json(facts["run"])),
        "; ".join(_remarks(facts)),
    ]


def _remarks(facts: Dict[str, Any]) -> Iterator[str]:
    """What is wrong, and what the instrument warns of: words that are not ours."""
    if facts["error"]:
        yield facts["error"]
    if facts["warning"]:
        yield quoted(facts["warning"])


def _percent(facts: Dict[str, Any]) -> str:
    percent = 100 * facts["sent_bytes"] // facts["bytes"] if facts["bytes"] else 0
    return f"{min(percent, 100)} %"


def _as_it_stands(record: RunRecord) -> RunRecord:
    """A run that somebody has just told us to skip is skipped, before the next tick says so."""
    skipped = os.path.lexists(os.path.join(record.path, SKIP_MARK))
    return record._replace(state=SKIPPED) if skipped else record


def _facts(record: RunRecord, now: Optional[InHand]) -> Dict[str, Any]:
    source = record.source or b"/"
    facts = dict(run_facts(record, source), source=for_json(source), done_at=None)
    if record.done_at:
        facts["done_at"] = date_text(record.done_at)
    if now and facts["run"] == now.run:
        facts.update(
            state=SENDING,
            doing=now.doing,
            rate=int(now.rate(time.time())),
            seconds_left=now.time_left(time.time()),
        )
        if now.doing == "sending":
            facts["sent_files"] += now.files
            facts["sent_bytes"] += now.bytes
    return facts


def _row(record: RunRecord, facts: Dict[str, Any]) -> List[str]:
    remarks = [text for text in (facts["error"], facts["warning"]) if text]
    if "rate" in facts:
        remarks.insert(0, "{} at {}/s".format(facts["doing"], human_size(facts["rate"])))
        if facts["seconds_left"] is not None:
            remarks[0] += ", {} left".format(human_time(facts["seconds_left"]))
    return [
        facts["state"],
        "{:,}".format(facts["files"]),
        human_size(facts["bytes"]),
        _percent(facts),
        # One that was hashed alone, by its name, is below no source.
        shown(os.path.relpath(record.path, record.source) if record.source else record.path),
        "; ".join(remarks),
    ]
