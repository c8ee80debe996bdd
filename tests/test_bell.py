"""What went bad at the cluster after done is mended by the next ticks, without a person."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.oldrsync import OldRsync
from tests.program import Program, is_done, is_verified, mark, turn_a_bit

MINUTE, HOUR = 60.0, 3600.0
ASKED_IN_VAIN = 3  # how often a run is asked for before people are
# The call of a tick that has heard the bell.
THE_REQUESTS = '*" --checksum --existing "*'


class Pair:
    """A sequencer that pushes to a cluster where a monitor looks."""

    def __init__(
        self, program: Program, monitor: Program, run: SimulatedRun, to: str, at: Path
    ) -> None:
        self.program = program
        self.monitor = monitor
        self.run = run
        self.destination = to
        self.there = at / run.path.relative_to(run.root)
        self.place = at / ".ontpush"
        self.ticks = 0

    def push(self) -> str:
        """A tick in which all goes well, a minute after the last: how the run stands there."""
        self._tick()
        (state,) = self.program.pushed(self.run.root, self.destination).values()
        return str(state["state"])

    def _tick(self) -> None:
        """Let a minute pass: a mark tells its second."""
        self.ticks += 1
        self.program.put_clock_forward(self.ticks * MINUTE)

    def push_or_die(self) -> int:
        """A tick that may be killed: how it ended, and nothing of it is left."""
        self._tick()
        code = self.program.push(self.run.root, self.destination).code
        self.program.kill_all()
        return code

    def looks(self) -> dict[str, str]:
        """A tick of the monitor: each new verdict, by the name of the run."""
        runs = self.monitor.run("monitor", "--json").json["data"]["runs"]
        return {run["run"]: run["verdict"] for run in runs}

    def look(self) -> str | None:
        """The verdict on the one run, if there is a new one."""
        return next(iter(self.looks().values()), None)

    def requests(self) -> list[Path]:
        """What lies there and asks for something: requests, and the bell that was rung."""
        places = [*self.place.glob("again/*"), *self.place.glob("*.bell")]
        return [path for path in places if path.stat().st_size]

    def reopened(self) -> int:
        """How often the sequencer heard that it was asked."""
        return sum("the cluster asks" in line for line in self.program.told("REOPEN"))

    def corrupt(self) -> Path:
        """Push, turn a bit, and let the monitor find it: the file."""
        self.run.write_all()
        assert self.push() == "done"
        victim = next(self.there.glob("pod5_pass/*.pod5"))
        turn_a_bit(victim)
        assert self.look() == "corrupt"
        assert len(self.requests()) == 2
        return victim

    def check_mended(self) -> None:
        """Everything is as if nothing had been."""
        assert is_done(self.there)
        assert is_verified(self.there)
        for path in self.run.path.rglob("*.pod5"):
            assert (self.there / path.relative_to(self.run.path)).read_bytes() == path.read_bytes()
        assert self.reopened() >= 1
        # A mark that the killed tick had delivered was not yet written here.
        assert self.push() == "done"
        assert self.look() in (None, "verified")
        assert mark(self.run.path)["rollup"] == mark(self.there)["rollup"]
        assert is_verified(self.there)
        assert self.push() == "done"
        assert self.look() is None


@pytest.fixture
def pair(program: Program, monitor: Program, run: SimulatedRun, cluster: Cluster) -> Pair:
    """Over a real sshd, with `rrsync -wo` as forced command."""
    monitor.settings["root"] = str(cluster.directory)
    return Pair(program, monitor, run, cluster.destination, cluster.directory)


@pytest.fixture
def old_pair(
    program: Program, monitor: Program, run: SimulatedRun, older: OldRsync, tmp_path: Path
) -> Iterator[Pair]:
    """The same with the older rsync at both ends, and the rrsync in perl."""
    os.symlink(older.rsync, program.programs / "rsync")
    with Cluster(rrsync=older.rrsync) as cluster:
        monitor.settings["root"] = str(cluster.directory)
        program.settings.update(cluster.config())
        yield Pair(program, monitor, run, cluster.destination, cluster.directory)


@pytest.fixture
def local(program: Program, monitor: Program, run: SimulatedRun, gridion: Path) -> Pair:
    """In a directory of this machine."""
    return Pair(program, monitor, run, str(gridion), gridion)


# -- the way there and back -------------------------------------------------------------------


@pytest.mark.parametrize("which", ["pair", "old_pair", "local"])
@pytest.mark.newest
def test_a_bit_turned_after_done_is_mended_by_two_ticks_and_told(
    which: str, request: pytest.FixtureRequest, mailbox: Mailbox
) -> None:
    pair: Pair = request.getfixturevalue(which)
    victim = pair.corrupt()
    (mail,) = mailbox.mails()
    assert victim.name in content(mail, "plain")
    assert "by itself, within two of its ticks" in content(mail, "plain")
    assert pair.push() == "done"
    assert pair.reopened() == 1
    assert not (pair.run.path / "rsync.done").exists()  # nobody may free the good copy now
    assert pair.requests() == []
    assert pair.look() is None
    assert len(pair.requests()) == 2  # it does not know that it was heard
    assert pair.push() == "done"
    assert any(victim.name in line for line in pair.program.told("WARN"))
    assert pair.reopened() == 1
    assert pair.look() == "verified"
    pair.check_mended()
    assert [each.split(":")[0] for each in mailbox.subjects()] == ["mended, verified"]
    assert pair.requests() == []
    assert len(pair.program.told("REOPEN")) == 1


def test_only_the_run_that_is_asked_for_is_woken(local: Pair, data: Path) -> None:
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    local.run.write_all()
    local.program.pushed(data, local.destination)
    turn_a_bit(next(local.there.glob("pod5_pass/*.pod5")))
    assert set(local.looks().values()) == {"corrupt", "verified"}
    local.program.pushed(data, local.destination)
    (line,) = local.program.told("REOPEN")
    assert line.startswith(str(local.run.path.relative_to(data)))


def test_a_run_whose_mark_was_taken_back_meanwhile_is_not_asked_for(local: Pair) -> None:
    local.corrupt()
    assert local.program.run("retry", local.run.path).code == 0
    assert local.push() == "done"
    assert local.reopened() == 0
    assert local.look() == "verified"
    assert [path.suffix for path in local.requests()] == []


def test_what_is_asked_for_a_run_that_is_gone_is_taken_back(local: Pair) -> None:
    local.corrupt()
    shutil.rmtree(local.there)
    local.monitor.put_clock_forward(25 * HOUR)
    local.look()
    assert not list(local.place.glob("again/*"))


# -- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("heard", "call"), [(False, 1), (False, 2), *((True, number) for number in range(1, 7))]
)
def test_a_tick_killed_at_any_call_of_rsync_is_made_up_for(
    local: Pair, heard: bool, call: int, when: str
) -> None:
    local.corrupt()
    if heard:
        local.push()
        local.look()
    local.program.kill_at(call, when)
    assert local.push_or_die() == -9
    local.program.wrap_rsync()
    while (verdict := local.look()) is None:
        assert local.push() == "done"
        assert local.ticks < 10
    assert verdict == "verified"
    local.check_mended()


def test_a_tick_killed_between_silencing_and_waking_hears_it_again(local: Pair) -> None:
    local.corrupt()
    local.program.wrap_rsync(after=f'case " $* " in {THE_REQUESTS}) kill -9 $PPID;; esac')
    local.push_or_die()
    local.program.wrap_rsync()
    assert local.requests() == []
    assert local.push() == "done"
    assert local.reopened() == 0
    assert local.look() is None
    assert len(local.requests()) == 2
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    local.check_mended()


def test_what_cannot_be_mended_by_sending_is_not_asked_for(local: Pair, mailbox: Mailbox) -> None:
    local.run.write_all()
    victim = next(local.run.path.glob("fastq_pass/*.gz"))
    sha256 = hashlib.sha256(b"as MinKNOW wrote it").hexdigest()
    table = f"file_path,file_hash\nfastq_pass/{victim.name},{sha256}\n"
    (local.run.path / "output_hash_1.csv").write_text(table)
    local.push()
    assert local.look() == "corrupt"
    assert local.requests() == []
    (mail,) = mailbox.mails()
    assert "sha256" in content(mail, "plain")
    assert "does not mend" in content(mail, "plain")


def test_a_run_that_sending_does_not_mend_is_asked_for_a_few_times_and_told(
    local: Pair, mailbox: Mailbox
) -> None:
    victim = local.corrupt()
    for _ in range(ASKED_IN_VAIN - 1):
        local.push()
        local.push()
        turn_a_bit(victim)
        assert local.look() == "corrupt"
        assert local.requests()
    assert len(mailbox.mails()) == 1
    local.push()
    local.push()
    turn_a_bit(victim)
    assert local.look() == "corrupt"
    assert not list(local.place.glob("again/*"))
    (mail,) = mailbox.mails()
    assert mail["Subject"].startswith("[ontpush] changed: verification failed")
    assert "look at the disks" in content(mail, "plain")
    assert local.push() == "done"
    assert local.reopened() == ASKED_IN_VAIN
    assert local.look() is None
    local.monitor.put_clock_forward(25 * HOUR)
    assert local.look() == "corrupt"
    assert local.requests()


def test_a_destination_out_of_reach_leaves_the_request(pair: Pair, cluster: Cluster) -> None:
    pair.corrupt()
    cluster.stop()
    assert pair.program.push(pair.run.root, pair.destination).code == 69
    cluster.start()
    assert len(pair.requests()) == 2
    assert [pair.push(), pair.push()] == ["done", "done"]
    assert pair.look() == "verified"
    pair.check_mended()


def test_a_dry_run_hears_nothing(local: Pair) -> None:
    local.corrupt()
    assert local.program.push(local.run.root, local.destination, "--dry-run").code == 0
    assert len(local.requests()) == 2


def test_a_cluster_that_lies_has_a_run_compared_and_nothing_else(local: Pair) -> None:
    local.run.write_all()
    assert local.push() == "done"
    before = snapshot(local.run.root, ["rsync.done"]), snapshot(local.there, ["rsync.done"])
    again = local.place / "again"
    again.mkdir()
    (local.place / "lab.bell").write_text("rung\n")
    for name in (str(local.run.path.relative_to(local.run.root)), "../../elsewhere", "."):
        (again / hashlib.md5(name.encode()).hexdigest()).write_text("asked\n")
    (again / "rsync.skip").write_text("asked\n")
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.reopened() == 1
    assert (
        snapshot(local.run.root, ["rsync.done"]),
        snapshot(local.there, ["rsync.done"]),
    ) == before
    assert is_done(local.run.path)
    assert is_done(local.there)
    assert len(local.program.told("REOPEN")) == 1


# -- what it costs ----------------------------------------------------------------------------


def test_an_idle_tick_is_one_call_and_a_bell_without_a_request_one_more(local: Pair) -> None:
    local.run.write_all()
    local.push()
    calls = local.program.home / "calls"
    local.program.wrap_rsync(before=f"echo >>{calls}")
    local.push()
    assert len(calls.read_text()) == 1
    (local.place / "lab.bell").write_text("rung\n")
    local.push()
    assert len(calls.read_text()) == 3
    local.push()
    assert len(calls.read_text()) == 4
    assert not (local.place / "again").exists() or not os.listdir(local.place / "again")
    assert local.reopened() == 0


# -- who is not asked, and who asks for what is not theirs --------------------------------------


def test_an_instrument_that_is_pulled_from_is_not_asked(local: Pair, mailbox: Mailbox) -> None:
    local.monitor.settings["pull"] = [{"instrument": "gridion", "source": "nobody@localhost:."}]
    local.run.write_all()
    local.push()
    turn_a_bit(next(local.there.glob("pod5_pass/*.pod5")))
    assert local.look() == "corrupt"
    assert local.requests() == []
    (mail,) = mailbox.mails()
    assert "ontpush pull" in content(mail, "plain")


def test_planted_links_lead_requests_nowhere(local: Pair, tmp_path: Path) -> None:
    elsewhere, victim = tmp_path / "elsewhere", tmp_path / "victim"
    elsewhere.mkdir()
    victim.write_text("mine")
    local.run.write_all()
    local.push()
    turn_a_bit(next(local.there.glob("pod5_pass/*.pod5")))
    (local.place / "lab.bell").unlink()
    (local.place / "lab.bell").symlink_to(victim)
    (local.place / "lab.bell.ontpush-new").symlink_to(victim)
    (local.place / "again").symlink_to(elsewhere)
    ran = local.monitor.run("monitor", "--json")
    assert ran.code == 1
    assert "gridion: cannot be asked to send again" in ran.err
    assert not os.listdir(elsewhere)
    (local.place / "again").unlink()
    local.look()
    assert victim.read_text() == "mine"
    assert len(local.requests()) == 2
    assert [local.push(), local.push()] == ["done", "done"]
    assert local.look() == "verified"
    local.check_mended()


def test_a_bell_that_cannot_be_replaced_is_named(local: Pair) -> None:
    local.run.write_all()
    local.push()
    (local.place / "lab.bell").unlink()
    (local.place / "lab.bell").mkdir()
    (local.place / "lab.bell" / "x").touch()
    ran = local.program.push(local.run.root, local.destination)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "lab.bell" in line
