"""What is said where: the log, standard output and error, and the line of progress."""

from __future__ import annotations

import datetime
import os
import pty
import select
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun
from tests.program import PATIENCE, Program, events, is_done

pytestmark = pytest.mark.newest


def on_a_terminal(program: Program, *arguments: str | Path) -> tuple[int, str]:
    """Run the program with a terminal as standard output and error: exit code and what it drew."""
    ours, its = pty.openpty()
    try:
        with program.started(*arguments, stdout=its, stderr=its) as process:
            os.close(its)
            drawn = b""
            while select.select([ours], [], [], PATIENCE)[0]:
                try:
                    drawn += os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
            code = process.wait()
    finally:
        os.close(ours)
    return code, drawn.decode()


# -- the log ----------------------------------------------------------------------------


def test_the_log_tells_what_was_sent_and_what_is_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    name = str(run.path.relative_to(data))
    log = program.log()
    assert {event.word for event in log} == {"SYNC", "MARK DONE"}
    assert all(event.text.startswith(f"{name} ") for event in log)
    assert log[-1].word == "MARK DONE"
    moment = program.log_file.read_text().split(" ")[0]
    passed = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(moment)
    assert abs(passed.total_seconds()) < 3600


def test_scan_done_and_skip_are_told_only_with_v(
    program: Program, data: Path, arrived: Path
) -> None:
    runs = {name: SimulatedRun(data, group=name, files=1) for name in ("done", "skipped")}
    for run in runs.values():
        run.write_all()
    (runs["skipped"].path / "rsync.skip").write_text("reason\n")
    program.pushed(data, arrived)
    program.pushed(data, arrived)
    assert not {event.word for event in program.log()} & {"SCAN", "DONE", "SKIP"}
    before = len(program.log())
    ran = program.push(data, arrived, "-v")
    done, skipped = (str(run.path.relative_to(data)) for run in runs.values())
    said = [("SCAN", done), ("DONE", done), ("SKIP", f"{skipped} reason")]
    assert [(event.word, event.text) for event in program.log()[before:]] == said
    assert [line for line in ran.out.splitlines() if line.startswith(("SCAN", "DONE", "SKIP"))] == [
        f"{word} {text}" for word, text in said
    ]


