"""A sum that was wrong from the start is found, put right, and told apart from a bad copy or disk.

A wrong sidecar of the original, or bad memory while a file was hashed: the roll-up then lists what
neither end has.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age
from tests.program import Program, coreutils_agree, is_done, is_verified, md5, rollup, turn_a_bit
from tests.test_bell import Pair
from tests.test_beside_a_tick import stopped_at

WRONG = "0" * 32

# Turns a bit in what is read of files of this name, in every reading or only in some.
BAD_MEMORY = """
import os
_readv, _count = os.readv, []
def readv(descriptor, buffers):
    count = _readv(descriptor, buffers)
    if os.readlink(f"/proc/self/fd/{{descriptor}}").endswith({name!r}) and count:
        _count.append(1)
        buffers[0][0] ^= {mask}
    return count
os.readv = readv
"""
TELL_READS = """
import os
_readv = os.readv
def readv(descriptor, buffers):
    with open({log!r}, "a") as file:
        file.write(os.readlink(f"/proc/self/fd/{{descriptor}}") + "\\n")
    return _readv(descriptor, buffers)
os.readv = readv
"""


@pytest.fixture
def local(program: Program, monitor: Program, run: SimulatedRun, gridion: Path) -> Pair:
    """In a directory of this machine."""
    return Pair(program, monitor, run, str(gridion), gridion)


def wrong_sidecar(path: Path) -> Path:
    """A sidecar as the original wrote it, younger than its file, with a sum that it never had."""
    age(path, 600)
    beside = path.with_name(path.name + ".md5")
    beside.write_text(f"{WRONG}  {path.name}\n")
    return beside


def pod5(run: SimulatedRun) -> Path:
    """The file of the run that a test is about."""
    return next(run.path.glob("pod5_pass/*.pod5"))


def with_bad_memory(program: Program, path: Path, mask: str = "1") -> None:
    """Let the program misread a file from now on, as long as `sitecustomize.py` is there."""
    script = BAD_MEMORY.format(name=path.name, mask=mask)
    (program.modules / "sitecustomize.py").write_text(script)


def with_good_memory(program: Program) -> None:
    (program.modules / "sitecustomize.py").unlink()


def listed(run: SimulatedRun, there: Path, path: Path) -> set[str]:
    """What both roll-ups say of a file."""
    name = os.fsencode(path.relative_to(run.path))
    return {rollup(run.path)[name], rollup(there)[name]}


def warnings_of(program: Program, path: Path) -> list[str]:
    return [line for line in program.told("WARN") if path.name in line]


# -- the cluster asks -------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["sidecar", "memory"])
def test_a_sum_that_was_wrong_from_the_start_is_put_right_when_the_cluster_asks(
    local: Pair, cause: str
) -> None:
    local.run.write_all()
    path = pod5(local.run)
    if cause == "sidecar":
        wrong_sidecar(path)
    else:
        with_bad_memory(local.program, path)
    assert local.program.push(local.run.root, local.destination).code == 0
    assert listed(local.run, local.there, path) != {md5(path)}
    if cause == "memory":
        with_good_memory(local.program)
    assert local.look() == "corrupt"
    assert [local.push(), local.push()] == ["done", "done"]
    (line,) = warnings_of(local.program, path)
    assert "its sum was wrong: disk here and copy there agree" in line
    assert listed(local.run, local.there, path) == {md5(path)}
    assert local.look() == "verified"
    local.check_mended()
    assert is_done(local.run.path)


def test_a_copy_that_went_bad_is_told_as_what_was_wrong(local: Pair) -> None:
    victim = local.corrupt()
    assert [local.push(), local.push()] == ["done", "done"]
    (line,) = warnings_of(local.program, victim)
    assert "sent again" in line
    assert "disk and sum agree here: the copy was corrupt" in line
    assert local.look() == "verified"


def test_a_disk_that_went_bad_is_told_and_the_copy_is_kept(local: Pair) -> None:
    local.run.write_all()
    assert local.push() == "done"
    path = pod5(local.run)
    copy = local.there / path.relative_to(local.run.path)
    before = copy.read_bytes()
    rot(local.program, path)
    assert local.program.run("retry", local.run.path).is_silent
    for _ in range(2):
        ran = local.program.push(local.run.root, local.destination)
        assert ran.code == 1
        assert f"{path.name} reads otherwise than when it was hashed" in ran.err
        assert "this disk is failing; the copy at the destination is kept" in ran.err
        assert copy.read_bytes() == before
        assert coreutils_agree(local.there)


def rot(program: Program, path: Path) -> None:
    """Other bytes, and nobody who changed them: only the ledger knows the time of change."""
    turn_a_bit(path)
    with sqlite3.connect(program.state / "ledger.sqlite3") as database:
        database.execute(
            "UPDATE files SET ctime_ns = ? WHERE name = ?",
            (path.stat().st_ctime_ns, os.fsencode(path.name)),
        )


def test_a_rotten_file_keeps_no_other_from_being_sent_again(local: Pair) -> None:
    victim = local.corrupt()
    path = next(local.run.path.glob("pod5_fail/*.pod5"))
    rot(local.program, path)
    other = local.there / path.relative_to(local.run.path)
    before = other.read_bytes()
    assert local.push() == "done"
    ran = local.program.push(local.run.root, local.destination)
    assert ran.code == 1
    assert path.name in ran.err
    assert other.read_bytes() == before
    here = local.run.path / victim.relative_to(local.there)
    assert victim.read_bytes() == here.read_bytes()


def test_only_the_run_that_is_asked_for_is_read_and_only_once(local: Pair, data: Path) -> None:
    local.corrupt()
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    log = local.program.home / "reads"
    assert set(local.program.pushed(data, local.destination)) == {
        str(each.path.relative_to(data)) for each in (local.run, other)
    }
    local.look()
    (local.program.modules / "sitecustomize.py").write_text(TELL_READS.format(log=str(log)))
    assert local.program.pushed(data, local.destination)
    read = log.read_text().splitlines()
    assert str(pod5(local.run)) in read
    assert not [name for name in read if name.startswith(str(other.path))]
    log.unlink()
    local.look()
    assert local.program.pushed(data, local.destination)
    assert not log.exists()


@pytest.mark.parametrize("call", range(1, 8))
def test_a_tick_killed_while_it_puts_a_sum_right_is_made_up_for(local: Pair, call: int) -> None:
    local.run.write_all()
    path = pod5(local.run)
    wrong_sidecar(path)
    assert local.push() == "done"
    assert local.look() == "corrupt"
    local.push()
    local.look()
    local.program.kill_at(call, "after")
    local.push_or_die()
    local.program.wrap_rsync()
    while local.look() != "verified":
        local.push()
        assert local.ticks < 10
    assert local.push() == "done"
    assert is_done(local.there)
    assert is_verified(local.there)
    assert listed(local.run, local.there, path) == {md5(path)}


# -- a person asks ----------------------------------------------------------------------------


def test_retry_takes_all_sums_anew_and_believes_no_sidecar(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    path = pod5(run)
    beside = wrong_sidecar(path)
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    assert listed(run, there, path) == {WRONG}
    assert program.run("retry", run.path).is_silent
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    assert listed(run, there, path) == {md5(path)}
    assert beside.read_text() == f"{md5(path)}  {path.name}\n"
    assert is_done(run.path)
    assert is_done(there)
    (line,) = warnings_of(program, path)
    assert "its sum was wrong" in line


def test_a_retry_in_the_middle_of_a_tick_is_not_overwritten_by_it(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    path = pod5(run)
    wrong_sidecar(path)
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    late = run.late_file("pod5_pass/late.pod5")
    with stopped_at(program, late, "push", data, arrived):
        assert program.run("retry", run.path).is_silent
    program.pushed(data, arrived)
    assert listed(run, there, path) == {md5(path)}
    assert is_done(run.path)
    assert is_done(there)


def test_retry_takes_the_sums_of_an_unfinished_run_anew(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    path = pod5(run)
    wrong_sidecar(path)
    there = arrived / run.path.relative_to(data)
    program.pushed(data, arrived)
    assert program.run("retry", run.path).is_silent
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "waiting"
    assert listed(run, there, path) == {md5(path)}
    assert coreutils_agree(there)


def test_a_file_that_differs_at_the_destination_is_not_given_the_sum_of_its_sidecar_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    path = pod5(run)
    wrong_sidecar(path)
    there = arrived / run.path.relative_to(data)
    copy = there / path.relative_to(run.path)
    turn = f"[ -e {program.home}/turned ] || {{ printf x >>{copy}; touch {program.home}/turned; }}"
    program.wrap_rsync(before=f'case " $* " in *" -n "*) {turn};; esac')
    for _ in range(3):
        program.push(data, arrived)
        os.utime(path)
    assert is_done(there)
    assert copy.read_bytes() == path.read_bytes()


def test_a_file_that_reads_otherwise_each_time_is_told_and_nothing_is_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    path = pod5(run)
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert program.run("retry", run.path).is_silent
    with_bad_memory(program, path, "len(_count)")
    ran = program.push(data, arrived)
    assert ran.code == 1
    assert f"{path.name}: reads otherwise each time" in ran.err
    assert not (there / "rsync.done").exists() or listed(run, there, path) == {md5(path)}
    with_good_memory(program)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert listed(run, there, path) == {md5(path)}
    assert is_done(there)


# -- a sequencer that only hashes -------------------------------------------------------------


def test_retry_has_hash_take_all_sums_anew(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    path = pod5(run)
    beside = wrong_sidecar(path)
    assert program.run("hash", run.path).is_silent
    assert not coreutils_agree(run.path)
    assert program.run("hash", run.path).is_silent
    assert not coreutils_agree(run.path)
    assert program.run("retry", run.path).is_silent
    assert program.run("hash", "-q", run.path).code == 0
    assert coreutils_agree(run.path)
    assert beside.read_text() == f"{md5(path)}  {path.name}\n"
    (line,) = warnings_of(program, path)
    assert "reads otherwise than when it was hashed" in line


def test_a_run_that_was_sent_is_not_judged_by_hash(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    path = pod5(run)
    before = rollup(run.path)
    rot(program, path)
    assert program.run("retry", run.path).is_silent
    assert program.run("hash", run.path).is_silent
    assert rollup(run.path) == before
    assert warnings_of(program, path) == []
    ran = program.push(data, arrived)
    assert ran.code == 1
    assert "this disk is failing; the copy at the destination is kept" in ran.err
