"""`ontpush verify`: a run against its roll-up and MinKNOW's own sums."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab.deep import DEPTH, deep_directory
from tests.lab.minknow import SimulatedRun
from tests.program import Program, Ran, turn_a_bit

pytestmark = pytest.mark.newest


@pytest.fixture
def sent(program: Program, data: Path, arrived: Path) -> Path:
    """A done run with MinKNOW's own sums, as it lies at the destination."""
    run = SimulatedRun(data, files=2, hashes=True)
    run.write_all()
    program.pushed(data, arrived)
    return arrived / run.path.relative_to(data)


def bad(ran: Ran) -> list[tuple[str, str]]:
    """Path and problem of every bad file of the one run that was verified."""
    (run,) = ran.json["data"]["runs"]
    return [(each["path"], each["problem"]) for each in run["bad"]]


def test_a_good_run_is_all_well(program: Program, sent: Path) -> None:
    ran = program.run("verify", "--json", sent)
    assert (ran.code, ran.err, bad(ran)) == (0, "", [])
    (facts,) = ran.json["data"]["runs"]
    assert facts["run"] == str(sent)
    assert facts["files"] > 8
    assert "all well" in program.run("verify", sent).out


def test_every_kind_of_bad_file_is_named(program: Program, sent: Path) -> None:
    missing, damaged = sorted(sent.glob("fastq_pass/*"))
    missing.unlink()
    turn_a_bit(damaged)
    (sent / "pod5_pass" / "extra [1]").write_text("x")
    ran = program.run("verify", "--json", sent)
    assert bad(ran) == sorted(
        [
            (f"fastq_pass/{missing.name}", "missing"),
            (f"fastq_pass/{damaged.name}", "md5"),
            ("pod5_pass/extra [1]", "extra"),
        ]
    )
    assert (ran.code, ran.json["status"]) == (1, "partial")
    plain = program.run("verify", sent)
    assert plain.code == 1
    assert "3 bad" in plain.out
    for name in (missing.name, damaged.name, "extra [1]"):
        assert sum(name in line for line in plain.err.splitlines()) == 1


