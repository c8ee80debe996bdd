"""Two sequencers that were given one place at the destination: both are told, neither is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.zygote import Zygote
from tests.program import Program, Ran, is_done, is_verified, mark
from tests.test_verdicts import kinds

DAY = 86400
TOLD = "another sequencer sends a run to the same place"


class Sequencer:
    """An instrument of its own that sends to `place`."""

    def __init__(self, program: Program, source: Path, place: str, at: Path) -> None:
        self.program, self.source, self.place, self.at = program, source, place, at
        self.run = SimulatedRun(source, files=1)
        self.path = self.run.path
        self.there = at / self.path.relative_to(source)

    def push(self) -> Ran:
        """A tick, however it ends."""
        return self.program.push(self.source, self.place, "--json")

    def pushed(self) -> str:
        """A tick in which all goes well: how the run stands."""
        (state,) = self.program.pushed(self.source, self.place).values()
        return str(state["state"])

    def is_refused(self) -> bool:
        """A tick: whether the run fails because another sends to its place, and is not done."""
        ran = self.push()
        (facts,) = ran.runs.values()
        is_told = ran.code == 1 and TOLD in ran.err and "ontpush retry RUN" in ran.err
        return is_told and facts["state"] == "failed" and not (self.path / "rsync.done").exists()

    def retry(self) -> None:
        """A person has decided."""
        assert self.program.run("retry", self.path).code == 0

    def move(self) -> None:
        """Give the run another name."""
        self.path = self.path.rename(self.path.with_name("moved"))
        self.there = self.there.with_name("moved")


def changed(path: Path) -> None:
    """Other bytes of the same size, as another run of the same name has."""
    path.write_bytes(path.read_bytes()[::-1])


@pytest.fixture
def first(program: Program, data: Path, arrived: Path) -> Sequencer:
    """A sequencer with a whole run."""
    sequencer = Sequencer(program, data, str(arrived), arrived)
    sequencer.run.write_all()
    return sequencer


@pytest.fixture
def second(
    host_python: str, zygote: Zygote, first: Sequencer, tmp_path: Path
) -> Iterator[Sequencer]:
    """Another, with a run of the same name that holds other reads."""
    program = Program(host_python, tmp_path / "home of another", zygote)
    program.settings["instrument"] = "another"
    source = tmp_path / "another"
    shutil.copytree(first.source, source)
    sequencer = Sequencer(program, source, first.place, first.at)
    changed(next(sequencer.path.glob("pod5_pass/*.pod5")))
    yield sequencer
    assert not program.processes()


def is_called_done(run: Path) -> bool:
    """Whether a mark at the destination vouches for anything."""
    return any(
        "rollup" in mark(run, name)
        for name in ("rsync.done", "rsync.verified")
        if (run / name).exists()
    )


def test_the_second_run_of_one_name_sends_nothing_and_both_fail_by_name(
    first: Sequencer, second: Sequencer
) -> None:
    assert first.pushed() == "done"
    before = snapshot(first.there)
    assert second.is_refused()
    assert snapshot(first.there) == before
    assert first.is_refused()
    assert not is_called_done(first.there)
    assert snapshot(first.there, without=["rsync.done"]) == {
        name: each for name, each in before.items() if name != b"rsync.done"
    }
    for _ in range(2):
        assert second.is_refused()
        assert first.is_refused()
    assert not is_called_done(first.there)


def test_it_is_noticed_in_the_middle_of_a_run_too(first: Sequencer, second: Sequencer) -> None:
    next(first.path.glob("final_summary*")).unlink()
    assert first.pushed() == "waiting"
    assert second.is_refused()
    assert first.is_refused()


def test_through_a_key_that_can_only_write_it_is_the_same(
    first: Sequencer, second: Sequencer, cluster: Cluster
) -> None:
    second.program.settings.update(cluster.config())
    for each in (first, second):
        each.place = cluster.destination
        each.there = cluster.directory / first.path.relative_to(first.source)
    assert first.pushed() == "done"
    before = snapshot(first.there)
    assert second.is_refused()
    assert snapshot(first.there) == before
    assert first.is_refused()
    assert not is_called_done(first.there)


def check_moved(mover: Sequencer, other: Sequencer) -> None:
    """One of two in a contest moves, the other takes the place by `retry`, and both get done."""
    mover.move()
    assert mover.pushed() == "done"
    other.retry()
    assert other.pushed() == "done"
    for each in (mover, other):
        assert is_done(each.there)
        assert each.pushed() == "done"


def test_when_the_second_moves_the_first_claims_it_back_by_retry(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    second.is_refused()
    first.is_refused()
    check_moved(second, first)


def test_when_the_first_moves_the_second_has_the_place_by_retry(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    second.is_refused()
    first.is_refused()
    check_moved(first, second)
    data = next(second.path.glob("pod5_pass/*.pod5"))
    assert (second.there / data.relative_to(second.path)).read_bytes() == data.read_bytes()


def test_another_directory_for_one_of_them_needs_no_retry_of_that_one(
    first: Sequencer, second: Sequencer, tmp_path: Path
) -> None:
    first.pushed()
    second.is_refused()
    (tmp_path / "elsewhere").mkdir()
    second.place = str(tmp_path / "elsewhere")
    assert second.pushed() == "done"
    assert is_done(tmp_path / "elsewhere" / second.path.relative_to(second.source))


def test_retry_on_one_while_the_other_is_still_there_leaves_the_place_to_that_one_alone(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    second.is_refused()
    second.retry()
    # The first has not heard of anything yet, and would vouch for what lies there now.
    assert second.pushed() == "done"
    assert first.is_refused()
    assert is_done(second.there)
    assert mark(second.there)["instrument"] == "another"
    assert second.pushed() == "done"
    assert first.is_refused()


def test_retry_on_both_leaves_the_place_to_the_last(first: Sequencer, second: Sequencer) -> None:
    first.pushed()
    second.is_refused()
    first.is_refused()
    first.retry()
    second.retry()
    assert first.pushed() == "done"
    assert second.pushed() == "done"
    assert first.is_refused()
    assert second.pushed() == "done"
    assert is_done(second.there)
    assert mark(second.there)["instrument"] == "another"


def test_what_only_a_killed_tick_heard_is_heard_within_a_day(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    second.is_refused()
    first.program.wrap_rsync(after="kill -9 $PPID")
    first.push()
    first.program.kill_all()
    first.program.wrap_rsync()
    first.pushed()
    first.program.put_clock_forward(DAY + 60)
    assert first.is_refused()
    assert not is_called_done(first.there)


@pytest.mark.parametrize("call", range(1, 4))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_tick_that_is_killed_while_it_claims_loses_no_contest(
    first: Sequencer, second: Sequencer, call: int, when: str
) -> None:
    first.pushed()
    before = snapshot(first.there)
    second.program.kill_at(call, when)
    second.push()
    second.program.kill_all()
    shutil.rmtree(second.program.state / "outbox", ignore_errors=True)
    second.program.wrap_rsync()
    assert second.is_refused()
    assert snapshot(first.there) == before
    assert first.is_refused()


@pytest.mark.parametrize("whose", ["first", "second"])
def test_a_lost_ledger_decides_no_contest(first: Sequencer, second: Sequencer, whose: str) -> None:
    first.pushed()
    second.is_refused()
    first.is_refused()
    shutil.rmtree((first if whose == "first" else second).program.state)
    assert first.is_refused()
    assert second.is_refused()


def test_a_lost_ledger_is_no_contest_with_oneself(first: Sequencer) -> None:
    first.pushed()
    shutil.rmtree(first.program.state)
    assert first.pushed() == "done"


def test_an_instrument_that_was_given_another_name_is_no_other(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    first.program.settings["instrument"] = "renamed"
    assert first.pushed() == "done"
    assert first.pushed() == "done"
    # Who has the old name now is another.
    second.program.settings["instrument"] = "lab"
    assert second.is_refused()
    assert first.is_refused()


def test_a_lost_ledger_and_another_name_at_once_need_a_retry(first: Sequencer) -> None:
    first.pushed()
    shutil.rmtree(first.program.state)
    first.program.settings["instrument"] = "renamed"
    assert first.is_refused()
    first.program.settings["instrument"] = "lab"
    assert first.is_refused()
    first.retry()
    assert first.pushed() == "done"
    assert is_done(first.there)


def test_marks_of_a_run_that_the_first_has_deleted_stay_and_are_true(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    other = SimulatedRun(first.source, group="other", files=1)
    other.write_all()
    before = snapshot(first.there)
    shutil.rmtree(first.path)
    for _ in range(2):
        assert second.is_refused()
        first.program.pushed(first.source, first.place)
        assert snapshot(first.there) == before
        assert is_done(first.there)


def test_a_destination_from_before_there_were_claims_is_claimed_by_whoever_comes_first(
    first: Sequencer, second: Sequencer
) -> None:
    first.pushed()
    shutil.rmtree(first.at / ".ontpush")
    shutil.rmtree(first.program.state)
    assert first.pushed() == "done"
    assert second.is_refused()


def test_two_that_share_a_directory_with_runs_of_their_own_are_both_done(
    first: Sequencer, second: Sequencer
) -> None:
    second.move()
    for _ in range(3):
        assert first.pushed() == "done"
        assert second.pushed() == "done"
    assert is_done(first.there)
    assert is_done(second.there)


def test_a_run_that_is_skipped_claims_nothing(first: Sequencer, second: Sequencer) -> None:
    (second.path / "rsync.skip").write_text("a copy\n")
    assert second.pushed() == "skipped"
    assert first.pushed() == "done"
    assert second.pushed() == "skipped"
    assert first.pushed() == "done"


def test_a_dry_run_names_a_contest_that_is_known(first: Sequencer, second: Sequencer) -> None:
    first.pushed()
    assert second.push().code == 1
    ran = second.program.push(second.source, second.place, "--dry-run")
    assert ran.code == 1
    assert TOLD in ran.err


def test_the_places_of_many_runs_are_claimed_at_once(
    program: Program, data: Path, arrived: Path
) -> None:
    for group in "abcde":
        SimulatedRun(data, group=group, files=1).write_all()
    claims = program.home / "claims"
    program.wrap_rsync(before=f"[ -d {program.state}/outbox/.ontpush/owners ] && echo >>{claims}")
    program.pushed(data, arrived)
    program.pushed(data, arrived)
    assert len(claims.read_text()) == 2
    assert len(list((arrived / ".ontpush" / "owners").iterdir())) == 5


# -- at the cluster ---------------------------------------------------------------------------


@pytest.fixture(params=["its directory", "the root"])
def shared(
    request: pytest.FixtureRequest, first: Sequencer, second: Sequencer, root: Path, gridion: Path
) -> Path:
    """Both push to one instrument's directory, or to the root itself."""
    if request.param == "the root":
        gridion.rmdir()
    base = gridion if request.param == "its directory" else root
    for each in (first, second):
        each.place, each.at = str(base), base
        each.there = base / each.path.relative_to(each.source)
    return base


