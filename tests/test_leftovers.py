"""What killed transfers left at the destination goes once its run is verified, and nothing else."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import Program, coreutils_agree, is_verified, refuse_to_unlink, wait_for
from tests.test_monitor import HOUR, ticked

BIG = 3_000_000
SLOW = ("--bwlimit", "500k")


def left_of(whole: Path, folder: Path | None = None) -> Path:
    """The first half of a file as a killed rsync leaves it, beside it or elsewhere."""
    content = whole.read_bytes()
    left = (folder or whole.parent) / f".{whole.name}.q2W9xz"
    return left_at(left, content[: len(content) // 2])


def left_at(path: Path, content: bytes = b"other", mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def data_file(pushed: Path) -> Path:
    """A data file of a done run at the cluster."""
    return next(pushed.glob("pod5_pass/*.pod5"))


@pytest.fixture(autouse=True)
def _for_hours(monitor: Program) -> None:
    monitor.settings["silent_minutes"] = 10**6


def removed(monitor: Program) -> list[str]:
    """What the log calls removed."""
    return [line.split(" removed, ")[0] for line in monitor.told("WARN") if "left it" in line]


def test_what_a_killed_rsync_left_goes_when_its_run_is_verified(
    program: Program, monitor: Program, run: SimulatedRun, data: Path, gridion: Path
) -> None:
    run.write_all()
    run.late_file("pod5_pass/0_big.pod5", size=BIG)
    there = gridion / run.path.relative_to(data)

    def half_sent() -> list[Path]:
        return [path for path in there.rglob(".0_big.pod5.*") if path.stat().st_size]

    with program.pushing(data, gridion, *SLOW):
        wait_for(half_sent, "nothing is sent")
        for pid in program.processes():  # so that none tidies up when the other has gone
            os.kill(pid, signal.SIGSTOP)
        program.kill_all()
    (left,) = half_sent()
    program.pushed(data, gridion)
    ticked(monitor)
    assert is_verified(there)
    assert left.exists()  # it may still be written, as far as anybody knows
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert not left.exists()
    assert removed(monitor) == [f"gridion/{left.relative_to(gridion)}"]
    assert snapshot(run.path) == snapshot(there, without=["rsync.verified"])
    ticked(monitor)
    assert len(removed(monitor)) == 1


def test_it_goes_at_once_where_nobody_has_written_it_for_an_hour(
    monitor: Program, data_file: Path, gridion: Path
) -> None:
    run = data_file.parents[1]
    left = [left_of(path) for path in (data_file, run / "md5sum", run / "rsync.done")]
    left += [left_at(run / f"{name}.ontpush-new", mode=0o644) for name in ("md5sum", "rsync.done")]
    # From when the folder was a run itself.
    left += [left_at(data_file.parent / "rsync.verified.ontpush-new", mode=0o644)]
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert not any(path.exists() for path in left)
    expected = sorted(f"gridion/{path.relative_to(gridion)}" for path in left)
    assert sorted(removed(monitor)) == expected


def test_no_file_of_the_run_or_of_anybody_is_taken_for_what_a_transfer_left(
    program: Program, monitor: Program, run: SimulatedRun, data: Path, gridion: Path
) -> None:
    run.write_all()
    run.late_file("pod5_pass/real.pod5")
    run.late_file("pod5_pass/.real.pod5.AbC123").chmod(0o600)
    run.late_file("pod5_pass/md5sum")
    program.pushed(data, gridion)
    there = gridion / run.path.relative_to(data)
    folder = there / "pod5_pass"
    real = (folder / "real.pod5").read_bytes()
    left_at(folder / ".notes.q2W9xz", real)  # of no file of the run
    left_at(folder / ".real.pod5.toolong", real)
    left_at(folder / ".real.pod5.backup", real, mode=0o644)  # rsync makes them for its user alone
    left_at(folder / ".real.pod5.before", real + b"more")
    # What a run has under that name in a folder is sent.
    left_at(folder / "md5sum.ontpush-new", (folder / "md5sum").read_bytes(), mode=0o644)
    left_at(there.parent / "md5sum")  # in no run
    left_at(there.parent / ".md5sum.backup")
    (folder / ".real.pod5.q2W9xz").symlink_to("real.pod5")
    (folder / ".real.pod5.Q2w9XZ").mkdir(mode=0o700)
    before = snapshot(gridion, without=["rsync.verified"])
    monitor.put_clock_forward(2 * HOUR)
    ticked(monitor)
    assert is_verified(there)
    assert removed(monitor) == []
    assert snapshot(gridion, without=["rsync.verified"]) == before


def test_nothing_goes_from_a_run_that_is_bad_or_has_opened_again(
    program: Program, monitor: Program, run: SimulatedRun, data: Path, data_file: Path
) -> None:
    left = left_of(data_file)
    ticked(monitor)
    run.late_file("pod5_pass/late.pod5")
    program.pushed(data, data_file.parents[4])
    monitor.put_clock_forward(2 * HOUR)
    content = data_file.read_bytes()
    data_file.write_bytes(content[:-1] + b"?")
    assert monitor.run("monitor").code == 1
    assert left.exists()
    data_file.write_bytes(content)
    monitor.put_clock_forward(28 * HOUR)
    ticked(monitor)
    assert not left.exists()


def test_no_link_leads_out_of_the_run(monitor: Program, data_file: Path, tmp_path: Path) -> None:
    left = left_of(data_file)
    ticked(monitor)
    folder = data_file.parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    monitor.put_clock_forward(2 * HOUR)
    monitor.run("monitor")
    assert (tmp_path / "elsewhere" / left.name).exists()
    assert removed(monitor) == []


def test_verify_tells_what_broken_transfers_left_and_calls_the_run_well(
    monitor: Program, data_file: Path
) -> None:
    left = left_of(data_file)
    left_at(data_file.with_name(".notes.q2W9xz"))
    run = data_file.parents[1]
    ran = monitor.run("verify", "--json", run)
    (facts,) = ran.json["data"]["runs"]
    assert (ran.code, facts["bad"]) == (0, [])
    assert facts["leftover"] == [f"pod5_pass/{left.name}"]
    assert "all well, 1 file left by broken transfers" in monitor.run("verify", run).out
    assert left.exists()


def test_what_cannot_be_removed_is_told_once_and_keeps_no_run_from_being_verified(
    monitor: Program, data_file: Path
) -> None:
    left = left_of(data_file)
    monitor.put_clock_forward(2 * HOUR)
    refuse_to_unlink(monitor, ".q2W9xz", errno.EROFS)
    ticked(monitor)
    ticked(monitor)
    assert left.exists()
    assert is_verified(data_file.parents[1])
    (told,) = [line for line in monitor.told("WARN") if "cannot be removed" in line]
    assert left.name in told


def test_what_was_left_of_heartbeats_claims_and_requests_goes_once_a_day(
    monitor: Program, pushed: Path, gridion: Path
) -> None:
    assert pushed.exists()
    place = gridion / ".ontpush"
    (beat,) = place.glob("*.json")
    left = [left_of(place / f"{beat.stem}{end}") for end in (".json", ".bell")]
    (claim,) = place.glob("owners/*")
    request = place / "again" / claim.name
    request.parent.mkdir()
    request.touch()
    never_whole = claim.with_name("0" * 32)
    for whole in (place / "owner", claim, request, never_whole):
        left += [left_at(whole.with_name(f".{whole.name}.q2W9xz"))]
    other = left_at(place / ".notes.json.q2W9xz")
    ticked(monitor)
    assert all(path.exists() for path in left)
    monitor.put_clock_forward(25 * HOUR)
    ticked(monitor)
    assert not any(path.exists() for path in left)
    assert other.exists()


@pytest.mark.parametrize("what", ["whole", "left"])
def test_what_is_no_copy_any_more_when_it_would_go_stays(
    monitor: Program, data_file: Path, what: str
) -> None:
    left = left_of(data_file)
    ticked(monitor)
    changed = data_file if what == "whole" else left
    changed.write_bytes(b"x")
    monitor.put_clock_forward(2 * HOUR)
    monitor.run("monitor")
    assert left.exists()
    assert removed(monitor) == []


def test_no_file_that_was_of_a_run_goes_because_nobody_lists_it_now(
    program: Program, monitor: Program, run: SimulatedRun, data: Path, gridion: Path
) -> None:
    run.write_all()
    run.late_file("pod5_pass/real.pod5")
    run.late_file("pod5_pass/.real.pod5.AbC123").chmod(0o600)
    run.late_file("pod5_pass/md5sum")
    run.late_file("pod5_pass/md5sum.ontpush-new")
    only_here = [
        run.path / "pod5_pass" / name for name in (".real.pod5.AbC123", "md5sum.ontpush-new")
    ]
    program.pushed(data, gridion)
    ticked(monitor)
    for path in only_here:
        path.unlink()
    # A roll-up that never listed them vouches for what lies there from now on.
    (run.path.parent / "final_summary_pool.txt").write_text("x=1\n")
    program.put_clock_forward(25 * HOUR)
    program.pushed(data, gridion)
    for hours in (26, 52):
        monitor.put_clock_forward(hours * HOUR)
        ticked(monitor)
    assert is_verified(gridion / run.path.parent.relative_to(data))
    assert all((gridion / path.relative_to(data)).exists() for path in only_here)


def test_nothing_goes_from_a_run_that_is_still_being_sent(
    program: Program, monitor: Program, run: SimulatedRun, data: Path, gridion: Path
) -> None:
    *_, _ = run.reads()
    read = next(run.path.glob("pod5_pass/*.pod5"))
    real = run.late_file("old/md5sum.ontpush-new")
    program.kill_at(5, "before")
    program.push(data, gridion)
    program.kill_all()
    arrived = gridion / real.relative_to(data)
    assert arrived.exists()
    left = left_of(gridion / read.relative_to(data))
    monitor.put_clock_forward(25 * HOUR)
    monitor.run("monitor")
    assert arrived.exists()
    assert left.exists()
    program.wrap_rsync()
    program.pushed(data, gridion)
    assert coreutils_agree(gridion / run.path.relative_to(data))
