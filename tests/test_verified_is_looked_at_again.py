"""What was verified once is held against the disk again, and what is wrong by then is mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program, is_verified, mark, md5, turn_a_bit
from tests.test_bell import Pair
from tests.test_monitor import HOUR, heartbeat, outputs, ticked
from tests.test_verdicts import kinds

DAY = 24 * HOUR

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
    next(run.path.glob("pod5_pass/*.pod5")).unlink()
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
    turn_a_bit(next((gridion / runs[0].path.relative_to(data)).glob("pod5_pass/*.pod5")))
    assert "1 run verified now, 1 run found bad" in monitor.run("monitor", "-v").out


def test_the_mark_tells_when_the_run_was_verified_and_what_was_read(
    monitor: Program, pushed: Path
) -> None:
    ticked(monitor)
    told = mark(pushed, "rsync.verified")
    assert told["date"][:10] <= told["verified"] <= told["date"]
    assert told["read"] == "unknown"


# -- marks and roll-up, every day -------------------------------------------------------------


@pytest.fixture
def local(program: Program, monitor: Program, run: SimulatedRun, gridion: Path) -> Pair:
    """A sequencer that pushes to a directory of this machine, and the monitor there."""
    monitor.settings.update(silent_minutes=10**6)
    pair = Pair(program, monitor, run, str(gridion), gridion)
    run.write_all()
    assert pair.push() == "done"
    assert pair.look() == "verified"
    return pair


def days_later(monitor: Program, days: float) -> None:
    monitor.put_clock_forward(days * DAY)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rot(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))


@pytest.mark.parametrize("harm", [empty, rot, Path.unlink])
@pytest.mark.parametrize("names", [("md5sum",), ("md5sum", "rsync.done")])
def test_marks_or_roll_up_of_a_verified_run_that_went_bad_are_found_within_a_day_and_mended(
    local: Pair, mailbox: Mailbox, names: tuple[str, ...], harm: Callable[[Path], None]
) -> None:
    mailbox.mails()
    for name in names:
        harm(local.there / name)
    assert local.push() == "done"
    assert local.monitor.run("monitor").is_silent
    days_later(local.monitor, 1)
    ran = local.monitor.run("monitor")
    assert ran.code == 1
    assert "no rsync.done here vouches for the md5sum beside it" in ran.err
    assert not (local.there / "rsync.verified").exists()
    assert kinds(mailbox) == ["verification failed"]
    assert len(local.requests()) == 2
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    assert kinds(mailbox) == ["mended, verified"]
    assert is_verified(local.there)


def test_a_verified_run_that_opened_again_is_not_shown_as_verified_after_the_next_tick(
    local: Pair,
) -> None:
    next(local.run.path.glob("final_summary*")).unlink()
    (local.run.path / "late.txt").write_bytes(b"late")
    assert local.push() == "waiting"
    assert local.monitor.run("monitor").is_silent
    assert shown(local.monitor) == {str(local.run.path.relative_to(local.run.root)): "unvouched"}


def test_a_verified_run_that_opened_again_and_went_elsewhere_is_shown_as_verified_no_more(
    local: Pair,
) -> None:
    next(local.run.path.glob("final_summary*")).unlink()
    (local.run.path / "late.txt").write_bytes(b"late")
    assert local.push() == "waiting"
    elsewhere = local.run.root / "elsewhere"
    local.run.path.parents[1].rename(elsewhere)
    assert local.push() == "waiting"
    local.monitor.run("monitor")
    verdicts = shown(local.monitor)
    assert verdicts.pop(str(local.run.path.relative_to(local.run.root))) == "unvouched"
    assert "verified" not in verdicts.values()


def test_a_verified_run_that_a_tick_at_work_opens_again_is_not_shown_as_verified_meanwhile(
    local: Pair,
) -> None:
    (name,) = shown(local.monitor)
    changed = next(local.run.path.glob("pod5_pass/*.pod5"))
    changed.unlink()
    changed.write_bytes(b"other")
    # The heartbeat, which would tell, is the last that a tick sends.
    vouched_for = md5(local.there / "md5sum")
    local.program.wrap_rsync(
        after=f"echo '{vouched_for}  {local.there}/md5sum' | md5sum -c || kill -9 $PPID"
    )
    assert local.push_or_die() != 0
    assert shown(local.monitor) == {name: "checking"}
    assert local.look() is None
    assert shown(local.monitor) == {name: "checking"}
    local.program.wrap_rsync()
    assert local.push() == "done"
    assert local.look() == "verified"
    assert shown(local.monitor) == {name: "verified"}


def test_what_went_bad_in_a_verified_run_that_is_gone_from_its_sequencer_is_told(
    local: Pair, mailbox: Mailbox
) -> None:
    shutil.rmtree(local.run.path)
    empty(local.there / "md5sum")
    facts = json.loads(heartbeat(local.place.parent).read_text())
    heartbeat(local.place.parent).write_text(json.dumps(dict(facts, runs=[])))
    mailbox.mails()
    days_later(local.monitor, 1)
    ran = local.monitor.run("monitor")
    assert ran.code == 1
    assert "the instrument does not have it any more" in ran.err
    assert not (local.there / "rsync.verified").exists()
    (mail,) = mailbox.mails()
    assert "verification failed" in mail["Subject"]
    assert "The instrument sends" not in content(mail, "plain")
    assert "cannot send it again" in content(mail, "plain")
    (status,) = local.monitor.run("status", "--json").json["data"]["runs"]
    assert status["verdict"] == "unvouched"
    assert local.requests() == []


def shown(monitor: Program) -> dict[str, str]:
    """The verdict of every run that `status` shows, by its name."""
    facts = monitor.run("status", "--json").json["data"]["runs"]
    return {each["run"]: each["verdict"] for each in facts}


def test_a_run_that_lies_in_another_now_or_has_runs_in_it_is_none_and_nobodys_trouble(
    local: Pair, mailbox: Mailbox
) -> None:
    inner, outer = local.run.path, local.run.path.parents[1]
    summary = outer / "final_summary_e.txt"
    summary.write_text("x=1\n")
    local.push()
    assert local.looks() == {outer.name: "verified"}
    assert shown(local.monitor) == {outer.name: "verified"}
    assert "rollup" not in mark(local.there, "rsync.verified")
    summary.unlink()
    (outer / "rsync.done").unlink()
    (outer / "md5sum").unlink()
    local.push()
    assert local.look() == "verified"
    assert list(shown(local.monitor)) == [str(inner.relative_to(local.run.root))]
    mailbox.mails()
    days_later(local.monitor, 1)
    assert local.monitor.run("monitor").is_silent
    assert mailbox.mails() == []
    assert is_verified(local.there)


def test_a_verified_run_whose_marks_are_only_written_anew_is_not_read_again(local: Pair) -> None:
    rollup = local.there / "md5sum"
    times, content = rollup.stat(), rollup.read_bytes()
    rollup.unlink()
    rollup.write_bytes(content)
    os.utime(rollup, ns=(times.st_atime_ns, times.st_mtime_ns))
    days_later(local.monitor, 1)
    assert local.look() is None
    assert is_verified(local.there)


def test_a_verified_mark_that_is_gone_alone_comes_back_with_the_day_it_was_verified(
    local: Pair, mailbox: Mailbox
) -> None:
    mailbox.mails()
    before = mark(local.there, "rsync.verified")
    (local.there / "rsync.verified").unlink()
    days_later(local.monitor, 1)
    assert local.monitor.run("monitor").is_silent
    after = mark(local.there, "rsync.verified")
    assert is_verified(local.there)
    assert (after["verified"], after["files"]) == (before["verified"], before["files"])
    assert after["date"] > before["date"]
    assert kinds(mailbox) == []


def test_a_verified_mark_does_not_come_back_beside_a_roll_up_that_nothing_vouches_for(
    local: Pair,
) -> None:
    (local.there / "rsync.verified").unlink()
    (local.there / "rsync.done").write_text("2026-03-02T09:30:12+00:00\nretracted: opened again\n")
    for day in range(1, 4):
        days_later(local.monitor, day)
        local.monitor.run("monitor")
        assert not (local.there / "rsync.verified").exists()


def test_a_memory_that_is_lost_takes_up_when_the_run_was_verified(local: Pair) -> None:
    before = mark(local.there, "rsync.verified")
    shutil.rmtree(local.monitor.state)
    days_later(local.monitor, 1)
    assert local.look() is None
    (local.there / "rsync.verified").unlink()
    days_later(local.monitor, 2)
    assert local.look() is None
    after = mark(local.there, "rsync.verified")
    assert (after["verified"], after["files"]) == (before["verified"], before["files"])


# -- what somebody at the cluster asks for -----------------------------------------------------


def test_a_retry_at_the_cluster_verifies_again_and_asks_for_what_is_bad(local: Pair) -> None:
    turn_a_bit(next(local.there.glob("pod5_pass/*.pod5")))
    assert local.monitor.run("retry", local.there).code == 0
    assert (local.there / "rsync.done").exists()
    assert local.look() == "corrupt"
    assert not (local.there / "rsync.verified").exists()
    assert len(local.requests()) == 2
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    local.check_mended()


def test_what_verify_finds_bad_at_the_cluster_is_taken_up_by_the_next_tick(local: Pair) -> None:
    assert local.monitor.run("verify", local.there).code == 0
    assert local.look() is None
    turn_a_bit(next(local.there.glob("pod5_pass/*.pod5")))
    assert local.monitor.run("verify", local.there).code == 1
    assert local.look() == "corrupt"
    assert not (local.there / "rsync.verified").exists()
    assert local.look() is None


def unknown(local: Pair) -> Path:
    """A second run that is done, and that the monitor has not heard of."""
    base = local.place.parent
    kept = heartbeat(base).read_text()
    other = SimulatedRun(local.run.root, group="other", files=1)
    other.write_all()
    local.program.pushed(local.run.root, local.destination)
    heartbeat(base).write_text(kept)
    return base / other.path.relative_to(local.run.root)


def test_a_retry_of_a_done_run_that_the_monitor_does_not_know_has_it_verified(local: Pair) -> None:
    other = unknown(local)
    assert local.look() is None
    assert local.monitor.run("retry", other).code == 0
    assert local.look() == "verified"
    assert is_verified(other)
    assert local.look() is None


def test_a_retry_of_a_run_that_nothing_vouches_for_is_refused_at_once(local: Pair) -> None:
    other = unknown(local)
    (other / "rsync.done").unlink()
    ran = local.monitor.run("retry", other)
    assert ran.code == 1
    assert "no rsync.done in it vouches for its md5sum" in ran.err
    assert not list((local.monitor.state / "wanted").glob("*"))


def test_a_request_for_a_run_that_went_away_meanwhile_is_told_and_dropped(local: Pair) -> None:
    other = unknown(local)
    assert local.monitor.run("retry", other).code == 0
    (other / "rsync.done").unlink()
    assert local.look() is None
    (told,) = (line for line in local.monitor.told("WARN") if "asked to be verified" in line)
    assert other.name in told
    assert not list((local.monitor.state / "wanted").glob("*"))