def verdicts(monitor: Program) -> set[str | None]:
    """What `status` at the cluster says of the runs there."""
    ran = monitor.run("status", "--json")
    return {each["verdict"] for each in ran.json["data"]["runs"]}


def look(monitor: Program, code: int = 0) -> str:
    """A tick of the monitor: what it printed."""
    ran = monitor.run("monitor")
    assert ran.code == code, ran
    return ran.err


def contested(monitor: Program, first: Sequencer, second: Sequencer, shared: Path) -> str:
    """A verified run that another sequencer comes to: what the monitor says as it finds that."""
    monitor.settings.update(silent_minutes=10**6)
    first.pushed()
    look(monitor)
    assert is_verified(first.there)
    assert second.is_refused()
    look(monitor)
    assert first.is_refused()
    assert second.is_refused()
    return look(monitor, code=1)


def test_the_monitor_names_both_and_vouches_for_the_run_no_more(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path, mailbox: Mailbox
) -> None:
    told = contested(monitor, first, second, shared)
    assert '"another" and "lab" send a run to the same place' in told
    assert not is_called_done(first.there)
    assert any('"another" and "lab" send' in content(mail, "plain") for mail in mailbox.mails())
    assert verdicts(monitor) == {"contested"}
    assert '"another" and "lab" send' in monitor.run("status").out
    for each in (first, second):
        each.is_refused()
        look(monitor)
    assert not [path for path in (shared / ".ontpush").glob("*.bell") if path.stat().st_size]
    assert not is_called_done(first.there)
    assert kinds(mailbox) == []


