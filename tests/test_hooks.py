"""What follows a verified run is started once, whatever happens; and what a tick does meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ontpush.facts import limits
from tests.lab.deep import deep_directory
from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.lab.small_disk import SmallDisk
from tests.program import Program, is_verified, turn_a_bit, wait_for
from tests.test_bounds import COST, MOST_SECONDS
from tests.test_monitor import beat, heartbeat, outputs, ticked
from tests.test_verdicts import killed_at, kinds, mark_anew

HOUR = 3600
# Whoever calls the function finds the disk of the state full.
FULL = """\
import os
import ontpush.commands.monitor as monitor
_go_on = monitor.{name}
def _full(*arguments):
    try:
        with open({state!r} + "/.filler", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        pass
    return _go_on(*arguments)
monitor.{name} = _full
"""


@contextlib.contextmanager
def full_when(monitor: Program, name: str) -> Iterator[None]:
    """Ticks whose disk for the state is full at a certain step."""
    where = monitor.modules / "sitecustomize.py"
    where.write_text(FULL.format(name=name, state=str(monitor.state)))
    yield
    where.unlink()


@pytest.fixture
def small_state(monitor: Program) -> Iterator[SmallDisk]:
    """A state directory of 1 MB."""
    monitor.state.mkdir()
    disk = SmallDisk(monitor.state, "1m")
    monitor.within = disk.within
    yield disk
    disk.end()


def test_a_disk_that_is_full_when_a_hook_is_to_start_only_delays_it(
    monitor: Program, pushed: Path, small_state: SmallDisk, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["echo started"]
    with full_when(monitor, "run_hooks"):
        ran = monitor.run("monitor")
    assert ran.code == 75
    (line,) = ran.err.splitlines()
    assert "No space left" in line
    assert "hooks" in line
    (small_state.path / ".filler").unlink()
    ticked(monitor)
    ticked(monitor)
    assert [path.read_text() for path in small_state.path.glob("hooks/*.out")] == ["started\n"]
    assert kinds(mailbox) == ["verified"]


def test_a_disk_that_is_full_when_a_run_is_to_be_read_only_delays_it(
    monitor: Program, pushed: Path, small_state: SmallDisk
) -> None:
    with full_when(monitor, "verify_side_by_side"):
        ran = monitor.run("monitor")
    assert ran.code == 75
    (line,) = ran.err.splitlines()
    assert "No space left" in line
    (small_state.path / ".filler").unlink()
    ticked(monitor)
    assert is_verified(pushed)


@pytest.mark.newest
def test_a_hook_that_went_well_is_not_blamed_for_one_that_hangs(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    hangs = "trap '' TERM; while :; do sleep 1; done"
    monitor.settings.update(on_verified=[hangs, "echo fine"], hook_minutes=0.05)
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    whys = [json.loads(path.read_text()) for path in monitor.state.glob("hooks/*.json")]
    assert {each["command"]: bool(each["why"]) for each in whys} == {
        hangs: True,
        "echo fine": False,
    }


@pytest.mark.newest
def test_a_hook_gets_names_that_are_not_ascii_without_a_locale(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    run = SimulatedRun(data, group="größe", sample="Müller", files=1)
    run.write_all()
    program.pushed(data, gridion)
    monitor.environment.update(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    monitor.settings["on_verified"] = ['echo "$ONTPUSH_SAMPLE ü"; ls "$ONTPUSH_RUN" >/dev/null']
    ticked(monitor)
    (output,) = (path.read_bytes() for path in monitor.state.glob("hooks/*.out"))
    assert output.decode() == "Müller ü\n"
    assert kinds(mailbox) == ["verified"]


def test_what_hooks_printed_is_cleared_away_in_the_end_and_none_starts_again(
    monitor: Program, pushed: Path
) -> None:
    monitor.settings["on_verified"] = ["echo started"]
    ticked(monitor)
    assert outputs(monitor) == ["started\n"]
    monitor.settings["silent_minutes"] = 10**8
    monitor.put_clock_forward(401 * 24 * HOUR)
    ticked(monitor)
    assert outputs(monitor) == []
    assert len(list(monitor.state.glob("hooks/*.json"))) == 1
    ticked(monitor)
    assert outputs(monitor) == []


# -- how ticks end ----------------------------------------------------------------------------


def test_a_root_that_vanishes_during_a_tick_is_named(
    monitor: Program, pushed: Path, root: Path
) -> None:
    away = root.with_name("unmounted")
    (monitor.modules / "sitecustomize.py").write_text(
        "import os\n"
        "import ontpush.commands.monitor as monitor\n"
        "def vanishes(*_):\n"
        f"    yield os.rename({str(root)!r}, {str(away)!r})\n"
        "monitor.verify_side_by_side = vanishes\n"
    )
    ran = monitor.run("monitor")
    away.rename(root)
    assert ran.code == 69
    (line,) = ran.err.splitlines()
    assert str(root) in line
    (monitor.modules / "sitecustomize.py").unlink()
    ticked(monitor)
    assert is_verified(pushed)


DIES = """\
import os, signal
with open("/proc/self/cmdline", "rb") as file:
    words = file.read().split(b"\\0")
if b"verify" in words:
    os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.newest
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_verification_that_is_killed_is_tried_again_by_the_next_tick(
    monitor: Program, pushed: Path, mailbox: Mailbox, name: str
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(DIES.format(signal=name))
    assert monitor.run("monitor").is_silent
    assert any("ended by signal" in line for line in monitor.told("WARN"))
    (monitor.modules / "sitecustomize.py").unlink()
    ticked(monitor)
    assert is_verified(pushed)
    assert kinds(mailbox) == ["verified"]
    assert list((monitor.state / "checks").iterdir()) == []


def test_a_verification_that_is_killed_each_time_is_told(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(DIES.format(signal="SIGKILL"))
    codes = [monitor.run("monitor").code for _ in range(6)]
    assert codes == [0, 0, 0, 1, 0, 0]
    (mail,) = mailbox.mails()
    assert "signal 9" in content(mail, "plain")


def test_a_verification_that_is_ended_by_hand_is_tried_again(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(
        DIES.format(signal="SIGTERM")
        .replace("os.kill(os.getpid(), signal.SIGTERM)", "WAIT")
        .replace("WAIT", "open(os.environ['ONTPUSH_TEST'] + '/begun', 'w').close()")
        + "import ontpush.facts.limits as limits\nlimits.MOST_HOLES = 1 << 40\n"
    )
    victim = next(pushed.glob("pod5_pass/*.pod5"))
    with victim.open("r+b") as file:
        file.truncate(64 << 30)

    def verification() -> int:
        for pid in monitor.processes():
            with contextlib.suppress(OSError):
                if b"\0verify\0" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    with monitor.started("monitor", *monitor.configured()) as process:
        wait_for((monitor.home / "begun").exists, "no verification begins")
        wait_for(verification, "no verification begins")
        begun = verification()
        wait_for(lambda: os.listdir(f"/proc/{begun}/task")[1:], "it reads nothing")
        os.kill(begun, signal.SIGTERM)
        assert process.wait(60) == 0
    os.truncate(victim, 0)
    assert monitor.run("monitor").code == 1
    assert kinds(mailbox) == ["verification failed"]


def test_a_verdict_that_is_late_and_not_awaited_any_more_ends_no_tick(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    (monitor.modules / "sitecustomize.py").write_text(
        "import time\n"
        "with open('/proc/self/cmdline', 'rb') as file:\n"
        "    words = file.read().split(b'\\0')\n"
        "if b'verify' in words:\n"
        "    time.sleep(600)\n"
        "else:\n"
        "    import ontpush.cluster.checking as checking\n"
        "    _Child = checking.Child\n"
        "    checking.Child = lambda *its: _Child(*its[:2], 3.0, its[3])\n"
    )
    with monitor.started("monitor", *monitor.configured()) as process:
        wait_for(lambda: list(monitor.state.glob("checks/*.new")), "no verification begins")
        mark_anew(pushed, gridion)
        assert monitor.run("monitor").code in (0, 1)
        _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 1)
    assert b"unexpected" not in told


def test_two_roots_do_not_share_a_state(monitor: Program, root: Path, tmp_path: Path) -> None:
    beat(root / "a", {"run": "x/y", "state": "stalled"})
    ticked(monitor)
    other = tmp_path / "other"
    beat(other / "b", {"run": "x/z", "state": "stalled"})
    monitor.settings["root"] = str(other)
    ran = monitor.run("monitor")
    assert ran.code == 78
    (line,) = ran.err.splitlines()
    assert str(root) in line
    assert "state_dir" in line
    (monitor.state / "root.json").unlink()  # as it says, for a root that was moved
    ticked(monitor)


# -- silence --------------------------------------------------------------------------------------


@pytest.mark.newest
def test_directories_that_are_nested_without_end_stop_no_look(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    beat(root / "evil")
    (root / "evil" / "run").mkdir()
    with deep_directory(root / "evil" / "run" / "pod5_pass"):
        ticked(monitor)
        mailbox.mails()
        monitor.put_clock_forward(2 * HOUR)
        ticked(monitor)
        assert kinds(mailbox) == ["silent", "silent"]


def test_the_tree_of_a_silent_instrument_is_looked_at_once_an_hour(
    monitor: Program, gridion: Path, mailbox: Mailbox
) -> None:
    beat(gridion)
    place = gridion / "group" / "run" / "pod5_pass"
    place.mkdir(parents=True)
    monitor.settings["silent_minutes"] = 0.05
    monitor.put_clock_forward(10)
    ticked(monitor)
    assert kinds(mailbox) == ["silent"]
    while place.stat().st_ctime < heartbeat(gridion).stat().st_ctime + 5:
        (place / ".arriving").touch()
        (place / ".arriving").unlink()
    monitor.settings["silent_minutes"] = 0.25
    monitor.put_clock_forward(11)
    ticked(monitor)
    assert kinds(mailbox) == []
    monitor.put_clock_forward(3700)
    monitor.settings["silent_minutes"] = (3700 + 4) / 60
    (place / ".arriving").touch()
    ticked(monitor)
    assert kinds(mailbox) == ["back"]


@pytest.mark.newest
def test_a_number_of_a_million_digits_takes_no_time(
    monitor: Program, pushed: Path, root: Path, mailbox: Mailbox
) -> None:
    beat(root / "evil")
    heartbeat(root / "evil").write_text('{"a":' + "9" * (8 << 20) + "}")
    ticked(monitor)
    assert is_verified(pushed)
    assert "failed" in kinds(mailbox)


def test_an_instrument_that_cannot_be_asked_is_told_by_mail_and_once(
    monitor: Program, pushed: Path, gridion: Path, mailbox: Mailbox
) -> None:
    (gridion / ".ontpush" / "again").write_text("in the way")
    turn_a_bit(next(pushed.glob("pod5_pass/*.pod5")))
    ran = monitor.run("monitor")
    assert "cannot be asked to send again" in ran.err
    assert kinds(mailbox) == ["failed", "verification failed"]
    assert monitor.run("monitor").is_silent
    assert kinds(mailbox) == []
    (gridion / ".ontpush" / "again").unlink()
    ticked(monitor)
    assert kinds(mailbox) == ["back to normal, was failed"]


# -- in which order -------------------------------------------------------------------------------

# Notes which run each verification is of; that of the run `slow` takes for ever.
NOTES = """\
import os
with open("/proc/self/cmdline", "rb") as file:
    words = file.read().split(b"\\0")
if b"verify" in words:
    with open(os.environ["ONTPUSH_TEST"] + "/order", "ab") as file:
        file.write(words[-2].split(b"/")[-3] + b"\\n")
    if {slow!r} in words[-2].split(b"/"):
        import time
        time.sleep(600)
else:
    import ontpush.cluster.checking as checking
    _Child = checking.Child
    def _child(command, nothing, limit, environment):
        limit = {limit} if {slow!r} in command[-1].split(b"/") else limit
        return _Child(command, nothing, limit, environment)
    checking.Child = _child
"""


def send_runs(program: Program, data: Path, gridion: Path, *groups: str) -> list[Path]:
    """Push a done run of each experiment: where they lie."""
    runs = [SimulatedRun(data, group=group, files=1) for group in groups]
    for run in runs:
        run.write_all()
    program.pushed(data, gridion)
    return [gridion / run.path.relative_to(data) for run in runs]


def order(monitor: Program) -> list[str]:
    """Of which runs verifications have begun, by their experiments, since the last call."""
    path = monitor.home / "order"
    found = path.read_text().split()
    path.unlink()
    return found


@pytest.mark.newest
def test_a_hook_starts_as_soon_as_its_run_is_verified(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    send_runs(program, data, gridion, "a", "b", "c")
    monitor.settings["on_verified"] = [f"find {gridion} -name rsync.verified | wc -l"]
    ticked(monitor)
    assert outputs(monitor) == ["1\n", "2\n", "3\n"]
    assert len(kinds(mailbox)) == 3


def test_many_runs_verified_in_one_tick_are_told_together_though_hooks_follow_each(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    send_runs(program, data, gridion, *"abcdef")
    monitor.settings["on_verified"] = ["echo started"]
    ticked(monitor)
    assert outputs(monitor) == ["started\n"] * 6
    assert mailbox.subjects() == ["verified: 6 messages (gridion)"]


def test_a_tick_starts_the_hooks_while_another_still_verifies(
    monitor: Program, pushed: Path, mailbox: Mailbox
) -> None:
    monitor.settings["on_verified"] = ["echo started"]
    killed_at(monitor, "ontpush.cluster.hooks", "run_hooks")
    with (monitor.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticked(monitor)
    assert outputs(monitor) == ["started\n"]
    ticked(monitor)
    assert outputs(monitor) == ["started\n"]


def test_a_run_that_took_too_long_is_read_after_the_others(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    send_runs(program, data, gridion, "a", "b")
    notes = NOTES.format(slow=b"a", limit=2)
    (monitor.modules / "sitecustomize.py").write_text(notes)
    assert monitor.run("monitor").code == 1
    assert order(monitor) == ["a", "b"]
    send_runs(program, data, gridion, "c")
    monitor.settings["silent_minutes"] = 10**6
    put_forward = f"import time\n_now = time.time\ntime.time = lambda: _now() + {25 * HOUR}\n"
    (monitor.modules / "sitecustomize.py").write_text(put_forward + notes)
    assert monitor.run("monitor").code == 1
    assert order(monitor) == ["c", "a"]


def test_an_instrument_that_is_read_from_comes_after_one_that_has_waited(
    monitor: Program, program: Program, data: Path, root: Path
) -> None:
    for name, groups in (("first", "ab"), ("second", "cd"), ("third", "e")):
        (root / name).mkdir()
        send_runs(program, data / name, root / name, *groups)
    (monitor.modules / "sitecustomize.py").write_text(NOTES.format(slow=b"none", limit=600))
    ticked(monitor)
    begun = order(monitor)
    # Two are read at a time, in no order that one can see.
    assert set(begun[:2]) == {"a", "c"}
    assert begun[2] == "e"
    assert set(begun[3:]) == {"b", "d"}


def test_a_run_whose_verification_was_broken_off_is_read_after_the_others(
    monitor: Program, program: Program, data: Path, gridion: Path, mailbox: Mailbox
) -> None:
    send_runs(program, data, gridion, "a", "b")
    (monitor.modules / "sitecustomize.py").write_text(NOTES.format(slow=b"a", limit=600))
    with monitor.started("monitor", *monitor.configured()):
        begun = monitor.home / "order"
        wait_for(lambda: begun.exists() and begun.read_text(), "no verification begins")
        monitor.kill_all()
    assert order(monitor) == ["a"]
    (monitor.modules / "sitecustomize.py").write_text(NOTES.format(slow=b"none", limit=600))
    ticked(monitor)
    assert order(monitor) == ["b", "a"]


# -- one instrument and all others ----------------------------------------------------------------

NOTED = "echo $ONTPUSH_INSTRUMENT >>"


def sent(program: Program, place: Path, base: Path, count: int) -> None:
    """So many done runs of an instrument, which pushes to `base`."""
    base.mkdir(exist_ok=True)
    place.mkdir()
    program.settings.update(instrument=base.name, state_dir=str(place / "state"))
    send_runs(program, place / "data", base, *map(str, range(count)))


def verified_without_hooks(monitor: Program) -> None:
    """A tick that verifies, while another one holds the hooks."""
    monitor.state.mkdir(exist_ok=True)
    with (monitor.state / "hooks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticked(monitor)


def test_one_instrument_starts_so_many_hooks_a_day_and_the_others_wait_for_the_next(
    monitor: Program, program: Program, root: Path, tmp_path: Path, mailbox: Mailbox
) -> None:
    sent(program, tmp_path / "evil", root / "evil", 5)
    few = "import ontpush.facts.limits\nontpush.facts.limits.MOST_HOOKS = 3\n"
    (monitor.modules / "sitecustomize.py").write_text(few)
    monitor.settings.update(on_verified=["echo started"], silent_minutes=10**6)
    ticked(monitor)
    assert len(outputs(monitor)) == 3
    sent(program, tmp_path / "good", root / "good", 2)
    mails = [content(mail, "plain") for mail in mailbox.mails()]
    told = [text for text in mails if "wait for tomorrow" in text]
    assert len(told) == 1
    assert "evil" in told[0]
    ticked(monitor)
    assert len(outputs(monitor)) == 5
    assert "failed" not in kinds(mailbox)
    clock = f"import time\n_now = time.time\ntime.time = lambda: _now() + {24 * HOUR}\n"
    (monitor.modules / "sitecustomize.py").write_text(clock + few)
    ticked(monitor)
    assert len(outputs(monitor)) == 7
    assert kinds(mailbox) == ["back to normal, was failed"]
    ticked(monitor)
    assert len(outputs(monitor)) == 7


def test_many_hooks_of_one_instrument_do_not_come_before_those_of_another(
    monitor: Program, program: Program, root: Path, tmp_path: Path
) -> None:
    sent(program, tmp_path / "evil", root / "evil", 12)
    sent(program, tmp_path / "good", root / "good", 1)
    started = tmp_path / "started"
    monitor.settings["on_verified"] = [f"{NOTED}{started}"]
    verified_without_hooks(monitor)
    assert not started.exists()
    ticked(monitor)
    order = started.read_text().split()
    assert sorted(order) == ["evil"] * 12 + ["good"]
    assert order.index("good") < 8


def test_a_run_that_is_verified_meanwhile_does_not_wait_for_a_long_list_of_hooks(
    monitor: Program, program: Program, root: Path, tmp_path: Path
) -> None:
    sent(program, tmp_path / "evil", root / "evil", 18)
    started, hold = tmp_path / "started", tmp_path / "hold"
    monitor.settings["on_verified"] = [
        f"{NOTED}{started}; while [ -e {hold} ]; do sleep .01; done",
    ]
    verified_without_hooks(monitor)
    hold.touch()
    with monitor.started("monitor", *monitor.configured()) as first:
        wait_for(lambda: started.exists() and started.read_text().count("evil") == 8, "no hooks")
        sent(program, tmp_path / "good", root / "good", 1)
        ticked(monitor)
        hold.unlink()
        assert first.wait(60) == 0
    order = started.read_text().split()
    assert sorted(order) == ["evil"] * 18 + ["good"]
    assert order.index("good") < 16


@pytest.mark.parametrize("what", ["state lost", "other name"])
def test_no_hook_is_started_again_where_the_state_is_lost_or_the_instrument_renamed(
    monitor: Program, pushed: Path, gridion: Path, tmp_path: Path, what: str
) -> None:
    started = tmp_path / "started"
    monitor.settings["on_verified"] = [f"echo once >>{started}"]
    ticked(monitor)
    if what == "state lost":
        shutil.rmtree(monitor.state)
    else:
        gridion.rename(gridion.with_name("promethion"))
    for _ in range(2):
        monitor.run("monitor")
    assert started.read_text() == "once\n"


# Notes each roll-up that is read, but by verifications.
READ = """\
import sys
import ontpush.cluster.arrivals as arrivals
_read = arrivals.load_md5_of_rollup
def _noted(run):
    with open({note!r}, "a") as file:
        file.write("read\\n")
    return _read(run)
arrivals.load_md5_of_rollup = _noted
"""


def reads(monitor: Program) -> int:
    """How many roll-ups ticks of the monitor read since the last call."""
    note = monitor.home / "reads"
    if not note.exists():
        return 0
    count = len(note.read_text().splitlines())
    note.unlink()
    return count


def test_a_roll_up_that_lies_as_it_was_verified_is_not_read_again_before_its_hooks_start(
    monitor: Program, program: Program, root: Path, tmp_path: Path
) -> None:
    sent(program, tmp_path / "good", root / "good", 3)
    monitor.settings["on_verified"] = ["echo started"]
    verified_without_hooks(monitor)
    spy = READ.format(note=str(monitor.home / "reads"))
    (monitor.modules / "sitecustomize.py").write_text(spy)
    ticked(monitor)
    assert outputs(monitor) == ["started\n"] * 3
    assert reads(monitor) == 0


def test_roll_ups_that_change_after_their_verification_hold_no_hook_of_another_up(
    monitor: Program, program: Program, root: Path, tmp_path: Path
) -> None:
    sent(program, tmp_path / "evil", root / "evil", 6)
    sent(program, tmp_path / "good", root / "good", 2)
    monitor.settings["on_verified"] = ["echo $ONTPUSH_INSTRUMENT"]
    verified_without_hooks(monitor)
    for path in root.glob("*/**/md5sum"):
        if path.is_relative_to(root / "evil"):
            path.write_text("other\n")
        else:
            path.chmod(0o640)  # as a person or a program of the cluster may do at any time
    spy = READ.format(note=str(monitor.home / "reads"))
    (monitor.modules / "sitecustomize.py").write_text(spy)
    for _ in range(2):
        ticked(monitor)
        assert 0 < reads(monitor) <= 4  # one of each instrument in each pass
    assert outputs(monitor) == ["good\n"] * 2


def test_twenty_thousand_runs_whose_hooks_wait_for_tomorrow_cost_a_look_little(
    monitor: Program, program: Program, root: Path, tmp_path: Path, mailbox: Mailbox
) -> None:
    sent(program, tmp_path / "evil", root / "evil", 1)
    monitor.settings.update(on_verified=["echo started"], silent_minutes=10**6)
    verified_without_hooks(monitor)
    (remembered,) = monitor.state.glob("instruments/*.json")
    facts = json.loads(remembered.read_text())
    (standing,) = facts["runs"].values()
    assert standing["follow"]
    facts["runs"] = {f"r{number}": standing for number in range(limits.MOST_RUNS)}
    remembered.write_text(json.dumps(facts))
    said = heartbeat(root / "evil")
    told = json.loads(said.read_text())
    told["runs"] = [{**told["runs"][0], "run": name} for name in facts["runs"]]
    said.write_text(json.dumps(told))
    today = {"day": int(time.time()) // (24 * HOUR), "started": {"evil": limits.MOST_HOOKS}}
    (monitor.state / "hooks-today.json").write_text(json.dumps(today))
    (monitor.modules / "sitecustomize.py").write_text(COST)
    ticked(monitor)
    cost = sum(float(line.split()[1]) for line in (monitor.home / "cost").read_text().splitlines())
    assert cost < MOST_SECONDS
    (mail,) = [
        text for text in (content(mail, "plain") for mail in mailbox.mails()) if "wait" in text
    ]
    assert "20,000 more wait for tomorrow" in mail
    assert outputs(monitor) == []
    assert all(each.get("follow") for each in json.loads(remembered.read_text())["runs"].values())
