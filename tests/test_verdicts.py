"""What the cluster believes of a run, and for how long: marks, verdicts, and what it remembers."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.program import Program, Ran, is_verified, mark, md5, rollup, turn_a_bit
from tests.test_bell import ASKED_IN_VAIN, Pair
from tests.test_monitor import beat, done_run, heartbeat, outputs, ticked
from tests.test_verify import refuse

HOUR = 3600
KILLED = "import os\nimport {module}\n{module}.{name} = lambda *_, **__: os.kill(os.getpid(), 9)\n"


def kinds(mailbox: Mailbox) -> list[str]:
    """What each mail is about, without the run, sorted."""
    return [subject.split(":")[0] for subject in mailbox.subjects()]


def mark_anew(run: Path, base: Path) -> None:
    """As after a `retry` on the instrument: marked once more under the same roll-up, and said."""
    made = (run / "rsync.done").stat().st_mtime_ns
    os.utime(run / "rsync.done", ns=(made, made + 10**9))
    path = heartbeat(base)
    facts = json.loads(path.read_text())
    for each in facts["runs"]:
        each["done_at"] += 7
    path.write_text(json.dumps(facts))


def killed_at(monitor: Program, module: str, name: str) -> None:
    """A tick that dies when it comes to a function."""
    where = monitor.modules / "sitecustomize.py"
    where.write_text(KILLED.format(module=module, name=name))
    assert monitor.run("monitor").code == -9
    where.unlink()


def vouch_falsely(run: Path) -> None:
    """Write our mark into a run, as whoever sends it can."""
    rollup = md5(run / "md5sum")
    (run / "rsync.verified").write_text(f"2026-01-01T00:00:00+00:00\nrollup: {rollup}\n")


# -- our own mark -----------------------------------------------------------------------------


def test_a_run_that_is_found_corrupt_loses_the_mark_that_vouched_for_it(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    assert is_verified(pushed)
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    mark_anew(pushed, gridion)
    assert monitor.run("monitor").code == 1
    assert not (pushed / "rsync.verified").exists()
    assert kinds(mailbox) == ["verification failed", "verified"]
    shutil.rmtree(monitor.state)
    assert monitor.run("monitor").code == 1
    assert not (pushed / "rsync.verified").exists()
    assert kinds(mailbox) == ["verification failed"]


def test_a_mark_that_another_wrote_is_not_believed(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    words = heartbeat(gridion).read_text()
    heartbeat(gridion).write_text(json.dumps({"runs": []}))
    (pushed / "rsync.done").rename(gridion / "kept")
    ticked(monitor)
    (gridion / "kept").rename(pushed / "rsync.done")
    heartbeat(gridion).write_text(words)
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    vouch_falsely(pushed)
    assert monitor.run("monitor").code == 1
    assert kinds(mailbox) == ["verification failed"]
    assert not (pushed / "rsync.verified").exists()


def plant_what_is_not_done(run: Path, base: Path) -> Path:
    """A run as whoever sends it can make it: not done, and marked as verified."""
    path = base / "a" / "run"
    shutil.copytree(run, path)
    (path / "rsync.done").unlink()
    vouch_falsely(path)
    return path


def test_a_planted_mark_in_a_run_that_is_not_done_is_removed_and_told(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    run = plant_what_is_not_done(pushed, gridion)
    told = json.loads(heartbeat(gridion).read_text())
    told["runs"].append({"run": "a/run", "state": "sending"})
    heartbeat(gridion).write_text(json.dumps(told))
    ticked(monitor)
    assert not (run / "rsync.verified").exists()
    (told_of,) = monitor.told("WARN")
    assert told_of == "gridion/a/run rsync.verified vouches for nothing verified here: removed"
    assert is_verified(pushed)


def test_a_planted_mark_in_a_run_that_nobody_tells_of_is_removed_within_a_day(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    run = plant_what_is_not_done(pushed, gridion)
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    assert not (run / "rsync.verified").exists()
    assert is_verified(pushed)


def test_a_planted_mark_vouches_for_no_run_while_that_is_read(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    plant_a_mark(pushed, gridion)
    with (monitor.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(2):
            ticked(monitor)
            assert not (gridion / "planted" / "run" / "rsync.verified").exists()
            vouch_falsely(gridion / "planted" / "run")
    assert monitor.run("monitor").code == 1
    assert not (gridion / "planted" / "run" / "rsync.verified").exists()


def test_a_planted_mark_for_another_roll_up_than_was_verified_is_removed(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    (pushed / "md5sum").write_text(f"{'0' * 32}  pod5/never_was\n")
    vouch_falsely(pushed)
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    monitor.run("monitor")
    assert not (pushed / "rsync.verified").exists()


def test_planted_marks_that_cannot_be_removed_are_told_once_and_logged_in_few_lines(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mailbox.mails()
    runs = [{"run": f"r{number}", "state": "sending"} for number in range(50)]
    for each in runs:
        (gridion / str(each["run"])).mkdir()
        (gridion / str(each["run"]) / "rsync.verified").write_text("x")
    (monitor.modules / "sitecustomize.py").write_text(STAYS)
    beat(gridion, *runs)
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"] == "[ontpush] failed: gridion"
    assert "rsync.verified in 50 runs of gridion" in content(mail, "plain")
    assert "r0: Permission denied" in content(mail, "plain")
    assert len(monitor.told("WARN")) == 21
    ticked(monitor)
    assert mailbox.mails() == []


STAYS = """
import errno, os
_unlink = os.unlink
def _stays(path, *words, **more):
    if path == b"rsync.verified":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return _unlink(path, *words, **more)
