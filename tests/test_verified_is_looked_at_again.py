"""What was verified once is held against the disk again, and what is wrong by then is mended."""

from __future__ import annotations

from pathlib import Path

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program, mark, turn_a_bit
from tests.test_monitor import outputs, ticked

# -- what is said of a verified run -----------------------------------------------------------


def test_a_run_that_lacks_files_by_its_final_summary_is_told_with_that_warning_before_its_use(
    program: Program,
    monitor: Program,
    data: Path,
    run: SimulatedRun,
    gridion: Path,
    mailbox: Mailbox,
) -> None:
    monitor.settings["on_verified"] = ['echo "$ONTPUSH_WARNING"']
    run.write_all()
    next(run.path.glob("pod5_pass/*")).unlink()
    program.push(data, gridion)
    ticked(monitor)
    (mail,) = [each for each in mailbox.mails() if "] verified: " in each["Subject"]]
    text = content(mail, "plain")
    assert "it can be used" not in text
    assert "pod5 files" in text
    (printed,) = outputs(monitor)
    assert "pod5 files" in printed


def test_a_run_that_was_read_and_found_corrupt_is_not_counted_as_verified_now(
    program: Program, monitor: Program, data: Path, gridion: Path
) -> None:
    runs = [SimulatedRun(data, group=group, files=1) for group in "ab"]
    for run in runs:
        run.write_all()
    program.pushed(data, gridion)
    turn_a_bit(next((gridion / runs[0].path.relative_to(data)).glob("pod5_pass/*")))
    assert "1 run verified now, 1 run found bad" in monitor.run("monitor", "-v").out


def test_the_mark_tells_when_the_run_was_verified_and_what_was_read(
    monitor: Program, pushed: Path
) -> None:
    ticked(monitor)
    told = mark(pushed, "rsync.verified")
    assert told["date"][:10] <= told["verified"] <= told["date"]
    assert told["read"] == "unknown"