def test_the_log_is_appended_to_and_survives_logrotate(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.log_file.write_text("2026-01-01T00:00:00+00:00 WARN from before\n")
    program.wrap_rsync(before=f"cd {program.home}; [ -e rotated ] || mv {program.log_file} rotated")
    program.pushed(data, arrived)
    rotated = events((program.home / "rotated").read_text())
    assert program.log()[-1].word == "MARK DONE"
    assert rotated[0] == ("WARN", "from before")
    assert not any(event.word == "MARK DONE" for event in rotated)


def test_the_log_may_be_named_by_the_original_option(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    other = program.home / "other.log"
    program.pushed(data, arrived, "--log", str(other))
    assert events(other.read_text())[-1].word == "MARK DONE"
    assert not program.log_file.exists()


def test_no_log_is_written_unless_asked_for(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    del program.settings["log"]
    before = set(os.listdir(program.home)) | {"state", "config.json"}
    program.pushed(data, arrived)
    assert set(os.listdir(program.home)) <= before


# -- standard output and error ----------------------------------------------------------


def test_a_tick_that_goes_well_is_silent_without_a_terminal(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    for _ in range(2):
        assert program.push(data, arrived).is_silent


def test_trouble_is_told_on_standard_error_also_when_quiet(
    program: Program, run: SimulatedRun, data: Path
) -> None:
    run.write_all()
    ran = program.push(data, data.parent / "nowhere", "-q")
    assert ran.code == 69
    assert ran.out == ""
    assert ran.err.startswith("ontpush: ")
    assert len(ran.err.splitlines()) == 1


def test_v_tells_every_step_and_a_table_on_standard_output(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    ran = program.push(data, arrived, "-v")
    assert (ran.code, ran.err) == (0, "")
    assert "MARK DONE" in ran.out
    assert ran.out.splitlines()[-1].startswith("1 run below ")


def test_warnings_are_no_trouble(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    next(run.path.glob("pod5_pass/*.pod5")).unlink()
    assert program.push(data, arrived).is_silent
    assert program.told("WARN")


def test_an_output_that_nobody_reads_any_more_is_no_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    reader, writer = os.pipe()
    os.close(reader)
    arguments: list[str | Path] = ["push", *program.configured(), "-v", str(data), str(arrived)]
    with program.started(*arguments, stdout=writer) as process:
        os.close(writer)
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert is_done(arrived / run.path.relative_to(data))


def test_a_pipe_that_nobody_reads_is_no_log(program: Program, data: Path, arrived: Path) -> None:
    os.mkfifo(program.log_file)
    ran = program.push(data, arrived)
    assert ran.code == 78
    assert str(program.log_file) in ran.err


def test_a_line_stays_one_that_people_can_read_however_long_a_path_is(
    program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    program.run("hash", "--no-sidecars", run.path)
    deep = run.path.joinpath(*["a directory of some length"] * 120)
    deep.mkdir(parents=True)
    (deep / "the file").touch()
    ran = program.run("verify", "--json", run.path)
    (bad,) = ran.json["data"]["runs"][0]["bad"]
    assert len(bad["path"]) > 3000
    (line,) = ran.err.splitlines()
    assert len(line) < 1100
    assert line.endswith("/the file")


def test_a_name_that_the_locale_cannot_show_is_no_fault(
    program: Program, data: Path, arrived: Path
) -> None:
    SimulatedRun(data, group="Grünalge", files=1).write_all()
    program.environment.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert program.push(data, arrived, "-v").code == 0
    assert program.run("status").code == 0
    assert program.run("status", "--json").code == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_tick_whose_standard_streams_are_closed_does_its_work(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, closed: str
) -> None:
    run.write_all()
    program.within = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    assert program.push(data, arrived, "-v").code == 0
    assert is_done(arrived / run.path.relative_to(data))
    assert program.push(data, data.parent / "nowhere").code == 69


# -- a terminal -------------------------------------------------------------------------


def test_a_terminal_shows_progress_and_the_outcome(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1)
    run.write_all()
    for number in range(3):
        run.late_file(f"pod5_pass/{number}", size=1_000_000)
    arguments: list[str | Path] = ["push", *program.configured(), "--bwlimit", "3m", data, arrived]
    code, drawn = on_a_terminal(program, *arguments)
    assert code == 0
    assert "sending" in drawn
    assert "/16 files" in drawn
    assert "/s" in drawn
    assert "MARK DONE" in drawn
    assert drawn.rstrip().splitlines()[-1].startswith("1 run below ")


def test_a_quiet_tick_draws_nothing_on_a_terminal(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    arguments: list[str | Path] = ["push", *program.configured(), "-q", data, arrived]
    assert on_a_terminal(program, *arguments) == (0, "")


def test_progress_draws_no_control_characters_of_a_name(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, sample="\x1b[2J\a", files=1, pooled=True)
    run.write_all()
    run.late_file("big", size=1_500_000)
    arguments: list[str | Path] = ["push", *program.configured(), "--bwlimit", "3m", data, arrived]
    code, drawn = on_a_terminal(program, *arguments)
    assert code == 0
    assert "\x1b" not in drawn
    assert "\a" not in drawn


def test_an_object_for_programs_is_all_of_standard_output_on_a_terminal_too(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    arguments: list[str | Path] = ["push", *program.configured(), "--json", "-q", data, arrived]
    code, drawn = on_a_terminal(program, *arguments)
    assert code == 0
    assert drawn.startswith('{"ontpush"')
    assert len(drawn.splitlines()) == 1


@pytest.mark.parametrize("command", ["monitor", "pull"])
def test_a_large_log_at_the_cluster_gives_way_to_a_new_one(
    monitor: Program, data: Path, root: Path, command: str
) -> None:
    served = [{"instrument": f"n{number}", "source": str(data)} for number in range(3)]
    monitor.settings["pull"] = served
    older = monitor.log_file.with_name("ontpush.log.1")
    older.write_text("older")
    monitor.log_file.write_text("small\n")
    monitor.run(command)
    assert older.read_text() == "older"
    large = (16 << 20) + 1
    os.truncate(monitor.log_file, large)
    monitor.run(command)
    assert older.stat().st_size == large
    assert not monitor.log_file.exists() or monitor.log_file.stat().st_size < 10_000
    assert monitor.log_file.parent.joinpath("ontpush.log.1.1").exists() is False


def test_a_log_that_is_a_link_or_goes_nowhere_is_left_as_it_is(
    monitor: Program, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    os.truncate(elsewhere, (16 << 20) + 1)
    monitor.log_file.symlink_to(elsewhere)
    monitor.run("monitor")
    assert monitor.log_file.is_symlink()
    assert not monitor.log_file.with_name("ontpush.log.1").exists()