def test_what_the_monitor_vouched_for_is_taken_back_by_itself(
    monitor: Program, first: Sequencer, shared: Path
) -> None:
    first.pushed()
    look(monitor)
    assert is_verified(first.there)
    told = {"run": str(first.path.relative_to(first.source)), "state": "sending"}
    for code in (0, 1):
        # A sequencer with an older ontpush, which claims nothing.
        another = shared / ".ontpush" / "another.json"
        another.write_text(json.dumps({"instrument": "another", "runs": [told]}))
        first.pushed()
        look(monitor, code)
    assert not (first.there / "rsync.verified").exists()


def test_a_contested_run_is_not_verified_though_a_mark_vouches_for_it(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path
) -> None:
    contested(monitor, first, second, shared)
    first.retry()
    assert first.pushed() == "done"
    look(monitor)
    assert verdicts(monitor) == {"contested"}
    assert "rollup" not in mark(first.there, "rsync.verified")


def test_when_one_of_them_has_moved_the_run_is_verified_again(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path
) -> None:
    contested(monitor, first, second, shared)
    second.move()
    assert second.pushed() == "done"
    first.retry()
    assert first.pushed() == "done"
    look(monitor)
    look(monitor)
    assert is_verified(first.there)
    assert verdicts(monitor) <= {"verified", None}


