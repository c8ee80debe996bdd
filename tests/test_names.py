"""Any name that a file system takes arrives as it is."""

from __future__ import annotations

import os
from pathlib import Path

from tests.lab.cluster import Cluster
from tests.lab.minknow import snapshot
from tests.lab.oldrsync import OldRsync
from tests.program import Program, coreutils_agree, is_done

HOSTILE = [
    b"two\nlines",
    b"it's",
    b'"quoted"',
    b"[ab]*?",
    b"{x,y}",
    b"back\\slash",
    b"trailing\\",
    b"\\#012",
    b"\\n",
    b"-rf",
    b"--delete",
    b"#comment",
    b";comment",
    b"not \xff\xfe UTF-8",
    b"carriage return\r",
    b".hidden",
    b" spaces  around ",
    b"$HOME `id` $(id) !",
    b"~",
    b"host:path",
    b"%s%n%i",
    b"tab\t",
    b"con\x01trol\x7f",
    "Grünalge—№ ✓".encode(),
    "line\u2028separator".encode(),
    "\u202egnp.\u200bright to left".encode(),
    "\u2066\ufeff\xad\U000e0041\ue000".encode(),
    b"md5sum",
    b"rsync.done",
    b"1" * 255,
]


# What a forced command, a list of files or a call of rsync could mistake comes first in a path.
FIRST = [b"#comment", b"[ab]*?", b";comment", b"--delete"]


def write_runs(data: Path, count: int = len(FIRST)) -> list[Path]:
    """Hostile names of every file and folder of `count` runs and of all that is above them."""
    shares = [HOSTILE[number::count] for number in range(count)]
    above = [[first, *share] for first, share in zip(FIRST, shares, strict=False)]
    above = [[name for name in names if not name.startswith(b".")] for names in above]
    runs = [os.fsencode(data) + b"/" + b"/".join(names) for names in above]
    for run in runs:
        files = [run + b"/final_summary_X.txt", run + b"/pod5/reads"]
        if run == runs[0]:
            # A file called so is no part of a run; a directory called so is.
            files += [run + b"/pod5_pass/" + name for name in HOSTILE if name != b"rsync.done"]
            files += [run + b"/fastq_pass/" + name + b"/reads" for name in HOSTILE]
        for file in files:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as out:
                out.write(b"This is " + file)
    return [Path(os.fsdecode(run)) for run in runs]


def check_arrival(
    program: Program, runs: list[Path], data: Path, arrived: Path, destination: str
) -> None:
    """Two ticks: all arrives and is done; then nothing is to do."""
    states = program.pushed(data, destination)
    assert set(states) == {str(run.relative_to(data)) for run in runs}
    assert {state["state"] for state in states.values()} == {"done"}
    assert snapshot(arrived, without=[".ontpush"]) == snapshot(data)
    for run in runs:
        assert coreutils_agree(run)
        assert is_done(arrived / run.relative_to(data))
    assert {state["sent_files"] for state in program.pushed(data, destination).values()} == {0}
    assert {event.word for event in program.log()} == {"SYNC", "MARK DONE"}


def test_hostile_names_arrive_in_a_directory(program: Program, data: Path, arrived: Path) -> None:
    check_arrival(program, write_runs(data), data, arrived, str(arrived))


def test_hostile_names_arrive_from_a_host_without_a_locale(
    program: Program, data: Path, arrived: Path
) -> None:
    program.environment.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    check_arrival(program, write_runs(data), data, arrived, str(arrived))


def test_hostile_names_arrive_over_ssh(program: Program, data: Path, cluster: Cluster) -> None:
    check_arrival(program, write_runs(data, 2), data, cluster.directory, cluster.destination)


def test_hostile_names_arrive_with_an_old_rsync_at_both_ends(
    program: Program, data: Path, older: OldRsync
) -> None:
    program.put_program("rsync", f'exec {older.rsync} "$@"')
    with Cluster(rrsync=older.rrsync) as cluster:
        program.settings.update(cluster.config())
        check_arrival(program, write_runs(data, 2), data, cluster.directory, cluster.destination)


def test_hostile_names_are_one_line_on_the_terminal_and_in_the_log(
    program: Program, data: Path, arrived: Path
) -> None:
    runs = write_runs(data)
    for run in runs:
        (run / "final_summary_X.txt").unlink()
    ran = program.push(data, arrived, "-v")
    assert ran.code == 0
    assert ran.err == ""
    assert [event.word for event in program.log()] == ["SCAN", "SYNC", "SYNC"] * len(runs)
    *lines, _ = ran.out.splitlines()
    assert len(lines) == len(program.log()) + 1 + len(runs)
    assert ran.out.replace("\n", "").isprintable()


def test_a_name_that_is_not_utf_8_is_given_to_programs_with_surrogate_escapes(
    program: Program, data: Path, arrived: Path
) -> None:
    run = Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe/run"))
    (run / "pod5").mkdir(parents=True)
    (name,) = program.pushed(data, arrived)
    assert name == "\udcff\udcfe/run"
    assert "\\udcff" in (arrived / ".ontpush/lab.json").read_text()
