"""Other users of a host read nothing of the state, hold no lock of it and plant nothing there."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun
from tests.program import Program, is_done
from tests.test_monitor import beat, ticked

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
# As root it would read everything: this is root as any other user is.
AS_NO_ROOT = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def can(*command: str | Path) -> bool:
    """Whether a command goes well for the user nobody."""
    return subprocess.run([*AS_NOBODY, *command], capture_output=True, check=False).returncode == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that all users of this host may enter, as those of the tests they may not."""
    place = Path(tempfile.mkdtemp(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def here(program: Program, place: Path) -> Program:
    """The program with its state and log where all may enter."""
    return moved(program, place)


@pytest.fixture
def monitored(monitor: Program, place: Path) -> Program:
    """The monitor with its state and log where all may enter."""
    return moved(monitor, place)


def moved(program: Program, place: Path) -> Program:
    """Let state and log of the program lie there."""
    program.state, program.log_file = place / "state", place / "ontpush.log"
    program.settings.update(state_dir=str(program.state), log=str(program.log_file))
    return program


def open_to_all(state: Path, lock: str) -> None:
    """A state directory with a lock, as older versions made it."""
    state.mkdir()
    (state / lock).touch(0o644)
    state.chmod(0o755)


def check_closed(state: Path) -> None:
    """Nobody else may do anything in the state, nor with any file in it that is ours alone."""
    assert not can("ls", state)
    for path in state.rglob("*"):
        assert not can("test", "-r", path), path
        assert not can("flock", "-n", path, "true"), path
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("is_older", [False, True])
def test_no_other_user_reads_the_state_of_a_sequencer_or_takes_its_lock(
    here: Program, run: SimulatedRun, data: Path, arrived: Path, is_older: bool
) -> None:
    if is_older:
        open_to_all(here.state, "lock")
        assert can("flock", "-n", here.state / "lock", "true")
    run.write_all()
    here.pushed(data, arrived)
    check_closed(here.state)
    assert (here.state / "lock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("is_older", [False, True])
def test_no_other_user_reads_the_state_of_the_monitor_or_takes_its_locks(
    monitored: Program, pushed: Path, is_older: bool
) -> None:
    if is_older:
        open_to_all(monitored.state, "work.lock")
        assert can("flock", "-n", monitored.state / "work.lock", "true")
    monitored.settings["on_verified"] = ["echo printed"]
    ticked(monitored)
    assert list(monitored.state.glob("hooks/*.out"))
    check_closed(monitored.state)
    modes = {path.stat().st_mode & 0o777 for path in monitored.state.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_what_is_asked_for_before_the_first_tick_lies_where_no_other_user_reads_it(
    monitored: Program, pushed: Path
) -> None:
    assert monitored.run("retry", pushed).code == 0
    check_closed(monitored.state)


def test_what_is_sent_keeps_the_modes_that_this_user_gives_to_new_files(
    here: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    here.pushed(data, arrived)
    for name in ("md5sum", "rsync.done"):
        path = arrived / run.path.relative_to(data) / name
        assert path.stat().st_mode & 0o777 == 0o644


def test_a_log_that_we_make_is_read_by_its_group_at_most_and_one_that_is_there_keeps_its_mode(
    here: Program, data: Path, arrived: Path
) -> None:
    here.pushed(data, arrived)
    assert here.log_file.stat().st_mode & 0o777 == 0o640
    assert not can("cat", here.log_file)
    here.log_file.chmod(0o644)
    here.pushed(data, arrived)
    assert can("cat", here.log_file)


# -- what another user put there ----------------------------------------------------------------


def refusal(program: Program, data: Path, arrived: Path) -> str:
    """The one line with which a tick refuses to begin."""
    ran = program.push(data, arrived)
    assert (ran.code, ran.out) == (78, "")
    (line,) = ran.err.splitlines()
    return line


def test_a_state_directory_of_another_user_is_refused_by_name(
    here: Program, data: Path, arrived: Path
) -> None:
    here.state.mkdir(0o777)
    os.chown(here.state, NOBODY, NOBODY)
    line = refusal(here, data, arrived)
    assert str(here.state) in line
    assert "belongs to nobody" in line
    assert "--state-dir" in line
    assert not list(here.state.iterdir())
    ran = here.run("check", data, arrived)
    assert ran.code == 78
    assert "belongs to nobody: call as that user" in ran.err


def test_a_state_directory_in_which_others_have_their_ways_is_not_closed_but_refused(
    here: Program, data: Path, arrived: Path, place: Path
) -> None:
    here.settings["state_dir"] = str(place)
    (place / "runs").mkdir()
    line = refusal(here, data, arrived)
    assert f"{place} holds runs" in line
    assert "--state-dir" in line
    assert can("ls", place / "runs")
    assert not (place / "lock").exists()
    place.chmod(0o700)
    here.pushed(data, arrived)


def test_a_state_directory_that_was_opened_to_others_is_closed_whatever_of_ours_is_in_it(
    here: Program, monitored: Program, pushed: Path, data: Path, arrived: Path, root: Path
) -> None:
    monitored.settings["on_verified"] = ["echo printed"]
    with (here.state / "work.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticked(monitored)
    monitored.run("retry", pushed)
    monitored.settings["pull"] = [{"instrument": "one", "source": str(data)}]
    monitored.run("pull")
    del monitored.settings["pull"]
    here.run("check", data, arrived)
    for program, call in ((here, ("push", data, arrived)), (monitored, ("monitor",))):
        program.state.chmod(0o755)
        assert program.run(*call).code == 0
        check_closed(program.state)


def test_a_state_directory_that_another_user_made_a_link_is_refused_and_led_nowhere(
    here: Program, data: Path, arrived: Path, place: Path
) -> None:
    ours = place / "ours"
    ours.mkdir(0o755)
    here.state.symlink_to(ours)
    os.chown(here.state, NOBODY, NOBODY, follow_symlinks=False)
    line = refusal(here, data, arrived)
    assert str(here.state) in line
    assert "link" in line
    assert not list(ours.iterdir())
    assert ours.stat().st_mode & 0o777 == 0o755


def test_a_state_directory_that_this_user_made_a_link_is_followed_and_closed(
    here: Program, data: Path, arrived: Path, place: Path
) -> None:
    ours = place / "ours"
    ours.mkdir(0o755)
    here.state.symlink_to(ours)
    here.pushed(data, arrived)
    assert (ours / "lock").exists()
    check_closed(ours)


@pytest.mark.parametrize("what", ["link", "another user's", "pipe"])
def test_a_lock_that_is_not_ours_is_refused_by_name(
    here: Program, data: Path, arrived: Path, place: Path, what: str
) -> None:
    open_to_all(here.state, "lock")
    lock, elsewhere = here.state / "lock", place / "elsewhere"
    elsewhere.write_text("kept")
    if what == "another user's":
        os.chown(lock, NOBODY, NOBODY)
    else:
        lock.unlink()
        lock.symlink_to(elsewhere) if what == "link" else os.mkfifo(lock)
    line = refusal(here, data, arrived)
    assert str(lock) in line
    assert "remove it" in line
    assert elsewhere.read_text() == "kept"


@pytest.mark.parametrize("what", ["link", "another user's"])
def test_a_log_that_another_user_put_there_is_refused_by_name(
    here: Program, data: Path, arrived: Path, place: Path, what: str
) -> None:
    ours = place / "ours"
    ours.write_text("kept")
    place.chmod(0o1777)  # as /tmp
    if what == "link":
        here.log_file.symlink_to(ours)
    else:
        here.log_file.write_text("kept")
    os.chown(here.log_file, NOBODY, NOBODY, follow_symlinks=False)
    line = refusal(here, data, arrived)
    assert str(here.log_file) in line
    assert "--log" in line
    assert (ours if what == "link" else here.log_file).read_text() == "kept"


def test_a_log_that_logrotate_made_for_another_user_is_written_as_its_mode_says(
    here: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    here.log_file.touch()
    os.chown(here.log_file, NOBODY, NOBODY)
    here.log_file.chmod(0o664)
    run.write_all()
    here.pushed(data, arrived)
    assert here.told("MARK DONE")
    found = here.log_file.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (NOBODY, 0o664)


def test_a_log_that_another_user_replaces_during_a_tick_ends_no_tick_and_is_told(
    here: Program, run: SimulatedRun, data: Path, arrived: Path, place: Path
) -> None:
    ours = place / "ours"
    ours.write_text("kept")
    run.write_all()
    here.wrap_rsync(before=f"ln -sfn {ours} {here.log_file}; chown -h nobody {here.log_file}")
    ran = here.push(data, arrived)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert str(here.log_file) in line
    assert "another user's" in line
    assert is_done(arrived / run.path.relative_to(data))
    assert ours.read_text() == "kept"


def test_status_by_another_user_says_which_user_to_be(
    here: Program, monitored: Program, run: SimulatedRun, data: Path, arrived: Path, root: Path
) -> None:
    beat(root / "mk1c", {"run": "a/b", "state": "failed"})
    ticked(monitored)
    assert monitored.run("status").code == 0
    os.chown(monitored.state, NOBODY, NOBODY)
    monitored.within = AS_NO_ROOT
    ran = monitored.run("status")
    assert ran.code == 78
    (line,) = ran.err.splitlines()
    assert "nobody" in line
    assert str(monitored.state) in line
