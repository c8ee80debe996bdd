"""A run on its way: sending, waiting, stalled, skipped, done, and open again."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import (
    Event,
    Program,
    coreutils_agree,
    is_done,
    mark,
    md5,
    refuse_to_open,
    rollup,
)

DAY = 86_400


def done_run(program: Program, run: SimulatedRun, arrived: Path) -> Path:
    """A run that is done and, a while ago, has settled; where it lies at the destination."""
    run.write_all()
    age(run.path, 600)
    (state,) = program.pushed(run.root, arrived).values()
    assert state["state"] == "done"
    return arrived / run.path.relative_to(run.root)


# -- done -------------------------------------------------------------------------------


def test_the_done_mark_is_sent_last_of_all_in_a_transfer_of_its_own(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    names = program.home / "names"
    # rsync reads the names of the files from a copy of the list that is noted beside the call.
    program.wrap_rsync(
        before=f"cat >{program.home}/list; exec <{program.home}/list",
        after=f"tr '\\0\\n' '\\n ' <{program.home}/list >>{names}; echo \"-- $*\" >>{names}",
    )
    run.write_all()
    program.pushed(data, arrived)
    transfers = names.read_text().split("-- ")
    of_mark = [number for number, text in enumerate(transfers) if "/rsync.done\n" in text]
    of_rollup = [number for number, text in enumerate(transfers) if "/md5sum\n" in text]
    of_files = [number for number, text in enumerate(transfers) if ".pod5\n" in text]
    first, place = of_mark  # the first retracts what may lie there, before any file goes
    assert first < min(of_files)
    assert transfers[place].count("\n") == 2  # the end of the call before it, and the mark
    assert place > max(of_rollup) > min(of_files)
    assert place > max(of_files)


def test_a_done_mark_begins_with_a_date_and_vouches_for_one_roll_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    facts = mark(there)
    date = datetime.datetime.fromisoformat(facts["date"])
    age_of_mark = datetime.datetime.now(datetime.timezone.utc) - date
    assert abs(age_of_mark.total_seconds()) < 3600
    assert facts["rollup"] == md5(there / "md5sum") == md5(run.path / "md5sum")


def test_an_unfinished_run_has_a_roll_up_and_no_mark(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] == "waiting"
    assert coreutils_agree(run.path)
    assert coreutils_agree(there)
    assert not list(data.rglob("rsync.done"))
    assert not list(arrived.rglob("rsync.done"))


def test_a_run_restarted_after_its_final_summary_is_open_while_it_writes(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    second = run.another()
    for _ in second.reads():
        pass
    program.pushed(data, arrived)
    second.finish()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert snapshot(run.path) == snapshot(there)


def test_a_mark_that_cannot_be_read_goes_as_soon_as_the_run_is_open_again(
    program: Program, run: SimulatedRun, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    run.late_file("pod5_pass/late.pod5")
    refuse_to_open(program, "rsync.done")
    program.wrap_rsync(before="exit 12")
    assert program.push(run.root, arrived).code != 0
    assert not (run.path / "rsync.done").exists()
    (program.modules / "sitecustomize.py").unlink()
    program.wrap_rsync()
    (state,) = program.pushed(run.root, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)


# -- open again -------------------------------------------------------------------------


def add_late_file(run: SimulatedRun) -> None:
    run.late_file("bam_pass/barcode01/late.bam")


def add_late_file_beside(run: SimulatedRun) -> None:
    run.late_file("report_late.html")


def change_a_file_beside(run: SimulatedRun) -> None:
    with run.sequencing_summary.open("a") as file:
        file.write("another line\n")


def replace_a_data_file(run: SimulatedRun) -> None:
    first = next(run.path.glob("pod5_pass/*.pod5"))
    run.late_file(str(first.relative_to(run.path)), size=777)


def rename_a_data_file(run: SimulatedRun) -> None:
    first = next(run.path.glob("pod5_pass/*.pod5"))
    first.rename(first.with_name("another name"))


def move_in_an_old_file(run: SimulatedRun) -> None:
    age(run.late_file("old"), 1e8)
    (run.path / "old").rename(run.path / "pod5_fail" / "old")


def acquire_again(run: SimulatedRun) -> None:
    run.another().write_all()


@pytest.mark.parametrize(
    "deed",
    [
        add_late_file,
        add_late_file_beside,
        change_a_file_beside,
        replace_a_data_file,
        rename_a_data_file,
        move_in_an_old_file,
        acquire_again,
    ],
)
def test_a_done_run_is_opened_again_by_the_next_tick_and_done_anew(
    program: Program,
    run: SimulatedRun,
    data: Path,
    arrived: Path,
    deed: Callable[[SimulatedRun], None],
) -> None:
    there = done_run(program, run, arrived)
    before = mark(there)["rollup"]
    deed(run)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert is_done(run.path)
    assert mark(there)["rollup"] != before
    expected = snapshot(run.path)
    assert {name: there for name, there in snapshot(there).items() if name in expected} == expected
    assert [event.word for event in program.log()].count("REOPEN") == 1
    assert program.pushed(data, arrived).popitem()[1]["sent_files"] == 0


def test_a_data_file_of_a_done_run_that_changes_in_place_is_found_within_a_day_not_at_every_tick(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    file = next(run.path.glob("pod5_pass/*.pod5"))
    with file.open("ab") as out:
        out.write(b"a block that was lost")
    # A quick look asks the directories, and they have not changed.
    program.pushed(data, arrived)
    assert (there / "pod5_pass" / file.name).read_bytes() != file.read_bytes()
    program.put_clock_forward(DAY)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert (there / "pod5_pass" / file.name).read_bytes() == file.read_bytes()


def test_a_clock_that_was_years_ahead_keeps_no_change_from_being_found(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    program.put_clock_forward(3650 * DAY)
    there = done_run(program, run, arrived)
    program.put_clock_forward(0)
    file = next(run.path.glob("pod5_pass/*.pod5"))
    with file.open("ab") as out:
        out.write(b"a block that was lost")
    program.pushed(data, arrived)
    assert (there / "pod5_pass" / file.name).read_bytes() == file.read_bytes()
    assert is_done(there)


def test_a_run_opened_again_has_no_mark_while_its_new_files_settle(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    run.late_file("bam_pass/late.bam")
    (state,) = program.pushed(data, arrived, "--settle", "60").values()
    assert state["state"] != "done"
    assert not (run.path / "rsync.done").exists()
    assert coreutils_agree(there)


def test_a_changed_file_of_a_done_run_is_never_beside_a_mark_that_vouches_for_the_old_one(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    replace_a_data_file(run)
    check = (
        f'if [ "$(sed -n s/^rollup:.//p {there}/rsync.done)" ='
        f' "$(md5sum {there}/md5sum | cut -c1-32)" ]; then'
        f" (cd {there} && md5sum -c --status md5sum) || touch {program.home}/broken; fi"
    )
    program.wrap_rsync(before=check, after=check)
    program.pushed(data, arrived)
    assert is_done(there)
    assert not (program.home / "broken").exists()


def test_a_changed_file_of_a_run_that_goes_on_is_never_beside_a_roll_up_that_lists_the_old_one(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    replace_a_data_file(run)
    # A roll-up without a line lists nothing, which md5sum does not accept.
    check = (
        f"if [ -s {there}/md5sum ]; then"
        f" (cd {there} && md5sum -c --status md5sum) || touch {program.home}/broken; fi"
    )
    program.wrap_rsync(before=check, after=check)
    program.pushed(data, arrived)
    assert coreutils_agree(there)
    assert not (program.home / "broken").exists()


def test_a_done_run_that_is_renamed_is_sent_under_its_new_name(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    renamed = run.path.rename(run.path.with_name("another name"))
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    assert is_done(arrived / renamed.relative_to(data))
    assert is_done(renamed)
    assert is_done(there)


def test_a_done_run_that_comes_back_after_it_was_out_of_sight_is_looked_at_whole(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    elsewhere = run.path.rename(data.with_name("elsewhere"))
    program.pushed(data, arrived)
    file = next(elsewhere.glob("pod5_pass/*.pod5"))
    with file.open("ab") as out:
        out.write(b"more")
    elsewhere.rename(run.path)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert (there / "pod5_pass" / file.name).read_bytes() == (
        run.path / "pod5_pass" / file.name
    ).read_bytes()
    assert is_done(there)


def test_a_done_mark_that_somebody_removed_is_made_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    (run.path / "rsync.done").unlink()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    assert (run.path / "rsync.done").read_bytes() == (there / "rsync.done").read_bytes()


def test_a_roll_up_that_somebody_removed_is_written_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    (run.path / "md5sum").unlink()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(run.path)
    assert is_done(there)


def test_a_done_mark_of_the_original_is_not_taken_for_ours(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "rsync.done").write_text("Mon Mar  2 09:30:12 UTC 2026\n")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


# -- stalled ----------------------------------------------------------------------------


def test_an_unfinished_run_that_rests_for_a_day_has_stalled_and_is_told_once(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "waiting"
    program.put_clock_forward(DAY + 60)
    for _ in range(2):
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "stalled"
    (line,) = program.told("STALL")
    assert str(run.path.relative_to(data)) in line
    assert not list(arrived.rglob("rsync.done"))
    assert snapshot(run.path) == snapshot(arrived / run.path.relative_to(data))


def test_an_old_unfinished_run_is_sent_and_stalled_in_one_tick(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 2 * DAY)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "stalled"
    assert snapshot(run.path) == snapshot(arrived / run.path.relative_to(data))


def test_stall_hours_can_be_set(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.settings["stall_hours"] = 0.5
    age(run.path, 1900)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "stalled"


def test_a_data_file_that_grows_in_place_is_sent_by_the_next_tick(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 600)
    growing = next(run.path.glob("pod5_pass/*.pod5"))
    for _ in range(3):
        program.pushed(data, arrived)
        with growing.open("a") as file:
            file.write("more")
        (state,) = program.pushed(data, arrived).values()
        there = arrived / run.path.relative_to(data)
        assert (state["state"], state["sent_files"]) == ("waiting", 1)
        assert (there / growing.relative_to(run.path)).read_bytes() == growing.read_bytes()
        assert coreutils_agree(there)


def test_a_run_in_which_an_old_data_file_grows_in_place_has_not_stalled(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, folders=["pod5_pass"], files=12)
    for _ in run.reads():
        pass
    age(run.path, 600)
    program.pushed(data, arrived)
    growing = min(run.path.glob("pod5_pass/*"))
    with growing.open("a") as file:
        file.write("more")
    age(growing, DAY)
    program.put_clock_forward(DAY - 3600)
    program.pushed(data, arrived)
    program.put_clock_forward(DAY + 60)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "waiting"
    there = arrived / run.path.relative_to(data)
    assert (there / growing.relative_to(run.path)).read_bytes() == growing.read_bytes()
    assert program.told("STALL") == []
    program.put_clock_forward(2 * DAY + 120)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "stalled"


def test_a_stalled_run_goes_on_when_it_goes_on(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 2 * DAY)
    program.pushed(data, arrived)
    run.late_file("pod5_pass/more.pod5")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "waiting"
    run.finish()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


@pytest.mark.parametrize("name", [" a place ", "place\t"])
def test_a_destination_with_space_at_its_ends_is_one_place(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, name: str
) -> None:
    run.write_all()
    (arrived / name).mkdir()
    program.pushed(data, arrived / name)
    shutil.rmtree(program.state)
    (state,) = program.pushed(data, arrived / name).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    run.late_file("pod5_pass/late.pod5")
    program.pushed(data, arrived / name, "--settle", "60")
    assert not (run.path / "rsync.done").exists()


# -- skip and retry ---------------------------------------------------------------------


def test_a_run_with_rsync_skip_is_left_alone_and_its_first_line_is_the_reason(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "rsync.skip").write_text("a failed flow cell\nand more\n")
    before = snapshot(run.path)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("skipped", 0)
    assert program.push(data, arrived, "-v", "-q").code == 0
    assert program.log() == [Event("SKIP", f"{run.path.relative_to(data)} a failed flow cell")]
    assert snapshot(run.path) == before
    assert {path.name for path in arrived.iterdir()} == {".ontpush"}


@pytest.mark.parametrize("call", [1, 2, 3, 4])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_that_is_skipped_while_a_tick_is_at_work_is_not_marked_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, call: int, moment: str
) -> None:
    run.write_all()
    count = program.home / "count"
    counted = f"echo >>{count}; " if moment == "before" else ""
    skip = f"[ $(wc -l <{count}) = {call} ] && echo broken >{run.path}/rsync.skip"
    program.wrap_rsync(**{"before": f"echo >>{count}", moment: counted + skip})
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["error"]) == ("skipped", None)
    there = arrived / run.path.relative_to(data)
    assert not (run.path / "rsync.done").exists()
    assert not (there / "rsync.done").exists()
    program.wrap_rsync()
    assert program.run("retry", run.path).is_silent
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)


def test_nothing_more_of_a_run_is_sent_once_it_is_skipped(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    changed = run.sequencing_summary
    with changed.open("a") as file:
        file.write("more\n")
    late = run.late_file("pod5_pass/late.pod5")
    program.wrap_rsync(before=f"echo broken >{run.path}/rsync.skip")
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] == "skipped"
    assert not (there / "pod5_pass" / late.name).exists()
    assert coreutils_agree(there)


def test_retry_takes_a_directory_back_that_says_skip(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "rsync.skip").mkdir()
    assert program.pushed(data, arrived).popitem()[1]["state"] == "skipped"
    (run.path / "rsync.skip" / "notes").write_text("kept")
    ran = program.run("retry", run.path)
    assert ran.code == 1
    assert "rsync.skip cannot be removed: Directory not empty; move it away" in ran.err
    (run.path / "rsync.skip" / "notes").unlink()
    assert program.run("retry", run.path).is_silent
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"


def test_skip_writes_rsync_skip_and_retry_takes_it_back(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    assert program.run("skip", run.path, "only a test").is_silent
    assert (run.path / "rsync.skip").read_text() == "only a test\n"
    assert program.pushed(data, arrived).popitem()[1]["state"] == "skipped"
    assert program.run("retry", run.path).is_silent
    assert not (run.path / "rsync.skip").exists()
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"


def test_a_skipped_run_is_not_asked_for_its_files(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    before = snapshot(there)
    program.run("skip", run.path, "reason")
    run.late_file("pod5_pass/late.pod5")
    assert program.pushed(data, arrived).popitem()[1]["state"] == "skipped"
    assert snapshot(there) == before
    program.run("retry", run.path)
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"
    assert is_done(there)


def test_retry_takes_done_back_so_that_the_next_tick_verifies_it_anew(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = done_run(program, run, arrived)
    victim = next(there.glob("pod5_pass/*.pod5"))
    times = victim.stat()
    victim.write_bytes(b"X" * times.st_size)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert program.pushed(data, arrived).popitem()[1]["sent_files"] == 0
    assert program.run("retry", run.path).is_silent
    assert not (run.path / "rsync.done").exists()
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"
    assert is_done(there)


def test_retry_needs_no_state_and_nothing_to_take_back(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    assert program.run("retry", run.path).is_silent


@pytest.mark.parametrize(
    "arguments",
    [
        ["skip"],
        ["skip", "RUN"],
        ["skip", "RUN", " "],
        ["skip", "RUN", "a", "b"],
        ["skip", "/nonexistent", "reason"],
        ["skip", "/", "reason"],
        ["retry", "/nonexistent"],
    ],
)
def test_skip_wants_a_run_and_a_reason(
    program: Program, run: SimulatedRun, arguments: list[str]
) -> None:
    run.write_all()
    words = [str(run.path) if word == "RUN" else word for word in arguments[1:]]
    assert program.run(arguments[0], *words).code == 64
    assert not (run.path / "rsync.skip").exists()


# -- the roll-up ------------------------------------------------------------------------


def test_the_roll_up_is_that_of_coreutils_sorted_by_path(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    for name in (
        "pod5_pass-",
        "pod5_pass.txt",
        "Z",
        "a",
        "é",
        "pod5_pass/Z",
        "back\\slash",
        "n\nl",
    ):
        run.late_file(name)
    program.pushed(data, arrived)
    lines = (run.path / "md5sum").read_bytes().splitlines(keepends=True)
    files = sorted(set(snapshot(run.path)) - {b"md5sum", b"rsync.done"})
    expected = []
    for file in files:
        escaped = file.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        start = b"\\" if escaped != file else b""
        path = Path(os.fsdecode(os.fsencode(run.path) + b"/" + file))
        expected.append(start + md5(path).encode() + b"  " + escaped + b"\n")
    assert lines == expected


def test_a_roll_up_lists_only_what_has_arrived(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = arrived / run.path.relative_to(data)
    for path in run.steps():
        if path.suffix in (".pod5", ".html", ".csv") and program.pushed(data, arrived):
            assert set(rollup(there)) == set(snapshot(there)) - {b"md5sum"}
            assert coreutils_agree(there)
