"""`ontpush monitor`: nothing is believed until it is checked, and somebody is told."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program, Ran, is_verified, mark, md5, turn_a_bit, wait_for

HOUR = 3600


def ticked(monitor: Program) -> dict[str, Any]:
    """A tick in which nothing is wrong that was not told before: its data."""
    ran = monitor.run("monitor", "--json")
    assert (ran.code, ran.err) == (0, ""), ran
    data: dict[str, Any] = ran.json["data"]
    return data


def heartbeat(directory: Path) -> Path:
    """The one heartbeat below an instrument's directory."""
    (path,) = (directory / ".ontpush").glob("*.json")
    return path


def beat(directory: Path, *runs: object, **more: object) -> None:
    """Let an instrument say what it likes."""
    path = directory / ".ontpush" / "evil.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"instrument": "gridion", "runs": runs, **more}))


def done_run(name: str, rollup: str = "0" * 32) -> dict[str, object]:
    """What a heartbeat says of a done run."""
    return {"run": name, "state": "done", "rollup": rollup, "done_at": 1, "files": 1, "bytes": 1}


# -- verifying ----------------------------------------------------------------------------


@pytest.mark.newest
def test_a_done_run_is_verified_marked_and_told(
    monitor: Program, pushed: Path, run: SimulatedRun, mailbox: Mailbox
) -> None:
    (facts,) = ticked(monitor)["runs"]
    assert facts["verdict"] == "verified"
    assert is_verified(pushed)
    assert mark(pushed, "rsync.verified")["instrument"] == "gridion"
    (mail,) = mailbox.mails()
    assert mail["Subject"] == f"[ontpush] verified: {pushed.name} (gridion)"
    assert mail["To"] == "lab@example.org"
    for kind in ("plain", "html"):
        text = content(mail, kind)
        for word in (run.sample, run.flow_cell, "gridion", "To do", str(pushed), "files", "size"):
            assert word in text
    assert "<table>" in content(mail, "html")
    assert (
        f"MARK DONE gridion/{run.path.relative_to(run.root)} verified"
        in monitor.log_file.read_text()
    )


