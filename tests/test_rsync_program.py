"""The rsync of the host: missing, too old, and the flags that a user gives it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import RSYNC, Program, coreutils_agree, is_done, mark, md5, wait_for

# -- the program ------------------------------------------------------------------------


def test_a_host_without_rsync_exits_69_and_says_what_to_install(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.environment["PATH"] = str(program.programs)
    ran = program.push(data, arrived)
    assert ran.code == 69
    (line,) = ran.err.splitlines()
    assert "install the package rsync" in line


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'rsync  version 3.0.9  protocol version 30'", "3.0.9"),
        ("echo 'rsync  version 2.6.9  protocol version 29'", "2.6.9"),
        ("echo 'openrsync: protocol version 29'", "version"),
        ("exit 1", "version"),
        ("kill -9 $$", "version"),
    ],
)
def test_an_rsync_that_is_too_old_or_none_exits_69(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, script: str, words: str
) -> None:
    run.write_all()
    program.put_program("rsync", script)
    ran = program.push(data, arrived)
    assert ran.code == 69
    (line,) = ran.err.splitlines()
    assert words in line
    assert not list(arrived.iterdir())


@pytest.mark.parametrize("version", ["3.1.0", "v3.2.7", "3.4.1pre1", "3.10.0", "4.0.0"])
def test_an_rsync_that_is_new_enough_serves(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, version: str
) -> None:
    program.put_program(
        "rsync",
        f'[ "$*" = --version ] && echo "rsync  version {version}  protocol version 31"'
        f' || exec {RSYNC} "$@"',
    )
    assert program.pushed(data, arrived) == {}


def test_an_rsync_that_fails_in_an_unknown_way_fails_the_run_and_says_so(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.wrap_rsync(before="cat >/dev/null; echo something strange >&2; exit 99")
    ran = program.push(data, arrived, "--json")
    assert ran.code == 1
    assert "something strange" in ran.json["errors"][0]["message"]
    assert "99" in ran.json["errors"][0]["message"]
    assert not (run.path / "rsync.done").exists()


@pytest.mark.parametrize("end", ["exit 16", "exit 20", "kill -9 $$"])
def test_a_transfer_that_is_ended_from_outside_is_a_passing_fault(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, end: str
) -> None:
    run.write_all()
    program.wrap_rsync(before=f"cat >/dev/null; {end}")
    ran = program.push(data, arrived)
    assert ran.code == 75
    assert "ended from outside" in ran.err
    assert not (run.path / "rsync.done").exists()


def test_an_rsync_that_dies_without_reading_its_input_fails_the_run(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.wrap_rsync(before="kill -9 $$")
    ran = program.push(data, arrived)
    assert ran.code in (1, 69, 75)
    assert ran.err
    assert not (run.path / "md5sum").exists()


def test_an_rsync_that_lies_about_what_it_sent_marks_nothing_done(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.wrap_rsync(before='case " $* " in *" -n "*) ;; *) cat >/dev/null; exit;; esac')
    assert program.push(data, arrived).code == 1
    assert not (run.path / "rsync.done").exists()


# -- flags after DEST -------------------------------------------------------------------


def test_flags_after_the_destination_go_to_rsync_as_they_stand(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    calls = program.home / "calls"
    program.put_program(
        "rsync", f'for word; do printf "%s\\n" "$word"; done >>{calls}; exec {RSYNC} "$@"'
    )
    flags = ["-h", "--chmod=F640,D750", "--exclude", "a b*'c", "--stats", "-vv"]
    program.pushed(data, arrived, flags=flags)
    words = calls.read_text().splitlines()
    place = words.index("-h")
    assert words[place : place + len(flags)] == flags
    sent = arrived / run.final_summary.relative_to(data)
    assert sent.stat().st_mode & 0o777 == 0o640
    assert is_done(sent.parent)


def test_flags_of_the_configuration_go_to_rsync_and_those_of_the_call_replace_them(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings["rsync_flags"] = ["--chmod=F640"]
    program.pushed(data, arrived)
    sent = arrived / run.final_summary.relative_to(data)
    assert sent.stat().st_mode & 0o777 == 0o640
    run.final_summary.write_text("changed\n")
    program.pushed(data, arrived, flags=["--chmod=F600"])
    assert sent.stat().st_mode & 0o777 == 0o600


def test_a_flag_that_rsync_does_not_know_is_a_wrong_call(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    ran = program.push(data, arrived, flags=["--no-such-flag"])
    assert ran.code == 64
    assert "--no-such-flag" in ran.err


@pytest.mark.parametrize("flag", ["--checksum-choice=none", "--cc=x"])
def test_a_flag_that_rsync_cannot_serve_is_a_wrong_call(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flag: str
) -> None:
    run.write_all()
    ran = program.push(data, arrived, flags=[flag])
    assert ran.code == 64
    (line,) = ran.err.splitlines()
    assert "rsync refuses its flags" in line
    assert not list(arrived.rglob("rsync.done"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--delete"],
        ["--del"],
        ["--delete-after"],
        ["--delete-excluded"],
        ["--delete-missing-args"],
        ["--force"],
        ["--remove-source-files"],
        ["-n"],
        ["-avn"],
        ["--dry-run"],
        ["--list-only"],
        ["--inplace"],
        ["--append"],
        ["--partial-dir=."],
        ["--partial-dir", "./"],
        ["--partial-dir="],
        ["--partial-dir=pod5_pass"],
        ["--partial-dir=.x/.."],
        ["--partial-dir=/tmp"],
        ["--temp-dir=nowhere"],
        ["-vT."],
        ["-b"],
        ["--backup"],
        ["--backup-dir=.."],
        ["--suffix=.pod5"],
        ["--append-verify"],
        ["--files-from=x"],
        ["--files-from", "x"],
        ["-s"],
        ["--daemon"],
        ["--server"],
        ["--"],
        ["-"],
        ["another/directory"],
        ["-z", "--", "x"],
        ["-z", "one", "two"],
        ["--size-only"],
        ["-M--compare-dest=../other"],
        ["-zM--inplace"],
        ["--remote-option=--inplace"],
        ["--iconv=UTF-8,ISO-8859-1"],
        ["--fake-super"],
        ["--no-relative"],
        ["--old-dirs"],
        ["--no-i"],
        ["--stderr=all"],
        ["--msgs2stderr"],
        ["--exclude-from=-"],
    ],
)
def test_flags_that_break_a_promise_are_refused_before_anything_happens(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flags: list[str]
) -> None:
    run.write_all()
    before = snapshot(data)
    ran = program.push(data, arrived, flags=flags)
    assert ran.code == 64
    assert len(ran.err.splitlines()) == 1
    assert snapshot(data) == before
    assert not list(arrived.iterdir())


HARMLESS = [
    "-hav -z -8 -x -H --progress --stats --numeric-ids -O -R -m --timeout=60 --bwlimit=100m -r",
    "-a -v -W -u -i --fuzzy --delay-updates --chmod=F640 --out-format=%n --outbuf=N -d",
    "--checksum --no-whole-file --sparse --log-format=%n --prune-empty-dirs --no-8",
]
STRANGE = """
--existing --ignore-existing --max-size=100 --exclude=*.pod5 --filter=-_*.pod5 -L --copy-links
--copy-unsafe-links --safe-links --no-links --no-times --no-relative --no-R -k --no-implied-dirs
--no-from0 --munge-links --compare-dest={other} --copy-dest={other} --link-dest={other}
--temp-dir={other} --no-perms --ignore-times --info=none -q --quiet
"""


@pytest.mark.parametrize("flags", HARMLESS)
def test_harmless_flags_do_no_harm(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flags: str
) -> None:
    run.write_all()
    (run.path / "link").symlink_to("/etc/passwd")
    (state,) = program.pushed(data, arrived, flags=flags.split()).values()
    assert state["state"] == "done"
    assert snapshot(run.path) == snapshot(arrived / run.path.relative_to(data))


def test_hard_links_are_files_like_others_whatever_the_flags(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    file = min(run.path.glob("pod5_pass/*"))
    file.with_name("another name").hardlink_to(file)
    (state,) = program.pushed(data, arrived, flags=["-aHAX"]).values()
    assert state["state"] == "done"
    assert snapshot(run.path) == snapshot(arrived / run.path.relative_to(data))


@pytest.mark.parametrize("flag", STRANGE.split())
def test_whatever_a_flag_does_nothing_is_marked_done_that_is_not_whole(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, tmp_path: Path, flag: str
) -> None:
    run.write_all()
    (run.path / "link").symlink_to("/etc/passwd")
    shutil.copytree(data, tmp_path / "other", symlinks=True)
    flag = flag.format(other=tmp_path / "other")
    there = arrived / run.path.relative_to(data)
    ran = program.push(data, arrived, flags=[flag])
    if ran.code == 64:
        assert not list(arrived.iterdir())
    elif (there / "rsync.done").exists():
        assert ran.code == 0
        assert mark(there)["rollup"] == md5(there / "md5sum")
        expected = snapshot(run.path)
        assert {name: snapshot(there).get(name) for name in expected} == expected
    else:
        assert ran.code == 1
        assert not list(arrived.rglob("rsync.done"))
        if (there / "md5sum").exists():
            assert coreutils_agree(there)


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_a_flag_that_silences_rsync_serves_or_is_refused(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flag: str
) -> None:
    run.write_all()
    assert program.push(data, arrived, flags=[flag]).code in (0, 64)


@pytest.mark.parametrize("flag", ["--exclude=*.pod5", "--max-size=100", "--existing"])
def test_a_flag_that_leaves_files_out_of_an_unfinished_run_is_no_success(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flag: str
) -> None:
    for _ in run.reads():
        pass
    assert program.push(data, arrived, flags=[flag]).code != 0


@pytest.mark.parametrize("flag", ["--partial", "-P", "--partial-dir=.rsync-partial"])
def test_partial_shows_no_half_file_under_its_name(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, flag: str
) -> None:
    run.write_all()
    run.late_file("0_big", size=6_000_000)
    with program.pushing(data, arrived, "--bwlimit", "2m", flags=[flag]) as tick:
        wait_for(
            lambda: tick.poll() is not None or list(arrived.rglob(".0_big.*")), "nothing is sent"
        )
        tick.terminate()
        assert tick.wait() in (64, 143)
    assert not (arrived / run.path.relative_to(data) / "0_big").exists()


def test_the_destination_keeps_its_own_mode_and_time(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    data.chmod(0o700)
    os.utime(data, (1e9, 1e9))
    arrived.chmod(0o2775)
    program.pushed(data, arrived)
    assert arrived.stat().st_mode & 0o7777 == 0o2775
    assert arrived.stat().st_mtime > 1.1e9
