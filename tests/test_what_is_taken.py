"""Which files of a run are taken, and when."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, age, snapshot
from tests.program import Program, coreutils_agree, is_done, md5, rollup

# -- complete files ---------------------------------------------------------------------


def test_a_file_that_changed_a_moment_ago_waits(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    age(run.path, 61)
    young = run.late_file("pod5_pass/young.pod5")
    del program.settings["settle"]
    there = arrived / run.path.relative_to(data)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] != "done"
    assert not (there / "pod5_pass" / young.name).exists()
    assert len(rollup(there)) == state["sent_files"]
    program.put_clock_forward(61)
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 1)
    assert is_done(there)


def test_a_run_is_not_done_before_its_final_summary_has_settled(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 61)
    run.final_summary.write_text("position=\n")
    (state,) = program.pushed(data, arrived, "--settle", "60").values()
    assert state["state"] != "done"
    assert not (arrived / run.path.relative_to(data) / run.final_summary.name).exists()


@pytest.mark.parametrize("offset", [3600.0, -1e9])
def test_a_file_from_the_future_or_of_another_age_is_taken(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, offset: float
) -> None:
    run.write_all()
    path = next(run.path.glob("pod5_pass/*.pod5"))
    time = path.stat().st_mtime + offset
    os.utime(path, (time, time))
    program.pushed(data, arrived, "--settle", "60")
    program.put_clock_forward(61)
    (state,) = program.pushed(data, arrived, "--settle", "60").values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


@pytest.mark.parametrize("seconds", [-1000.5, -1.2e10])
def test_a_file_from_before_1970_is_taken(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, seconds: float
) -> None:
    run.write_all()
    os.utime(next(run.path.glob("pod5_pass/*.pod5")), (seconds, seconds))
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


@pytest.mark.parametrize("year", [2300, 2400])
def test_a_file_of_any_year_stops_nothing_and_a_change_of_it_is_seen(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, year: int
) -> None:
    run.write_all()
    path = next(run.path.glob("pod5_pass/*.pod5"))
    seconds = (year - 1970) * 365 * 86400

    def put_out_of_time() -> None:
        for each in (path, path.parent):
            os.utime(each, (seconds, seconds))

    put_out_of_time()
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 0)
    path.write_bytes(b"x" * path.stat().st_size)
    seconds += 1
    put_out_of_time()
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["sent_files"]) == ("done", 1)
    assert is_done(arrived / run.path.relative_to(data))


PLACES_OF_OTHERS = [
    "final_summary_1.txt",
    "rsync.done",
    "rsync.done.ontpush-new",
    "md5sum",
    "md5sum.ontpush-new",
    "pod5_pass/x.pod5.md5",
]


@pytest.mark.parametrize("name", PLACES_OF_OTHERS)
def test_a_pipe_in_the_place_of_any_file_holds_no_tick_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, name: str
) -> None:
    run.write_all()
    run.late_file("pod5_pass/x.pod5")
    os.mkfifo(run.path / name)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


def test_a_pipe_that_says_skip_holds_no_tick_up(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    os.mkfifo(run.path / "rsync.skip")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "skipped"
    assert program.run("retry", run.path).is_silent
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


def test_only_a_file_is_a_final_summary(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    (run.path / "final_summary_1.txt").mkdir()
    (run.path / "final_summary_2.txt").symlink_to("nowhere")
    os.mkfifo(run.path / "final_summary_3.txt")
    (state,) = program.pushed(data, arrived).values()
    assert (state["state"], state["error"]) == ("waiting", None)
    run.finish()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


@pytest.mark.parametrize("name", ["rsync.done", "md5sum", "md5sum.ontpush-new"])
def test_a_directory_in_the_place_of_our_own_file_is_told_with_what_to_do(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, name: str
) -> None:
    run.write_all()
    (run.path / name).mkdir()
    ran = program.push(data, arrived)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "cannot be written: Is a directory" in line
    assert f"a directory is called {name}: move it away" in line
    (run.path / name).rmdir()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


def test_a_file_that_grows_from_tick_to_tick_is_sent_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    there = arrived / run.path.relative_to(data)
    for path in run.reads():
        if path == run.sequencing_summary:
            program.pushed(data, arrived)
            assert (there / path.name).read_bytes() == path.read_bytes()
            assert rollup(there)[os.fsencode(path.name)] == md5(path)
            assert coreutils_agree(there)


def test_a_data_file_that_grows_in_place_is_seen_before_the_run_is_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 600)
    program.pushed(data, arrived)
    with next(run.path.glob("pod5_pass/*.pod5")).open("ab") as file:
        file.write(b"more")
    os.utime(run.path / "pod5_pass", (1e9, 1e9))
    run.finish()
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    if state["state"] != "done":
        program.pushed(data, arrived)
    assert is_done(there)
    assert snapshot(run.path) == snapshot(there)


def test_other_bytes_of_the_same_size_within_the_same_second_are_sent(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    path = next(run.path.glob("pod5_pass/*.pod5"))
    second = 1_700_000_000 * 10**9
    os.utime(path, ns=(second, second + 1))
    program.pushed(data, arrived)
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(second, second + 2))
    os.utime(path.parent)
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert (there / "pod5_pass" / path.name).read_bytes() == path.read_bytes()
    assert coreutils_agree(there)


def test_a_file_with_a_new_time_and_the_same_bytes_stays_listed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    os.utime(run.final_summary, (1e9, 1e9))
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))


# -- files that change at a bad moment --------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("deed", ["printf more >> {file}", "rm {file}", "cp {other} {file}"])
def test_a_file_that_changes_while_it_is_sent_is_never_listed_wrongly(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, moment: str, deed: str
) -> None:
    run.write_all()
    file, other = sorted(run.path.glob("pod5_*/*"))
    act = (
        f"if mkdir {program.home}/acted 2>/dev/null; then {deed.format(file=file, other=other)}; fi"
    )
    program.wrap_rsync(**{moment: act})
    there = arrived / run.path.relative_to(data)
    for _ in range(3):
        program.pushed(data, arrived)
        assert coreutils_agree(there)
    assert is_done(there)
    assert set(snapshot(run.path).items()) == set(rest(there, run.path).items())


@pytest.mark.parametrize("keeps_its_times", [False, True])
def test_a_file_that_changes_after_it_was_hashed_and_before_rsync_reads_it_is_not_listed_wrongly(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, keeps_its_times: bool
) -> None:
    for _ in run.reads():  # without an end: nothing is compared once more in this tick
        pass
    file = next(run.path.glob("pod5_pass/*.pod5"))
    as_it_was = shutil.copy2(file, program.home / "as it was")
    deed = f"head -c {file.stat().st_size} /dev/zero >{file}"
    deed += f"; touch -r '{as_it_was}' {file}" * keeps_its_times
    names = program.home / "names"
    is_sent = f"grep -q {file.name} {names} && mkdir {program.home}/acted 2>/dev/null"
    # rsync gets the names of files that have been hashed.
    program.wrap_rsync(before=f"cat >{names}; exec <{names}; if {is_sent}; then {deed}; fi")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert (program.home / "acted").exists()
    assert (there / file.relative_to(run.path)).read_bytes() == file.read_bytes()
    assert coreutils_agree(there)


def rest(there: Path, here: Path) -> dict[bytes, bytes]:
    """What is at the destination, but for files that have gone here: those stay there."""
    return {name: what for name, what in snapshot(there).items() if name in snapshot(here)}


def test_a_file_that_changes_between_the_last_comparison_and_the_mark_keeps_it_from_being_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    file = next(run.path.glob("pod5_pass/*.pod5"))
    once = f"[ -e {program.home}/acted ] || printf x >>{file}; touch {program.home}/acted"
    program.wrap_rsync(after=f'case " $* " in *" -n -c "*) {once};; esac')
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] != "done"
    assert not (there / "rsync.done").exists()
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(there)


# -- what is a file of the run ----------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "rm {0}/final_summary_*",
        "rm {0}/pod5_pass/*",
        "cd {0}/pod5_pass && for file in *; do ln -sf nowhere $file; done",
        "cd {0}/pod5_pass && for file in *; do rm $file; mkdir $file; done",
        "rm -r {0}/pod5_pass && touch {0}/pod5_pass",
    ],
)
def test_what_goes_or_turns_into_something_else_while_it_is_sent_is_no_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, change: str
) -> None:
    run.write_all()
    once = program.home / "once"
    change = change.format(run.path)
    program.wrap_rsync(before=f"[ -e {once} ] || {{ touch {once}; {change}; }}")
    program.pushed(data, arrived)
    assert program.told("FAIL") == []
    program.pushed(data, arrived)
    assert coreutils_agree(arrived / run.path.relative_to(data))


def test_links_are_sent_as_links_and_never_followed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, tmp_path: Path
) -> None:
    run.write_all()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("not to be sent")
    links = {
        "to_a_file": str(secret / "file"),
        "to_a_directory": str(secret),
        "dangling": "nowhere",
        "loop": "loop",
        "pod5_pass/up": "..",
        "odd": "\udcff\n'",
    }
    for name, target in links.items():
        (run.path / name).symlink_to(target)
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] == "done"
    assert {name: os.readlink(there / name) for name in links} == links
    assert not {os.fsencode(name) for name in links} & set(rollup(there))
    assert snapshot(run.path) == snapshot(there)


def test_a_link_with_another_target_is_sent_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    link = run.path / "link"
    link.symlink_to("one")
    program.pushed(data, arrived)
    link.unlink()
    link.symlink_to("two")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert os.readlink(there / "link") == "two"
    assert is_done(there)


def test_a_file_may_become_a_link_and_a_link_a_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    one, two = run.path / "one", run.path / "two"
    one.write_text("a file")
    two.symlink_to("one")
    program.pushed(data, arrived)
    two.unlink()
    one.rename(two)
    one.symlink_to("two")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert os.readlink(there / "one") == "two"
    assert (there / "two").read_text() == "a file"
    assert (b"one" in rollup(there), b"two" in rollup(there)) == (False, True)
    assert is_done(there)


def test_empty_files_arrive(program: Program, run: SimulatedRun, data: Path, arrived: Path) -> None:
    run.write_all()
    (run.path / "empty").touch()
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert (there / "empty").stat().st_size == 0
    assert rollup(there)[b"empty"] == "d41d8cd98f00b204e9800998ecf8427e"


def test_pipes_and_sockets_are_left_out_with_a_warning_and_stop_nothing(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    os.mkfifo(run.path / "pipe")
    os.mkfifo(run.path / "pod5_pass" / "pipe")
    with socket.socket(socket.AF_UNIX) as made, pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.path)
        made.bind("socket")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert is_done(arrived / run.path.relative_to(data))
    warnings = "\n".join(program.told("WARN"))
    assert all(name in warnings for name in ("pipe", "pod5_pass/pipe", "socket"))


def test_empty_directories_are_no_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "pod5_skip" / "barcode01").mkdir(parents=True)
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"


def test_a_roll_up_deeper_in_the_run_is_an_ordinary_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "other_reports" / "md5sum").write_text("of somebody else")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    there = arrived / run.path.relative_to(data)
    assert b"other_reports/md5sum" in rollup(there)
    assert snapshot(run.path) == snapshot(there)


def test_a_file_with_the_suffix_of_what_we_have_not_finished_is_an_ordinary_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    path = run.late_file("pod5_pass/reads.ontpush-new")
    program.pushed(data, arrived)
    assert (arrived / path.relative_to(data)).exists()


# -- sidecars ---------------------------------------------------------------------------


def sidecar(path: Path, seconds: float, text: str) -> Path:
    """A sidecar so many seconds younger than its file."""
    beside = path.with_name(path.name + ".md5")
    beside.write_text(text)
    moment = path.stat().st_mtime_ns + int(seconds * 10**9)
    os.utime(beside, ns=(moment, moment))
    return beside


def test_a_sidecar_of_the_original_is_believed_once(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 600)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    sidecar(path, 10, f"{'0' * 32}  {path.name}\n")
    program.pushed(data, arrived)
    name = os.fsencode(path.relative_to(run.path))
    there = arrived / run.path.relative_to(data)
    assert rollup(there)[name] == "0" * 32
    sidecar(path, 20, f"{'1' * 32}  {path.name}\n")
    run.late_file("pod5_pass/another.pod5")
    program.pushed(data, arrived)
    assert rollup(there)[name] == "0" * 32


def test_a_sidecar_of_a_file_that_changed_since_it_was_hashed_is_not_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    age(run.path, 600)
    assert program.run("hash", run.path).code == 0
    path = next(run.path.glob("pod5_pass/*.pod5"))
    path.write_bytes(path.read_bytes() + b"more")
    age(path, 300)
    path.with_name(path.name + ".md5").touch()  # as `cp` or a backup leaves it
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert rollup(there)[os.fsencode(path.relative_to(run.path))] == md5(path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "{zeros}  {name}\n"),
        (0, "{zeros}  {name}\n"),
        (10, "{zeros}  other.pod5\n"),
        (10, "{zeros}\n"),
        (10, ""),
        (10, "garbage {name}\n"),
        (10, "0000  {name}\n"),
    ],
)
def test_a_sidecar_that_is_older_or_of_another_file_is_not_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, seconds: float, text: str
) -> None:
    run.write_all()
    age(run.path, 600)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    sidecar(path, seconds, text.format(zeros="0" * 32, name=path.name))
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


def test_a_sidecar_of_a_file_that_changed_later_is_not_believed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    age(run.path, 600)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    other = run.path / "other"
    shutil.copy2(path, other)
    sidecar(path, 10, f"{md5(path)}  {path.name}\n")
    other.write_bytes(b"X" * other.stat().st_size)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    program.pushed(data, arrived)
    assert rollup(run.path)[os.fsencode(path.relative_to(run.path))] == md5(path)
    assert is_done(arrived / run.path.relative_to(data))


def test_sidecars_are_neither_sent_nor_listed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    age(run.path, 600)
    for path in [*run.path.glob("pod5_pass/*"), run.final_summary]:
        sidecar(path, 10, f"{md5(path)} *{path.name}\n")
    program.pushed(data, arrived)
    assert not list(arrived.rglob("*.md5"))
    assert not [name for name in rollup(run.path) if name.endswith(b".md5")]
    assert is_done(run.path)


def test_a_file_that_only_looks_like_a_sidecar_is_sent(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    (run.path / "reference.fasta.md5").write_text("of a file that is not here")
    program.pushed(data, arrived)
    assert b"reference.fasta.md5" in rollup(arrived / run.path.relative_to(data))


def test_push_writes_sidecars_only_when_told(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    for _ in run.reads():
        pass
    program.pushed(data, arrived, "--no-sidecars")
    program.pushed(data, arrived)
    assert not list(run.path.rglob("*.md5"))
    run.finish()
    program.pushed(data, arrived, "--sidecars")
    beside = run.final_summary.with_name(run.final_summary.name + ".md5")
    assert beside.read_text() == f"{md5(run.final_summary)}  {run.final_summary.name}\n"
    assert is_done(arrived / run.path.relative_to(data))
    assert program.pushed(data, arrived).popitem()[1]["state"] == "done"


# -- exclude ----------------------------------------------------------------------------


def test_what_is_excluded_is_neither_sent_nor_listed_nor_missed(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    for name in ("pod5_pass/x.tmp", "core", "other_reports/core/dump", "a/b.log", "a/c/b.log"):
        run.late_file(name)
    program.settings["exclude"] = ["*.tmp", "core", "pod5_fail", "a/b.*"]
    (state,) = program.pushed(data, arrived).values()
    there = arrived / run.path.relative_to(data)
    assert state["state"] == "done"
    gone = {b"pod5_pass/x.tmp", b"core", b"other_reports/core/dump", b"a/b.log"}
    left = {name for name in snapshot(run.path) if name not in gone and b"pod5_fail" not in name}
    assert set(snapshot(there)) == left
    assert is_done(there)
    assert program.run("verify", run.path).code == 0
    run.late_file("pod5_pass/y.tmp")
    (state,) = program.pushed(data, arrived).values()
    assert state["state"] == "done"
    assert program.told("REOPEN") == []


def test_a_run_of_which_all_is_excluded_is_never_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings["exclude"] = ["*_*", "*.*"]
    for _ in range(2):
        (state,) = program.pushed(data, arrived).values()
        assert state["state"] == "waiting"
    assert not list(arrived.rglob("rsync.done"))
    assert not (run.path / "rsync.done").exists()


def test_a_directory_that_is_excluded_later_opens_no_done_run_again(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    run.late_file("other/sub/x")
    run.late_file("other/sub/deeper/x")
    program.pushed(data, arrived)
    program.settings["exclude"] = ["other/sub"]
    for days in (1, 1, 2):
        program.put_clock_forward(days * 86400)
        (state,) = program.pushed(data, arrived).values()
        assert (state["state"], state["sent_files"]) == ("done", 0)
    assert program.told("REOPEN") == []