def test_a_wrong_size_is_told_as_such_where_sizes_are_known(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    path.write_bytes(path.read_bytes() + b"more")
    assert bad(program.run("verify", "--json", run.path)) == [(f"pod5_pass/{path.name}", "size")]


def test_a_file_that_should_be_empty_is_told_by_its_size(program: Program, sent: Path) -> None:
    lines = (sent / "md5sum").read_bytes()
    (sent / "empty").touch()
    (sent / "md5sum").write_bytes(b"d41d8cd98f00b204e9800998ecf8427e  empty\n" + lines)
    assert bad(program.run("verify", "--json", sent)) == []
    (sent / "empty").write_text("no")
    assert bad(program.run("verify", "--json", sent)) == [("empty", "size")]


def test_minknows_own_sums_find_what_was_damaged_before_it_was_hashed(
    program: Program, data: Path, arrived: Path
) -> None:
    run = SimulatedRun(data, files=1, hashes=True)
    run.write_all()
    victim = next(run.path.glob("fastq_pass/*.gz"))
    turn_a_bit(victim)
    program.pushed(data, arrived)
    ran = program.run("verify", "--json", arrived / run.path.relative_to(data))
    assert bad(ran) == [(f"fastq_pass/{victim.name}", "sha256")]
    assert ran.code == 1


def test_rows_without_a_hash_are_not_judged(program: Program, sent: Path) -> None:
    (table,) = sent.glob("output_hash_*.csv")
    assert ",," in table.read_text()
    assert program.run("verify", sent).code == 0


def test_a_run_without_a_roll_up_cannot_be_verified(program: Program, sent: Path) -> None:
    (sent / "md5sum").unlink()
    ran = program.run("verify", sent)
    assert ran.code == 1
    assert "no roll-up" in ran.err


@pytest.mark.parametrize("line", [b"garbage\n", b"\n", b"\xff\n", b"0" * 31 + b"  x\n"])
def test_a_damaged_roll_up_is_told_with_its_line(program: Program, sent: Path, line: bytes) -> None:
    whole = (sent / "md5sum").read_bytes()
    (sent / "md5sum").write_bytes(whole + line)
    ran = program.run("verify", sent)
    assert ran.code == 1
    assert f"line {whole.count(bytes([10])) + 1}" in ran.err


def test_a_roll_up_that_points_out_of_its_run_reads_nothing_there(
    program: Program, sent: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("x")
    with (sent / "md5sum").open("a") as file:
        file.write(f"9dd4e461268c8034f5c8564e155c67a6  {tmp_path}/secret\n")
    ran = program.run("verify", "--json", sent)
    assert ran.code == 1
    assert bad(ran) == [(f"{tmp_path}/secret", "missing")]


def test_a_bad_run_keeps_no_other_from_being_verified(
    program: Program, data: Path, arrived: Path
) -> None:
    runs = [SimulatedRun(data, group=name, files=1) for name in ("one", "three", "two")]
    for run in runs:
        run.write_all()
    program.pushed(data, arrived)
    one, three, two = (arrived / run.path.relative_to(data) for run in runs)
    next(one.glob("pod5_pass/*.pod5")).unlink()
    (two / "md5sum").unlink()
    ran = program.run("verify", "--json", "--jobs", "2", one, two, three)
    assert ran.code == 1
    assert [len(run["bad"]) for run in ran.json["data"]["runs"]] == [1, 0]
    assert [Path(error["run"]) for error in ran.json["errors"]] == [one, two]


def test_verify_needs_no_state_and_leaves_none(program: Program, run: SimulatedRun) -> None:
    run.write_all()
    program.run("hash", "--no-sidecars", run.path)
    for path in program.state.iterdir():
        path.unlink()
    program.state.rmdir()
    assert program.run("verify", run.path).code == 0
    assert not program.state.exists()


def test_links_sidecars_and_our_own_files_are_not_extra(program: Program, sent: Path) -> None:
    (sent / "link").symlink_to("nowhere")
    (sent / "rsync.verified").write_text("x")
    path = next(sent.glob("pod5_pass/*.pod5"))
    path.with_name(path.name + ".md5").write_text("x")
    assert program.run("verify", sent).code == 0


@pytest.mark.parametrize("words", [[], ["/nonexistent"]])
def test_verify_wants_runs(program: Program, words: list[str]) -> None:
    ran = program.run("verify", *words)
    assert ran.code == 64
    assert len(ran.err.splitlines()) == 1


def test_a_roll_up_with_two_sums_for_one_file_is_damaged(program: Program, sent: Path) -> None:
    whole = (sent / "md5sum").read_bytes()
    first = whole.splitlines()[0]
    (sent / "md5sum").write_bytes(first + b"\n" + whole)
    assert program.run("verify", sent).code == 0
    (sent / "md5sum").write_bytes(b"0" * 32 + first[32:] + b"\n" + whole)
    ran = program.run("verify", sent)
    assert ran.code == 1
    assert f"two sums for {first[34:].decode()}" in ran.err


def test_a_run_of_any_depth_is_verified(program: Program, sent: Path) -> None:
    with deep_directory(sent / "deep") as bottom:
        os.close(os.open("x", os.O_CREAT, dir_fd=bottom))
        ran = program.run("verify", "--json", sent)
    assert bad(ran) == [("deep/" + "d/" * DEPTH + "x", "extra")]


def test_a_state_that_cannot_be_read_only_makes_verify_read_every_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.pushed(data, arrived)
    path = next(run.path.glob("pod5_pass/*.pod5"))
    path.write_bytes(path.read_bytes() + b"more")
    (program.state / "ledger.sqlite3").write_bytes(b"garbage" * 1000)
    assert bad(program.run("verify", "--json", run.path)) == [(f"pod5_pass/{path.name}", "md5")]
    assert "every file is read" in program.told("WARN")[0]
    assert {each.name for each in program.state.iterdir()} == {"ledger.sqlite3", "lock"}


GROWS = """\
import os
_readv = os.readv
def _and_grow(descriptor, buffers):
    count = _readv(descriptor, buffers)
    path = os.readlink("/proc/self/fd/%d" % descriptor)
    grown = os.environ["ONTPUSH_TEST"] + "/grown"
    if path.endswith(".pod5") and ({for_ever} or not os.path.exists(grown)):
        open(grown, "w").close()
        with open(path, "ab") as file:
            file.write(b"rot")
    return count
os.readv = _and_grow
"""


def test_a_file_that_grows_while_it_is_read_is_judged_by_what_it_is_then(
    program: Program, sent: Path
) -> None:
    (program.modules / "sitecustomize.py").write_text(GROWS.format(for_ever=False))
    ran = program.run("verify", "--json", sent)
    assert ran.code == 1
    ((path, problem),) = bad(ran)
    assert path.endswith(".pod5")
    assert problem == "md5"


def test_a_file_that_changes_for_ever_is_not_all_well(program: Program, sent: Path) -> None:
    (program.modules / "sitecustomize.py").write_text(GROWS.format(for_ever=True))
    ran = program.run("verify", sent)
    assert ran.code == 1
    assert ".pod5 changes while it is read" in ran.err


def test_what_the_roll_up_lists_is_no_sidecar(program: Program, data: Path, arrived: Path) -> None:
    run = SimulatedRun(data, files=1)
    run.write_all()
    program.pushed(data, arrived)
    file = next(run.path.glob("pod5_pass/*.pod5"))
    file.rename(data / "kept.pod5")
    file.with_name(file.name + ".md5").write_text("a file like any other\n")
    program.pushed(data, arrived)
    there = arrived / run.path.relative_to(data)
    assert (there / file.relative_to(run.path)).exists()
    assert bad(program.run("verify", "--json", there)) == [
        (str(file.relative_to(run.path)), "extra")
    ]


# -- what cannot be read, for good or just now --------------------------------------------------

REFUSES = """\
import errno, os
_open = os.open
def _or_refuse(path, *arguments, **more):
    if os.fsencode(path).endswith({end!r}) and arguments[0] & 3 == os.O_RDONLY:
        noted = os.environ["ONTPUSH_TEST"] + "/refused"
        if {for_ever} or not os.path.exists(noted):
            open(noted, "w").close()
            raise OSError(errno.{error}, os.strerror(errno.{error}), path)
    return _open(path, *arguments, **more)
os.open = _or_refuse
"""
PASSING = ["EIO", "ESTALE", "ETIMEDOUT"]


def refuse(program: Program, error: str, end: bytes = b".pod5", for_ever: bool = True) -> None:
    """Let opening what ends so fail in the program, for ever or once."""
    where = program.modules / "sitecustomize.py"
    where.write_text(REFUSES.format(error=error, end=end, for_ever=for_ever))


def unread(ran: Ran) -> list[tuple[str, str]]:
    """Path and problem of every file of the one run that could not be read."""
    (run,) = ran.json["data"]["runs"]
    return [(each["path"], each["problem"]) for each in run["unread"]]


@pytest.mark.parametrize("error", ["EACCES", "EPERM"])
def test_a_file_that_this_user_may_not_read_is_unreadable_and_not_bad(
    program: Program, sent: Path, error: str
) -> None:
    refuse(program, error)
    ran = program.run("verify", "--json", sent)
    names = sorted(str(path.relative_to(sent)) for path in sent.glob("pod5_*/*"))
    assert unread(ran) == [(name, "unreadable") for name in names]
    assert (ran.code, bad(ran)) == (1, [])
    assert {each["code"] for each in ran.json["errors"]} == {"file-failed"}
    lines = program.run("verify", sent).err.splitlines()
    for name in names:
        assert any(f"unreadable: {name}: " in line for line in lines)
    assert all("let this user read it" in line for line in lines)


@pytest.mark.parametrize("error", PASSING)
def test_a_file_that_a_server_does_not_give_just_now_is_passing_and_not_bad(
    program: Program, sent: Path, error: str
) -> None:
    refuse(program, error)
    ran = program.run("verify", "--json", sent)
    assert {problem for _, problem in unread(ran)} == {"passing"}
    assert (ran.code, bad(ran)) == (75, [])
    assert {each["code"] for each in ran.json["errors"]} == {"temporary"}
    assert "all well" not in program.run("verify", sent).out


@pytest.mark.parametrize("error", [*PASSING, "ENOENT", "EACCES"])
def test_a_file_that_is_given_at_the_second_try_is_all_well(
    program: Program, sent: Path, error: str
) -> None:
    refuse(program, error, for_ever=False)
    ran = program.run("verify", "--json", sent)
    assert (ran.code, bad(ran), unread(ran)) == (0, [], [])
    assert (program.home / "refused").exists()


def test_a_file_that_a_directory_does_not_list_for_a_moment_is_passing(
    program: Program, sent: Path
) -> None:
    (program.modules / "sitecustomize.py").write_text(
        "import ontpush.facts.directories as directories\n"
        "_names_in = directories.names_in\n"
        "def _some(directory, *more):\n"
        "    names, below = _names_in(directory, *more)\n"
        "    return [name for name in names if not name.endswith(b'.pod5')], below\n"
        "directories.names_in = _some\n"
    )
    ran = program.run("verify", "--json", sent)
    assert {problem for _, problem in unread(ran)} == {"passing"}
    assert (ran.code, bad(ran)) == (75, [])


@pytest.mark.parametrize("end", [b"md5sum", b".csv"])
@pytest.mark.parametrize(("error", "code"), [("EACCES", 1), ("EIO", 75)])
def test_a_list_of_sums_that_cannot_be_read_is_told_as_what_it_is(
    program: Program, sent: Path, end: bytes, error: str, code: int
) -> None:
    refuse(program, error, end)
    ran = program.run("verify", "--json", sent)
    assert (ran.code, ran.json["data"]["runs"]) == (code, [])
    (told,) = ran.json["errors"]
    assert told["message"].startswith("unreadable: " if code == 1 else "passing: ")


@pytest.mark.parametrize(("error", "code"), [("EACCES", 1), ("EIO", 75)])
def test_a_directory_that_cannot_be_read_is_told_as_what_it_is(
    program: Program, sent: Path, error: str, code: int
) -> None:
    (program.modules / "sitecustomize.py").write_text(
        "import errno, os\n"
        "import ontpush.facts.directories as directories\n"
        "_names_in = directories.names_in\n"
        "def _refuse(directory, *more):\n"
        "    if directory.endswith(b'pod5_pass/'):\n"
        f"        raise OSError(errno.{error}, 'told', directory)\n"
        "    return _names_in(directory, *more)\n"
        "directories.names_in = _refuse\n"
    )
    ran = program.run("verify", "--json", sent)
    assert (ran.code, ran.json["data"]["runs"]) == (code, [])
    (told,) = ran.json["errors"]
    assert told["message"].startswith("unreadable: " if code == 1 else "passing: ")
    assert "pod5_pass" in told["message"]


def test_what_is_bad_is_named_beside_what_cannot_be_read(program: Program, sent: Path) -> None:
    turn_a_bit(next(sent.glob("fastq_pass/*.gz")))
    refuse(program, "EIO")
    ran = program.run("verify", "--json", sent)
    assert ran.code == 1
    assert [problem for _, problem in bad(ran)] == ["md5"]
    assert unread(ran)


def test_what_rsync_has_of_a_file_that_is_still_coming_is_not_extra(
    program: Program, sent: Path
) -> None:
    (sent / "pod5_pass" / ".late.pod5.Ab12Cd").write_text("half")
    assert program.run("verify", sent).code == 0
