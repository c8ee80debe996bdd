"""The table of bounds: one instrument exceeds each, and another's trouble is mailed all the same.

Bounds are exceeded as they are in the table, but for those of time and of many gigabytes, which are
lowered for the test.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from ontpush.facts import limits
from tests.lab.mailbox import Mailbox, content
from tests.program import CHECKOUT, Program, md5

MEGABYTES = 1000  # of a process's peak, which is in kB
MOST_MEMORY = 300 * MEGABYTES
MOST_SECONDS = 10

# What each process of a tick had in memory at most, in kB, and took of a processor, in seconds.
COST = """\
import atexit, os, resource, time
def _keep():
    with open("/proc/self/status") as file:
        (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
    with open(os.environ["ONTPUSH_TEST"] + "/cost", "a") as file:
        file.write(peak + " " + str(time.process_time()) + "\\n")
atexit.register(_keep)
"""
CONTROL = "\x01" * 200
LATER = "import time\n_now = time.time\ntime.time = lambda: _now() + 7200\n"
EMPTY = "d41d8cd98f00b204e9800998ecf8427e"
FAILED = {"run": "here/a/run", "state": "failed", "error": "the disk is full"}


def beat(directory: Path, *runs: object, **more: object) -> Path:
    """Let an instrument say what it likes."""
    path = directory / ".ontpush" / "host.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"instrument": "x", "runs": runs, **more}))
    return path


def done(run: str, rollup: str = "0" * 32) -> dict[str, object]:
    """What a heartbeat says of a done run."""
    return {"run": run, "state": "done", "rollup": rollup, "done_at": 1}


def make_run(evil: Path, name: str, rollup: str, date: str = "2026-01-01T00:00:00+00:00") -> Path:
    """A done run with a roll-up that its mark vouches for."""
    run = evil / name
    (run / "pod5").mkdir(parents=True)
    (run / "md5sum").write_text(rollup)
    mark(run, name, date)
    return run


def mark(run: Path, name: str, date: str = "2026-01-01T00:00:00+00:00") -> None:
    """Vouch for the roll-up that lies there."""
    (run / "rsync.done").write_text(f"{date}\nrun: {name}\nrollup: {md5(run / 'md5sum')}\n")


def sparse(path: Path, size: int, begin: bytes = b"") -> Path:
    """A file that is large and lies on no disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(size)
    return path


# -- what an instrument does, and the word of it that people are told -------------------------


def large_heartbeat(evil: Path) -> str:
    beat(evil, pad="x" * limits.LARGEST_HEARTBEAT)
    return "it is larger than 8 MiB"


def heartbeat_of_brackets(evil: Path) -> str:
    beat(evil).write_text("[" + ",".join(["{}"] * (limits.LARGEST_HEARTBEAT // 4)) + "]")
    return "it holds more than 500,000 values"


def heartbeat_of_texts(evil: Path) -> str:
    count = limits.MOST_VALUES - 10
    size = limits.LARGEST_HEARTBEAT // count
    texts = [f"{number:0{size - 3}d}" for number in range(count)]
    beat(evil).write_text('{"errors":["x"],"pad":["' + '","'.join(texts) + '"]}')
    return "x"


def heartbeat_of_keys(evil: Path) -> str:
    count = limits.MOST_VALUES - 10
    pairs = ",".join(f'"{number:x}":{number}' for number in range(count))
    beat(evil).write_text('{"errors":["x"],' + pairs + "}")
    return "x"


def long_texts(evil: Path) -> str:
    texts = ["x" * 2 * limits.LONGEST_TEXT] * (5 * limits.MOST_TEXTS)
    beat(evil, {"run": "a", "state": "failed", "error": texts[0]}, errors=texts, unsent=texts)
    return "reports trouble"


def left_beside_heartbeats(evil: Path) -> str:
    beat(evil, errors=["x"])
    (evil / ".ontpush" / "owners").mkdir()
    for number in range(limits.MOST_BESIDE + 1):
        (evil / ".ontpush" / "owners" / f".x.{number:06d}").touch()
    return "reports trouble"


def heartbeats_without_number(evil: Path) -> str:
    for number in range(limits.MOST_HEARTBEATS + 1):
        (beat(evil).parent / f"{number}.json").touch()
    return "cannot be read"


def many_senders(evil: Path) -> str:
    runs = [{"run": f"{run}", "state": "new"} for run in range(limits.MOST_RUNS)]
    heartbeat = json.dumps({"runs": runs})
    count = 2 * limits.LARGEST_HEARTBEATS // len(heartbeat)
    for number in range(count):
        (beat(evil).parent / f"{CONTROL}{number:04d}.json").write_text(heartbeat)
    return "send a run to the same place"


def many_runs(evil: Path) -> str:
    beat(evil, *(done(f"r{number}") for number in range(limits.MOST_RUNS + 1)))
    return "it lists more than 20,000 runs"


def deep_run(evil: Path) -> str:
    name = "/".join("r" * (limits.DEEPEST_RUN + 1))
    beat(evil)
    make_run(evil, name, "")
    return "the path of a run is too deep or too long"


def deep_runs_told(evil: Path) -> str:
    above = "/".join("r" * limits.DEEPEST_RUN)
    make_run(evil, above + "/r", "")
    beat(evil, *(done(f"{above}/r{number}") for number in range(limits.MOST_RUNS - 1)))
    return "a run in it cannot be used"


def long_run(evil: Path) -> str:
    beat(evil, done("r/" * 8 + "r" * limits.LONGEST_RUN))
    return "a run in it cannot be used"


def bad_names_without_end(evil: Path) -> str:
    names = [os.fsdecode(b"\xff" * 200 + b"%d" % number) for number in range(30)]
    lines = "".join(f"{EMPTY}  pod5/{name}\n" for name in names)
    runs = []
    for number in range(20):
        run = evil / f"r{number}"
        (run / "pod5").mkdir(parents=True)
        (run / "md5sum").write_bytes(os.fsencode(lines))
        mark(run, run.name)
        runs.append(done(run.name, md5(run / "md5sum")))
    beat(evil, *runs)
    return "30 files on the cluster are not"


def large_marks(evil: Path) -> str:
    runs = []
    for number in range(20):
        run = make_run(evil, f"r{number}", "no roll-up\n", "x" * (limits.LARGEST_MARK - 200))
        runs.append(done(run.name, md5(run / "md5sum")))
    beat(evil, *runs)
    return "md5sum is damaged"


def large_rollup(evil: Path) -> str:
    run = make_run(evil, "run", f"{EMPTY}  pod5/x\n")
    sparse(run / "md5sum", limits.LARGEST_ROLLUP + 1, b"x")
    beat(evil, done("run"))
    return "no rsync.done here vouches for the md5sum beside it"


def rollups_of_holes(evil: Path) -> str:
    for number in range(100):
        run = make_run(evil, f"r{number}", "")
        sparse(run / "md5sum", limits.LARGEST_ROLLUP, b"x")
    beat(evil, *(done(f"r{number}") for number in range(100)))
    return "no rsync.done here vouches for the md5sum beside it"


def many_new_rollups(evil: Path) -> str:
    beat(evil, *(done(f"r{number}") for number in range(9)))
    for number in range(9):
        run = evil / f"r{number}"
        if not run.exists():
            make_run(evil, run.name, f"{number} is no roll-up\n" * 40_000)
    return "more is new of evil than is read"


def linked_rollups(evil: Path) -> str:
    first = make_run(evil, "r0", "x" * (200 << 20)) if not (evil / "r0").exists() else evil / "r0"
    for number in range(1, 200):
        run = evil / f"r{number}"
        if not run.exists():
            make_run(evil, run.name, "")
            (run / "md5sum").unlink()
            os.link(first / "md5sum", run / "md5sum")
    os.utime(first / "md5sum", (1, 1))
    beat(evil, *(done(f"r{number}") for number in range(200)))
    return "no rsync.done here vouches for the md5sum beside it"


def many_entries(evil: Path) -> str:
    beat(evil)
    (evil / "full").mkdir()
    full = os.open(evil / "full", os.O_RDONLY)
    for number in range(limits.MOST_ENTRIES + 1):
        os.symlink("x", str(number), dir_fd=full)
    os.close(full)
    return "more than 500,000 entries"


def many_summaries(evil: Path) -> str:
    failed = [{"run": f"r{number}", "state": "failed", "error": "x"} for number in range(3)]
    beat(evil, *failed)
    for each in failed:
        (evil / str(each["run"])).mkdir()
        for number in range(5 * limits.MOST_SUMMARIES):
            lines = "".join(f"{number}k{key}={key}\n" for key in range(4500))
            text = lines + "sample_id=s\n"
            (evil / str(each["run"]) / f"final_summary_{number}.txt").write_text(text)
    return "could not be brought over"


def large_summaries(evil: Path) -> str:
    beat(evil, {"run": "run", "state": "failed", "error": "x"})
    for number in range(limits.MOST_SUMMARIES):
        begin = b"sample_id=" + b"s" * limits.LARGEST_SUMMARY
        sparse(evil / "run" / f"final_summary_{number}.txt", 1 << 30, begin)
    return "could not be brought over"


def summaries_of_lines(evil: Path) -> str:
    return failed_with_summaries(evil, b"\n" * limits.LARGEST_SUMMARY)


def summaries_of_bad_values(evil: Path) -> str:
    line = b"sample_id=" + b"\xff" * 310 + b"\n"
    return failed_with_summaries(evil, line * (limits.LARGEST_SUMMARY // len(line)))


def failed_with_summaries(evil: Path, summary: bytes) -> str:
    """As many failed runs as are told one by one, with as many summaries as are read."""
    runs = [f"r{number}" for number in range(limits.MOST_TOLD)]
    (evil / "summary").write_bytes(summary)
    for run in runs:
        (evil / run).mkdir()
        for number in range(limits.MOST_SUMMARIES):
            os.link(evil / "summary", evil / run / f"final_summary_{number}.txt")
    beat(evil, *({"run": run, "state": "failed", "error": "x"} for run in runs))
    return "could not be brought over"


def many_missing(evil: Path) -> str:
    lines = (f"{EMPTY}  pod5/{'x' * 200}{number}\n" for number in range(300_000))
    run = make_run(evil, "run", "".join(lines))
    beat(evil, done("run", md5(run / "md5sum")))
    return "300,000 files on the cluster are not"


def many_rows_in_one(evil: Path) -> str:
    run = make_run(evil, "run", f"{'0' * 32}  pod5/x\n")
    (run / "pod5" / "x").touch()
    rows = 'file_path,file_hash\n"\n' + 'ab","\n' * 4_000_000
    (run / "output_hash_x.csv").write_text(rows)
    beat(evil, done("run", md5(run / "md5sum")))
    return "a quotation goes on after the end of its line"


def long_names_without_end(evil: Path) -> str:
    beat(evil)
    place = os.open(evil, os.O_RDONLY)
    for _ in range(15):
        os.mkdir("d" * 250, dir_fd=place)
        above, place = place, os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(above)
    for number in range(150_000):
        os.symlink("x", str(number), dir_fd=place)
    os.close(place)
    return "the path of a run is too deep or too long"


def long_row(evil: Path) -> str:
    run = make_run(evil, "run", f"{EMPTY}  pod5/x\n")
    (run / "pod5" / "x").touch()
    sparse(run / "output_hash_x.csv", 1 << 40, b"file_path,file_hash\n")
    beat(evil, done("run", md5(run / "md5sum")))
    return "a line has more than 16,384 characters"


def holes(evil: Path) -> str:
    run = make_run(evil, "run", "".join(f"{'0' * 32}  pod5/{number}\n" for number in range(9)))
    for number in range(9):
        sparse(run / "pod5" / str(number), 1 << 40, b"x" * 10_000)
    beat(evil, done("run", md5(run / "md5sum")))
    return "lies on no disk"


def hard_links(evil: Path) -> str:
    names = [f"pod5/{number}" for number in range(1000)]
    content = bytes(64 << 20)
    right = hashlib.md5(content).hexdigest()
    run = make_run(evil, "run", "".join(f"{right}  {name}\n" for name in names))
    (run / names[0]).write_bytes(content)
    for name in names[1:]:
        os.link(run / names[0], run / name)
    beat(evil, done("run", md5(run / "md5sum")))
    return "was read by another name (a hard link)"


def deep_files(evil: Path) -> str:
    run = make_run(evil, "run", f"{EMPTY}  x\n")
    place = os.open(run, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=place)
        above, place = place, os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(above)
    os.close(place)
    beat(evil, done("run", md5(run / "md5sum")))
    return "lies deeper than 64 levels"


def slow_tree(evil: Path) -> str:
    beat(evil)
    (evil / "a" / "b").mkdir(parents=True)
    return "of work"


def slow_news(evil: Path) -> str:
    if not (evil / "run").exists():
        make_run(evil, "run", f"{EMPTY}  x\n")
    beat(evil, done("run", md5(evil / "run" / "md5sum")))
    return "more is new of evil than is read"


class Attack(NamedTuple):
    """What exceeds some bounds; `lowered` is one that it needs lower than it is.

    `state`: what the monitor keeps of it at most, in bytes; `looks`: how many it takes.
    """

    made_by: Callable[[Path], str]
    bounds: tuple[str, ...]
    lowered: str = ""
    state: int = 24_000_000
    looks: int = 1


ATTACKS = (
    Attack(large_heartbeat, ("LARGEST_HEARTBEAT",)),
    Attack(heartbeat_of_brackets, ("MOST_VALUES",)),
    Attack(heartbeat_of_texts, ()),
    Attack(heartbeat_of_keys, ()),
    Attack(long_texts, ("LONGEST_TEXT", "MOST_TEXTS", "LONGEST_WORDS")),
    Attack(left_beside_heartbeats, ("MOST_BESIDE",)),
    Attack(heartbeats_without_number, ("MOST_HEARTBEATS",)),
    Attack(many_senders, ("LARGEST_HEARTBEATS",), looks=2),
    Attack(many_runs, ("MOST_RUNS",)),
    Attack(deep_run, ("DEEPEST_RUN",)),
    Attack(deep_runs_told, ()),
    Attack(long_run, ("LONGEST_RUN",)),
    Attack(bad_names_without_end, ("MOST_REMEMBERED",), "MOST_REMEMBERED = 10_000", 40_000),
    Attack(large_marks, ("LARGEST_MARK", "LONGEST_DATE"), state=40_000),
    Attack(large_rollup, ("LARGEST_ROLLUP",)),
    Attack(rollups_of_holes, ()),
    Attack(many_new_rollups, ("MOST_ROLLUPS", "ROLLUP_BLOCK"), "MOST_ROLLUPS = 65_536", looks=2),
    Attack(linked_rollups, ()),
    Attack(many_entries, ("MOST_ENTRIES",)),
    Attack(many_summaries, ("MOST_SUMMARIES",)),
    Attack(large_summaries, ("LARGEST_SUMMARY",)),
    Attack(summaries_of_lines, ("MOST_SUMMARY_LINES",)),
    Attack(summaries_of_bad_values, ()),
    Attack(many_missing, ("MOST_NAMED",)),
    Attack(long_row, ("LONGEST_ROW",)),
    Attack(many_rows_in_one, ()),
    Attack(long_names_without_end, ()),
    Attack(holes, ("MOST_HOLES",)),
    Attack(hard_links, ()),
    Attack(deep_files, ("DEEPEST_FILE",)),
    Attack(slow_tree, ("MOST_SECONDS",), "MOST_SECONDS = 0"),
    Attack(slow_news, ("LOOK_SECONDS",), "LOOK_SECONDS = 0", looks=2),
    Attack(slow_tree, ("INSTRUMENT_SECONDS",), "INSTRUMENT_SECONDS = 0"),
)
# Bounds that another kind of test holds.
ELSEWHERE = {
    "WALK_SECONDS": "test_walk::test_a_tick_asks_for_a_minute_and_the_next_one_goes_on",
    "RUN_WALK_SECONDS": "test_walk::test_a_run_that_takes_too_long_to_walk_through_is_left_to",
    "MOST_HOOKS": "test_hooks::test_one_instrument_starts_so_many_hooks_a_day_and_the_others_wait",
    "MOST_TOLD": "test_telling::test_one_whose_runs_all_fail_crowds_no_other_out_of_the_mails",
    "LARGEST_OUTBOX": "test_telling::test_the_outbox_stays_small_whatever_texts_an_instrument",
    "MOST_WAITING": "test_telling::test_what_nobody_takes_for_long_is_not_kept_for_ever_and",
    "LONGEST_CHAT": "test_telling::test_a_text_that_is_longer_than_a_service_takes_comes_in",
    "MOST_SAID": "test_endless_output::test_complaints_without_end_fill_no_disk_and_no_memory",
    "MOST_COMPLAINTS": "test_endless_output::test_a_first_complaint_is_shown_however_much_follows",
    "LONGEST_LINE": "test_endless_output::test_a_line_without_end_fails_that_transfer_by_name",
    "LARGEST_ANSWER": "test_endless_output::test_a_call_for_a_sequencer_that_prints_without_end",
    "MOST_STAGED": "test_pull::test_roll_ups_without_end_are_not_staged",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.made_by.__name__)
def test_whatever_one_instrument_sends_the_trouble_of_another_is_mailed_in_the_same_tick(
    monitor: Program, root: Path, mailbox: Mailbox, attack: Attack
) -> None:
    (root / "evil").mkdir()
    monitor.settings["silent_minutes"] = 10**6
    lowered = f"import ontpush.facts.limits as limits\nlimits.{attack.lowered}\n"
    text = COST + (lowered if attack.lowered else "")
    customize = monitor.modules / "sitecustomize.py"
    for _ in range(attack.looks - 1):
        attack.made_by(root / "evil")
        customize.write_text(text)
        assert monitor.run("monitor").code in (0, 1)
        text += LATER
    told = attack.made_by(root / "evil")
    beat(root / "gridion", FAILED)
    customize.write_text(text)
    ran = monitor.run("monitor", "--json")
    assert ran.code in (0, 1)
    mails = mailbox.mails()
    assert "[ontpush] failed: run (gridion)" in [mail["Subject"] for mail in mails]
    of_evil = [text for text in (content(mail, "plain") for mail in mails) if "evil" in text]
    assert any(told in text for text in of_evil), (ran, of_evil)
    costs = [line.split() for line in (monitor.home / "cost").read_text().splitlines()]
    assert max(int(peak) for peak, _ in costs) < MOST_MEMORY
    assert sum(float(seconds) for _, seconds in costs) < MOST_SECONDS
    assert sum(path.stat().st_size for path in monitor.state.rglob("*.json")) < attack.state


def test_every_bound_of_the_table_is_exceeded_by_an_attack() -> None:
    table = {name for name in vars(limits) if name.isupper()}
    attacked = {name for attack in ATTACKS for name in attack.bounds}
    assert attacked | set(ELSEWHERE) == table
    for where in ELSEWHERE.values():
        file, _, name = where.partition("::")
        assert f"def {name}" in (CHECKOUT / "tests" / f"{file}.py").read_text()
