"""Which run a file belongs to is a function of what lies on disk now, and marks follow it."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age
from tests.program import (
    Program,
    coreutils_agree,
    false_marks,
    is_done,
    mark,
    md5,
    refuse_to_open,
    refuse_to_unlink,
    rollup,
    turn_a_bit,
)

LEFT_OUT = "makes no run"


class Sequencer:
    """A run `e/s/run` with three files and a final summary, an hour old, and the ticks over it."""

    def __init__(self, program: Program, data: Path, arrived: Path) -> None:
        self.program, self.data, self.arrived = program, data, arrived
        self.run = data / "e" / "s" / "run"
        self.write("e/s/run/pod5/1.pod5", "e/s/run/pod5/2.pod5", "e/s/run/pod5/3.pod5")
        self.write("e/s/run/final_summary_X.txt")

    def write(self, *names: str, content: str = "") -> None:
        for name in names:
            path = self.data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = self.data.parent / "whole"
            whole.write_text(content or name)
            age(whole, 3600)
            whole.replace(path)

    def tick(self) -> dict[str, str]:
        """The state of each run after a tick that must go well, and leave no mark that is false."""
        runs = self.program.pushed(self.data, self.arrived)
        assert not false_marks(self.arrived)
        assert not false_marks(self.data)
        return {name: run["state"] for name, run in runs.items()}

    def lose_the_ledger(self) -> None:
        for path in self.program.state.glob("ledger*"):
            path.unlink()

    @property
    def there(self) -> Path:
        return self.arrived / "e" / "s" / "run"


@pytest.fixture
def sequencer(program: Program, data: Path, arrived: Path) -> Sequencer:
    return Sequencer(program, data, arrived)


def outer_run(sequencer: Sequencer) -> None:
    """Make `e` a run, and that for certain."""
    sequencer.write("e/final_summary_e.txt", "e/pod5/e.pod5")


def no_outer_run(sequencer: Sequencer) -> None:
    (sequencer.data / "e" / "final_summary_e.txt").unlink()
    shutil.rmtree(sequencer.data / "e" / "pod5")


def test_an_empty_folder_beside_runs_makes_no_run_and_takes_nothing_from_them(
    sequencer: Sequencer,
) -> None:
    assert sequencer.tick() == {"e/s/run": "done"}
    before = (sequencer.there / "rsync.done").read_bytes()
    (sequencer.data / "e" / "bam").mkdir()
    for _ in range(2):
        assert sequencer.tick() == {"e/s/run": "done"}
    (sequencer.data / "e" / "bam").rmdir()
    for _ in range(3):
        assert sequencer.tick() == {"e/s/run": "done"}
        assert is_done(sequencer.run)
        assert is_done(sequencer.there)
        assert len(rollup(sequencer.there)) == 4
    assert (sequencer.there / "rsync.done").read_bytes() == before


def test_a_folder_that_makes_no_run_is_told(sequencer: Sequencer) -> None:
    sequencer.write("e/bam/x.bam")
    assert sequencer.tick() == {"e/s/run": "done"}
    (told,) = sequencer.program.told("WARN")
    assert told.startswith(f"e/bam {LEFT_OUT}")
    assert not (sequencer.arrived / "e" / "bam").exists()


def test_a_folder_that_makes_no_run_is_told_by_a_plan_and_by_hash(sequencer: Sequencer) -> None:
    (sequencer.data / "e" / "bam").mkdir()
    ran = sequencer.program.push(sequencer.data, sequencer.arrived, "-n", "-v")
    assert ran.code == 0
    assert f"e/bam {LEFT_OUT}" in ran.out + ran.err
    sequencer.program.run("hash", "--all", sequencer.data)
    assert any(LEFT_OUT in told for told in sequencer.program.told("WARN"))


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_run_that_was_part_of_another_and_changed_meanwhile_is_vouched_for_as_it_is(
    sequencer: Sequencer, ledger: str
) -> None:
    def between() -> None:
        if ledger == "lost":
            sequencer.lose_the_ledger()

    def tick_twice() -> None:
        sequencer.tick()
        between()
        sequencer.tick()

    tick_twice()
    for content in ("other", "another"):
        outer_run(sequencer)
        tick_twice()
        assert is_done(sequencer.arrived / "e")
        assert not (sequencer.run / "rsync.done").exists()
        assert "rollup" not in mark(sequencer.there)
        sequencer.write("e/s/run/pod5/2.pod5", content=content)
        tick_twice()
        assert is_done(sequencer.arrived / "e")
        no_outer_run(sequencer)
        between()
        assert sequencer.tick() == {"e/s/run": "done"}
        assert is_done(sequencer.there)
        assert is_done(sequencer.run)
        assert len(rollup(sequencer.there)) == 4
        assert "rollup" not in mark(sequencer.arrived / "e")
        sequencer.write("e/s/run/pod5/3.pod5", content=content + "again")
        assert sequencer.tick() == {"e/s/run": "done"}
        assert is_done(sequencer.there)


def test_a_run_found_again_after_it_was_part_of_another_has_its_whole_roll_up(
    sequencer: Sequencer,
) -> None:
    sequencer.tick()
    outer_run(sequencer)
    sequencer.tick()
    sequencer.tick()
    no_outer_run(sequencer)
    for _ in range(3):
        assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)
    assert len(rollup(sequencer.there)) == len(rollup(sequencer.run)) == 4
    gone = sequencer.program.run("status", "--json")
    assert set(gone.runs) == {"e/s/run"}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_tick_killed_around_the_noting_of_what_is_gone_leaves_no_false_mark(
    sequencer: Sequencer, moment: str
) -> None:
    def killed() -> None:
        call = {
            "before": "gone.note_gone = lambda *_, **__: os._exit(9)",
            "after": "real = gone.note_gone\n"
            "def noted(*a, **k):\n    real(*a, **k)\n    os._exit(9)\n"
            "gone.note_gone = noted",
        }[moment]
        script = f"import os, sys\nfrom ontpush.engine import gone\n{call}\n"
        script += "from ontpush.__main__ import main\nsys.exit(main())"
        run = sequencer.program
        arguments = ["push", *run.configured(), str(sequencer.data), str(sequencer.arrived)]
        ended = subprocess.run(
            [run.python, "-c", script, *arguments], env=run.environment, cwd=run.home, check=False
        )
        assert ended.returncode == 9
        assert not false_marks(sequencer.arrived)

    sequencer.tick()
    outer_run(sequencer)
    killed()
    sequencer.write("e/s/run/pod5/2.pod5", content="other")
    killed()
    assert sequencer.tick() == {"e": "done"}
    no_outer_run(sequencer)
    killed()
    sequencer.write("e/s/run/pod5/2.pod5", content="another")
    killed()
    assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)


def test_a_whole_run_copied_into_another_is_part_of_it(sequencer: Sequencer) -> None:
    sequencer.write("e/s/other/pod5/o.pod5", "e/s/other/final_summary_o.txt")
    sequencer.tick()
    shutil.copytree(sequencer.run, sequencer.data / "e/s/other/saved")
    assert sequencer.tick() == {"e/s/other": "done", "e/s/run": "done"}
    there = sequencer.arrived / "e/s/other"
    assert is_done(there)
    assert not (there / "saved/rsync.done").exists()
    assert not (sequencer.data / "e/s/other/saved/rsync.done").exists()
    assert coreutils_agree(there / "saved")
    assert any("saved/rsync.done" in told for told in sequencer.program.told("WARN"))


def test_a_run_moved_into_another_is_vouched_for_by_that_one_alone(sequencer: Sequencer) -> None:
    sequencer.write("e/s/other/pod5/o.pod5", "e/s/other/final_summary_o.txt")
    sequencer.tick()
    sequencer.run.rename(sequencer.data / "e/s/other/run")
    assert sequencer.tick() == {"e/s/other": "done"}
    assert is_done(sequencer.arrived / "e/s/other")
    assert is_done(sequencer.there)  # nothing is deleted there, and all of it is still right


def test_pooled_data_beside_older_runs_takes_them_in(sequencer: Sequencer) -> None:
    sequencer.tick()
    sequencer.write("e/s/pod5_pass/p.pod5", "e/s/sample_sheet_p.csv")
    assert sequencer.tick() == {"e/s": "waiting"}
    assert "rollup" not in mark(sequencer.there)
    sequencer.write("e/s/final_summary_p.txt")
    assert sequencer.tick() == {"e/s": "done"}
    assert is_done(sequencer.arrived / "e/s")


def test_basecalling_inside_a_run_after_its_end_is_part_of_it(sequencer: Sequencer) -> None:
    sequencer.tick()
    sequencer.write(
        "e/s/run/rebasecalled/fastq_pass/a.fastq.gz",
        "e/s/run/rebasecalled/sequencing_summary_b.txt",
    )
    assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)
    assert len(rollup(sequencer.there)) == 6


def test_marks_left_at_the_destination_by_whomever_are_retracted(sequencer: Sequencer) -> None:
    inside, above = sequencer.there / "pod5", sequencer.arrived / "e"
    for place in (inside, above):
        place.mkdir(parents=True, exist_ok=True)
        (place / "md5sum").write_text("")
        lines = f"2026-01-01T00:00:00+00:00\nrollup: {md5(place / 'md5sum')}\n"
        for name in ("rsync.done", "rsync.verified"):
            (place / name).write_text(lines)
    assert sequencer.tick() == {"e/s/run": "done"}
    for place in (inside, above):
        for name in ("rsync.done", "rsync.verified"):
            assert "rollup" not in mark(place, name)
            assert "retracted" in mark(place, name)


def test_a_mark_at_the_destination_in_a_directory_that_comes_later_is_retracted(
    sequencer: Sequencer,
) -> None:
    sequencer.tick()
    place = sequencer.there / "late"
    place.mkdir()
    (place / "md5sum").write_text(f"{md5(sequencer.run / 'pod5/1.pod5')}  x\n")
    shutil.copy(sequencer.run / "pod5/1.pod5", place / "x")
    (place / "rsync.done").write_text(f"date\nrollup: {md5(place / 'md5sum')}\n")
    sequencer.write("e/s/run/late/x", content="another")
    assert sequencer.tick() == {"e/s/run": "done"}
    assert "retracted" in mark(place)


def test_a_directory_called_as_a_mark_is_an_ordinary_directory(sequencer: Sequencer) -> None:
    names = ("pod5/rsync.done/x", "pod5/rsync.verified/x", "rsync.verified/rsync.verified/x")
    sequencer.write(*(f"e/s/run/{name}" for name in names), "e/rsync.done/run/final_summary_Y.txt")

    def tick() -> None:
        runs = sequencer.program.pushed(sequencer.data, sequencer.arrived)
        assert {run["state"] for run in runs.values()} == {"done"}
        assert len(runs) == 2

    tick()
    assert {name.encode() for name in names} <= set(rollup(sequencer.there))
    sequencer.lose_the_ledger()
    tick()
    shutil.rmtree(sequencer.run / "pod5" / "rsync.done")
    (sequencer.run / "rsync.done").unlink()
    sequencer.lose_the_ledger()
    tick()
    assert is_done(sequencer.there)


def test_a_skip_mark_inside_a_run_is_no_file_of_it(sequencer: Sequencer) -> None:
    sequencer.write("e/s/run/old/rsync.skip", "e/s/run/old/x")
    assert sequencer.tick() == {"e/s/run": "done"}
    assert b"old/rsync.skip" not in rollup(sequencer.there)
    assert not (sequencer.there / "old/rsync.skip").exists()
    assert (sequencer.run / "old/rsync.skip").exists()


def make_no_run_of_a_done_one(sequencer: Sequencer) -> None:
    """Let a skipped run come to lie in it."""
    assert sequencer.tick() == {"e/s/run": "done"}
    next(sequencer.run.glob("final_summary*")).unlink()
    sequencer.write("e/s/run/copy/pod5/a.pod5", "e/s/run/copy/rsync.skip")


def test_what_is_no_run_any_more_for_a_skipped_one_in_it_loses_its_mark(
    sequencer: Sequencer,
) -> None:
    make_no_run_of_a_done_one(sequencer)
    sequencer.write("e/s/run/pod5/1.pod5", content="other")
    assert sequencer.tick() == {"e/s/run/copy": "skipped"}
    assert not (sequencer.run / "rsync.done").exists()


def test_a_skipped_run_is_left_alone_also_where_a_mark_above_it_cannot_be_removed(
    sequencer: Sequencer,
) -> None:
    make_no_run_of_a_done_one(sequencer)
    refuse_to_unlink(sequencer.program, "rsync.done", errno.EACCES)
    ran = sequencer.program.push(sequencer.data, sequencer.arrived, "--json")
    assert ran.code == 1
    assert ran.runs["e/s/run/copy"]["state"] == "skipped"
    (error,) = ran.json["errors"]
    assert error["run"] == "e/s/run"
    assert "cannot be removed: Permission denied; move it away" in error["message"]


@pytest.mark.parametrize("is_ledger_lost", [False, True])
def test_what_has_lost_all_that_made_it_a_run_loses_its_mark(
    sequencer: Sequencer, *, is_ledger_lost: bool
) -> None:
    sequencer.write("e/s/run/report_X.md", "kept/pod5/a.pod5")
    assert sequencer.tick()["e/s/run"] == "done"
    remove_data(sequencer.run)
    if is_ledger_lost:
        sequencer.lose_the_ledger()
    assert set(sequencer.tick()) == {"kept"}
    assert not (sequencer.run / "rsync.done").exists()
    assert is_done(sequencer.there)
    (told,) = sequencer.program.told("WARN")
    assert "e/s/run rsync.done vouched for no run of its own: removed" in told


def test_of_a_mark_that_cannot_be_read_in_what_is_no_run_any_more_somebody_is_told(
    sequencer: Sequencer,
) -> None:
    sequencer.write("e/s/run/report_X.md", "kept/pod5/a.pod5")
    sequencer.tick()
    remove_data(sequencer.run)
    refuse_to_open(sequencer.program, "rsync.done")
    ran = sequencer.program.push(sequencer.data, sequencer.arrived, "--json")
    (error,) = ran.json["errors"]
    assert (ran.code, error["run"]) == (1, "e/s/run")
    assert "rsync.done may vouch for no run of its own and cannot be read: Perm" in error["message"]


def test_a_link_or_directory_with_the_name_of_a_mark_is_none(sequencer: Sequencer) -> None:
    sequencer.write("elsewhere/pod5/a.pod5", content="rollup: 0")
    odd = [sequencer.data / "e/rsync.done", sequencer.data / "e/s/rsync.verified"]
    odd[0].symlink_to("../elsewhere/pod5/a.pod5")
    odd[1].mkdir()
    runs = sequencer.program.pushed(sequencer.data, sequencer.arrived)
    assert runs["e/s/run"]["state"] == "done"
    assert odd[0].is_symlink()
    assert odd[1].is_dir()


def test_hash_takes_the_mark_from_what_is_no_run_any_more(sequencer: Sequencer) -> None:
    sequencer.write("e/s/run/report_X.md", "kept/pod5/a.pod5")
    assert sequencer.tick()["e/s/run"] == "done"
    remove_data(sequencer.run)
    assert sequencer.program.run("hash", "--all", sequencer.data).code == 0
    assert not (sequencer.run / "rsync.done").exists()


def test_hash_leaves_word_of_a_mark_that_stays_and_calls_it_no_run(sequencer: Sequencer) -> None:
    sequencer.write("e/s/run/report_X.md", "kept/pod5/a.pod5")
    sequencer.tick()
    remove_data(sequencer.run)
    refuse_to_unlink(sequencer.program, "rsync.done", errno.EACCES)
    assert sequencer.program.run("hash", "--all", sequencer.data).code == 1
    heartbeat = json.loads(next(sequencer.data.glob(".ontpush/*.json")).read_text())
    assert [run["run"] for run in heartbeat["runs"]] == ["kept"]
    (error,) = heartbeat["errors"]
    assert error.startswith("e/s/run: rsync.done vouches for no run of its own and cannot be")


def test_hash_calls_a_run_failed_in_which_a_mark_of_no_run_stays(sequencer: Sequencer) -> None:
    sequencer.write("e/s/run/pod5/sub/a.pod5", "e/s/run/report_X.md")
    (sequencer.run / "pod5/sub/rsync.done").write_text("now\nrollup: 0\n")
    refuse_to_unlink(sequencer.program, "sub/rsync.done", errno.EACCES)
    ran = sequencer.program.run("hash", "--json", "--all", sequencer.data)
    (error,) = ran.json["errors"]
    assert (ran.code, error["run"]) == (1, str(sequencer.run))
    assert error["message"].startswith("pod5/sub/rsync.done vouches for no run of its own")
    heartbeat = json.loads(next(sequencer.data.glob(".ontpush/*.json")).read_text())
    assert [(run["run"], run["state"]) for run in heartbeat["runs"]] == [("e/s/run", "failed")]
    assert heartbeat["errors"] == []


def test_hash_calls_no_run_failed_that_has_lost_all_that_made_it_one(sequencer: Sequencer) -> None:
    sequencer.write("e/s/run/report_X.md", "kept/pod5/a.pod5")
    hash_all = ("hash", "--all", sequencer.data)
    assert sequencer.program.run(*hash_all).code == 0
    remove_data(sequencer.run)
    assert sequencer.program.run(*hash_all).code == 0
    heartbeat = json.loads(next(sequencer.data.glob(".ontpush/*.json")).read_text())
    assert [run["run"] for run in heartbeat["runs"]] == ["kept"]


@pytest.mark.parametrize("lost", [["rsync.done"], ["md5sum"], ["rsync.done", "md5sum"]])
def test_after_the_ledger_was_lost_no_mark_is_believed_that_the_destination_has_not(
    sequencer: Sequencer, lost: list[str]
) -> None:
    assert sequencer.tick() == {"e/s/run": "done"}
    for name in lost:
        (sequencer.there / name).unlink()
    sequencer.lose_the_ledger()
    assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)


def test_a_roll_up_lost_there_with_the_ledger_is_listed_again_once_the_bytes_were_compared(
    sequencer: Sequencer,
) -> None:
    assert sequencer.tick() == {"e/s/run": "done"}
    turn_a_bit(next((sequencer.there / "pod5").iterdir()))
    (sequencer.there / "md5sum").unlink()
    sequencer.lose_the_ledger()
    # Killed as soon as the mark that still lies there may vouch again.
    sequencer.program.wrap_rsync(before=f"[ -s '{sequencer.there}/md5sum' ] && kill -9 $PPID")
    sequencer.program.push(sequencer.data, sequencer.arrived)
    assert false_marks(sequencer.arrived) == []
    sequencer.program.wrap_rsync()
    assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)


def test_a_mark_put_back_is_not_believed_where_the_one_there_was_retracted(
    sequencer: Sequencer,
) -> None:
    assert sequencer.tick() == {"e/s/run": "done"}
    kept = (sequencer.run / "rsync.done").read_bytes()
    outer_run(sequencer)
    assert sequencer.tick() == {"e": "done"}
    no_outer_run(sequencer)
    (sequencer.run / "rsync.done").write_bytes(kept)
    assert sequencer.tick() == {"e/s/run": "done"}
    assert is_done(sequencer.there)


def remove_data(run: Path) -> None:
    """Free most of its space, so that nothing tells that it is a run."""
    shutil.rmtree(run / "pod5")
    for summary in run.glob("final_summary*"):
        summary.unlink()


def test_a_plan_says_what_a_tick_does_with_runs_that_come_to_lie_in_one(
    sequencer: Sequencer,
) -> None:
    sequencer.tick()
    outer_run(sequencer)
    plan = sequencer.program.push(sequencer.data, sequencer.arrived, "-n", "--json").runs
    assert set(plan) == {"e"}
    sequencer.tick()
    no_outer_run(sequencer)
    plan = sequencer.program.push(sequencer.data, sequencer.arrived, "-n", "--json").runs
    assert plan["e/s/run"]["sent_files"] == 4
    assert sequencer.tick() == {"e/s/run": "done"}


def test_hash_follows_the_same_rule(sequencer: Sequencer) -> None:
    def hashed() -> set[str]:
        ran = sequencer.program.run("hash", "--all", "--json", sequencer.data)
        assert ran.code == 0
        return {Path(name).relative_to(sequencer.data).as_posix() for name in ran.runs}

    (sequencer.data / "e" / "bam").mkdir()
    assert hashed() == {"e/s/run"}
    outer_run(sequencer)
    (sequencer.run / "rsync.done").write_text("date\nrollup: 1\n")
    assert hashed() == {"e"}
    assert not (sequencer.run / "rsync.done").exists()
    assert coreutils_agree(sequencer.data / "e")
    no_outer_run(sequencer)
    assert hashed() == {"e/s/run"}
    assert sequencer.tick() == {"e/s/run": "done"}


@pytest.mark.parametrize("state", ["done", "waiting"])
def test_a_run_that_vanishes_between_search_and_visit_is_left_as_it_is_there(
    sequencer: Sequencer, state: str
) -> None:
    if state == "waiting":
        (sequencer.run / "final_summary_X.txt").unlink()
    sequencer.write("a/pod5/a.pod5")  # visited first
    assert sequencer.tick()["e/s/run"] == state
    before = (sequencer.there / "md5sum").read_bytes()
    sequencer.write("a/pod5/b.pod5")
    aside = sequencer.data.parent / "aside"
    sequencer.program.wrap_rsync(before=f"[ -e '{aside}' ] || mv '{sequencer.run}' '{aside}'")
    sequencer.program.put_clock_forward(2 * 86400)
    sequencer.tick()
    sequencer.tick()
    assert (sequencer.there / "md5sum").read_bytes() == before
    sequencer.program.wrap_rsync()
    aside.rename(sequencer.run)
    assert sequencer.tick()["e/s/run"] in (state, "stalled")
    assert coreutils_agree(sequencer.there)


def test_a_run_that_vanishes_in_its_visit_is_left_as_it_is_there(sequencer: Sequencer) -> None:
    sequencer.tick()
    before = rollup(sequencer.there)
    sequencer.write("e/s/run/pod5/4.pod5")
    aside = sequencer.data.parent / "aside"
    sequencer.program.wrap_rsync(after=f"[ -e '{aside}' ] || mv '{sequencer.run}' '{aside}'")
    assert "e/s/run" in sequencer.tick()
    assert sequencer.tick() == {}
    assert rollup(sequencer.there) == before


def test_a_file_that_is_only_called_as_a_mark_stays_and_is_told(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "pod5_pass" / "rsync.done").write_text("thanks")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert is_done(there)
    assert (run.path / "pod5_pass" / "rsync.done").read_text() == "thanks"
    assert not (there / "pod5_pass" / "rsync.done").exists()
    assert "has the name of a mark: pod5_pass/rsync.done" in "".join(program.told("WARN"))