os.unlink = _stays
"""


def test_where_the_state_is_lost_and_one_look_is_cut_short_every_mark_is_believed_in_the_end(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox, tmp_path: Path
) -> None:
    monitor.settings["on_verified"] = [f"echo x >>{tmp_path}/hooks"]
    runs = [SimulatedRun(data, group=f"g{number}", files=1) for number in range(6)]
    for each in runs:
        each.write_all()
    program.pushed(data, gridion)
    ticked(monitor)
    mailbox.mails()
    shutil.rmtree(monitor.state)
    few = "import ontpush.facts.limits as limits\nlimits.MOST_ROLLUPS = 2 * limits.ROLLUP_BLOCK\n"
    (monitor.modules / "sitecustomize.py").write_text(few)
    for _ in range(12):
        assert ticked(monitor)["runs"] == []
    assert all(is_verified(gridion / each.path.relative_to(data)) for each in runs)
    assert ticked(monitor)["instruments"][0]["verified"] == 6
    assert mailbox.mails() == []
    assert (tmp_path / "hooks").read_text() == "x\n" * 6


def test_a_file_that_people_linked_to_elsewhere_is_verified(
    monitor: Program, pushed: Path, tmp_path: Path
) -> None:
    os.link(next(pushed.glob("pod5_pass/*.pod5")), tmp_path / "project.pod5")
    ticked(monitor)
    assert is_verified(pushed)


def test_status_calls_no_run_verified_for_a_mark_that_was_planted(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    plant_a_mark(pushed, gridion)
    run = str(pushed.relative_to(gridion))
    assert verdicts(monitor) == {run: "verified", "planted/run": None}
    assert monitor.run("monitor").code == 1
    vouch_falsely(gridion / "planted" / "run")
    assert verdicts(monitor) == {run: "verified", "planted/run": "corrupt"}


def verdicts(monitor: Program) -> dict[str, str | None]:
    """How each run stands at the cluster by the word of `status`."""
    return {name: facts["verdict"] for name, facts in monitor.run("status", "--json").runs.items()}


def test_our_own_mark_stays_while_its_run_is_read_again(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    before = (pushed / "rsync.verified").read_bytes()
    assert monitor.run("retry", pushed).code == 0
    with (monitor.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ticked(monitor)["instruments"][0]["checking"] == 1
    assert (pushed / "rsync.verified").read_bytes() == before


# -- verdicts ---------------------------------------------------------------------------------


def test_a_verdict_of_yesterday_is_not_that_of_today(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    (pushed / "rsync.verified").mkdir()  # it cannot be marked
    killed_at(monitor, "ontpush.cluster.watch", "drop_verdict")
    monitor.run("monitor")
    mailbox.mails()
    (pushed / "rsync.verified").rmdir()
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    assert monitor.run("monitor").code == 1
    assert not (pushed / "rsync.verified").exists()
    assert "mended, verified" not in kinds(mailbox)


def test_a_verdict_of_a_version_that_did_not_tell_what_it_could_not_read_is_taken_up(
    monitor: Program, pushed: Path
) -> None:
    killed_at(monitor, "ontpush.cluster.watch", "settle")
    (path,) = (monitor.state / "checks").glob("*.json")
    facts = json.loads(path.read_text())
    del facts["data"]["runs"][0]["unread"]
    path.write_text(json.dumps(facts))
    ticked(monitor)
    assert is_verified(pushed)


def test_a_corrupt_run_that_nothing_vouches_for_any_more_is_not_back_to_normal(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    assert monitor.run("monitor").code == 1
    rollup = (pushed / "md5sum").read_bytes()
    (pushed / "md5sum").write_bytes(rollup.splitlines(True)[0])  # as while it is sent again
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    monitor.run("monitor")
    monitor.run("monitor")
    assert kinds(mailbox) == ["still verification failed", "verification failed"]
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    (pushed / "md5sum").write_bytes(rollup)
    ticked(monitor)
    assert kinds(mailbox) == ["mended, verified"]
    assert is_verified(pushed)


def test_a_check_whose_run_is_opened_again_meanwhile_ends_no_trouble(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    assert monitor.run("monitor").code == 1
    beat(gridion)
    heartbeat_of_lab = gridion / ".ontpush" / "lab.json"
    heartbeat_of_lab.unlink()  # it says nothing of the run any more
    (pushed / "md5sum").write_bytes((pushed / "md5sum").read_bytes().splitlines(True)[0])
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    monitor.run("monitor")
    monitor.run("monitor")
    assert kinds(mailbox) == ["still verification failed", "verification failed"]


def test_a_run_whose_path_begins_or_ends_with_a_blank_is_verified(
    monitor: Program, program: Program, data: Path, gridion: Path
) -> None:
    runs = [SimulatedRun(data, group=group, files=1) for group in (" a", "\u3000b", "a: b")]
    for run in runs:
        run.write_all()
    ends = SimulatedRun(data, group="c", files=1)
    ends.write_all()
    ends.path.rename(ends.path.with_name(ends.path.name + " "))
    program.pushed(data, gridion)
    ticked(monitor)
    paths = [gridion / run.path.relative_to(data) for run in [*runs, ends]]
    paths[-1] = paths[-1].with_name(paths[-1].name + " ")
    assert [is_verified(path) for path in paths] == [True] * 4


def test_a_run_marked_once_more_and_then_opened_again_is_told_and_its_hooks_start(
    monitor: Program,
    pushed: Path,
    program: Program,
    run: SimulatedRun,
    gridion: Path,
    mailbox: Mailbox,
) -> None:
    monitor.settings["on_verified"] = ["echo $ONTPUSH_ROLLUP"]
    ticked(monitor)
    mark_anew(pushed, gridion)
    with (monitor.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticked(monitor)
    # Mark and roll-up come before the heartbeat.
    before = heartbeat(gridion).read_text()
    run.late_file("bam_pass/late.bam")
    program.pushed(run.root, gridion)
    after = heartbeat(gridion).read_text()
    heartbeat(gridion).write_text(before)
    ticked(monitor)
    heartbeat(gridion).write_text(after)
    ticked(monitor)
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified", "verified"]
    assert f"{md5(pushed / 'md5sum')}\n" in outputs(monitor)


def test_a_hook_whose_tick_died_first_is_started_though_the_run_was_marked_anew(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["echo started"]
    killed_at(monitor, "ontpush.cluster.hooks", "run_hooks")
    assert outputs(monitor) == []
    mark_anew(pushed, gridion)
    ticked(monitor)
    ticked(monitor)
    assert outputs(monitor) == ["started\n"]
    assert kinds(mailbox) == ["verified"]


# -- what nothing vouches for -------------------------------------------------------------------


@pytest.fixture
def local(program: Program, monitor: Program, run: SimulatedRun, gridion: Path) -> Pair:
    """A sequencer that pushes to a directory of this machine, and the monitor there."""
    return Pair(program, monitor, run, str(gridion), gridion)


def rot(path: Path) -> None:
    turn_a_bit(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", ["md5sum", "rsync.done"])
@pytest.mark.parametrize("harm", [rot, empty, Path.unlink])
def test_a_roll_up_or_mark_that_went_bad_is_told_and_mended_by_two_ticks(
    local: Pair,
    name: str,
    harm: Callable[[Path], None],
    mailbox: Mailbox,
) -> None:
    local.run.write_all()
    assert local.push() == "done"
    path = local.there / name
    if name == "rsync.done" and harm is rot:
        path.write_bytes(path.read_bytes().replace(b"rollup: ", b"rollup: f"))
    else:
        harm(path)
    assert local.monitor.run("monitor").is_silent  # it may just have been opened again
    assert local.push() == "done"
    ran = local.monitor.run("monitor")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "no rsync.done here vouches for the md5sum beside it" in line
    (mail,) = mailbox.mails()
    assert mail["Subject"].startswith("[ontpush] verification failed: ")
    assert "within two of its ticks" in content(mail, "plain")
    assert len(local.requests()) == 2
    assert local.monitor.run("monitor").is_silent
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    assert kinds(mailbox) == ["mended, verified"]
    local.check_mended()


def test_what_nothing_vouches_for_however_often_it_is_sent_is_asked_for_a_few_times(
    local: Pair,
    mailbox: Mailbox,
) -> None:
    local.run.write_all()
    for _ in range(ASKED_IN_VAIN):
        local.push()
        local.push()
        (local.there / "md5sum").write_text("rotten\n")
        local.push()
        assert local.monitor.run("monitor").code in (0, 1)
        assert local.requests()
    local.push()
    local.push()
    (local.there / "md5sum").write_text("rotten\n")
    local.push()
    local.monitor.run("monitor")
    assert not list(local.place.glob("again/*"))
    assert "changed" in kinds(mailbox)
    assert local.push() == "done"
    assert local.monitor.run("monitor").is_silent


def test_a_run_that_was_moved_away_here_is_nobodys_trouble(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mailbox.mails()
    pushed.rename(gridion.parent.parent / "archive")
    shutil.rmtree(monitor.state)
    heartbeat(gridion).write_text(heartbeat(gridion).read_text())
    ticked(monitor)
    assert mailbox.subjects() == []


def test_a_roll_up_that_no_mark_names_is_not_read_at_all(
    monitor: Program, pushed: Path, root: Path
) -> None:
    beat(root / "evil", done_run("r"))
    (root / "evil" / "r").mkdir()
    os.mkfifo(root / "evil" / "r" / "rsync.done")
    with (root / "evil" / "r" / "md5sum").open("wb") as file:
        file.truncate(1 << 40)
    monitor.run("monitor")
    assert is_verified(pushed)
    (root / "evil" / "r" / "rsync.done").unlink()
    (root / "evil" / "r" / "rsync.done").write_text("now\nrun: r\nrollup: x\n")
    monitor.run("monitor")


# -- which instruments there are ----------------------------------------------------------------


def test_an_old_heartbeat_in_the_root_does_not_take_an_instruments_name(
    monitor: Program, root: Path, pushed: Path
) -> None:
    (root / ".ontpush").mkdir()
    (root / ".ontpush" / "gridion.json").write_text(json.dumps({"runs": []}))
    (facts,) = ticked(monitor)["instruments"]
    assert (facts["instrument"], facts["verified"]) == ("gridion", 1)
    assert is_verified(pushed)
    assert ticked(monitor)["runs"] == []


def test_a_link_that_the_administrator_made_in_the_root_is_followed(
    monitor: Program, root: Path, gridion: Path, pushed: Path, tmp_path: Path
) -> None:
    gridion.rename(tmp_path / "disk2")
    (root / "gridion").symlink_to(tmp_path / "disk2")
    ticked(monitor)
    assert is_verified(pushed)
    # Where the root is a destination itself, whoever sends there could have made it.
    (root / ".ontpush").mkdir()
    (root / ".ontpush" / "other.json").write_text(json.dumps({"runs": []}))
    assert [each["instrument"] for each in ticked(monitor)["instruments"]] == ["other"]


@pytest.mark.parametrize("letter", ["é", "名"])
def test_an_instrument_with_a_very_long_name_holds_up_no_other(
    monitor: Program, root: Path, pushed: Path, letter: str
) -> None:
    beat(root / (letter * 80))
    beat(root / (letter * 79 + "x"))
    assert len(ticked(monitor)["instruments"]) == 3
    assert is_verified(pushed)
    assert len(list(monitor.state.glob("instruments/*.json"))) == 3


# -- what is remembered ---------------------------------------------------------------------------


def bare(monitor: Program) -> Ran:
    """A tick of which nothing is expected but that it ends in order."""
    ran = monitor.run("monitor")
    assert ran.code in (0, 1)
    return ran


@pytest.mark.parametrize(
    "change",
    [
        {"since": "x"},
        {"bad_count": "x"},
        {"files": "a"},
        {"rollup": 5, "verdict": "checking"},
        {"verdict": []},
        {"verdict": "splendid"},
        {"bad": [["\ud800", "md5"]], "bad_count": 1},
        {"error": None},
    ],
)
def test_a_memory_that_we_never_wrote_is_lost_and_not_for_good(
    monitor: Program, pushed: Path, change: dict[str, Any]
) -> None:
    ticked(monitor)
    (path,) = monitor.state.glob("instruments/*.json")
    facts = json.loads(path.read_text())
    for standing in facts["runs"].values():
        standing.update(change)
    path.write_text(json.dumps(facts))
    bare(monitor)
    assert ticked(monitor)["instruments"][0]["verified"] == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"runs":{},"searched_at":Infinity,"known_since":0}',
        '{"runs":{"\\ud800":{"verdict":"checking"}},"searched_at":1,"known_since":1}',
        '{"runs":{"../x":{"verdict":"checking"}},"searched_at":1,"known_since":1}',
        '{"runs":[],"searched_at":1,"known_since":1}',
    ],
)
def test_a_memory_that_names_what_cannot_be_is_lost(
    monitor: Program, pushed: Path, text: str
) -> None:
    ticked(monitor)
    (path,) = monitor.state.glob("instruments/*.json")
    path.write_text(text)
    bare(monitor)
    assert ticked(monitor)["instruments"][0]["verified"] == 1


def test_what_a_clock_that_was_ahead_wrote_down_stops_nothing(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    monitor.settings["silent_minutes"] = 10**8
    monitor.put_clock_forward(10 * 365 * 24 * HOUR)
    assert monitor.run("monitor").code == 1
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    monitor.put_clock_forward(25 * HOUR)
    bare(monitor)
    assert is_verified(pushed)
    assert "mended, verified" in kinds(mailbox)


def plant_a_mark(run: Path, base: Path) -> None:
    """Let whoever sends runs mark one as verified, though nobody here has read it."""
    path = base / "planted" / "run"
    shutil.copytree(run, path)
    text = (path / "rsync.done").read_text()
    (path / "rsync.done").write_text(text.replace(mark(run)["run"], "planted/run"))
    turn_a_bit(next(path.glob("pod5_pass/*.pod5")))
    vouch_falsely(path)
    beat(base, done_run("planted/run", md5(path / "md5sum")))


@pytest.mark.parametrize(
    "change",
    [
        {"x" * 5000: {"verdict": "verified"}},
        {"/".join(["y" * 250] * 16): {"verdict": "verified"}},
        {"../x": {"verdict": "verified"}},
        {"x": {"verdict": "splendid"}},
        {"x": 7},
    ],
)
def test_one_bad_record_costs_one_record_and_no_planted_mark_is_believed(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox, change: dict[str, Any]
) -> None:
    ticked(monitor)
    mailbox.mails()
    (path,) = monitor.state.glob("instruments/*.json")
    facts = json.loads(path.read_text())
    facts["runs"].update(change)
    path.write_text(json.dumps(facts))
    heartbeat(gridion).unlink()
    plant_a_mark(pushed, gridion)
    bare(monitor)
    assert kinds(mailbox) == ["verification failed"]
    assert not (gridion / "planted" / "run" / "rsync.verified").exists()


def test_a_memory_without_its_times_is_still_one(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mailbox.mails()
    (path,) = monitor.state.glob("instruments/*.json")
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(dict(facts, searched_at=None, known_since="x")))
    heartbeat(gridion).unlink()
    plant_a_mark(pushed, gridion)
    bare(monitor)
    assert kinds(mailbox) == ["verification failed"]


def long_run(base: Path, length: int) -> str:
    """A done run whose path below `base` has so many bytes."""
    name = "/".join(["z" * 200] * (length // 201))
    name += "/" + "r" * (length - len(name) - 1)
    place = os.open(base, os.O_RDONLY)
    for part in [*name.split("/"), "pod5"]:
        os.mkdir(part, dir_fd=place)
        place, above = os.open(part, os.O_RDONLY, dir_fd=place), place
        if part != "pod5":
            os.close(above)
    os.close(place)
    rollup = hashlib.md5(b"").hexdigest()
    done = f"2026-01-01T00:00:00+00:00\nrun: {name}\nrollup: {rollup}\n"
    for file, text in (("md5sum", ""), ("rsync.done", done)):
        with open(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=above), "w") as opened:
            opened.write(text)
    os.close(above)
    return name


def test_a_run_with_a_path_as_long_as_can_be_is_told_and_costs_its_instrument_no_memory(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    name = long_run(gridion, 4095 - len(f"{gridion}/"))
    assert len(name) > 4000
    assert monitor.run("monitor").code == 0
    assert kinds(mailbox) == ["failed", "verified"]
    heartbeat(gridion).unlink()
    plant_a_mark(pushed, gridion)
    bare(monitor)
    assert kinds(mailbox) == ["verification failed"]
    assert ticked(monitor)["instruments"][0]["bad"] == 1


# -- what is no corruption ------------------------------------------------------------------------


def test_files_that_came_after_the_run_was_done_do_not_keep_it_from_being_verified(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    late = pushed / "pod5_pass" / "late.pod5"
    late.write_text("its roll-up is on its way")
    (pushed / "pod5_pass" / ".later.pod5.Ab12Cd").write_text("so is this")
    ticked(monitor)
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified"]
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    (mail,) = mailbox.mails()
    assert mail["Subject"].startswith("[ontpush] extra files: ")
    assert "pod5_pass/late.pod5" in content(mail, "plain")
    assert "Ab12Cd" not in content(mail, "plain")
    assert is_verified(pushed)
    ticked(monitor)
    assert kinds(mailbox) == []
    late.unlink()
    ticked(monitor)
    assert kinds(mailbox) == ["back to normal, was extra files"]


def test_an_extra_file_of_a_run_that_is_still_sent_is_not_told(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    (pushed / "pod5_pass" / "late.pod5").write_text("its roll-up is on its way")
    path = heartbeat(gridion)
    ticked(monitor)
    facts = json.loads(path.read_text())
    facts["runs"][0].update(state="sending")
    path.write_text(json.dumps(facts))
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    assert kinds(mailbox) == ["verified"]


def test_a_late_file_that_is_listed_in_the_end_was_never_extra(
    monitor: Program, program: Program, pushed: Path, run: SimulatedRun, mailbox: Mailbox
) -> None:
    late = run.late_file("pod5_pass/late.pod5")
    shutil.copy2(late, pushed / "pod5_pass" / "late.pod5")
    ticked(monitor)
    program.pushed(run.root, pushed.parents[2])
    ticked(monitor)
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    assert kinds(mailbox) == ["verified", "verified"]


def test_a_file_that_may_not_be_read_is_told_and_not_sent_again(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    ticked(monitor)
    mark_anew(pushed, gridion)
    mailbox.mails()
    refuse(monitor, "EACCES")
    ran = monitor.run("monitor")
    assert ran.code == 1
    (mail,) = mailbox.mails()
    assert mail["Subject"].startswith("[ontpush] verification failed: ")
    assert "unreadable: pod5_" in content(mail, "plain")
    assert "let this user read it" in content(mail, "plain")
    assert "Do not use it" not in content(mail, "plain")
    assert is_verified(pushed)  # nothing was found wrong
    assert not list((gridion / ".ontpush").glob("again/*"))
    (monitor.modules / "sitecustomize.py").unlink()
    monitor.settings["silent_minutes"] = 10**6
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    assert kinds(mailbox) == ["mended, verified", "still verification failed"]


@pytest.mark.parametrize("error", ["EIO", "ESTALE"])
def test_what_is_not_given_just_now_is_tried_again_then_told_and_never_sent_again(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox, error: str
) -> None:
    refuse(monitor, error)
    codes = [monitor.run("monitor").code for _ in range(5)]
    assert codes == [0, 0, 0, 1, 0]
    (mail,) = mailbox.mails()
    assert "it could not be verified: passing: pod5_" in content(mail, "plain")
    assert not list((gridion / ".ontpush").glob("again/*"))
    (facts,) = monitor.run("status", "--json").runs.values()
    assert facts["verdict"] == "unchecked"


def test_what_is_given_again_at_the_next_tick_is_verified_without_a_word(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    refuse(monitor, "ETIMEDOUT")
    assert monitor.run("monitor").is_silent
    (monitor.modules / "sitecustomize.py").unlink()
    ticked(monitor)
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified"]


@pytest.mark.parametrize("name", [b"rsync.done", b"md5sum"])
def test_a_mark_or_roll_up_that_is_not_given_just_now_is_not_gone(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox, name: bytes
) -> None:
    refuse(monitor, "EIO", name)
    assert monitor.run("monitor").is_silent
    assert not list((gridion / ".ontpush").glob("again/*"))
    (monitor.modules / "sitecustomize.py").unlink()
    ticked(monitor)
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified"]


# -- what happens between the look and the mark --------------------------------------------------

RETRACTS = """
import os
_rename = os.rename
def rename(source, target, **how):
    _rename(source, target, **how)
    if target == b"rsync.verified":
        with open({mark!r} + ".new", "w") as file:
            file.write("2026-03-02T09:30:12+00:00\\nretracted: opened again\\n")
        os.replace({mark!r} + ".new", {mark!r})
