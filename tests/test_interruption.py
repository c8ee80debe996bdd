"""One tick at a time, and a tick that is ended at any instant: the next goes on from there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import RSYNC, Program, coreutils_agree, is_done, mark, md5, wait_for

BIG = 6_000_000
SLOW = ("--bwlimit", "2m")


@pytest.fixture
def big(run: SimulatedRun) -> SimulatedRun:
    """A finished run with a file that takes seconds to send."""
    run.write_all()
    run.late_file("pod5_pass/0_big.pod5", size=BIG)
    return run


def half_sent(directory: Path) -> list[Path]:
    """What rsync has begun of the big file."""
    return [path for path in directory.rglob(".0_big.pod5.*") if path.stat().st_size]


def check_mended(program: Program, run: SimulatedRun, arrived: Path, destination: str) -> None:
    """The next tick ends in the state of an undisturbed one."""
    there = arrived / run.path.relative_to(run.root)
    assert not (there / "pod5_pass/0_big.pod5").exists()
    assert not list(arrived.rglob("rsync.done"))
    (state,) = program.pushed(run.root, destination).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert snapshot(run.path) == snapshot(there)


def end_transfers_after_a_second(program: Program) -> None:
    """As `transfer_hours` does, whose least is 36 seconds."""
    program.settings["transfer_hours"] = 0.01
    (program.modules / "sitecustomize.py").write_text(
        "import threading\n"
        "class Timer(threading.Timer):\n"
        "    def __init__(self, seconds, *rest, **more):\n"
        "        super().__init__(1 if seconds == 36 else seconds, *rest, **more)\n"
        "threading.Timer = Timer\n"
    )


# -- the lock ---------------------------------------------------------------------------


@pytest.fixture
def held(program: Program) -> Iterator[None]:
    """Another tick holds the lock."""
    program.state.mkdir()
    with (program.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("held")
def test_a_second_tick_exits_75_and_does_nothing(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    before = snapshot(data)
    ran = program.push(data, arrived)
    assert ran.code == 75
    assert "another tick" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert snapshot(data) == before
    assert not list(arrived.iterdir())


@pytest.mark.usefixtures("held")
def test_hash_waits_for_no_lock_either(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    assert program.run("hash", run.path).code == 75


@pytest.mark.newest
@pytest.mark.usefixtures("held")
def test_whoever_only_looks_needs_no_lock(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    assert program.run("status").code == 0
    assert program.run("skip", run.path, "reason").code == 0
    assert program.run("retry", run.path).code == 0
    assert program.push(data, arrived, "--dry-run").code == 0


@pytest.mark.newest
def test_two_ticks_started_together_are_one_tick(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    with program.pushing(data, arrived, *SLOW) as first:
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        assert program.push(data, arrived).code == 75
        out, err = first.communicate()
    assert (first.returncode, out, err) == (0, b"", b"")
    assert is_done(arrived / big.path.relative_to(data))


def test_a_child_does_not_hold_the_lock(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    survivor = program.home / "survivor"
    survive = "setsid sleep 60 </dev/null >/dev/null 2>&1 &"
    program.wrap_rsync(before=f"[ -e {survivor} ] || {{ {survive} echo $! >{survivor}; }}")
    try:
        program.pushed(data, arrived)
        assert program.processes() == [int(survivor.read_text())]
        program.pushed(data, arrived)
    finally:
        program.kill_all()


# -- signals ----------------------------------------------------------------------------


@pytest.mark.newest
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_in_the_middle_of_a_transfer_ends_it_in_order(
    program: Program,
    big: SimulatedRun,
    data: Path,
    arrived: Path,
    number: signal.Signals,
    code: int,
) -> None:
    with program.pushing(data, arrived, *SLOW) as tick:
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        tick.send_signal(number)
        out, err = tick.communicate()
    assert (tick.returncode, out) == (code, b"")
    assert len(err.splitlines()) == 1
    assert not program.processes()
    check_mended(program, big, arrived, str(arrived))


def test_a_signal_is_told_to_programs_too(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    with program.pushing(data, arrived, *SLOW, "--json") as tick:
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        tick.terminate()
        out, _ = tick.communicate()
    told = json.loads(out)
    assert (told["status"], told["exit_code"]) == ("error", 143)
    assert [error["code"] for error in told["errors"]] == ["interrupted"]


@pytest.mark.newest
def test_a_signal_over_ssh_leaves_nothing_at_either_end(
    program: Program, big: SimulatedRun, data: Path, cluster: Cluster
) -> None:
    with program.pushing(data, cluster.destination, *SLOW) as tick:
        wait_for(lambda: half_sent(cluster.directory), "nothing is sent")
        tick.terminate()
        assert tick.wait() == 143
    assert not program.processes()
    wait_for(lambda: not cluster.sessions(), "a session on the cluster does not end")
    check_mended(program, big, cluster.directory, cluster.destination)


@pytest.mark.newest
def test_a_signal_while_sums_are_taken_ends_it_in_order(program: Program, data: Path) -> None:
    run = SimulatedRun(data, files=1)
    run.write_all()
    for number in range(30):
        with (run.path / "pod5_pass" / f"sparse{number}").open("wb") as file:
            file.truncate(100_000_000)
    with program.started("hash", *program.configured(), run.path) as hashing:
        sidecars = run.path / "pod5_pass"
        wait_for(lambda: list(sidecars.glob("*.md5")), "nothing is hashed")
        hashing.terminate()
        assert hashing.wait() == 143
    assert not (run.path / "md5sum").exists()
    assert not list(run.path.rglob("*.ontpush-new"))


@pytest.mark.newest
def test_signals_that_come_together_are_as_one(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    program.wrap_rsync(
        before=f"trap 'sleep 1; exit 20' TERM; exec 3<&0; {RSYNC} \"$@\" <&3 & wait $!; exit"
    )
    with program.pushing(data, arrived, *SLOW) as tick:
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            tick.send_signal(number)
        _, err = tick.communicate()
    assert tick.returncode in (130, 143), err
    assert not program.processes()


@pytest.mark.newest
def test_a_child_that_does_not_heed_is_killed_with_its_group(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    program.wrap_rsync(
        before=f"trap '' TERM; echo >{program.home}/begun; sleep 60 & wait; sleep 60"
    )
    with program.pushing(data, arrived) as tick:
        wait_for((program.home / "begun").exists, "rsync is not called")
        tick.terminate()
        assert tick.wait() == 143
    assert not program.processes()


@pytest.mark.newest
def test_the_other_processes_of_a_transfer_have_time_to_clean_up_too(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    begun, cleaned = program.home / "begun", program.home / "cleaned"
    receiver = f"trap 'sleep 0.3; touch {cleaned}; exit' TERM; touch {begun}; sleep 60 & wait"
    program.wrap_rsync(before=f'sh -c "{receiver}" & wait')
    with program.pushing(data, arrived) as tick:
        wait_for(begun.exists, "rsync is not called")
        tick.terminate()
        assert tick.wait() == 143
    assert cleaned.exists()


@pytest.mark.newest
def test_a_transfer_that_takes_too_long_is_ended(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    end_transfers_after_a_second(program)
    ran = program.push(data, arrived, "--bwlimit", "1m")
    assert ran.code == 1
    assert "transfer_hours" in ran.err
    (program.modules / "sitecustomize.py").unlink()
    check_mended(program, big, arrived, str(arrived))


@pytest.mark.newest
def test_what_a_transfer_that_takes_too_long_has_begun_to_clean_up_is_not_disturbed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    end_transfers_after_a_second(program)
    told = program.home / "told"
    receiver = f"trap 'echo $$ >>{told}' TERM; for i in 1 2; do sleep 1 & wait; wait; done"
    program.wrap_rsync(before=f'sh -c "{receiver}" >/dev/null & wait')
    assert "transfer_hours" in program.push(data, arrived).err
    transfers = told.read_text().split()
    assert transfers
    assert len(set(transfers)) == len(transfers)


# -- sudden death -----------------------------------------------------------------------


@pytest.mark.newest
def test_a_power_cut_in_the_middle_of_a_transfer(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    with program.pushing(data, arrived, *SLOW):
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        program.kill_all()
    there = arrived / big.path.relative_to(data)
    assert not (there / "pod5_pass/0_big.pod5").exists()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert program.run("verify", there).code == 0


def test_a_killed_tick_over_ssh(
    program: Program, big: SimulatedRun, data: Path, cluster: Cluster
) -> None:
    with program.pushing(data, cluster.destination, *SLOW) as tick:
        wait_for(lambda: half_sent(cluster.directory), "nothing is sent")
        tick.kill()
        tick.wait()
        program.kill_all()
    wait_for(lambda: not cluster.sessions(), "a session on the cluster does not end")
    check_mended(program, big, cluster.directory, cluster.destination)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", range(1, 6))
def test_a_tick_killed_at_any_call_of_rsync_leaves_no_wrong_mark_and_the_next_ends_well(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, call: int, moment: str
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.kill_at(call, moment)
    killed = program.push(data, arrived)
    wait_for(lambda: not program.processes(), "an orphan does not end")
    if (there / "rsync.done").exists() and mark(there)["rollup"] == md5(there / "md5sum"):
        assert coreutils_agree(there)
    if (there / "md5sum").exists():
        assert coreutils_agree(there)
    program.wrap_rsync()
    (state,) = program.pushed(data, arrived).values()
    assert killed.code in (0, -signal.SIGKILL)
    assert state["state"] == "done"
    assert is_done(there)
    assert is_done(run.path)
    assert snapshot(run.path) == snapshot(there)


def test_what_was_sent_before_the_end_is_not_sent_again(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1)
    for number in range(4):
        run.late_file(f"pod5_pass/{number}.pod5", size=2_000_000)
    with program.pushing(data, arrived, *SLOW):
        wait_for(lambda: list(arrived.rglob("1.pod5")), "nothing is sent")
        program.kill_all()
    there = {path.name for path in arrived.rglob("?.pod5")}
    (state,) = program.pushed(data, arrived).values()
    assert state["sent_files"] <= 4 - len(there) + 1
    assert len(list(arrived.rglob("?.pod5"))) == 4


def test_nothing_is_left_behind_in_the_run_by_a_killed_tick(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "md5sum.ontpush-new").write_text("half of a roll-up")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert not list(arrived.rglob("*.ontpush-new"))
    assert is_done(run.path)


def test_what_a_killed_tick_left_behind_does_not_overwrite_what_the_next_one_sent(
    program: Program, big: SimulatedRun, data: Path, arrived: Path
) -> None:
    with program.pushing(data, arrived, *SLOW) as tick:
        wait_for(lambda: half_sent(arrived), "nothing is sent")
        tick.kill()
        tick.wait()
    orphans = program.processes()
    assert orphans
    file = big.late_file("pod5_pass/0_big.pod5", size=1000)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert not set(program.processes()) & set(orphans)
    there = arrived / big.path.relative_to(data)
    assert (there / "pod5_pass/0_big.pod5").read_bytes() == file.read_bytes()
    assert is_done(there)


# -- processes that have ended ----------------------------------------------------------


def test_no_group_is_signalled_when_its_number_may_be_another_s(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    """A process that has ended keeps its number until its parent has asked for its exit code."""
    run.write_all()
    signalled = program.home / "signalled"
    (program.modules / "sitecustomize.py").write_text(
        "import os\n"
        "killpg = os.killpg\n"
        "def watched(group, number):\n"
        f"    with open({str(signalled)!r}, 'a') as file:\n"
        "        print(os.path.exists(f'/proc/{group}'), file=file)\n"
        "    killpg(group, number)\n"
        "os.killpg = watched\n"
    )
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))
    assert set(signalled.read_text().split()) == {"True"}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_tick_killed_after_the_ledger_was_lost_leaves_no_mark_here_for_what_is_withdrawn_there(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, call: int, moment: str
) -> None:
    run.write_all()
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    shutil.rmtree(program.state)
    os.utime(next(run.path.glob("pod5_pass/*.pod5")))  # what was touched since is hashed anew
    program.kill_at(call, moment)
    program.push(data, arrived)
    wait_for(lambda: not program.processes(), "an orphan does not end")
    if (run.path / "rsync.done").exists():
        assert is_done(there)
    program.wrap_rsync()
    program.pushed(data, arrived)
    assert is_done(there)
    assert is_done(run.path)