def test_when_one_of_them_is_switched_off_the_run_is_verified_again(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path
) -> None:
    contested(monitor, first, second, shared)
    first.retry()
    monitor.settings.update(silent_minutes=90)
    monitor.put_clock_forward(DAY)
    assert first.pushed() == "done"
    monitor.run("monitor")
    assert is_verified(first.there)


def test_an_instrument_that_has_another_name_now_is_no_contest_at_the_cluster(
    monitor: Program, first: Sequencer, shared: Path
) -> None:
    first.pushed()
    look(monitor)
    first.program.settings["instrument"] = "renamed"
    for _ in range(3):
        first.pushed()
        look(monitor)
    assert is_verified(first.there)


def test_two_that_share_a_directory_with_runs_of_their_own_are_verified(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path
) -> None:
    second.move()
    for _ in range(3):
        first.pushed()
        look(monitor)
        second.pushed()
        look(monitor)
    assert is_verified(first.there)
    assert is_verified(second.there)


def test_a_run_that_one_of_them_skips_is_no_contest_at_the_cluster(
    monitor: Program, first: Sequencer, second: Sequencer, shared: Path
) -> None:
    (second.path / "rsync.skip").write_text("a copy\n")
    for _ in range(3):
        first.pushed()
        look(monitor)
        second.pushed()
        look(monitor)
    assert is_verified(first.there)


def test_two_among_very_many_sequencers_that_send_to_one_place_are_named(
    monitor: Program, root: Path, mailbox: Mailbox
) -> None:
    (root / ".ontpush").mkdir()
    names = ["aa", "bb", *(f"s{number}" for number in range(30))]
    for _ in range(3):
        for name in names:
            run = "exp/same" if name in ("aa", "bb") else f"{name}/run"
            told = {"instrument": name, "runs": [{"run": run, "state": "sending"}]}
            (root / ".ontpush" / f"{name}.json").write_text(json.dumps(told))
        assert monitor.run("monitor").code in (0, 1)
        verdicts = monitor.run("status", "--json").json["data"]["runs"]
    contested = {each["instrument"] for each in verdicts if each["verdict"] == "contested"}
    assert contested == {"aa", "bb"}