os.rename = rename
"""


def retracting(monitor: Program, run: Path, more: str = "") -> None:
    """Let a sequencer open the run again at the moment that `rsync.verified` is written."""
    script = RETRACTS.format(mark=str(run / "rsync.done")) + more
    (monitor.modules / "sitecustomize.py").write_text(script)


def test_a_run_that_is_opened_again_while_it_is_marked_is_not_left_with_a_mark(
    monitor: Program, pushed: Path
) -> None:
    retracting(monitor, pushed)
    assert ticked(monitor)["runs"] == []
    assert not (pushed / "rsync.verified").exists()
    (monitor.modules / "sitecustomize.py").unlink()
    assert ticked(monitor)["runs"] == []
    (status,) = monitor.run("status", "--json").json["data"]["runs"]
    assert status["verdict"] == "unvouched"


def test_a_run_that_is_opened_again_while_its_mark_is_brought_back_does_not_get_it(
    monitor: Program, pushed: Path
) -> None:
    monitor.settings["silent_minutes"] = 10**6
    ticked(monitor)
    (pushed / "rsync.verified").unlink()
    day_later = f"import time\n_now = time.time\ntime.time = lambda: _now() + {25 * HOUR}\n"
    retracting(monitor, pushed, day_later)
    ticked(monitor)
    assert "retracted" in (pushed / "rsync.done").read_text()
    assert not (pushed / "rsync.verified").exists()


# -- what a server does not give just now ---------------------------------------------------------

STALE = """
import errno, glob, os, sys
_open = os.open
def stale(path, *words, **more):
    is_named = isinstance(path, bytes) and path.endswith({name!r})
    if is_named and "monitor" in sys.argv and ({always} or glob.glob({verdicts!r})):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return _open(path, *words, **more)
