"""A lock that something holds while nothing gets done is told, once a day; honest work is not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program, is_verified, wait_for
from tests.test_hooks import NOTES, send_runs
from tests.test_monitor import ticked

HOUR = 3600


@contextlib.contextmanager
def held(lock: Path) -> Iterator[int]:
    """Another process holds this lock, with which nobody works: its number."""
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    holder = subprocess.Popen(["flock", lock, "cat"], stdin=subprocess.PIPE)
    wait_for(lambda: not _is_free(lock), "the lock is not taken")
    try:
        yield holder.pid
    finally:
        holder.communicate()


def _is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def told(program: Program, *call: str | Path) -> str:
    """The one line with which a call exits 75."""
    ran = program.run(*map(str, call))
    assert (ran.code, ran.out) == (75, "")
    (line,) = ran.err.splitlines()
    return line


def test_a_lock_of_a_sequencer_that_is_held_too_long_is_told_with_who_holds_it_and_since_when(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    call = ("push", data, arrived)
    lock = program.state / "lock"
    with held(lock) as holder:
        for hours in (0, 47):
            program.put_clock_forward(hours * HOUR)
            assert "another tick holds" in told(program, *call)
        program.put_clock_forward(49 * HOUR)
        line = told(program, *call)
        since = time.strftime("%Y-%m-%dT%H:", time.gmtime(lock.stat().st_mtime))
        assert str(lock) in line
        assert f"process {holder}" in line
        assert since in line
        assert "end it" in line
        assert "another tick holds" in told(program, *call)  # once a day
        program.put_clock_forward(74 * HOUR)
        assert f"process {holder}" in told(program, *call)
    program.put_clock_forward(0)
    program.pushed(data, arrived)
    with held(lock) as holder:
        assert "another tick holds" in told(program, *call)
        program.put_clock_forward(49 * HOUR)
        assert f"process {holder}" in told(program, *call)


def test_a_lock_is_not_told_for_a_clock_that_was_put_forward_nor_for_an_old_time_alone(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    lock = program.state / "lock"
    with held(lock):
        assert "another tick holds" in told(program, "push", data, arrived)
        program.put_clock_wrong(100 * HOUR)
        assert "another tick holds" in told(program, "push", data, arrived)
        # As a tick of an older version leaves it, which does not show its steps.
        program.put_clock_wrong(0)
        then = time.time() - 100 * HOUR
        os.utime(lock, (then, then))
        assert "another tick holds" in told(program, "push", data, arrived)


def test_a_tick_that_gets_on_is_not_told_however_long_it_lasts(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    call = ("push", data, arrived)
    hold, count = program.home / "hold", program.home / "count"
    program.wrap_rsync(
        before=f"echo >>{count}; case $(wc -l <{count}) in 1|2)"
        f" touch {hold}; while [ -e {hold} ]; do sleep .01; done;; esac"
    )
    with program.pushing(data, arrived) as first:
        wait_for(hold.exists, "no transfer begins")
        assert "another tick holds" in told(program, *call)
        hold.unlink()
        wait_for(hold.exists, "no second transfer begins")
        program.put_clock_forward(49 * HOUR)
        assert "another tick holds" in told(program, *call)
        hold.unlink()
        assert first.wait() == 0


def test_a_lock_of_a_pull_that_is_held_too_long_is_told(
    program: Program, data: Path, root: Path
) -> None:
    served = [{"instrument": name, "source": str(data)} for name in ("one", "two")]
    program.settings.update(root=str(root), pull=served)
    with held(program.state / "pull-one.json.lock") as holder:
        assert f"process {holder}" not in program.run("pull").err
        program.put_clock_forward(49 * HOUR)
        ran = program.run("pull")
        assert ran.code == 75
        assert f"process {holder}" in ran.err
        assert f"process {holder}" not in program.run("pull").err


def test_a_look_that_hangs_is_told(monitor: Program, pushed: Path) -> None:
    with held(monitor.state / "monitor.lock") as holder:
        for hours in (0, 5):
            monitor.put_clock_forward(hours * HOUR)
            assert "another tick holds" in told(monitor, "monitor")
        monitor.put_clock_forward(7 * HOUR)
        assert f"process {holder}" in told(monitor, "monitor")


@pytest.mark.parametrize("name", ["work.lock", "hooks.lock"])
def test_a_lock_of_the_monitor_that_is_held_too_long_is_told_on_standard_error_and_by_mail(
    monitor: Program, pushed: Path, mailbox: Mailbox, name: str
) -> None:
    monitor.settings.update(on_verified=["echo started"], silent_minutes=10**6)
    with held(monitor.state / name) as holder:
        monitor.run("monitor")
        monitor.put_clock_forward(26 * HOUR)
        line = told(monitor, "monitor")
        assert f"process {holder}" in line
        assert name in line
        mails = [content(mail, "plain") for mail in mailbox.mails()]
        assert [text for text in mails if f"process {holder}" in text]
        assert monitor.run("monitor").is_silent
    ticked(monitor)
    assert is_verified(pushed)
    assert any("back to normal" in subject for subject in mailbox.subjects())


def test_a_tick_that_has_verified_one_run_after_the_other_is_not_told(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    send_runs(program, data, gridion, "a", "b")
    lock = monitor.state / "work.lock"
    # While it reads the first run, so much time goes by; it hangs in the second.
    ages = (
        f"    if b'a' in words[-2].split(b'/'):\n        os.utime({str(lock)!r}, (1, 1))\nelse:\n"
    )
    notes = NOTES.format(slow=b"b", limit=600).replace("else:\n", ages, 1)
    (monitor.modules / "sitecustomize.py").write_text(notes)
    with monitor.started("monitor", *monitor.configured()):
        order = monitor.home / "order"
        wait_for(lambda: order.exists() and "b" in order.read_text(), "b is not read")
        assert lock.stat().st_mtime > 1
        ticked(monitor)
        monitor.kill_all()