def test_a_tick_with_nothing_new_says_and_sends_nothing(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mailbox.mails()
    before = (pushed / "rsync.verified").stat()
    assert monitor.run("monitor").is_silent
    assert mailbox.mails() == []
    assert (pushed / "rsync.verified").stat() == before


KNOWS_NO_HOLES = """
import errno, os
_lseek = os.lseek
def _no_holes(descriptor, position, whence):
    if whence in {whences}:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return _lseek(descriptor, position, whence)
os.lseek = _no_holes
"""


@pytest.mark.parametrize("whences", ["(os.SEEK_DATA, os.SEEK_HOLE)", "(os.SEEK_HOLE,)"])
def test_a_run_on_a_disk_that_knows_of_no_holes_is_verified(
    monitor: Program, pushed: Path, whences: str
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(KNOWS_NO_HOLES.format(whences=whences))
    ticked(monitor)
    assert is_verified(pushed)


def test_a_turned_bit_is_named_and_when_mended_told(
    monitor: Program, pushed: Path, program: Program, run: SimulatedRun, mailbox: Mailbox
) -> None:
    victim = next(pushed.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    ran = monitor.run("monitor", "--json")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert f"md5: pod5_pass/{victim.name}" in ran.err
    assert not (pushed / "rsync.verified").exists()
    (mail,) = mailbox.mails()
    assert mail["Subject"] == f"[ontpush] verification failed: {pushed.name} (gridion)"
    assert f"md5: pod5_pass/{victim.name}" in content(mail, "plain")
    assert f"md5: pod5_pass/{victim.name}" in content(mail, "html")
    ticked(monitor)
    assert mailbox.mails() == []
    assert program.run("retry", run.path).code == 0
    program.pushed(run.root, pushed.parents[2])
    (facts,) = ticked(monitor)["runs"]
    assert facts["verdict"] == "verified"
    assert is_verified(pushed)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == f"[ontpush] mended, verified: {pushed.name} (gridion)"
    ticked(monitor)
    assert mailbox.mails() == []


def test_what_somebody_mends_on_the_cluster_is_found_when_it_is_due(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    victim = next(pushed.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    assert monitor.run("monitor").code == 1
    turn_a_bit(victim)
    monitor.put_clock_forward(25 * HOUR)
    monitor.settings["silent_minutes"] = 10**6
    ticked(monitor)
    assert is_verified(pushed)
    assert any("mended" in subject for subject in mailbox.subjects())


def test_minknows_own_sums_are_asked_too(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    run = SimulatedRun(data, files=1, hashes=True)
    run.write_all()
    victim = next(run.path.glob("fastq_pass/*.gz"))
    turn_a_bit(victim)
    program.pushed(data, gridion)
    ran = monitor.run("monitor")
    assert f"sha256: fastq_pass/{victim.name}" in ran.err
    assert not (gridion / run.path.relative_to(data) / "rsync.verified").exists()


def test_a_run_that_opens_again_is_verified_again(
    monitor: Program, pushed: Path, program: Program, run: SimulatedRun, mailbox: Mailbox
) -> None:
    ticked(monitor)
    first = mark(pushed, "rsync.verified")["rollup"]
    run.late_file("bam_pass/late.bam")
    program.pushed(run.root, pushed.parents[2])
    assert not is_verified(pushed)
    ticked(monitor)
    assert is_verified(pushed)
    assert mark(pushed, "rsync.verified")["rollup"] != first
    assert len(mailbox.mails()) == 2


def test_a_run_that_is_marked_once_more_as_it_was_is_read_again_and_not_told_again(
    monitor: Program, pushed: Path, program: Program, run: SimulatedRun, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["echo started"]
    ticked(monitor)
    assert len(mailbox.mails()) == 1
    marked = mark(pushed)["date"]
    while mark(pushed)["date"] == marked:  # a mark tells its second
        assert program.run("retry", run.path).code == 0
        program.pushed(run.root, pushed.parents[2])
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    assert monitor.run("monitor").code == 1
    assert [each.split(":")[0] for each in mailbox.subjects()] == ["verification failed"]
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    marked = mark(pushed)["date"]
    while mark(pushed)["date"] == marked:
        assert program.run("retry", run.path).code == 0
        program.pushed(run.root, pushed.parents[2])
    ticked(monitor)
    assert [each.split(":")[0] for each in mailbox.subjects()] == ["mended, verified"]
    assert outputs(monitor) == ["started\n"]


def test_a_roll_up_that_no_mark_vouches_for_is_not_verified(monitor: Program, pushed: Path) -> None:
    (pushed / "md5sum").write_bytes((pushed / "md5sum").read_bytes().splitlines(True)[0])
    assert ticked(monitor)["runs"] == []
    assert not (pushed / "rsync.verified").exists()


def test_a_run_that_was_renamed_with_its_mark_is_not_verified(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    pushed.rename(pushed.with_name("other"))
    heartbeat(gridion).unlink()
    beat(gridion, done_run(os.path.relpath(pushed.with_name("other"), gridion)))
    ran = monitor.run("monitor", "--json")
    assert ran.json["data"]["runs"] == []
    assert "gridion" in ran.err
    assert "no rsync.done here vouches" in ran.err


def test_a_run_that_no_heartbeat_lists_is_found_in_the_tree(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    path = heartbeat(gridion)
    path.write_text(json.dumps({**json.loads(path.read_text()), "runs": []}))
    ticked(monitor)
    assert is_verified(pushed)


def test_what_was_verified_before_the_memory_was_lost_is_not_told_again(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mailbox.mails()
    for path in monitor.state.glob("instruments/*"):
        path.unlink()
    assert ticked(monitor)["runs"] == []
    assert mailbox.mails() == []


def test_where_the_memory_was_damaged_every_run_is_read_again_and_no_mark_believed(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    for path in monitor.state.glob("instruments/*"):
        path.write_text('{"half a fi')
    victim = next(pushed.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    assert f"md5: pod5_pass/{victim.name}" in monitor.run("monitor").err
    assert not (pushed / "rsync.verified").exists()


def test_a_second_tick_tells_while_the_first_verifies(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    beat(gridion.parent / "mk1c", {"run": "a/b", "state": "failed", "error": "disk on fire"})
    monitor.state.mkdir()
    with (monitor.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticked(monitor)
        assert not (pushed / "rsync.verified").exists()
        assert mailbox.subjects() == ["failed: b (mk1c)"]
    ticked(monitor)
    assert is_verified(pushed)


def test_a_run_of_one_instrument_that_takes_long_to_read_holds_up_no_other_instrument(
    monitor: Program, program: Program, pushed: Path, root: Path, gridion: Path, data: Path
) -> None:
    second = SimulatedRun(data, group="second", files=1)
    second.write_all()
    program.pushed(data, gridion)
    place = pushed.relative_to(gridion)
    shutil.copytree(pushed, root / "evil" / place)
    shutil.copytree(gridion / ".ontpush", root / "evil" / ".ontpush")
    shutil.rmtree(root / "evil" / ".ontpush" / "owners")
    waits = WAITS.format(name=b"/evil/")
    (monitor.modules / "sitecustomize.py").write_text(waits)
    (monitor.home / "hold").touch()
    runs = [pushed, gridion / second.path.relative_to(data)]
    with monitor.started("monitor", *monitor.configured()) as process:
        wait_for(lambda: all((run / "rsync.verified").exists() for run in runs), "they wait for it")
        assert process.poll() is None
        assert not (root / "evil" / place / "rsync.verified").exists()
        (monitor.home / "hold").unlink()
        process.communicate()
    assert is_verified(root / "evil" / place)


def test_a_run_that_comes_while_another_instrument_is_read_does_not_wait_for_it(
    monitor: Program, pushed: Path, root: Path, gridion: Path
) -> None:
    place = pushed.relative_to(gridion)
    shutil.copytree(gridion, root / "evil")
    shutil.rmtree(root / "evil" / ".ontpush" / "owners")
    gridion.rename(root.with_name("later"))
    (monitor.modules / "sitecustomize.py").write_text(WAITS.format(name=b"/evil/"))
    (monitor.home / "hold").touch()
    with monitor.started("monitor", *monitor.configured()) as process:
        wait_for(lambda: list(monitor.state.glob("checks/*.new")), "no verification begins")
        root.with_name("later").rename(gridion)
        wait_for((pushed / "rsync.verified").exists, "it waits for the other")
        assert process.poll() is None
        (monitor.home / "hold").unlink()
        process.communicate()
    assert is_verified(root / "evil" / place)


WAITS = """\
import os, time
with open("/proc/self/cmdline", "rb") as file:
    words = file.read()
hold = os.environ["ONTPUSH_TEST"] + "/hold"
if b"verify" not in words:
    import ontpush.commands.monitor as monitor
    monitor._LOOK_AGAIN_SECONDS = 0.5
while b"verify" in words and {name} in words and os.path.exists(hold):
    time.sleep(0.05)
"""


def test_a_tick_that_is_killed_while_it_verifies_is_made_up_for(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    victim = next(pushed.glob("pod5_pass/*.pod5"))
    with victim.open("r+b") as file:
        file.truncate(3 << 30)
    with monitor.started("monitor", *monitor.configured()) as process:
        while not list(monitor.state.glob("checks/*.new")):
            assert process.poll() is None
        monitor.kill_all()
    victim.write_bytes(b"")
    assert monitor.run("monitor").code == 1
    assert [subject.split(":")[0] for subject in mailbox.subjects()] == ["verification failed"]


# -- being told ---------------------------------------------------------------------------


def test_a_silent_instrument_is_told_once_and_when_it_is_back(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    program.pushed(data, gridion)
    ticked(monitor)
    assert mailbox.subjects() == []
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert mailbox.subjects() == ["silent: gridion"]
    ticked(monitor)
    assert mailbox.subjects() == []
    monitor.put_clock_forward(27 * HOUR)
    ticked(monitor)
    assert mailbox.subjects() == ["still silent: gridion"]
    monitor.put_clock_forward(0)
    program.pushed(data, gridion)
    ticked(monitor)
    assert mailbox.subjects() == ["back: gridion"]
    ticked(monitor)
    assert mailbox.subjects() == []


def test_the_clock_of_the_instrument_does_not_matter(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    program.put_clock_forward(-1000 * HOUR)
    program.pushed(data, gridion)
    os.utime(heartbeat(gridion), (1000, 1000))
    ticked(monitor)
    assert mailbox.subjects() == []


def test_an_instrument_that_still_sends_a_large_run_is_not_silent(
    monitor: Program, program: Program, run: SimulatedRun, gridion: Path, mailbox: Mailbox
) -> None:
    for _ in run.reads():
        pass
    program.pushed(run.root, gridion)
    monitor.settings["silent_minutes"] = 0.05
    there = gridion / run.path.relative_to(run.root) / "pod5_pass"
    path = heartbeat(gridion)
    monitor.put_clock_forward(10)
    ticked(monitor)
    assert mailbox.subjects() == ["silent: gridion"]
    monitor.put_clock_forward(0)
    while path.stat().st_ctime > there.stat().st_ctime - 4:
        (there / ".arriving.pod5.x1y2z3").touch()
        (there / ".arriving.pod5.x1y2z3").unlink()
    ticked(monitor)
    assert mailbox.subjects() == ["back: gridion"]


@pytest.mark.parametrize(
    ("facts", "subject", "word"),
    [
        ({"state": "failed", "error": "reads.pod5: denied"}, "failed: c (gridion)", "denied"),
        ({"state": "stalled"}, "stalled: c (gridion)", "skip"),
        ({"state": "done", "warning": "3 files short"}, "counts differ: c (gridion)", "3 files"),
    ],
)
def test_trouble_of_a_run_is_told_once_when_it_changes_and_when_it_ends(
    monitor: Program,
    gridion: Path,
    mailbox: Mailbox,
    facts: dict[str, object],
    subject: str,
    word: str,
) -> None:
    beat(gridion, {"run": "a/b/c", **facts})
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == f"[ontpush] {subject}"
    assert word in content(mail, "plain")
    ticked(monitor)
    assert mailbox.subjects() == []
    if "stalled" not in subject:
        changed = {key: "other" if key in ("error", "warning") else facts[key] for key in facts}
        beat(gridion, {"run": "a/b/c", **changed})
        ticked(monitor)
        assert mailbox.subjects() == [f"changed: {subject}"]
    beat(gridion, {"run": "a/b/c", "state": "sending"})
    ticked(monitor)
    assert mailbox.subjects() == [f"back to normal, was {subject}"]


def test_a_disk_that_fills_is_told_at_both_ends(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    beat(gridion, free_bytes=5, total_bytes=100)
    monitor.settings["disk_percent"] = 94
    ticked(monitor)
    assert "disk filling: gridion" in mailbox.subjects()
    beat(gridion, free_bytes=100, total_bytes=100)
    ticked(monitor)
    assert "back to normal, was disk filling: gridion" in mailbox.subjects()
    monitor.settings["disk_percent"] = 0
    ticked(monitor)
    assert "disk filling: the cluster" in mailbox.subjects()


def test_only_the_kinds_asked_for_are_told(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    monitor.settings["notify"] = [{"url": mailbox.url, "kinds": ["failed", "stalled"]}]
    beat(gridion.parent / "mk1c", {"run": "a/b", "state": "stalled"})
    ticked(monitor)
    assert is_verified(pushed)
    assert mailbox.subjects() == ["stalled: b (mk1c)"]


def test_many_messages_of_one_kind_come_in_one_mail(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    beat(gridion, *({"run": f"a/run{n}", "state": "stalled"} for n in range(30)))
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == "[ontpush] stalled: 30 messages (gridion)"
    assert content(mail, "plain").count("run29 (gridion)") == 1
    assert content(mail, "html").count("run29 (gridion)") == 1


def test_a_mail_server_that_is_down_holds_nothing_up_and_is_tried_again(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    mailbox.stop()
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "notify[0]" in ran.err
    assert "Connection refused" in ran.err
    assert is_verified(pushed)
    assert monitor.run("monitor").is_silent
    assert len(monitor.told("WARN")) == 2
    mailbox.start()
    ticked(monitor)
    assert mailbox.subjects() == [f"verified: {pushed.name} (gridion)"]
    ticked(monitor)
    assert mailbox.subjects() == []


def test_a_mail_server_that_says_nothing_is_given_up(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"smtp://127.0.0.1:{mute.getsockname()[1]}/?to=a@b"
        monitor.settings["notify"] = [{"url": url}, {"url": mailbox.url}]
        ran = monitor.run("monitor")
    assert ran.code == 1
    assert "timed out" in ran.err
    assert mailbox.subjects() == [f"verified: {pushed.name} (gridion)"]


def test_one_notifier_that_is_down_keeps_no_other_from_telling(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    monitor.settings["notify"] = [{"url": "smtp://127.0.0.1:1/?to=a@b"}, {"url": mailbox.url}]
    assert monitor.run("monitor").code == 1
    assert mailbox.subjects() == [f"verified: {pushed.name} (gridion)"]
    assert monitor.run("monitor").is_silent
    assert mailbox.subjects() == []


def test_odd_names_arrive_readable(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    run = SimulatedRun(data, group="zwei\nZeilen ü", sample="<b>fett</b>", files=1)
    run.write_all()
    program.pushed(data, gridion)
    ticked(monitor)
    assert is_verified(gridion / run.path.relative_to(data))
    (mail,) = mailbox.mails()
    assert "zwei\\nZeilen ü" in content(mail, "plain")
    assert "<b>" not in content(mail, "html")


def test_an_instrument_that_is_taken_away_is_not_called_back(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    program.pushed(data, gridion)
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert mailbox.subjects() == ["silent: gridion"]
    heartbeat(gridion).unlink()
    ticked(monitor)
    assert mailbox.subjects() == []


def empty_mount(base: Path, elsewhere: Path) -> None:
    base.rename(elsewhere)
    base.mkdir()


def dangling_link(base: Path, elsewhere: Path) -> None:
    base.rename(elsewhere)
    base.symlink_to(elsewhere.with_name("gone"))


def nothing_left(base: Path, elsewhere: Path) -> None:
    base.rename(elsewhere)


@pytest.mark.parametrize(
    ("lose", "word"),
    [
        (empty_mount, "is empty"),
        (dangling_link, "is a link that leads nowhere"),
        (nothing_left, "is not there"),
    ],
)
def test_an_instrument_whose_directory_is_lost_is_silent_and_what_was_told_stands(
    monitor: Program,
    root: Path,
    gridion: Path,
    mailbox: Mailbox,
    lose: Callable[[Path, Path], None],
    word: str,
) -> None:
    beat(root / "mk1c")
    stalled = {"run": "a/b", "state": "stalled"}
    beat(gridion, stalled)
    ticked(monitor)
    assert mailbox.subjects() == ["stalled: b (gridion)"]
    elsewhere = root.with_name("elsewhere")
    lose(gridion, elsewhere)
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == "[ontpush] silent: gridion"
    assert f"{gridion} {word}" in content(mail, "plain")
    assert f"remove {monitor.state}/instruments/gridion.json" in content(mail, "plain")
    ticked(monitor)
    assert mailbox.subjects() == []
    if gridion.is_symlink():
        gridion.unlink()
    elsewhere.rename(gridion)
    ticked(monitor)
    assert mailbox.subjects() == ["back: gridion"]


def test_a_lost_instrument_whose_memory_was_removed_is_forgotten_without_a_word(
    monitor: Program, root: Path, gridion: Path, mailbox: Mailbox
) -> None:
    beat(root / "mk1c")
    beat(root / ("\u00e9" * 80))
    beat(gridion, {"run": "a/b", "state": "stalled"})
    ticked(monitor)
    shutil.rmtree(gridion)
    shutil.rmtree(root / ("\u00e9" * 80))
    ticked(monitor)
    told = mailbox.subjects()
    assert "silent: gridion" in told
    assert len(told) == 3
    (monitor.state / "instruments" / "gridion.json").unlink()
    ticked(monitor)
    assert mailbox.subjects() == []
    assert not (monitor.state / "instruments" / "gridion.json").exists()


def test_a_pulled_instrument_whose_directory_is_lost_is_silent_as_such(
    monitor: Program, pushed: Path, root: Path, gridion: Path, mailbox: Mailbox
) -> None:
    monitor.settings["pull"] = [{"instrument": "gridion", "source": "nobody@localhost:."}]
    beat(root / "mk1c")
    ticked(monitor)
    mailbox.mails()
    empty_mount(gridion, root.with_name("elsewhere"))
    monitor.put_clock_forward(25 * HOUR)  # its tree would be searched
    monitor.settings["silent_minutes"] = 10**6
    ticked(monitor)
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == "[ontpush] silent: gridion"
    assert f"{gridion} is empty" in content(mail, "plain")


# -- what follows ---------------------------------------------------------------------------


def outputs(monitor: Program) -> list[str]:
    """What each hook printed."""
    return sorted(path.read_text() for path in monitor.state.glob("hooks/*.out"))


def test_hooks_are_started_once_with_the_facts_of_the_run(
    monitor: Program, pushed: Path, run: SimulatedRun, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["env; echo trouble >&2", "cat $ONTPUSH_RUN/rsync.verified"]
    ticked(monitor)
    mark_text, environment = outputs(monitor)
    assert mark_text == (pushed / "rsync.verified").read_text()
    lines = environment.splitlines()
    assert "trouble" in lines
    for wanted in (
        f"ONTPUSH_RUN={pushed}",
        f"ONTPUSH_RUN_NAME={run.path.relative_to(run.root)}",
        "ONTPUSH_INSTRUMENT=gridion",
        f"ONTPUSH_SAMPLE={run.sample}",
        f"ONTPUSH_FLOW_CELL={run.flow_cell}",
        f"ONTPUSH_ROLLUP={md5(pushed / 'md5sum')}",
    ):
        assert wanted in lines
    ticked(monitor)
    assert outputs(monitor) == [mark_text, environment]
    assert mailbox.subjects() == [f"verified: {pushed.name} (gridion)"]


def test_a_run_that_opens_again_starts_its_hooks_again(
    monitor: Program, pushed: Path, program: Program, run: SimulatedRun
) -> None:
    monitor.settings["on_verified"] = ["echo $ONTPUSH_ROLLUP"]
    ticked(monitor)
    run.late_file("late")
    program.pushed(run.root, pushed.parents[2])
    ticked(monitor)
    first, second = outputs(monitor)
    assert first != second


def test_a_hook_that_fails_is_told_and_the_others_are_started(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["exit 3", "echo fine"]
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "ended with 3" in ran.err
    assert "fine\n" in outputs(monitor)
    assert f"hook failed: {pushed.name} (gridion)" in mailbox.subjects()
    assert is_verified(pushed)
    assert monitor.run("monitor").is_silent
    assert mailbox.subjects() == []


def test_a_hook_that_hangs_is_ended_with_all_it_started(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    monitor.settings.update(on_verified=["sleep 600 & sleep 600"], hook_minutes=0.02)
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "was ended after" in ran.err
    assert monitor.processes() == []


def test_a_hook_that_was_broken_off_is_told_and_not_started_again(
    monitor: Program, pushed: Path, mailbox: Mailbox, tmp_path: Path
) -> None:
    monitor.settings["on_verified"] = [f"echo x >>{tmp_path}/count; sleep 600"]
    with monitor.started("monitor", *monitor.configured()) as process:
        while not (tmp_path / "count").exists():
            assert process.poll() is None
        monitor.kill_all()
    assert monitor.run("monitor").code == 1
    assert (tmp_path / "count").read_text() == "x\n"
    assert any(subject.startswith("hook failed") for subject in mailbox.subjects())


# -- hostile input --------------------------------------------------------------------------


def check_only_gridion_is_believed(monitor: Program, pushed: Path, mailbox: Mailbox) -> list[str]:
    """The good instrument's run is verified whatever another one says; the subjects of mails."""
    ran = monitor.run("monitor", "--json")
    assert ran.code in (0, 1)
    assert is_verified(pushed)
    subjects = mailbox.subjects()
    assert f"verified: {pushed.name} (gridion)" in subjects
    return subjects


@pytest.mark.parametrize("name", ["/etc", "../gridion/a", "a/../../gridion", "", ".", "a//b", "\0"])
def test_a_path_that_leads_elsewhere_is_not_followed(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox, name: str
) -> None:
    beat(root / "evil", done_run(name), {"run": "x", "state": "failed", "error": "e"})
    subjects = check_only_gridion_is_believed(monitor, pushed, mailbox)
    assert "failed: x (evil)" in subjects
    assert "failed: evil" in subjects


def test_a_link_into_another_instruments_run_is_not_followed(
    monitor: Program, pushed: Path, root: Path, gridion: Path, mailbox: Mailbox
) -> None:
    (root / "evil").mkdir()
    (root / "evil" / "stolen").symlink_to(pushed)
    (root / "evil" / "all").symlink_to(gridion)
    below = os.path.relpath(pushed, gridion)
    beat(root / "evil", done_run("stolen"), done_run(f"all/{below}"))
    check_only_gridion_is_believed(monitor, pushed, mailbox)
    assert mark(pushed, "rsync.verified")["instrument"] == "gridion"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '"x"',
        '{"runs": 7}',
        '{"runs": [7, null, {}, [], {"run": 7}, {"run": "a", "state": 1}]}',
        '{"runs": [{"run": "\\ud800", "state": "done"}]}',
        '{"runs": [{"run": "a", "state": "done", "files": 1e999, "bytes": -5}]}',
        '{"free_bytes": "x", "total_bytes": [], "errors": {"a": 1}, "runs": null}',
    ],
)
def test_a_broken_heartbeat_holds_up_no_other(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox, text: str
) -> None:
    beat(root / "evil")
    heartbeat(root / "evil").write_text(text)
    check_only_gridion_is_believed(monitor, pushed, mailbox)


def test_a_heartbeat_that_is_no_file_or_too_large_holds_up_no_other(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    for name in ("pipe", "link", "large", "directory"):
        (root / name / ".ontpush").mkdir(parents=True)
    os.mkfifo(root / "pipe" / ".ontpush" / "a.json")
    (root / "link" / ".ontpush" / "a.json").symlink_to("/dev/zero")
    (root / "directory" / ".ontpush" / "a.json").mkdir()
    with (root / "large" / ".ontpush" / "a.json").open("wb") as file:
        file.truncate(1 << 30)
    subjects = check_only_gridion_is_believed(monitor, pushed, mailbox)
    assert [each for each in subjects if each.startswith("failed")] == [
        f"failed: {name}" for name in ("directory", "large", "link", "pipe")
    ]


def test_planted_links_and_pipes_lead_the_mark_nowhere(
    monitor: Program, pushed: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "authorized_keys"
    victim.write_text("mine")
    (pushed / "rsync.verified").symlink_to(victim)
    (pushed / "rsync.verified.ontpush-new").symlink_to(victim)
    (pushed / "final_summary_2.txt").symlink_to("/etc/passwd")
    ticked(monitor)
    assert victim.read_text() == "mine"
    assert not (pushed / "rsync.verified").is_symlink()
    assert is_verified(pushed)


def test_a_mark_or_roll_up_that_is_no_file_is_none(
    monitor: Program, pushed: Path, root: Path
) -> None:
    for name in ("rsync.done", "md5sum"):
        path = pushed / name
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        assert ticked(monitor)["runs"] == []
        path.unlink()
        path.write_bytes(kept)
    ticked(monitor)
    assert is_verified(pushed)


def limit(monitor: Program, name: str, value: int) -> None:
    """Let one instrument cost less than it may."""
    where = monitor.modules / "sitecustomize.py"
    where.write_text(f"import ontpush.facts.limits as limits\nlimits.{name} = {value}\n")


def test_a_directory_of_millions_is_its_instruments_fault_and_holds_up_no_other(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    limit(monitor, "MOST_ENTRIES", 100)
    beat(root / "evil")
    (root / "evil" / "full").mkdir()
    for number in range(200):
        (root / "evil" / "full" / str(number)).touch()
    assert check_only_gridion_is_believed(monitor, pushed, mailbox)[0] == "failed: evil"
    ticked(monitor)
    assert mailbox.mails() == []
    shutil.rmtree(root / "evil" / "full")
    monitor.settings["silent_minutes"] = 10**6
    clock = f"import time\n_now = time.time\ntime.time = lambda: _now() + {25 * HOUR}\n"
    (monitor.modules / "sitecustomize.py").write_text(clock)
    ticked(monitor)
    assert mailbox.subjects() == ["back to normal, was failed: evil"]


def test_a_tree_that_takes_too_long_is_its_instruments_fault_and_holds_up_no_other(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    limit(monitor, "MOST_SECONDS", 0)
    beat(root / "evil")
    subjects = check_only_gridion_is_believed(monitor, pushed, mailbox)
    assert "failed: evil" in subjects


def test_heartbeats_without_number_are_their_instruments_fault(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    limit(monitor, "MOST_HEARTBEATS", 10)
    beat(root / "evil")
    for number in range(20):
        (root / "evil" / ".ontpush" / f"{number}.json").touch()
    assert check_only_gridion_is_believed(monitor, pushed, mailbox)[0] == "failed: evil"


def test_an_instrument_of_too_many_runs_is_told_and_fills_no_disk_with_its_memory(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    limit(monitor, "MOST_RUNS", 3)
    beat(root / "evil", *(done_run(f"r{number}") for number in range(9)))
    for number in range(9):
        (root / "evil" / f"r{number}" / "pod5").mkdir(parents=True)
        (root / "evil" / f"r{number}" / "rsync.done").touch()
    assert check_only_gridion_is_believed(monitor, pushed, mailbox)[0] == "failed: evil"
    facts = json.loads((monitor.state / "instruments" / "evil.json").read_text())
    assert len(facts["runs"]) <= 3


# -- how it is called -----------------------------------------------------------------------


BREAKS = """
import ontpush.cluster.watch as watch
_look_at = watch._look_at
def _breaks(monitor, instrument, *more):
    if instrument.name == "evil":
        raise {error}
    return _look_at(monitor, instrument, *more)
watch._look_at = _breaks
"""


@pytest.mark.parametrize("error", ["MemoryError()", "ZeroDivisionError('x')", "RecursionError()"])
def test_whatever_breaks_the_look_at_one_instrument_holds_up_no_other(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox, error: str
) -> None:
    beat(root / "evil")
    (monitor.modules / "sitecustomize.py").write_text(BREAKS.format(error=error))
    subjects = check_only_gridion_is_believed(monitor, pushed, mailbox)
    assert "failed: evil" in subjects
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "evil: unexpected " + error.partition("(")[0] in ran.err
    assert len(ran.err.splitlines()) == 1
    assert mailbox.subjects() == []


def test_a_root_that_is_not_there_ends_nothing(
    monitor: Program, gridion: Path, root: Path, mailbox: Mailbox
) -> None:
    beat(gridion, {"run": "a/b", "state": "stalled"})
    ticked(monitor)
    mailbox.mails()
    root.rename(root.with_name("unmounted"))
    ran = monitor.run("monitor")
    assert ran.code == 69
    assert len(ran.err.splitlines()) == 1
    root.with_name("unmounted").rename(root)
    ticked(monitor)
    assert mailbox.subjects() == []


def test_a_heartbeat_that_breaks_ends_no_trouble(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    beat(gridion, {"run": "a/b", "state": "stalled"})
    ticked(monitor)
    heartbeat(gridion).write_text("{")
    ticked(monitor)
    assert mailbox.subjects() == ["failed: gridion", "stalled: b (gridion)"]
    beat(gridion, {"run": "a/b", "state": "stalled"})
    ticked(monitor)
    assert mailbox.subjects() == ["back to normal, was failed: gridion"]


def faults(ran: Ran) -> list[str]:
    """What is told of a configuration that is refused."""
    assert ran.code == 78
    return [line.removeprefix("ontpush: ") for line in ran.err.splitlines()]


def test_faults_in_lists_are_named_by_their_place(monitor: Program) -> None:
    monitor.settings["notify"] = [
        {"url": "mailto:a@b", "kinds": ["failed", "rain"]},
        {"urls": "x"},
        {"url": 7},
    ]
    told = faults(monitor.run("monitor"))
    assert [line.split(": ", 1)[1].split(" ")[0] for line in told] == [
        "notify[0].kinds:",
        "notify[1]:",
        "notify[1]:",
        "notify[2].url:",
    ]
    assert "did you mean url?" in told[1]


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("smtp://host/", "names nobody"),
        ("smtp:///?to=a@b", "names no host"),
        ("smtp://host/?to=a@b&form=x", "knows no 'form'"),
        ("smtp://me:secret@host/?to=a@b", "password_file"),
        ("smtp://host:port/?to=a@b", "ort"),
        ("nonsense", "pprise"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_by_its_place(
    monitor: Program, url: str, word: str
) -> None:
    monitor.settings["notify"] = [{"url": url}]
    (line,) = faults(monitor.run("monitor"))
    assert line.startswith("notify[0].url: ")
    assert word in line
    assert "secret" not in line


def test_monitor_without_a_root_is_a_wrong_call(monitor: Program) -> None:
    del monitor.settings["root"]
    ran = monitor.run("monitor")
    assert ran.code == 64
    assert len(ran.err.splitlines()) == 1


# -- other services -------------------------------------------------------------------------


class Service(BaseHTTPRequestHandler):
    """A service that takes messages by HTTP, as Apprise's `json://` sends them."""

    taken: ClassVar[list[dict[str, Any]]] = []
    answer = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.answer)
        self.end_headers()
        if self.answer == 200:
            self.taken.append(json.loads(body))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[HTTPServer]:
    """A service that has taken nothing yet."""
    Service.taken.clear()
    Service.answer = 200
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_any_service_that_apprise_speaks_to_is_told(
    monitor: Program, pushed: Path, service: HTTPServer, mailbox: Mailbox
) -> None:
    monitor.python = sys.executable  # of .venv, where the library is
    monitor.environment["PYTHONWARNINGS"] = "ignore"  # the library's own
    url = f"json://127.0.0.1:{service.server_port}/"
    monitor.settings["notify"] = [{"url": url}, {"url": mailbox.url}]
    Service.answer = 500
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "notify[0]: json: the service did not take the message" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert mailbox.subjects() == [f"verified: {pushed.name} (gridion)"]
    Service.answer = 200
    ticked(monitor)
    ticked(monitor)
    (told,) = Service.taken
    assert told["title"] == f"[ontpush] verified: {pushed.name} (gridion)"
    assert str(pushed) in told["message"]


def test_a_service_without_the_library_is_refused_with_what_to_do(monitor: Program) -> None:
    (monitor.modules / "apprise.py").write_text("raise ImportError('no apprise here')\n")
    monitor.settings["notify"] = [{"url": "slack://token/a"}]
    (line,) = faults(monitor.run("monitor"))
    assert line == (
        "notify[0].url: needs the Python package apprise here: pip install --user apprise"
    )