os.open = stale
"""


def stale(monitor: Program, name: bytes, always: bool, more: str = "") -> None:
    """Let a file server not give files of this name, always or once a verdict is there."""
    verdicts = str(monitor.state / "checks" / "*.json")
    script = STALE.format(name=name, verdicts=verdicts, always=always) + more
    (monitor.modules / "sitecustomize.py").write_text(script)


@pytest.mark.parametrize("name", [b"/md5sum", b"/rsync.done"])
def test_a_mark_that_a_server_does_not_give_when_the_verdict_is_there_is_asked_for_again(
    monitor: Program, pushed: Path, name: bytes
) -> None:
    stale(monitor, name, always=False)
    assert ticked(monitor)["runs"] == []
    (status,) = monitor.run("status", "--json").json["data"]["runs"]
    assert status["verdict"] == "checking"
    (monitor.modules / "sitecustomize.py").unlink()
    (facts,) = ticked(monitor)["runs"]
    assert facts["verdict"] == "verified"


@pytest.mark.parametrize("name", [b"/md5sum", b"/rsync.done", b"/rsync.verified"])
def test_a_mark_that_a_server_does_not_give_on_the_day_it_is_looked_at_has_not_gone(
    monitor: Program, pushed: Path, name: bytes
) -> None:
    monitor.settings["silent_minutes"] = 10**6
    ticked(monitor)
    if name != b"/rsync.verified":
        os.utime(pushed / "rsync.done")
    before = (pushed / "rsync.verified").stat().st_ctime_ns
    day_later = f"import time\n_now = time.time\ntime.time = lambda: _now() + {25 * HOUR}\n"
    stale(monitor, name, always=True, more=day_later)
    ticked(monitor)
    (status,) = monitor.run("status", "--json").json["data"]["runs"]
    assert status["verdict"] in ("verified", "checking")
    assert (pushed / "rsync.verified").stat().st_ctime_ns == before


def test_a_mark_of_a_corrupt_run_that_a_server_does_not_give_is_told_as_still_there(
    monitor: Program, pushed: Path
) -> None:
    ticked(monitor)
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    assert monitor.run("retry", pushed).code == 0
    stale(monitor, b"/rsync.verified", always=True)
    assert monitor.run("monitor").code == 1
    status = monitor.run("status", "--json").out
    assert "rsync.verified in it cannot be removed" in status


# sys.argv is made later.
IS_VERIFY = "b'verify' in Path('/proc/self/cmdline').read_bytes().split(bytes(1))"


def marked_anew(run: Path) -> str:
    """Python that lists one file less in a run, and has its mark vouch for that."""
    return f"""
