"""The state is a cache: lost, damaged or of another version, it is made anew from the runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import Program, is_done, mark


@pytest.fixture
def done(program: Program, run: SimulatedRun, data: Path, arrived: Path) -> Path:
    """A done run, and another on its way; where the first lies at the destination."""
    run.write_all()
    other = SimulatedRun(data, group="zz unfinished", files=1)
    for _ in other.reads():
        pass
    age(data, 600)
    program.pushed(data, arrived)
    return arrived / run.path.relative_to(data)


def database(program: Program) -> Path:
    """The file that holds the state."""
    (path,) = program.state.glob("*.sqlite3")
    return path


def lose(program: Program) -> None:
    shutil.rmtree(program.state)


def lose_the_file(program: Program) -> None:
    database(program).unlink()


def empty(program: Program) -> None:
    database(program).write_bytes(b"")


def fill_with_garbage(program: Program) -> None:
    database(program).write_bytes(bytes(range(256)) * 400)


def truncate(program: Program) -> None:
    os.truncate(database(program), database(program).stat().st_size // 2)


def overwrite_the_middle(program: Program) -> None:
    with database(program).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (database(program).stat().st_size - 4096))


def make_another_version(program: Program) -> None:
    with sqlite3.connect(database(program)) as connection:
        connection.execute("PRAGMA user_version = 4711")
    connection.close()


def take_a_table_away(program: Program) -> None:
    with sqlite3.connect(database(program)) as connection:
        connection.execute("DROP TABLE files")
    connection.close()


def put_another_program_s_there(program: Program) -> None:
    database(program).unlink()
    with sqlite3.connect(program.state / "ledger.sqlite3") as connection:
        connection.execute("CREATE TABLE runs (x)")
    connection.close()


DEEDS = [
    lose,
    lose_the_file,
    empty,
    fill_with_garbage,
    truncate,
    overwrite_the_middle,
    make_another_version,
    take_a_table_away,
    put_another_program_s_there,
]


@pytest.mark.newest
@pytest.mark.parametrize("deed", DEEDS)
def test_whatever_happens_to_the_state_done_runs_stay_done_and_nothing_is_sent_again(
    program: Program, done: Path, data: Path, arrived: Path, deed: Callable[[Program], None]
) -> None:
    before = snapshot(data), snapshot(arrived, without=[".ontpush"])
    deed(program)
    for _ in range(2):
        states = program.pushed(data, arrived)
        assert [state["state"] for state in states.values()] == ["done", "waiting"]
        assert next(iter(states.values()))["sent_files"] == 0
        of_done = next(iter(program.run("status", "--json").runs.values()))
        assert of_done["sent_files"] == of_done["files"]
        assert (snapshot(data), snapshot(arrived, without=[".ontpush"])) == before
    assert {path.name for path in program.state.iterdir()} <= {
        "ledger.sqlite3",
        "ledger.sqlite3.unusable",
        "lock",
    }


def test_the_files_of_a_done_run_are_not_even_read_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    lose(program)
    read = program.home / "read"
    (program.modules / "sitecustomize.py").write_text(
        "import os\n"
        "readv = os.readv\n"
        f"os.readv = lambda *given: open({str(read)!r}, 'w').close() or readv(*given)\n"
    )
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    assert not read.exists()


def test_a_file_moved_in_with_an_old_time_while_the_state_was_lost_is_found(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    lose(program)
    file = min(run.path.glob("pod5_pass/*"))
    other = data.with_name("other")
    other.write_bytes(file.read_bytes()[::-1])
    os.utime(other, (1e9, 1e9))
    other.rename(file)
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] == "done"
    assert (there / file.relative_to(run.path)).read_bytes() == file.read_bytes()
    assert is_done(there)


@pytest.mark.parametrize("deed", [lose, fill_with_garbage])
def test_what_changed_while_the_state_was_lost_is_found(
    program: Program,
    run: SimulatedRun,
    done: Path,
    data: Path,
    arrived: Path,
    deed: Callable[[Program], None],
) -> None:
    deed(program)
    late = run.late_file("bam_pass/late.bam")
    changed = next(run.path.glob("pod5_pass/*.pod5"))
    changed.write_text("other bytes")
    os.utime(changed, (changed.stat().st_mtime + 5, changed.stat().st_mtime + 5))
    program.pushed(data, arrived)
    assert is_done(done)
    assert (done / "bam_pass" / late.name).exists()
    assert (done / "pod5_pass" / changed.name).read_text() == "other bytes"


def test_an_unfinished_run_goes_on_without_its_state_and_nothing_is_sent_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    sent = inodes(there)
    lose(program)
    run.finish()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)
    # What rsync sends again is another file.
    assert sent.items() <= inodes(there).items()


def inodes(directory: Path) -> dict[Path, int]:
    """Which file lies at which path, of those that are sequenced."""
    return {path: path.stat().st_ino for path in directory.glob("*/*") if path.is_file()}


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\xfe\n" * 100, b"2026\nrollup: 0\n"])
def test_a_mark_that_vouches_for_nothing_is_not_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, content: bytes
) -> None:
    run.write_all()
    (run.path / "rsync.done").write_bytes(content)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    assert is_done(arrived / run.path.relative_to(data))
    assert is_done(run.path)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage\n", b"\xff" * 3000, b"0" * 32 + b"  /etc/passwd\n" + b"1" * 32 + b"  ../x\n"],
)
def test_a_roll_up_that_is_none_is_not_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, content: bytes
) -> None:
    run.write_all()
    (run.path / "md5sum").write_bytes(content)
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))
    assert is_done(run.path)


def test_a_roll_up_of_the_original_is_no_reason_to_believe_a_file_arrived(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.run("hash", "--no-sidecars", run.path)
    lines = (run.path / "md5sum").read_text().splitlines()
    (run.path / "md5sum").write_text("".join(f"{line[:34]}./{line[34:]}\n" for line in lines[1:]))
    lose(program)
    (state,) = program.pushed(data, arrived).values()
    assert state["sent_files"] == state["files"]
    assert is_done(arrived / run.path.relative_to(data))


# -- another destination ----------------------------------------------------------------


def test_a_new_destination_gets_everything_and_a_mark_of_its_own(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, tmp_path: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    before = snapshot(arrived, without=[".ontpush"])
    second = tmp_path / "second"
    second.mkdir()
    (state,) = program.pushed(data, second).values()
    assert (state["state"], state["sent_files"]) == ("done", state["files"])
    there = second / run.path.relative_to(data)
    assert is_done(there)
    assert mark(there)["destination"] == str(second)
    assert snapshot(arrived, without=[".ontpush"]) == before


def test_a_new_destination_is_noticed_without_a_state_too(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, tmp_path: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    lose(program)
    second = tmp_path / "second"
    second.mkdir()
    program.pushed(data, second)
    assert is_done(second / run.path.relative_to(data))


@pytest.mark.newest
def test_two_sources_share_a_state_and_keep_apart(
    program: Program, arrived: Path, tmp_path: Path
) -> None:
    sources = [tmp_path / name for name in ("one", "two")]
    for number, source in enumerate(sources):
        SimulatedRun(source, group=f"group {number}", files=1).write_all()
    for source in sources * 2:
        (state,) = program.pushed(source, arrived).values()
        assert state["state"] == "done"
    assert len(program.run("status", "--json").runs) == 2
    assert program.told("WARN") == []
    assert len(program.told("MARK DONE")) == 2


@pytest.mark.newest
def test_the_state_directory_is_made_with_all_that_is_above_it(
    program: Program, data: Path, arrived: Path
) -> None:
    program.settings["state_dir"] = str(program.home / "a" / "b" / "state")
    program.pushed(data, arrived)
    assert (program.home / "a" / "b" / "state" / "lock").exists()


@pytest.mark.newest
@pytest.mark.parametrize(
    "deed", [fill_with_garbage, make_another_version, put_another_program_s_there]
)
def test_whoever_only_looks_leaves_an_unusable_state_to_the_next_tick(
    program: Program,
    run: SimulatedRun,
    done: Path,
    data: Path,
    arrived: Path,
    deed: Callable[[Program], None],
) -> None:
    deed(program)
    before = snapshot(program.state)
    ran = program.run("status", "--json")
    assert ran.code == 75
    assert "ledger.sqlite3" in ran.json["errors"][0]["message"]
    assert program.run("verify", run.path).code == 0
    assert program.run("retry", run.path).code == 75
    assert snapshot(program.state) == before
    program.pushed(data, arrived)
    assert program.run("status").code == 0


@pytest.mark.newest
@pytest.mark.parametrize("deed", [fill_with_garbage, make_another_version, take_a_table_away])
def test_a_dry_run_with_an_unusable_state_tells_what_a_tick_would_do(
    program: Program, done: Path, data: Path, arrived: Path, deed: Callable[[Program], None]
) -> None:
    deed(program)
    before = snapshot(program.state), program.log()
    ran = program.push(data, arrived, "-n", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert next(iter(ran.runs.values()))["state"] == "done"
    assert (snapshot(program.state), program.log()) == before


@pytest.mark.newest
def test_an_empty_file_is_no_state_yet(program: Program, done: Path) -> None:
    empty(program)
    ran = program.run("status", "--json")
    assert (ran.code, ran.runs) == (0, {})
    assert database(program).stat().st_size == 0


# -- whose it is ------------------------------------------------------------------------


def test_a_state_that_two_hosts_would_share_is_refused_by_the_second(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    here = program.modules / "sitecustomize.py"
    here.write_text("import socket\nsocket.gethostname = lambda: 'second'\n")
    for ran in (
        program.push(data, arrived),
        program.push(data, arrived, "--dry-run"),
        program.run("hash", "--all", data),
    ):
        assert ran.code == 78, ran
        (line,) = ran.err.splitlines()
        assert f"{program.state}: is the state of" in line
        assert "second" in line
        assert "state_dir" in line
    assert program.run("status").code == 0
    # What is advised helps.
    Path(line.rsplit("remove ", 1)[1]).unlink()
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"


def test_runs_of_a_source_that_is_no_more_leave_the_status(
    program: Program, arrived: Path, tmp_path: Path
) -> None:
    old, new, away = (tmp_path / name for name in ("old", "new", "away"))
    for source in (old, away, new):
        SimulatedRun(source, group=source.name, files=1).write_all()
        program.pushed(source, arrived)
    assert len(program.run("status", "--json").runs) == 3
    old.rename(tmp_path / "gone")
    away.rename(tmp_path / "elsewhere")
    away.mkdir()  # as a disk leaves it that is not mounted
    program.pushed(new, arrived)
    shown = program.run("status", "--json").runs
    assert {run["source"] for run in shown.values()} == {str(new), str(away)}
    (tmp_path / "gone").rename(old)
    assert program.pushed(old, arrived).popitem()[1]["sent_files"] == 0


# -- what is written --------------------------------------------------------------------


def bytes_for_one_more_file(
    program: Program, run: SimulatedRun, arrived: Path, files: int
) -> tuple[int, int]:
    """What a tick writes that finds one new file in a run of so many: state, and roll-ups."""
    for _ in run.reads():
        pass
    for number in range(files):
        (run.path / f"pod5_pass/{number:05}.pod5").touch()
    program.pushed(run.root, arrived)
    run.late_file("pod5_pass/new.pod5")
    told = program.home / "written"
    (program.modules / "sitecustomize.py").write_text(
        "import atexit, shutil\n"
        f"atexit.register(shutil.copy, '/proc/thread-self/io', {str(told)!r})\n"
    )
    program.pushed(run.root, arrived)
    (program.modules / "sitecustomize.py").unlink()
    written = dict(line.split(": ") for line in told.read_text().splitlines())
    # Once on its way, and once in the run.
    rollups = 2 * (run.path / "md5sum").stat().st_size
    return int(written["wchar"]) - rollups, rollups


def test_one_new_file_writes_no_more_to_the_ledger_of_a_large_run_than_to_that_of_a_small_one(
    program: Program, tmp_path: Path
) -> None:
    written = []
    for files in (500, 2500):
        source, arrived = tmp_path / f"data{files}", tmp_path / f"arrived{files}"
        arrived.mkdir()
        written.append(
            bytes_for_one_more_file(program, SimulatedRun(source, files=1), arrived, files)
        )
    (small, its_rollups), (large, larger_rollups) = written
    assert larger_rollups > 4 * its_rollups
    assert large < small + 40_000
    assert large < 400_000


def test_a_done_run_without_directories_directly_below_the_source_outlives_a_lost_ledger(
    program: Program, data: Path, arrived: Path
) -> None:
    run = data / "run"
    run.mkdir()
    (run / "final_summary_0.txt").write_text("position=\n")
    program.pushed(data, arrived)
    assert is_done(arrived / "run")
    shutil.rmtree(program.state)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / "run")
