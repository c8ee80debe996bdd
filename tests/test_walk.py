"""Once a week each file of a verified run is asked whether it is there, as large as it was."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Cluster
from tests.lab.mailbox import Mailbox
from tests.lab.minknow import SimulatedRun
from tests.program import Program, coreutils_agree, is_verified, mark, turn_a_bit
from tests.test_bell import Pair
from tests.test_pull import hashed, login, pulled, sequencer
from tests.test_verdicts import kinds

__all__ = ["login", "sequencer"]

HOUR = 3600.0
DAY = 24 * HOUR
# Verified on the first day at ten, a run is due a week later, from ten in the evening on.
VERIFIED = (1, 10)
NOT_YET, DUE, OVERDUE = (8, 12), (8, 23), (9, 11)
DUE_AGAIN = (15, 23.5)


def at(monitor: Program, moment: tuple[int, float], more: str = "") -> None:
    """Let it be an hour of a day for the monitor, the first of which begins tonight.

    `more` is Python that goes before the program.
    """
    day, hour = moment
    monitor.environment["TZ"] = "UTC"
    now = time.time()
    monitor.put_clock_forward(now // DAY * DAY + day * DAY + hour * HOUR - now)
    with (monitor.modules / "sitecustomize.py").open("a") as file:
        file.write(more)


@pytest.fixture
def local(program: Program, monitor: Program, run: SimulatedRun, gridion: Path) -> Pair:
    """A sequencer that pushes to a directory of this machine, and the monitor there."""
    monitor.settings.update(silent_minutes=10**6)
    pair = Pair(program, monitor, run, str(gridion), gridion)
    run.write_all()
    assert pair.push() == "done"
    at(monitor, VERIFIED)
    assert pair.look() == "verified"
    return pair


def victim(run: Path) -> Path:
    """A data file of the run."""
    return next(run.glob("pod5_pass/*.pod5"))


def remove(run: Path) -> None:
    victim(run).unlink()


def truncate(run: Path) -> None:
    os.truncate(victim(run), 5)


def append(run: Path) -> None:
    with victim(run).open("ab") as file:
        file.write(b"more")


def remove_the_folder(run: Path) -> None:
    shutil.rmtree(run / "pod5_pass")


def replace_by_a_link(run: Path) -> None:
    """To a folder outside that holds the same."""
    elsewhere = run.parents[3] / "elsewhere"
    (run / "pod5_pass").rename(elsewhere)
    (run / "pod5_pass").symlink_to(elsewhere)


def replace_by_a_directory(run: Path) -> None:
    path = victim(run)
    path.unlink()
    path.mkdir()


def add_what_is_cut(run: Path) -> None:
    """So that only the sum of all sizes is what it was."""
    os.truncate(victim(run), victim(run).stat().st_size - 1)
    with next(run.glob("fastq_pass/*.gz")).open("ab") as file:
        file.write(b"x")


ALL_HARM = [
    remove,
    truncate,
    append,
    remove_the_folder,
    replace_by_a_link,
    replace_by_a_directory,
    add_what_is_cut,
]


# -- what is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ALL_HARM)
def test_a_file_of_a_verified_run_that_is_gone_or_of_another_size_is_found_told_and_mended(
    local: Pair, mailbox: Mailbox, harm: Callable[[Path], None]
) -> None:
    mailbox.mails()
    harm(local.there)
    at(local.monitor, DUE)
    ran = local.monitor.run("monitor")
    assert ran.code == 1
    assert "pod5_pass/" in ran.err
    assert not (local.there / "rsync.verified").exists()
    assert kinds(mailbox) == ["verification failed"]
    assert len(local.requests()) == 2
    if harm in (replace_by_a_link, replace_by_a_directory):
        return  # what lies in the way is for a person: nothing is deleted
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    assert kinds(mailbox) == ["mended, verified"]
    local.check_mended()


def test_a_run_is_asked_for_its_files_a_week_after_it_was_verified_at_night_or_a_day_later(
    local: Pair,
) -> None:
    remove(local.there)
    for moment in [(8, 3), NOT_YET]:
        at(local.monitor, moment)
        assert local.look() is None
    at(local.monitor, OVERDUE)
    assert local.look() == "corrupt"


def test_a_run_that_is_as_it_was_is_asked_again_a_week_later_and_nothing_is_said(
    local: Pair, mailbox: Mailbox
) -> None:
    mailbox.mails()
    before = mark(local.there, "rsync.verified")
    at(local.monitor, DUE)
    assert local.monitor.run("monitor").is_silent
    remove(local.there)
    for moment in [(9, 23), (15, 12)]:
        at(local.monitor, moment)
        assert local.look() is None
    assert mark(local.there, "rsync.verified") == before
    assert kinds(mailbox) == []
    at(local.monitor, DUE_AGAIN)
    assert local.look() == "corrupt"


def test_no_byte_is_read_by_it(local: Pair) -> None:
    turn_a_bit(victim(local.there))
    at(local.monitor, DUE)
    assert local.look() is None
    assert (local.there / "rsync.verified").exists()


# -- what it is held against --------------------------------------------------------------------


def remembered(monitor: Program) -> Path:
    """The file in which the monitor remembers its one instrument."""
    (path,) = (monitor.state / "instruments").glob("*.json")
    return path


@pytest.mark.parametrize("harm", [remove, truncate, append])
def test_of_a_run_that_an_older_version_verified_presence_and_total_are_looked_at(
    local: Pair, harm: Callable[[Path], None]
) -> None:
    path = remembered(local.monitor)
    facts = json.loads(path.read_text())
    for each in facts["runs"].values():
        assert len(each.pop("sizes")) == 32
    path.write_text(json.dumps(facts))
    at(local.monitor, DUE)
    assert local.look() is None
    harm(local.there)
    at(local.monitor, DUE_AGAIN)
    assert local.look() == "corrupt"


def test_what_was_read_is_known_again_from_the_mark_when_the_memory_is_lost(local: Pair) -> None:
    shutil.rmtree(local.monitor.state)
    assert local.look() is None
    add_what_is_cut(local.there)
    at(local.monitor, DUE)
    assert local.look() == "corrupt"


def test_a_run_that_somebody_opened_again_is_left_to_the_daily_look(local: Pair) -> None:
    remove(local.there)
    (local.there / "rsync.done").write_text("2026-03-02T09:30:12+00:00\nretracted: opened again\n")
    at(local.monitor, OVERDUE)
    assert local.look() is None
    assert "files are gone" not in local.monitor.log_file.read_text()


# -- trouble ------------------------------------------------------------------------------------

FAILS = """
import errno, os
_stat, _open = os.stat, os.open
def failing(of):
    def call(path, *words, **more):
        if isinstance(path, bytes) and path.endswith({name!r}):
            raise OSError({error}, os.strerror({error}), path)
        return of(path, *words, **more)
    return call
