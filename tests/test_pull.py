"""`ontpush pull`: the cluster fetches from sequencers that only hash, with a key that can read."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cluster import Cluster
from tests.lab.deep import deep_files
from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun, snapshot
from tests.lab.oldrsync import OldRsync
from tests.lab.small_disk import SmallDisk
from tests.lab.zygote import Zygote
from tests.program import (
    RSYNC,
    Program,
    coreutils_agree,
    few_levels,
    instead_of_unlink,
    is_done,
    is_verified,
    mark,
    md5,
    refuse_to_list,
    rollup,
    turn_a_bit,
    wait_for,
)
from tests.test_leftovers import left_of

OURS = ["rsync.done", "rsync.verified", ".ontpush", "intermediate"]


@pytest.fixture
def sequencer(data: Path, program: Program) -> Iterator[Cluster]:
    """The sshd of a sequencer, whose one key may read the data."""
    with Cluster(data, forced_command=f"/usr/bin/rrsync -ro {data}") as sshd:
        yield sshd


@pytest.fixture
def login(
    host_python: str, zygote: Zygote, tmp_path: Path, root: Path, sequencer: Cluster
) -> Iterator[Program]:
    """The program on the cluster, which fetches from one sequencer."""
    login = Program(host_python, tmp_path / "login", zygote)
    source = {"instrument": "mk1c", "source": sequencer.destination, **sequencer.config()}
    login.settings.update(root=str(root), pull=[source], disk_percent=100)
    yield login
    left = login.processes()
    login.kill_all()
    assert not left
    assert not os.listdir(login.temporary)


def hashed(program: Program, data: Path) -> None:
    """A tick on the sequencer."""
    assert program.run("hash", "--all", data).code == 0


def pulled(login: Program) -> dict[str, dict[str, Any]]:
    """A tick on the cluster in which nothing is wrong: how it left each run."""
    ran = login.run("pull", "--json")
    assert (ran.code, ran.err) == (0, ""), ran
    return ran.runs


def state(login: Program) -> str:
    """How a tick leaves the one run that there is."""
    (facts,) = pulled(login).values()
    return str(facts["state"])


@pytest.fixture
def there(run: SimulatedRun, root: Path) -> Path:
    """Where the run comes to lie."""
    return root / "mk1c" / run.path.relative_to(run.root)


@pytest.fixture
def done(program: Program, run: SimulatedRun, login: Program, there: Path) -> Path:
    """A run that has been pulled and is done."""
    run.write_all()
    hashed(program, run.root)
    assert state(login) == "done"
    return there


@pytest.mark.newest
def test_a_run_comes_over_byte_for_byte_and_is_done(
    done: Path, run: SimulatedRun, root: Path, login: Program
) -> None:
    assert is_done(done)
    assert mark(done)["instrument"] == "mk1c"
    assert snapshot(run.root, [*OURS, "*.md5"]) == snapshot(root / "mk1c", OURS)
    facts = json.loads((root / "mk1c" / ".ontpush" / "mk1c.json").read_text())
    (told,) = facts["runs"]
    assert (told["state"], told["rollup"]) == ("done", md5(done / "md5sum"))
    assert login.told("MARK DONE")


def test_a_tick_with_nothing_new_fetches_nothing_and_says_nothing(
    done: Path, login: Program
) -> None:
    def touched() -> dict[Path, tuple[int, int]]:
        found = {path: path.stat() for path in done.rglob("*")}
        return {path: (each.st_ino, each.st_ctime_ns) for path, each in found.items()}

    before = touched()
    assert login.run("pull").is_silent
    assert touched() == before


def test_the_life_of_a_run_from_half_of_it_to_a_late_file(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    assert state(login) == "waiting"
    assert coreutils_agree(there)
    assert not (there / "rsync.done").exists()
    with run.sequencing_summary.open("a") as summary:
        summary.write("one more line\n")
    run.finish()
    hashed(program, run.root)
    assert state(login) == "done"
    first = mark(there)["rollup"]
    run.late_file("bam_pass/late [1]\nü.bam")
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(there)
    assert mark(there)["rollup"] != first
    assert login.told("REOPEN")


def test_a_roll_up_that_is_written_anew_within_the_second_of_the_last_is_fetched_as_well(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    for when in (10**9, 2 * 10**9):
        turn_a_bit(victim)
        os.utime(victim, (when, when))
        hashed(program, run.root)
        for path in (run.path / "md5sum", *run.root.glob(".ontpush/*.json")):
            os.utime(path, (3 * 10**9, 3 * 10**9))
        assert state(login) == "done"
        assert (there / victim.relative_to(run.path)).read_bytes() == victim.read_bytes()
        assert is_done(there)


def test_a_run_without_end_stalls(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    login.put_clock_forward(25 * 3600)
    assert state(login) == "stalled"
    assert state(login) == "stalled"
    assert len(login.told("STALL")) == 1


def test_bytes_newer_than_their_sum_are_not_listed_until_they_are_hashed(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    victim.write_bytes(b"newer")
    assert state(login) == "sending"
    assert coreutils_agree(there)
    assert victim.name not in (there / "md5sum").read_text()
    assert victim.name in login.told("WARN")[0]
    ran = login.run("pull")
    assert ran.code == 1
    assert victim.name in ran.err
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(there)


def test_a_file_that_has_no_sum_yet_keeps_its_run_from_being_done(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    run.late_file("pod5_pass/unhashed.pod5")
    assert state(login) == "waiting"
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(there)


def test_a_file_that_never_gets_a_sum_fails_its_run_by_name_in_the_end(
    program: Program, run: SimulatedRun, login: Program
) -> None:
    run.write_all()
    run.late_file("left_out")
    program.settings["exclude"] = ["left_out"]
    hashed(program, run.root)
    assert state(login) == "waiting"
    login.put_clock_forward(25 * 3600)
    ran = login.run("pull")
    assert ran.code == 1
    assert "left_out" in ran.err
    login.settings["exclude"] = ["left_out"]
    assert state(login) == "done"


def test_a_listed_file_that_changes_is_withdrawn_before_it_is_fetched(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    victim.write_bytes(b"another version")
    hashed(program, run.root)
    login.wrap_rsync(after=f"(cd {done} && md5sum -c --quiet md5sum) || touch {login.home}/broken")
    assert state(login) == "done"
    assert not (login.home / "broken").exists()
    assert is_done(done)


def test_what_was_broken_off_under_its_own_time_and_size_is_found(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    shutil.copytree(run.path, there, ignore=shutil.ignore_patterns("md5sum", "*.md5"))
    victim = next(there.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    assert state(login) == "done"
    assert is_done(there)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_any_call_of_rsync_it_goes_on_and_lists_nothing_wrong(
    program: Program, run: SimulatedRun, login: Program, there: Path, moment: str
) -> None:
    run.write_all()
    hashed(program, run.root)
    home = login.home
    count = f"echo x >>{home}/count; [ $(wc -l <{home}/count) -ge $(cat {home}/limit) ]"
    login.wrap_rsync(**{moment: f"{count} && kill -9 -$(ps -o pgid= $PPID | tr -d ' ')"})
    for limit in range(1, 9):
        (home / "count").write_text("")
        (home / "limit").write_text(str(limit))
        login.within = ["setsid", "-w"]
        ran = login.call("pull", *login.configured(), "mk1c")
        login.kill_all()
        if (there / "md5sum").exists():
            assert coreutils_agree(there)
        if (there / "rsync.done").exists():
            assert is_done(there)
        if ran.code == 0:
            break
        if limit % 2:
            run.late_file(f"pod5_pass/late{limit}.pod5")
            next(run.path.glob("fastq_pass/*.gz")).write_text(f"version {limit}")
            hashed(program, run.root)
    login.within = []
    (login.programs / "rsync").unlink()
    assert state(login) == "done"
    assert is_done(there)
    assert not [path for path in there.rglob("*") if path.name.endswith(".ontpush-new")]


def test_a_tick_that_is_stopped_ends_all_it_started(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    login.wrap_rsync(before=f"touch {login.home}/begun; sleep 600")
    with login.started("pull", *login.configured()) as process:
        wait_for((login.home / "begun").exists, "no transfer begins")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert login.processes() == []
    (login.programs / "rsync").unlink()
    assert state(login) == "done"


def test_what_the_monitor_finds_corrupt_is_fetched_again_by_itself(
    done: Path, login: Program, mailbox: Mailbox
) -> None:
    victim = next(done.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    login.settings["notify"] = [{"url": mailbox.url}]
    assert login.run("monitor").code == 1
    (subject,) = mailbox.subjects()
    assert subject.startswith("verification failed")
    assert state(login) == "done"
    assert coreutils_agree(done)
    assert login.run("monitor").is_silent
    (subject,) = mailbox.subjects()
    assert subject.startswith("mended, verified")
    assert is_verified(done)


def test_what_is_deleted_over_there_stays_here_and_opens_no_run(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    login.run("monitor")
    marked = (done / "rsync.done").read_text()
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    victim.unlink()
    victim.with_name(victim.name + ".md5").unlink()
    hashed(program, run.root)
    assert victim.name not in (run.path / "md5sum").read_text()
    assert state(login) == "done"
    assert (done / "rsync.done").read_text() == marked
    assert login.told("REOPEN") == []
    assert login.run("monitor").is_silent
    run.late_file("late")
    hashed(program, run.root)
    assert state(login) == "done"
    assert victim.name in (done / "md5sum").read_text()
    assert login.run("monitor").is_silent
    assert is_verified(done)


def test_sidecars_and_skip_marks_are_understood(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    assert list(run.path.rglob("*.md5"))
    assert not list(done.rglob("*.md5"))
    program.run("skip", run.path, "no")
    hashed(program, run.root)
    assert state(login) == "skipped"
    program.run("retry", run.path)
    hashed(program, run.root)
    assert state(login) == "done"


def test_counts_that_do_not_match_are_told(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    next(run.path.glob("pod5_pass/*.pod5")).unlink()
    hashed(program, run.root)
    (facts,) = pulled(login).values()
    assert facts["state"] == "done"
    assert "pod5" in facts["warning"]


def test_names_of_any_kind_come_over(
    program: Program, data: Path, login: Program, root: Path
) -> None:
    run = SimulatedRun(data, group="a [b]* \n\\#012 ü", sample="#; x", files=1)
    run.write_all()
    (run.path / os.fsdecode(b"odd\xff\\")).write_bytes(b"x")
    hashed(program, data)
    assert state(login) == "done"
    assert is_done(root / "mk1c" / run.path.relative_to(data))


def test_what_cannot_be_read_over_there_is_told_and_the_rest_is_fetched(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    login.put_program(
        "rsync",
        f'{RSYNC} "$@"; code=$?\ncase " $* " in *" --files-from=- "*/pull/mk1c/" ")'
        ' echo "rsync: [sender] opendir \\"/data/locked\\" failed: Permission denied (13)" >&2\n'
        "exit 23;; esac\nexit $code",
    )
    ran = login.run("pull", "--json")
    assert ran.code == 1
    assert "Permission denied" in ran.err
    assert is_done(there)
    (error,) = json.loads((there.parents[2] / ".ontpush" / "mk1c.json").read_text())["errors"]
    assert "Permission denied" in error


def test_a_state_directory_that_cannot_be_written_is_told_in_one_line(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    (login.state / "pull").mkdir(parents=True)
    (login.state / "pull" / "mk1c.json").mkdir()
    ran = login.run("pull", "mk1c")
    assert ran.code == 75
    assert len(ran.err.splitlines()) == 1


# -- what is not as it was listed -------------------------------------------------------------


def test_a_tick_killed_while_a_corrupt_copy_is_mended_is_made_good_by_the_next(
    done: Path, login: Program
) -> None:
    turn_a_bit(next(done.glob("pod5_pass/*.pod5")))
    assert login.run("monitor").code == 1
    kill = "kill -9 -$(ps -o pgid= $PPID | tr -d ' ')"
    login.wrap_rsync(before=f'case " $* " in *files-from*"root/mk1c/ ") {kill};; esac')
    login.within = ["setsid", "-w"]
    login.call("pull", *login.configured(), "mk1c")
    login.kill_all()
    login.within = []
    (login.programs / "rsync").unlink()
    assert len(rollup(done)) < len(snapshot(done, OURS)) - 1
    assert not is_done(done)
    assert state(login) == "done"
    assert is_done(done)
    assert login.run("monitor").is_silent
    assert is_verified(done)


def test_a_roll_up_here_that_was_cut_short_is_made_whole_again(done: Path, login: Program) -> None:
    lines = (done / "md5sum").read_bytes().splitlines(keepends=True)
    (done / "md5sum").write_bytes(b"".join(lines[:2]))
    assert state(login) == "done"
    assert is_done(done)
    assert (done / "md5sum").read_bytes().splitlines(keepends=True) == lines


def test_what_is_lost_at_both_ends_keeps_its_sum_and_is_told_until_it_is_back(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    victim = next(done.glob("pod5_pass/*.pod5"))
    over_there = run.path / victim.relative_to(done)
    over_there.unlink()
    over_there.with_name(over_there.name + ".md5").unlink()
    hashed(program, run.root)
    assert state(login) == "done"
    content = victim.read_bytes()
    victim.unlink()
    assert login.run("monitor").code == 1
    marked = (done / "rsync.done").read_text()
    for _ in range(2):
        ran = login.run("pull")
        assert ran.code == 1
        assert victim.name in ran.err
        assert (done / "rsync.done").read_text() == marked
        assert victim.name in (done / "md5sum").read_text()
    login.put_clock_forward(25 * 3600)
    assert login.run("monitor").code == 1
    victim.write_bytes(content)
    login.put_clock_forward(50 * 3600)
    assert login.run("monitor").is_silent
    assert is_verified(done)
    assert state(login) == "done"


def test_each_file_of_a_run_that_is_lost_at_both_ends_before_its_end_is_named(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    assert state(login) == "waiting"
    listed = rollup(run.path)
    for folder in (run.path, there):
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path.name != "md5sum":
                path.unlink()
    hashed(program, run.root)
    login.run("pull")
    ran = login.run("pull")
    assert ran.code == 1
    for name in sorted(listed)[:5]:
        assert f"{os.fsdecode(name)}: is gone over there; " in ran.err


def test_what_is_lost_here_alone_is_fetched_when_its_run_is_opened_again(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    next(done.glob("pod5_pass/*.pod5")).unlink()
    run.late_file("late")
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(done)


@pytest.mark.parametrize("what", ["lost at both ends", "decayed over there"])
def test_what_is_lost_here_alone_is_fetched_also_while_another_file_fails_its_run(
    program: Program, done: Path, run: SimulatedRun, login: Program, what: str
) -> None:
    victim = next(done.glob("pod5_pass/*.pod5"))
    lost = next(done.glob("fastq_pass/**/*.gz"))
    over_there = run.path / victim.relative_to(done)
    if what == "decayed over there":
        turn_a_bit(over_there)
    else:
        victim.unlink()
        over_there.unlink()
        over_there.with_name(over_there.name + ".md5").unlink(missing_ok=True)
    lost.unlink()
    run.late_file("late")
    retried(program, run)
    ran = login.run("pull")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert victim.name in ran.err
    assert lost.read_bytes() == (run.path / lost.relative_to(done)).read_bytes()
    assert not is_done(done)


def test_a_file_that_nobody_can_bring_back_hides_no_other_that_fails_its_run(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    lost = next(done.glob("pod5_pass/*.pod5"))
    decayed = next(run.path.glob("fastq_pass/**/*.gz"))
    turn_a_bit(decayed)
    for path in (lost, run.path / lost.relative_to(done)):
        path.unlink()
    (run.path / lost.relative_to(done)).with_name(lost.name + ".md5").unlink(missing_ok=True)
    retried(program, run)
    ran = login.run("pull")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert f"{lost.name}: missing or damaged here, and gone over there; " in ran.err
    assert f"{decayed.name}: reads otherwise over there" in ran.err
    os.utime(decayed)
    hashed(program, run.root)
    ran = login.run("pull")
    assert ran.code == 1
    assert decayed.name not in ran.err
    assert (done / decayed.relative_to(run.path)).read_bytes() == decayed.read_bytes()


@pytest.mark.parametrize("where", ["there", "here"])
def test_a_file_that_was_only_touched_does_not_keep_its_run_from_being_done(
    program: Program, run: SimulatedRun, login: Program, there: Path, where: str
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    assert state(login) == "waiting"
    os.utime(next((run.path if where == "there" else there).glob("pod5_pass/*.pod5")), (1e9, 1e9))
    run.finish()
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(there)


def test_what_lies_in_the_way_here_is_named_and_left(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    first = run.late_file("extra")
    hashed(program, run.root)
    assert state(login) == "done"
    first.unlink()
    first.with_name("extra.md5").unlink()
    run.late_file("extra/inner.pod5")
    hashed(program, run.root)
    login.run("pull")
    ran = login.run("pull")
    assert ran.code == 1
    assert "extra lies in the way here" in ran.err
    assert (there / "extra").is_file()
    assert is_done(there)
    (there / "extra").unlink()
    assert "extra: missing" in login.run("pull").err
    sums = (there / "md5sum").read_text().splitlines(keepends=True)
    (there / "md5sum").write_text("".join(line for line in sums if "  extra\n" not in line))
    assert state(login) == "done"
    assert is_done(there)
    assert (there / "extra" / "inner.pod5").is_file()


def test_a_link_here_in_the_place_of_a_folder_is_neither_followed_nor_replaced(
    program: Program, done: Path, run: SimulatedRun, login: Program, tmp_path: Path
) -> None:
    (done / "pod5_pass").rename(tmp_path / "elsewhere")
    (done / "pod5_pass").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    run.late_file("pod5_pass/late.pod5")
    hashed(program, run.root)
    login.run("pull")
    assert "pod5_pass lies in the way here" in login.run("pull").err
    assert (done / "pod5_pass").is_symlink()
    assert snapshot(tmp_path / "elsewhere") == before


def test_what_fetching_does_not_mend_is_not_fetched_again_and_again(
    program: Program, data: Path, login: Program, root: Path
) -> None:
    run = SimulatedRun(data, files=1, hashes=True)
    run.write_all()
    next(run.path.glob("fastq_pass/*.gz")).write_bytes(b"other than MinKNOW wrote")
    hashed(program, data)
    assert state(login) == "done"
    there = root / "mk1c" / run.path.relative_to(data)
    assert login.run("monitor").code == 1
    marked = (there / "rsync.done").stat().st_ctime_ns
    assert state(login) == "done"
    assert login.run("monitor").is_silent
    assert (there / "rsync.done").stat().st_ctime_ns == marked


def test_a_file_that_is_only_here_keeps_no_pulled_run_from_being_verified(
    program: Program, run: SimulatedRun, login: Program, root: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    assert state(login) == "done"
    there = root / "mk1c" / run.path.relative_to(run.root)
    (there / "notes.txt").write_text("mine")
    assert login.run("monitor").is_silent
    assert is_verified(there)
    assert state(login) == "done"
    assert (there / "notes.txt").read_text() == "mine"


def test_sidecars_of_what_is_left_out_do_not_keep_a_run_from_being_done(
    program: Program, run: SimulatedRun, login: Program
) -> None:
    run.write_all()
    for name in ("notes.tmp", "notes.tmp.md5", "link.md5"):
        run.late_file(name)
    (run.path / "link").symlink_to("nowhere")
    program.settings["exclude"] = login.settings["exclude"] = ["*.tmp"]
    hashed(program, run.root)
    assert state(login) == "done"


# -- which runs there are ---------------------------------------------------------------------


def test_a_file_named_md5sum_above_runs_hides_none(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    (run.path.parent / "md5sum").write_text("")
    hashed(program, run.root)
    assert state(login) == "done"
    assert is_done(there)


@pytest.mark.parametrize("group", ["fastq", "pod5_pass_2", " sp ", "a/tmp2"])
def test_an_experiment_may_have_any_name(
    program: Program, data: Path, login: Program, root: Path, group: str
) -> None:
    run = SimulatedRun(data, group=group, files=1)
    run.write_all()
    # A run lies below an experiment, and a folder of that name directly in the data is none.
    hashed(program, data)
    assert state(login) == "done"
    assert is_done(root / "mk1c" / run.path.relative_to(data))


def test_a_run_that_is_gone_over_there_before_it_was_done_is_told(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    assert state(login) == "waiting"
    shutil.rmtree(run.path)
    hashed(program, run.root)
    assert pulled(login) == {}
    assert "gone over there" in login.told("WARN")[-1]
    assert coreutils_agree(there)


def test_a_run_that_goes_between_hash_and_pull_is_no_trouble(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    shutil.rmtree(run.path)
    assert login.run("pull").is_silent
    assert is_done(done)


@pytest.mark.parametrize("levels", [0, 1])
def test_a_run_that_cannot_be_looked_at_over_there_fails_here_and_is_not_taken_for_gone(
    program: Program, done: Path, run: SimulatedRun, login: Program, root: Path, levels: int
) -> None:
    name = str(run.path.relative_to(run.root))
    refuse_to_list(program, [run.path, *run.path.parents][levels])
    assert program.run("hash", "--all", run.root).code == 1
    ran = login.run("pull", "--json")
    assert (ran.code, ran.runs[name]["state"]) == (1, "failed")
    assert "cannot be searched" in ran.err
    (told,) = json.loads(heartbeat(root).read_text())["runs"]
    assert (told["run"], told["state"]) == (name, "failed")
    (program.modules / "sitecustomize.py").unlink()
    hashed(program, run.root)
    assert pulled(login)[name]["state"] == "done"
    assert is_done(done)
    assert len(login.told("MARK DONE")) == 1


# -- what the sequencer says of itself ----------------------------------------------------------


def heartbeat(root: Path) -> Path:
    """Where the cluster notes that the sequencer was heard."""
    return root / "mk1c" / ".ontpush" / "mk1c.json"


def test_what_is_wrong_over_there_with_no_single_run_is_told_here(
    program: Program, run: SimulatedRun, data: Path, login: Program, there: Path, root: Path
) -> None:
    run.write_all()
    (data / "closed").mkdir()
    refuse_to_list(program, data / "closed")
    assert program.run("hash", "--all", data).code == 1
    ran = login.run("pull")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert 'over there it says: "closed: cannot be searched for runs: Permission denied' in ran.err
    (error,) = json.loads(heartbeat(root).read_text())["errors"]
    assert "closed: cannot be searched for runs" in error
    assert is_done(there)


def test_a_run_that_gets_no_sums_over_there_fails_here_until_it_does(
    program: Program, run: SimulatedRun, data: Path, login: Program, there: Path, root: Path
) -> None:
    run.write_all()
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    (run.path / "md5sum").mkdir()
    assert program.run("hash", "--all", data).code == 1
    name = str(run.path.relative_to(data))
    ran = login.run("pull", "--json")
    assert ran.code == 1
    assert ran.runs[name]["state"] == "failed"
    assert "md5sum cannot be written" in ran.err
    assert is_done(root / "mk1c" / other.path.relative_to(data))
    told = {each["run"]: each for each in json.loads(heartbeat(root).read_text())["runs"]}
    assert "md5sum cannot be written" in told[name]["error"]
    (run.path / "md5sum").rmdir()
    hashed(program, data)
    assert pulled(login)[name]["state"] == "done"
    assert is_done(there)


def test_a_sequencer_that_takes_no_sums_any_more_is_silent_though_it_answers(
    program: Program, run: SimulatedRun, login: Program, done: Path, root: Path, mailbox: Mailbox
) -> None:
    heard = heartbeat(root).stat().st_ctime_ns
    assert login.run("pull").is_silent
    assert heartbeat(root).stat().st_ctime_ns == heard
    login.settings["notify"] = [{"url": mailbox.url, "kinds": ["silent", "back"]}]
    login.put_clock_forward(2 * 3600)
    assert login.run("monitor").is_silent
    (mail,) = mailbox.mails()
    assert "silent: mk1c" in mail["Subject"]
    assert "hash --all" in content(mail, "plain")
    login.put_clock_forward(0)
    hashed(program, run.root)
    assert login.run("pull").is_silent
    assert heartbeat(root).stat().st_ctime_ns > heard
    assert login.run("monitor").is_silent
    assert mailbox.subjects() == ["back: mk1c"]


def test_without_hash_all_over_there_nothing_is_pulled_and_that_is_told(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    assert program.run("hash", run.path).is_silent
    ran = login.run("pull")
    assert ran.code == 1
    assert "`ontpush hash --all` has not run yet" in ran.err
    assert not there.exists()


def test_a_sequencer_that_takes_sums_for_hours_is_not_silent(
    program: Program, run: SimulatedRun, login: Program, done: Path
) -> None:
    (left,) = (run.root / ".ontpush").iterdir()
    for name, size in (("a", 64 << 20), ("b", 4 << 30)):  # batches of their own
        with run.late_file(name).open("r+b") as file:
            file.truncate(size)
    before, rollup = left.stat().st_mtime_ns, (run.path / "md5sum").stat().st_mtime_ns
    minutes = "import time\n_now = time.monotonic\ntime.monotonic = lambda: 10000 * _now()\n"
    (program.modules / "sitecustomize.py").write_text(minutes)
    with program.started("hash", *program.configured(), "--all", run.root) as process:
        wait_for(lambda: left.stat().st_mtime_ns > before, "it does not say that it is at work")
        assert (run.path / "md5sum").stat().st_mtime_ns == rollup
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_the_disk_of_a_sequencer_that_is_pulled_from_is_watched(
    login: Program, done: Path, mailbox: Mailbox
) -> None:
    login.settings.update(disk_percent=0, notify=[{"url": mailbox.url, "kinds": ["disk"]}])
    login.run("monitor")
    assert "disk filling: mk1c" in mailbox.subjects()


@pytest.mark.parametrize("words", ["{", "[]", '{"runs": [{"run": "../x", "state": "failed"}]}'])
def test_what_a_sequencer_says_of_itself_may_be_anything(
    run: SimulatedRun, login: Program, done: Path, words: str
) -> None:
    (left,) = (run.root / ".ontpush").iterdir()
    left.write_text(words)
    ran = login.run("pull")
    assert ran.code in (0, 1)
    assert len(ran.err.splitlines()) == ran.code
    assert is_done(done)


# -- hostile and out of reach -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../../../../escaped", "/etc/passwd", "a/../../x", "rsync.done", "md5sum", "a//b"]
)
def test_a_roll_up_that_leads_out_of_its_run_fails_it_alone(
    program: Program, run: SimulatedRun, data: Path, login: Program, there: Path, name: str
) -> None:
    run.write_all()
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    hashed(program, data)
    with (run.path / "md5sum").open("a") as file:
        file.write(f"{'0' * 32}  {name}\n")
    ran = login.run("pull", "--json")
    assert ran.code == 1
    assert sorted(facts["state"] for facts in ran.runs.values()) == ["done", "failed"]
    assert not (there / "rsync.done").exists()
    assert is_done(there.parents[2] / other.path.relative_to(data))


def test_a_link_in_the_place_of_a_listed_file_is_not_fetched(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    victim.unlink()
    victim.symlink_to("/etc/passwd")
    assert state(login) == "sending"
    assert not os.path.lexists(there / "pod5_pass" / victim.name)
    assert not (there / "rsync.done").exists()


def test_links_planted_here_lead_nothing_out(
    program: Program, run: SimulatedRun, login: Program, there: Path, tmp_path: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    there.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("md5sum", "rsync.done", "md5sum.ontpush-new"):
        (there / name).symlink_to(victim)
    login.run("pull")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["rsync.verified", "rsync.done.ontpush-new"])
def test_a_roll_up_cannot_bring_a_mark_of_the_cluster(
    program: Program, done: Path, run: SimulatedRun, login: Program, name: str
) -> None:
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("forged\n")
    with (run.path / "md5sum").open("a") as file:
        file.write(f"{md5(path)}  {name}\n")
    ran = login.run("pull")
    assert ran.code == 1
    assert "which is ours" in ran.err
    assert not os.path.lexists(done / name)
    assert is_done(done)


def test_a_heartbeat_cannot_name_runs_in_runs_or_hidden_places(
    program: Program, done: Path, run: SimulatedRun, login: Program, root: Path
) -> None:
    (left,) = (run.root / ".ontpush").iterdir()
    facts = json.loads(left.read_text())
    name = facts["runs"][0]["run"]
    for where in (f"{name}/pod5_pass", ".ssh"):
        (run.root / where).mkdir(exist_ok=True)
        (run.root / where / "md5sum").write_text("")
        facts["runs"].append({"run": where, "state": "new"})
    left.write_text(json.dumps(facts))
    ran = login.run("pull", "--json")
    assert ran.code == 1
    assert ran.runs.keys() == {name}
    assert not (root / "mk1c" / ".ssh").exists()
    assert not (done / "pod5_pass" / "md5sum").exists()


def test_a_planted_link_does_not_lead_the_heartbeat_out(
    program: Program, run: SimulatedRun, login: Program, root: Path, tmp_path: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    (tmp_path / "elsewhere").mkdir()
    (root / "mk1c").mkdir()
    (root / "mk1c" / ".ontpush").symlink_to(tmp_path / "elsewhere")
    ran = login.run("pull", "mk1c")
    assert ran.code == 78
    assert len(ran.err.splitlines()) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    "line", ["pod5_files_in_final_dest=²", "pod5_files_in_final_dest=" + "9" * 5000]
)
def test_a_final_summary_that_counts_nonsense_stops_nothing(
    program: Program, run: SimulatedRun, login: Program, line: str
) -> None:
    run.write_all()
    (summary,) = run.path.glob("final_summary*")
    summary.write_text(f"{summary.read_text()}{line}\n", encoding="utf-8")
    hashed(program, run.root)
    assert state(login) == "done"


def test_final_summaries_with_ever_more_counts_stop_nothing(
    program: Program, run: SimulatedRun, login: Program
) -> None:
    run.write_all()
    for number in range(4):
        counts = (f"pod5_files_in_final_dest={number * 100003 + n * 997}" for n in range(300))
        (run.path / f"final_summary_{number}.txt").write_text("\n".join(counts))
    hashed(program, run.root)
    assert state(login) == "done"


def test_a_roll_up_of_one_endless_line_fails_its_run_alone(
    program: Program, run: SimulatedRun, data: Path, login: Program
) -> None:
    run.write_all()
    SimulatedRun(data, group="other", files=1).write_all()
    hashed(program, data)
    os.truncate(run.path / "md5sum", 1 << 28)
    ran = login.run("pull", "--json")
    assert ran.code == 1
    assert sorted(facts["state"] for facts in ran.runs.values()) == ["done", "failed"]


def test_files_of_any_depth_are_fetched_and_a_run_deeper_than_any_stops_no_other(
    program: Program, run: SimulatedRun, login: Program, root: Path
) -> None:
    run.write_all()
    for each in (program, login):
        few_levels(each)
    with deep_files(run.path / "pod5_pass/deep", run.root / "deep") as (in_run, _):
        hashed(program, run.root)
        ran = login.run("pull", "--json")
        assert "too deep or too long" in ran.err
        assert [facts["state"] for facts in ran.runs.values()] == ["done"]
        assert (root / "mk1c" / in_run.relative_to(run.root)).exists()
    hashed(program, run.root)
    assert sorted(facts["state"] for facts in pulled(login).values()) == ["done"]


def test_a_path_that_is_too_long_here_stops_no_other_run_and_nothing_once_it_is_gone(
    program: Program, run: SimulatedRun, login: Program
) -> None:
    run.write_all()
    long = run.root.joinpath(*["l" * 200] * 4)
    (long / "pod5").mkdir(parents=True)
    (long / "final_summary_x.txt").write_text("x=1\n")
    login.settings["state_dir"] = str(login.state.joinpath(*["s" * 200] * 16))
    hashed(program, run.root)
    for _ in range(2):
        ran = login.run("pull", "--json")
        assert ran.code == 1
        assert [each["state"] for each in ran.runs.values()] == ["done", "new"]
        (error,) = ran.json["errors"]
        assert "is too long here" in error["message"]
    shutil.rmtree(run.root / ("l" * 200))
    hashed(program, run.root)
    assert state(login) == "done"


def test_the_place_of_roll_ups_may_be_a_link(
    done: Path, run: SimulatedRun, program: Program, login: Program, tmp_path: Path
) -> None:
    stage = login.state / "pull" / "mk1c"
    stage.rename(tmp_path / "elsewhere")
    stage.symlink_to(tmp_path / "elsewhere")
    run.late_file("pod5_pass/late.pod5")
    hashed(program, run.root)
    assert state(login) == "done"
    assert (done / "pod5_pass/late.pod5").exists()


def test_a_roll_up_that_lists_very_deep_directories_fails_its_run_alone(
    program: Program, run: SimulatedRun, login: Program
) -> None:
    run.write_all()
    hashed(program, run.root)
    with (run.path / "md5sum").open("a") as file:
        file.write(f"{'0' * 32}  {'d/' * 2000}file\n")
    login.run("pull")
    ran = login.run("pull")
    assert ran.code == 1
    assert "does `ontpush hash` run there?" in ran.err


def test_what_the_other_end_says_is_shown_without_its_escapes(
    login: Program, sequencer: Cluster
) -> None:
    sequencer.forced_command(r"printf '\033[31mred\033]0;title\007\n' >&2; exit 5")
    ran = login.run("pull")
    assert ran.code == 69
    assert "\033" not in ran.err
    assert "red" in ran.err


@pytest.mark.parametrize("kind", ["root", "state"])
def test_a_full_disk_is_told_also_where_several_are_served(
    program: Program, run: SimulatedRun, login: Program, root: Path, there: Path, kind: str
) -> None:
    run.write_all()
    hashed(program, run.root)
    place = root if kind == "root" else login.state
    place.mkdir(exist_ok=True)
    disk = SmallDisk(place, "1m")
    login.within = disk.within
    try:
        filler = disk.fill()
        ran = login.run("pull")
        assert ran.code in (1, 75)
        assert "space" in ran.err.lower()
        filler.unlink()
        assert state(login) == "done"
    finally:
        disk.end()


def test_a_run_that_takes_all_the_time_keeps_no_other_from_its_turn(
    program: Program, run: SimulatedRun, data: Path, login: Program
) -> None:
    run.write_all()
    other = SimulatedRun(data, group="zother", files=1)
    other.write_all()
    hashed(program, data)
    home = login.home
    login.put_program(
        "rsync",
        f'case " $* " in *files-from*"root/mk1c/ ") tr "\\0" "\\n" >{home}/names;'
        f" if grep -q {run.path.name} {home}/names; then exit 30; fi;"
        f' tr "\\n" "\\0" <{home}/names | {RSYNC} "$@"; exit $?;; esac\nexec {RSYNC} "$@"',
    )
    for _ in range(2):
        ran = login.run("pull", "--json")
    assert ran.code == 69
    assert ran.runs[str(other.path.relative_to(data))]["state"] == "done"


def test_a_sequencer_out_of_reach_is_silent_and_no_error_of_the_others(
    program: Program,
    run: SimulatedRun,
    login: Program,
    there: Path,
    sequencer: Cluster,
    mailbox: Mailbox,
) -> None:
    run.write_all()
    hashed(program, run.root)
    gone = {**login.settings["pull"][0], "instrument": "gone", "ssh_port": 1}
    login.settings["pull"].append(gone)
    assert login.run("pull").is_silent
    assert is_done(there)
    assert "gone" in login.told("WARN")[0]
    login.settings["notify"] = [{"url": mailbox.url, "kinds": ["silent", "back"]}]
    assert login.run("monitor").is_silent
    assert mailbox.subjects() == []
    login.put_clock_forward(2 * 3600)
    assert login.run("monitor").is_silent
    assert mailbox.subjects() == ["silent: gone", "silent: mk1c"]
    login.put_clock_forward(0)
    assert login.run("pull").is_silent
    login.run("monitor")
    assert "back: mk1c" in mailbox.subjects()


def test_when_no_sequencer_can_be_reached_that_is_told(
    program: Program, login: Program, sequencer: Cluster, run: SimulatedRun
) -> None:
    hashed(program, run.root)
    sequencer.stop()
    ran = login.run("pull")
    assert ran.code == 69
    assert len(ran.err.splitlines()) == 1
    sequencer.start()
    assert login.run("pull").is_silent


def test_a_network_that_breaks_off_leaves_a_run_that_goes_on(
    program: Program, run: SimulatedRun, login: Program, there: Path, sequencer: Cluster
) -> None:
    run.write_all()
    hashed(program, run.root)
    sequencer.refuse_key()
    assert login.run("pull").code == 69
    sequencer.accept_key()
    assert state(login) == "done"


def test_several_sequencers_are_served_side_by_side(
    program: Program, run: SimulatedRun, login: Program, root: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    first = login.settings["pull"][0]
    login.settings["pull"] = [{**first, "instrument": f"n{number}"} for number in range(5)]
    ran = login.run("pull", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert [each["instrument"] for each in ran.json["data"]["runs"]]
    for number in range(5):
        assert is_done(root / f"n{number}" / run.path.relative_to(run.root))


def test_a_sequencer_that_is_still_being_served_is_left_to_that_call(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    login.wrap_rsync(
        before=f"[ -e {login.home}/go ] || touch {login.home}/begun\n"
        f"while [ ! -e {login.home}/go ]; do sleep 0.05; done"
    )
    with login.started("pull", *login.configured()) as process:
        wait_for((login.home / "begun").exists, "no transfer begins")
        assert login.run("pull").is_silent
        (login.home / "go").touch()
        assert process.wait() == 0
    assert is_done(there)


def test_a_root_whose_disk_is_not_mounted_is_not_filled(
    done: Path, login: Program, root: Path
) -> None:
    (root / "mk1c").rename(root.with_name("elsewhere"))
    ran = login.run("pull")
    assert ran.code == 69
    assert "is its disk mounted?" in ran.err
    assert list(root.iterdir()) == []
    (root / "mk1c").mkdir()
    ran = login.run("pull")
    assert ran.code == 69
    assert "is its disk mounted?" in ran.err
    assert list((root / "mk1c").iterdir()) == []
    (root / "mk1c").rmdir()
    root.with_name("elsewhere").rename(root / "mk1c")
    assert login.run("pull").is_silent
    assert is_done(done)


def test_the_rrsync_written_in_perl_serves_too(
    program: Program,
    run: SimulatedRun,
    login: Program,
    there: Path,
    sequencer: Cluster,
    older: OldRsync,
) -> None:
    run.write_all()
    hashed(program, run.root)
    sequencer.forced_command(f"{older.rrsync} -ro {run.root}")
    assert state(login) == "done"
    assert is_done(there)


# -- runs in runs -----------------------------------------------------------------------------


def acquisition(directory: Path) -> None:
    """Make a directory a run by a summary of its own."""
    (directory / "final_summary_e.txt").write_text("x=1\n")


def false_marks(root: Path) -> list[Path]:
    """The marks at the cluster that vouch for a roll-up which is not so."""
    false = []
    for path in [*root.rglob("rsync.done"), *root.rglob("rsync.verified")]:
        facts = mark(path.parent, path.name)
        vouches = facts.get("rollup") == md5(path.parent / "md5sum")
        if vouches and not coreutils_agree(path.parent):
            false.append(path)
    return false


def test_marks_of_a_run_vouch_for_nothing_once_it_lies_in_another(
    program: Program, done: Path, run: SimulatedRun, login: Program, root: Path
) -> None:
    assert login.run("monitor").is_silent
    assert is_verified(done)
    outer = run.path.parents[1]
    bam = outer / "bam" / "x.bam"
    bam.parent.mkdir()
    bam.write_bytes(b"x")
    acquisition(outer)
    changed = next(run.path.glob("pod5_pass/*.pod5"))
    changed.write_bytes(b"another version")
    hashed(program, run.root)
    login.wrap_rsync(after=f"(cd {done} && md5sum -c --quiet md5sum) || touch {login.home}/broken")
    runs = pulled(login)
    assert runs[outer.name]["state"] == "done"
    assert is_done(done.parents[1])
    assert "rollup" not in mark(done)
    assert "retracted" in mark(done)
    assert not (done / "rsync.verified").exists()
    assert false_marks(root) == []
    assert login.run("pull").is_silent


def test_a_mark_goes_before_anything_below_it_is_fetched(
    program: Program, done: Path, run: SimulatedRun, login: Program, root: Path
) -> None:
    login.run("monitor")
    outer = run.path.parents[1]
    acquisition(outer)
    next(run.path.glob("pod5_pass/*.pod5")).write_bytes(b"another version")
    hashed(program, run.root)
    kill = "kill -9 -$(ps -o pgid= $PPID | tr -d ' ')"
    login.wrap_rsync(after=f'case " $* " in *files-from*"root/mk1c/ ") {kill};; esac')
    login.within = ["setsid", "-w"]
    login.call("pull", *login.configured(), "mk1c")
    login.kill_all()
    login.within = []
    (login.programs / "rsync").unlink()
    assert not coreutils_agree(done)
    assert false_marks(root) == []
    pulled(login)
    assert false_marks(root) == []


def test_marks_of_a_run_vouch_for_nothing_once_runs_lie_in_it(
    program: Program, run: SimulatedRun, login: Program, there: Path, root: Path
) -> None:
    run.write_all()
    outer = run.path.parents[1]
    acquisition(outer)
    hashed(program, run.root)
    pulled(login)
    over = there.parents[1]
    login.run("monitor")
    assert is_verified(over)
    (outer / "final_summary_e.txt").unlink()
    (outer / "md5sum").unlink()
    changed = next(run.path.glob("pod5_pass/*.pod5"))
    changed.write_bytes(b"another version")
    hashed(program, run.root)
    runs = pulled(login)
    assert [Path(name).name for name in runs] == [run.path.name]
    assert is_done(there)
    assert "rollup" not in mark(over)
    assert not (over / "rsync.verified").exists()
    assert not any(name.startswith(b"sample") for name in rollup(over))
    assert b"final_summary_e.txt" in rollup(over)
    assert coreutils_agree(over)


def test_a_run_that_comes_back_is_read_again(
    program: Program, done: Path, run: SimulatedRun, login: Program, root: Path
) -> None:
    outer = run.path.parents[1]
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    first, times = victim.read_bytes(), victim.stat()
    acquisition(outer)
    victim.write_bytes(bytes(len(first)))
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    hashed(program, run.root)
    pulled(login)
    (outer / "final_summary_e.txt").unlink()
    (outer / "md5sum").unlink()
    victim.write_bytes(first)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    hashed(program, run.root)
    pulled(login)
    assert is_done(done)
    assert (done / victim.relative_to(run.path)).read_bytes() == first
    assert false_marks(root) == []


def test_marks_in_a_run_over_there_are_left_out_at_any_depth(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    names = [f"sub/{name}" for name in ("rsync.done", "rsync.skip", "rsync.verified")]
    (run.path / "sub").mkdir()
    (run.path / "sub" / "other").write_text("x")
    hashed(program, run.root)
    for name in names:
        (run.path / name).write_text("2026-01-01\n")
    with (run.path / "md5sum").open("a") as file:
        for name in names:
            file.write(f"{md5(run.path / name)}  {name}\n")
    assert state(login) == "done"
    assert is_done(done)
    assert [path.name for path in (done / "sub").iterdir()] == ["other"]
    assert "sub/rsync.done" in "".join(login.told("WARN"))


def test_a_skip_that_is_set_over_there_after_the_hash_is_seen_before_the_mark(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    (run.path / "rsync.skip").write_text("no\n")
    assert state(login) == "skipped"
    assert not (there / "rsync.done").exists()
    (run.path / "rsync.skip").unlink()
    assert state(login) == "done"
    assert is_done(there)


def test_a_lost_state_costs_no_transfer(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    for _ in run.reads():
        pass
    hashed(program, run.root)
    assert state(login) == "waiting"
    shutil.rmtree(login.state)
    (facts,) = pulled(login).values()
    assert (facts["state"], facts["sent_files"]) == ("waiting", 0)
    assert coreutils_agree(there)


def test_what_a_killed_transfer_left_goes_before_the_mark_and_no_file_of_the_run(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    real = run.late_file("pod5_pass/.real.pod5.AbC123")
    run.late_file("pod5_pass/real.pod5")
    hashed(program, run.root)
    (there / "pod5_pass").mkdir(parents=True)
    left = left_of(next(run.path.glob("pod5_pass/*.pod5")), there / "pod5_pass")
    name = left.name[: -len("q2W9xz")]
    others = [there / "pod5_pass" / other for other in (".notes.q2W9xz", f"{name}toolong")]
    others += [there / "pod5_pass" / other for other in (f"{name}before", "md5sum.ontpush-new")]
    for other in others:
        other.write_text("somebody's")
        other.chmod(0o600)
    assert state(login) == "done"
    assert is_done(there)
    assert not left.exists()
    assert all(other.exists() for other in others)
    assert (there / "pod5_pass" / real.name).exists()
    assert left.name in "".join(login.told("WARN"))


@pytest.mark.parametrize(
    ("does", "is_told"),
    [("raise OSError(30, os.strerror(30), path)", True), ("_unlink(path)  # another did", False)],
)
def test_what_a_killed_transfer_left_keeps_no_run_from_being_done_where_it_cannot_be_removed(
    program: Program, run: SimulatedRun, login: Program, there: Path, does: str, is_told: bool
) -> None:
    run.write_all()
    hashed(program, run.root)
    (there / "pod5_pass").mkdir(parents=True)
    left_of(next(run.path.glob("pod5_pass/*.pod5")), there / "pod5_pass")
    instead_of_unlink(login, ".q2W9xz", does)
    assert state(login) == "done"
    assert is_done(there)
    assert ("cannot be removed: Read-only file system" in "".join(login.told("WARN"))) == is_told


def test_what_has_gone_over_there_stays_here_whatever_it_is_called(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    *_, _ = run.reads()
    read = next(run.path.glob("pod5_pass/*.pod5"))
    only_here = [read.with_name(f".{read.name}.AbC123"), read.with_name("md5sum.ontpush-new")]
    for path in only_here:
        path.write_text("of the run")
        path.chmod(0o600)
    hashed(program, run.root)
    assert state(login) == "waiting"
    for path in only_here:
        path.unlink()
    hashed(program, run.root)
    shutil.rmtree(login.state)
    run.finish()
    hashed(program, run.root)
    assert state(login) == "done"
    assert all((there / path.relative_to(run.path)).exists() for path in only_here)


def test_data_over_there_that_no_run_takes_along_is_told(
    program: Program, run: SimulatedRun, login: Program, mailbox: Mailbox
) -> None:
    run.write_all()
    SimulatedRun(run.root / "tmp", files=1).write_all()
    (run.path.parents[1] / "bam").mkdir()
    hashed(program, run.root)
    assert state(login) == "done"
    login.settings["notify"] = [{"url": mailbox.url}]
    assert login.run("monitor").is_silent
    (mail,) = [each for each in mailbox.mails() if "failed" in each["Subject"]]
    text = content(mail, "plain")
    assert "bam: makes no run" in text
    assert "a run where none is looked for" in text


# -- a disk over there that decays ------------------------------------------------------------


def retried(program: Program, run: SimulatedRun) -> None:
    """Have the next tick on the sequencer take all sums anew."""
    assert program.run("retry", run.path).is_silent
    hashed(program, run.root)


def test_a_disk_over_there_that_decays_does_not_replace_the_good_copy(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    copy, first = done / victim.relative_to(run.path), victim.read_bytes()
    marked = (done / "rsync.done").read_text()
    turn_a_bit(victim)
    run.late_file("pod5_pass/late.pod5")
    retried(program, run)
    assert md5(victim) in (run.path / "md5sum").read_text()
    for _ in range(2):
        ran = login.run("pull", "--json")
        assert (ran.code, len(ran.err.splitlines())) == (1, 1)
        assert f"{victim.name}: reads otherwise over there than when it was hashed first" in ran.err
        assert "the copy here is kept" in ran.err
        assert copy.read_bytes() == first
        assert md5(copy) in (done / "md5sum").read_text()
        assert (done / "pod5_pass/late.pod5").exists()  # the rest of the run comes all the same
        assert coreutils_agree(done)
        assert marked == (done / "rsync.done").read_text()
    turn_a_bit(victim)  # it was put back
    retried(program, run)
    assert state(login) == "done"
    assert is_done(done)


def test_a_disk_that_decays_under_a_done_run_takes_its_mark_from_nothing(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    login.run("monitor")
    turn_a_bit(next(run.path.glob("pod5_pass/*.pod5")))
    retried(program, run)
    assert login.run("pull").code == 1
    assert is_done(done)
    assert is_verified(done)
    assert login.told("REOPEN") == []


def test_a_file_that_somebody_changed_over_there_is_fetched_whatever_its_size(
    program: Program, done: Path, run: SimulatedRun, login: Program
) -> None:
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    retried(program, run)
    assert login.run("pull").code == 1
    os.utime(victim, (0, 10**9))  # as the message has it: by `touch`
    hashed(program, run.root)
    assert state(login) == "done"
    assert (done / victim.relative_to(run.path)).read_bytes() == victim.read_bytes()
    assert is_done(done)


def test_a_sum_that_was_wrong_from_the_start_over_there_is_put_right(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    victim = next(run.path.glob("pod5_pass/*.pod5"))
    victim.with_name(f"{victim.name}.md5").write_text(f"{'0' * 32}  {victim.name}\n")
    hashed(program, run.root)
    assert not coreutils_agree(run.path)
    for _ in range(2):
        login.run("pull")
    assert not (there / "rsync.done").exists()
    retried(program, run)
    assert state(login) == "done"
    assert is_done(there)
    assert (there / victim.relative_to(run.path)).read_bytes() == victim.read_bytes()


# -- what a login says, and modes -------------------------------------------------------------

BANNER = "echo 'Welcome: mind the lab rules' >&2; exec"


def test_what_a_login_prints_is_no_trouble_of_a_pull(
    program: Program, run: SimulatedRun, login: Program, there: Path, sequencer: Cluster
) -> None:
    run.write_all()
    hashed(program, run.root)
    sequencer.forced_command(f"{BANNER} /usr/bin/rrsync -ro {run.root}")
    assert login.run("pull").is_silent
    assert is_done(there)


def test_what_a_login_prints_hides_neither_what_is_gone_nor_what_is_wrong(
    program: Program,
    run: SimulatedRun,
    data: Path,
    login: Program,
    there: Path,
    sequencer: Cluster,
) -> None:
    run.write_all()
    other = SimulatedRun(data, group="other", files=1)
    other.write_all()
    hashed(program, data)
    shutil.rmtree(other.path)
    sequencer.forced_command(f"{BANNER} /usr/bin/rrsync -ro {data}")
    assert login.run("pull").is_silent
    assert is_done(there)
    late = run.late_file("late")
    hashed(program, data)
    late.unlink()
    login.run("pull")
    ran = login.run("pull")
    assert ran.code == 1
    assert "late: " in ran.err
    assert "Welcome" not in ran.err


@pytest.mark.parametrize(("umask", "modes"), [(0o027, (0o750, 0o640)), (0o002, (0o775, 0o664))])
@pytest.mark.parametrize("flags", [[], ["-a"]])
def test_what_is_pulled_has_the_modes_of_this_user_not_those_of_the_sequencer(
    program: Program,
    run: SimulatedRun,
    login: Program,
    there: Path,
    umask: int,
    modes: tuple[int, int],
    flags: list[str],
) -> None:
    run.write_all()
    hashed(program, run.root)
    for number, path in enumerate(sorted(run.path.rglob("*"))):
        path.chmod(0o777 if path.is_dir() else (0o666, 0o600, 0o6755)[number % 3])
    login.settings["rsync_flags"] = flags
    login.within = ["sh", "-c", f'umask {umask:o}; exec "$0" "$@"']
    assert state(login) == "done"
    own = {"md5sum", "rsync.done"}
    for path in there.rglob("*"):
        expected = modes[0] if path.is_dir() else modes[1]
        if path.name not in own:
            assert path.stat().st_mode & 0o7777 == expected, path
            assert (
                path.is_dir()
                or path.stat().st_mtime == (run.path / path.relative_to(there)).stat().st_mtime
            )
    assert is_done(there)


def test_the_group_of_a_project_is_inherited_by_what_is_pulled(
    program: Program, run: SimulatedRun, login: Program, there: Path, root: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    root.chmod(0o2775)
    assert state(login) == "done"
    assert all(path.stat().st_mode & 0o2000 for path in there.rglob("*") if path.is_dir())


# -- how it is called -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "word", "code"),
    [
        ({"pull": []}, "pull", 64),
        ({"root": None}, "root", 64),
        ({"pull": [{"instrument": "../x", "source": "a@b:c"}]}, "name of a directory", 78),
        ({"pull": [{"instrument": "x"}]}, "pull[0]: `source` is missing", 78),
        ({"rsync_flags": ["--delete"]}, "deleted", 64),
        ({"pull": [{"instrument": "x", "source": "a@b:c"}] * 2}, "too much alike", 78),
        (
            {"pull": [{"instrument": name, "source": "a@b:c"} for name in ("é1", "è1")]},
            "too much alike",
            78,
        ),
        ({"pull": [{"instrument": "x" * 300, "source": "a@b:c"}]}, "name of a directory", 78),
    ],
)
def test_what_cannot_be_done_is_refused(
    login: Program, settings: dict[str, Any], word: str, code: int
) -> None:
    login.settings.update(settings)
    ran = login.run("pull")
    assert ran.code == code
    assert word in ran.err
    assert len(ran.err.splitlines()) == 1


def test_an_instrument_named_twice_is_served_once(
    program: Program, run: SimulatedRun, login: Program, there: Path
) -> None:
    run.write_all()
    hashed(program, run.root)
    assert login.run("pull", "mk1c", "mk1c").is_silent
    assert is_done(there)


@pytest.mark.parametrize("place", ["root/mk1c", "state/pull"])
def test_a_file_in_the_place_of_a_directory_is_told_in_one_line(
    program: Program, run: SimulatedRun, login: Program, root: Path, place: str
) -> None:
    hashed(program, run.root)
    path = root / "mk1c" if place.startswith("root") else login.state / "pull"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    ran = login.run("pull", "mk1c")
    assert ran.code == 78
    assert len(ran.err.splitlines()) == 1


def test_an_instrument_that_is_not_configured_is_a_wrong_call(login: Program) -> None:
    assert login.run("pull", "nobody").code == 64


# -- looking at it ----------------------------------------------------------------------------


def test_check_on_the_cluster_asks_everybody_it_depends_on(
    done: Path, login: Program, sequencer: Cluster, mailbox: Mailbox
) -> None:
    login.settings["notify"] = [{"url": mailbox.url}]
    ran = login.run("check", "--json")
    assert (ran.code, ran.err) == (0, "")
    verdicts = {each["what"]: each["verdict"] for each in ran.json["data"]["checks"]}
    assert verdicts["mk1c"] == verdicts["notify[0]"] == verdicts["instruments"] == "ok"
    assert mailbox.mails() == []
    sequencer.refuse_key()
    mailbox.stop()
    ran = login.run("check")
    assert ran.code == 69
    assert "refuses the key" in ran.err
    assert "Connection refused" in ran.err


def test_status_on_the_cluster_shows_the_fleet(done: Path, login: Program) -> None:
    login.run("monitor")
    (facts,) = login.run("status", "--json").json["data"]["runs"]
    assert (facts["instrument"], facts["state"], facts["verdict"]) == ("mk1c", "done", "verified")
    assert "verified" in login.run("status").out


# -- what one sequencer may cost ------------------------------------------------------------------


def limit(login: Program, name: str, value: int) -> None:
    """Let a sequencer cost less than it may."""
    where = login.modules / "sitecustomize.py"
    where.write_text(f"import ontpush.facts.limits as limits\nlimits.{name} = {value}\n")


def staged(login: Program, name: str) -> list[Path]:
    return list((login.state / "pull").rglob(name))


def test_heartbeats_without_number_are_not_staged(
    login: Program, program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    hashed(program, run.root)
    for number in range(200):
        (run.root / ".ontpush" / f"{number}.json").write_text("{}")
    limit(login, "MOST_HEARTBEATS", 5)
    ran = login.run("pull")
    assert ran.code == 1
    assert "more than 5 heartbeats" in ran.err


def test_a_heartbeat_without_end_is_not_staged(
    login: Program, program: Program, run: SimulatedRun
) -> None:
    run.write_all()
    hashed(program, run.root)
    limit(login, "LARGEST_HEARTBEAT", 10)
    ran = login.run("pull")
    assert ran.code == 1
    assert "no heartbeat there of less than 10 B" in ran.err
    assert not staged(login, "lab.json")


@pytest.mark.parametrize("name", ["LARGEST_ROLLUP", "MOST_STAGED"])
def test_roll_ups_without_end_are_not_staged(
    login: Program, program: Program, run: SimulatedRun, name: str
) -> None:
    run.write_all()
    hashed(program, run.root)
    limit(login, name, 10)
    ran = login.run("pull")
    assert ran.code == 1
    assert "more than 10 B" in ran.err
    if name == "LARGEST_ROLLUP":
        assert not staged(login, "md5sum")


@pytest.mark.parametrize("change", [{"files": "x"}, {"unheard": 1}, {"token": None}])
def test_one_bad_record_of_what_was_pulled_costs_one_record(
    login: Program, program: Program, run: SimulatedRun, data: Path, root: Path, change: Any
) -> None:
    run.write_all()
    SimulatedRun(data, group="other", files=1).write_all()
    hashed(program, data)
    pulled(login)
    memory = login.state / "pull" / "mk1c.json"
    facts = json.loads(memory.read_text())
    kept = json.loads(memory.read_text())
    facts["runs"][str(run.path.relative_to(data))].update(change)
    memory.write_text(json.dumps(facts))
    (root / "mk1c").rename(root / "away")
    ran = login.run("pull")
    assert (ran.code, "is not there, or empty" in ran.err) == (69, True), ran
    (root / "away").rename(root / "mk1c")
    assert {each["state"] for each in pulled(login).values()} == {"done"}
    assert json.loads(memory.read_text())["runs"].keys() == kept["runs"].keys()
