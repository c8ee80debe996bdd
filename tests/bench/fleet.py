"""A fleet as the monitor sees it: heartbeats, and runs that were verified long ago."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

DATE = "2026-03-02T09:30:12+00:00"


def make_fleet(root: Path, instruments: int, runs: int) -> None:
    """Write `runs` done and verified runs for each of `instruments`, and their heartbeats."""
    for number in range(instruments):
        base = root / f"instrument{number:03}"
        told = [_make_run(base, f"group{index % 10}/sample/run{index:04}") for index in range(runs)]
        (base / ".ontpush").mkdir()
        beat(base, told)


def beat(base: Path, told: list[dict[str, object]]) -> None:
    """Write the heartbeat of one instrument."""
    facts = {
        "instrument": base.name,
        "version": "0.1.0",
        "time": DATE,
        "exit_code": 0,
        "free_bytes": 10**12,
        "total_bytes": 2 * 10**12,
        "errors": [],
        "runs": told,
    }
    (base / ".ontpush" / f"{base.name}.json").write_text(json.dumps(facts))


def _make_run(base: Path, name: str) -> dict[str, object]:
    """Write the marks of a run, and give what its instrument says of it."""
    run = base / name
    (run / "pod5_pass").mkdir(parents=True)
    (run / "pod5_pass" / "a.pod5").touch()
    rollup = f"{hashlib.md5(name.encode()).hexdigest()}  pod5_pass/a.pod5\n".encode()
    vouched = hashlib.md5(rollup).hexdigest()
    (run / "md5sum").write_bytes(rollup)
    mark = f"{DATE}\nrun: {name}\nrollup: {vouched}\n"
    (run / "rsync.done").write_text(mark)
    (run / "rsync.verified").write_text(mark)
    return {
        "run": name,
        "state": "done",
        "files": 4000,
        "bytes": 10**11,
        "sent_files": 4000,
        "sent_bytes": 10**11,
        "error": None,
        "warning": None,
        "rollup": vouched,
        "done_at": 1772443812,
        "first_sent_at": 1772440000,
    }