os.stat, os.open = failing(_stat), failing(_open)
"""


def fails(name: str, error: str) -> str:
    return FAILS.format(name=name.encode(), error=f"errno.{error}")


CANNOT_BE_ASKED_FOR = [
    (what, error)
    for what in ("a file", "its folder", "the roll-up")
    for error in ("EIO", "ESTALE", "EACCES")
    # A roll-up that may not be read vouches for nothing: the daily look says so.
    if (what, error) != ("the roll-up", "EACCES")
]


@pytest.mark.parametrize(("what", "error"), CANNOT_BE_ASKED_FOR)
def test_what_cannot_be_asked_for_is_not_missing_and_is_asked_for_by_the_next_tick(
    local: Pair, error: str, what: str, mailbox: Mailbox
) -> None:
    mailbox.mails()
    name = {"a file": victim(local.there).name, "its folder": "pod5_pass", "the roll-up": "md5sum"}
    for minute in range(3):
        at(local.monitor, (8, 23 + minute / 60), fails(name[what], error))
        assert local.monitor.run("monitor").is_silent
    (told,) = (line for line in local.monitor.told("WARN") if "cannot be looked at" in line)
    assert local.run.path.name in told
    assert is_verified(local.there)
    assert kinds(mailbox) == []
    remove(local.there)
    at(local.monitor, (8, 23.5))
    assert local.look() == "corrupt"


def test_what_cannot_be_asked_for_in_a_week_is_verified_which_tells_why(local: Pair) -> None:
    at(local.monitor, (15, 23), fails(victim(local.there).name, "EACCES"))
    ran = local.monitor.run("monitor")
    assert ran.code == 1
    assert f"unreadable: pod5_pass/{victim(local.there).name}" in ran.err
    assert (local.there / "rsync.verified").exists()


# -- what it costs ------------------------------------------------------------------------------


def test_a_tick_asks_for_a_minute_and_the_next_one_goes_on(
    program: Program, monitor: Program, data: Path, gridion: Path
) -> None:
    monitor.settings.update(silent_minutes=10**6)
    runs = [SimulatedRun(data, group=group, files=1) for group in "cab"]
    places = [gridion / each.path.relative_to(data) for each in runs]
    for number, each in enumerate(runs):
        each.write_all()
        program.pushed(data, gridion)
        at(monitor, (1, 8 + number))
        assert len(monitor.run("monitor", "--json").json["data"]["runs"]) == 1
    for place in places:
        remove(place)
    at(monitor, DUE, "import ontpush.facts.limits as limits\nlimits.WALK_SECONDS = 0\n")
    found: list[str] = []
    for _ in places:
        facts: dict[str, Any] = monitor.run("monitor", "--json").json["data"]
        found += [each["run"] for each in facts["runs"]]
    # The one that was verified longest ago comes first.
    assert found == [str(place.relative_to(gridion)) for place in places]


def test_instruments_take_turns_from_tick_to_tick(
    program: Program, monitor: Program, data: Path, root: Path
) -> None:
    monitor.settings.update(silent_minutes=10**6)
    places = []
    for number, (name, group) in enumerate([("evil", "a"), ("evil", "b"), ("gridion", "c")]):
        source = data / name
        run = SimulatedRun(source, group=group, files=1)
        run.write_all()
        (root / name).mkdir(exist_ok=True)
        program.pushed(source, root / name)
        at(monitor, (1, 8 + number))
        assert len(monitor.run("monitor", "--json").json["data"]["runs"]) == 1
        places.append(root / name / run.path.relative_to(source))
    for place in places:
        remove(place)
    at(monitor, DUE, "import ontpush.facts.limits as limits\nlimits.WALK_SECONDS = 0\n")
    found = []
    for _ in places:
        (facts,) = monitor.run("monitor", "--json").json["data"]["runs"]
        found.append(root / facts["instrument"] / facts["run"])
    first, second, third = places
    assert found == [first, third, second]


def test_a_run_that_takes_too_long_to_walk_through_is_left_to_the_next_tick(local: Pair) -> None:
    remove(local.there)
    at(local.monitor, DUE, "import ontpush.facts.limits as limits\nlimits.RUN_WALK_SECONDS = 0\n")
    assert local.monitor.run("monitor").is_silent
    (told,) = (line for line in local.monitor.told("WARN") if "cannot be looked at" in line)
    assert "it takes longer than 0 s" in told
    at(local.monitor, (8, 23.5))
    assert local.look() == "corrupt"


# -- pull ---------------------------------------------------------------------------------------


def test_what_was_pulled_and_lost_here_is_found_though_pull_forgot_it_and_is_fetched_again(
    program: Program, run: SimulatedRun, login: Program, sequencer: Cluster, root: Path
) -> None:
    login.settings.update(silent_minutes=10**6)
    run.write_all()
    hashed(program, run.root)
    pulled(login)
    at(login, VERIFIED)
    login.run("monitor")
    there = root / "mk1c" / run.path.relative_to(run.root)
    assert is_verified(there)
    for path in login.state.iterdir():
        if path.name not in ("instruments", "root.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lost = victim(there)
    remove(there)
    at(login, DUE)
    assert login.run("monitor").code == 1
    assert not (there / "rsync.verified").exists()
    pulled(login)
    assert lost.exists()
    assert coreutils_agree(there)
    assert login.run("monitor").code == 0
    assert is_verified(there)


def test_a_run_that_lost_here_all_that_made_it_one_is_mended(local: Pair) -> None:
    alone = local.run.path.parent / "alone"
    alone.mkdir()
    (alone / "final_summary_1.txt").write_bytes(b"x=1\n")
    local.program.push(local.run.root, local.destination)
    assert list(local.looks().values()) == ["verified"]
    lost = local.there.parent / "alone/final_summary_1.txt"
    lost.unlink()
    at(local.monitor, OVERDUE)
    assert list(local.looks().values()) == ["corrupt"]
    for _ in range(2):
        local.program.push(local.run.root, local.destination)
    assert lost.exists()
