"""What went bad at the cluster after done is mended by the next ticks, without a person."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.mailbox import Mailbox
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.oldrsync import OldRsync
from tests.program import Program, is_done, is_verified, mark, turn_a_bit

MINUTE = 60.0
# The second call of a tick that hears the bell.
ASKING = 'case " $* " in *" --checksum --existing "*) {};; esac'
NO_ONES_MARK = 3  # how often a run is asked for in vain


class Pair:
    """A sequencer that pushes to a cluster where a monitor looks."""

    def __init__(self, program: Program, monitor: Program, run: SimulatedRun, to: str, at: Path):
        self.program = program
        self.monitor = monitor
        self.run = run
        self.destination = to
        self.there = at / run.path.relative_to(run.root)
        self.place = at / ".ontpush"
        self._now = 0.0

    def push(self) -> str:
        """A tick in which all goes well, a minute after the last: how the run stands there."""
        self._now += MINUTE  # a mark tells its second
        self.program.put_clock_forward(self._now)
        (state,) = self.program.pushed(self.run.root, self.destination).values()
        return str(state["state"])

    def push_killed(self) -> None:
        """A tick that is killed by what `wrap_rsync` does."""
        self._now += MINUTE
        self.program.put_clock_forward(self._now)
        assert self.program.push(self.run.root, self.destination).code == -9
        self.program.wrap_rsync()

    def look(self) -> str | None:
        """A tick of the monitor: the verdict on the run, if there is a new one."""
        runs = self.monitor.run("monitor", "--json").json["data"]["runs"]
        return str(runs[0]["verdict"]) if runs else None

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
        victim = next(self.there.glob("pod5_pass/*"))
        turn_a_bit(victim)
        assert self.look() == "corrupt"
        assert len(self.requests()) == 2
        return victim

    def check_mended(self) -> None:
        """Everything is as if nothing had been."""
        assert self.look() == "verified"
        assert is_done(self.there)
        assert is_verified(self.there)
        assert mark(self.run.path)["rollup"] == mark(self.there)["rollup"]
        for path in self.run.path.rglob("*.pod5"):
            assert (self.there / path.relative_to(self.run.path)).read_bytes() == path.read_bytes()
        assert self.reopened() >= 1
        assert self.push() == "done"
        assert self.look() is None


@pytest.fixture
def pair(
    program: Program, monitor: Program, run: SimulatedRun, cluster: Cluster
) -> Iterator[Pair]:
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
def test_a_bit_turned_after_done_is_mended_by_two_ticks_and_told(
    which: str, request: pytest.FixtureRequest, mailbox: Mailbox
) -> None:
    pair: Pair = request.getfixturevalue(which)
    victim = pair.corrupt()
    (mail,) = mailbox.mails()
    assert victim.name in mail.as_string()
    assert "by itself" in mail.as_string().replace("=\n", "")
    assert pair.push() == "done"
    assert pair.reopened() == 1
    assert pair.look() is None
    assert pair.push() == "done"
    assert any(victim.name in line for line in pair.program.told("WARN"))
    assert pair.reopened() == 1
    pair.check_mended()
    assert [each.split(":")[0] for each in mailbox.subjects()] == ["mended, verified"]
    assert pair.requests() == []
    assert pair.reopened() == 1