import hashlib
from pathlib import Path
def mark_anew():
    rollup, done = Path({str(run / "md5sum")!r}), Path({str(run / "rsync.done")!r})
    old = rollup.read_bytes()
    new = b"".join(old.splitlines(True)[1:])
    rollup.write_bytes(new)
    mark = done.read_text().replace(*(hashlib.md5(each).hexdigest() for each in (old, new)))
    done.write_text(mark)
"""


def check_only_the_next_reading_counts(monitor: Program, pushed: Path, mailbox: Mailbox) -> None:
    """What a verification under `sitecustomize` found is believed of nothing."""
    monitor.run("monitor")
    assert not (pushed / "rsync.verified").exists()
    assert kinds(mailbox) == []
    (monitor.modules / "sitecustomize.py").unlink()
    monitor.run("monitor")
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified"]


def test_a_run_that_was_done_anew_while_it_was_read_is_not_verified_by_that(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(
        f"{marked_anew(pushed)}\nimport atexit\nif {IS_VERIFY}:\n    atexit.register(mark_anew)\n"
    )
    check_only_the_next_reading_counts(monitor, pushed, mailbox)


def test_a_verdict_on_another_roll_up_than_lies_there_again_verifies_nothing(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(
        "import atexit, os\nfrom pathlib import Path\n"
        f"path = Path({str(pushed / 'md5sum')!r})\n"
        f"if {IS_VERIFY}:\n"
        "    content, times = path.read_bytes(), path.stat()\n"
        "    path.write_bytes(content.splitlines(True)[0])\n"
        "    def put_back():\n"
        "        path.write_bytes(content)\n"
        "        os.utime(str(path), ns=(times.st_atime_ns, times.st_mtime_ns))\n"
        "    atexit.register(put_back)\n"
    )
    check_only_the_next_reading_counts(monitor, pushed, mailbox)
    assert int(mark(pushed, "rsync.verified")["files"]) == len(rollup(pushed))


def test_what_a_server_does_not_give_just_now_takes_no_mark_from_a_verified_run(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    ticked(monitor)
    mark_anew(pushed, gridion)
    refuse(monitor, "EIO")
    for _ in range(5):
        monitor.run("monitor")
    assert is_verified(pushed)


# -- the name of a run in its mark --------------------------------------------------------------

# As every version writes it: a mark outlives the one that made it, and that which shows names.
NAMED = {
    "Probe \u2764\ufe0f 1": "Probe \u2764\ufe0f 1",
    "a\xadb\u200d\ue000c": "a\xadb\u200d\ue000c",
    "two\nlines\u2028more": r"two\nlines\u2028more",
}


@pytest.mark.parametrize("sample", NAMED)
def test_marks_name_a_run_as_older_versions_do(
    monitor: Program, program: Program, data: Path, gridion: Path, sample: str
) -> None:
    run = SimulatedRun(data, sample=sample, files=1)
    run.write_all()
    program.pushed(data, gridion)
    there = gridion / run.path.relative_to(data)
    ticked(monitor)
    assert is_verified(there)
    for name in ("rsync.done", "rsync.verified"):
        assert mark(there, name)["run"] == f"{run.group}/{NAMED[sample]}/{run.path.name}"


def test_a_mark_names_a_destination_as_older_versions_do(
    program: Program, run: SimulatedRun, data: Path, tmp_path: Path
) -> None:
    arrived = tmp_path / "Probe \u2764\ufe0f"
    arrived.mkdir()
    run.write_all()
    program.pushed(data, arrived)
    assert mark(run.path)["destination"] == str(arrived)
