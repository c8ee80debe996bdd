"""The whole way, in any order of events: two sequencers, a cluster, and all that happens to them.

One sequencer pushes, from the other one is pulled; a monitor looks at both, with a hook that does
not believe what it is given. A state machine of Hypothesis lets things happen at either end, and
after every one of them everything is held against the interface: see `World.check`. At the end
the clocks are right again and every program gets some ticks in peace; then every byte must have
arrived, and what is finished must be done and verified: see `World.make_peace`.

What the test itself damages at the destination, behind the program's back, is in a book, and out of
it again as soon as a mark is made that says otherwise. So is what it changes at a source after
a mark was made there.

`./inv machine` hunts with new seeds. ONTPUSH_MACHINE_STEPS is how many steps are made, each part of
so many with a seed of its own, which is printed; ONTPUSH_MACHINE_SEED is the first of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.lab.crashing import CRASHED
from tests.lab.trees import (
    MARK,
    OWN,
    ROLLUP,
    SKIP,
    UNFINISHED,
    VERIFIED,
    Content,
    below,
    inside,
    is_final_summary,
    is_sidecar,
    is_temporary,
    mark_facts,
    md5,
    read_rollup,
    to_become,
)
from tests.lab.zygote import Crash, Ended, Zygote

STEPS = int(os.environ.get("ONTPUSH_MACHINE_STEPS", "2000"))
SEED = int(os.environ.get("ONTPUSH_MACHINE_SEED", "1"))
SHRINK = bool(os.environ.get("ONTPUSH_MACHINE_SHRINK"))
STEPS_OF_A_PART = min(STEPS, 500)
STEPS_OF_AN_EXAMPLE = 50
SECOND = 10**9
HOUR = 3600
DAY = 86400
PEACE_DAYS = 12
PATIENT_DAYS = 3

PUSHING, PULLED = "gridion", "mk1c"
PLACES = (b"e/s/run1", b"e/s/run2", b"f/\xff -run*[2]\n")
# A source without a run is taken for a disk that is not mounted.
KEPT = b"kept/run"
GROUPS = (b"e", b"e/s", b"f")
FOLDERS = (b"", b"pod5_pass", b"pod5_pass/barcode01", b"fastq_pass", b"other reports")
NAMES = (b"a.pod5", b"x\ny", b"c\\d", b"\xff*[b]", b".hidden")

DATA_FOLDER = re.compile(rb"(fast5|pod5|fastq|bam)(_(pass|fail|skip)([^A-Za-z].*)?)?", re.DOTALL)
SUMMARY = re.compile(rb"(final|sequencing)_summary.*\.txt", re.DOTALL)
BESIDE = re.compile(
    rb"(sample_sheet_|throughput_|pore_activity_|duty_time|report_|output_hash_|barcode_alignment_)"
    rb".*",
    re.DOTALL,
)

# It looks at what it is started for, and writes down what is not as it should be.
HOOK = (
    'cd "$ONTPUSH_RUN" && test "$(md5sum <md5sum)" = "$ONTPUSH_ROLLUP  -" && md5sum -c --strict'
    " --quiet md5sum >&2 || printf '%s\\0' \"$ONTPUSH_INSTRUMENT/$ONTPUSH_RUN_NAME\" >>{}"
)


@dataclass
class Hurt:
    """What the test made of a file at the destination, None where it took it away.

    `until` counts the verifications that may say nothing of it: one that had read the file when its
    tick was killed. `told` when somebody was told to look.
    """

    contents: set[Content | None] = field(default_factory=set)
    was_lost: bool = False
    was_turned: bool = False
    until: int = 0
    told: bool = False


class Side:
    """A sequencer, its directory at the cluster, and what the test knows of both.

    Paths are relative to `source`, and so to `there`.
    """

    def __init__(self, name: str, home: bytes) -> None:
        self.name = name
        self.home = os.path.join(home, name.encode())
        self.source = self.home + b"/data"
        self.state = self.home + b"/state"
        self.there = os.path.join(home, b"root", name.encode())
        self.places = list(PLACES)
        # Whatever a path ever held at the source.
        self.held: dict[bytes, set[Content]] = {}
        # When a path of the source was last changed by the test, by the host's clock.
        self.touched: dict[bytes, float] = {}
        self.hurt: dict[bytes, Hurt] = {}
        # For each mark at the destination, what it last said was looked at.
        self.marks: dict[bytes, tuple[str, str | bytes]] = {}
        os.makedirs(self.source)
        os.makedirs(self.there)

    @property
    def pushes(self) -> bool:
        return self.name == PUSHING

    def runs(self) -> list[bytes]:
        """The runs at the source: see D1 of docs/decisions."""
        return sorted(self._runs_below(b""))

    def _runs_below(self, directory: bytes) -> list[bytes]:
        path = os.path.join(self.source, directory)
        with os.scandir(path) as found:
            entries = list(found)
        files = [each.name for each in entries if each.is_file(follow_symlinks=False)]
        folders = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
        data = [name for name in folders if DATA_FOLDER.fullmatch(name)] if directory else []
        if directory and any(SUMMARY.fullmatch(name) for name in files):
            return [directory]
        found_below: list[bytes] = []
        for name in folders:
            if name not in data and not name.startswith(b"."):
                found_below += self._runs_below(os.path.join(directory, name))
        if data and (not found_below or any(BESIDE.fullmatch(name) for name in files)):
            return [directory]
        return found_below


class World:
    """The sides, the cluster, the clocks."""

    def __init__(self, zygote: Zygote, home: bytes) -> None:
        self.zygote = zygote
        self.home = home
        self.root = home + b"/root"
        self.login = home + b"/login"
        self.hook_log = home + b"/wrong"
        self.sides = [Side(PUSHING, home), Side(PULLED, home)]
        # Ahead of the real one, with which the program's own files are made.
        self.disk_ns = (int(time.time()) + HOUR) * SECOND
        self.host_ahead = 0
        self.serial = 0
        # Whether a verification may have read runs and not said so yet.
        self.is_in_flight = False
        # Side and directory there in which something is wrong that nobody can mend.
        self.beyond: set[tuple[bytes, bytes]] = set()
        os.makedirs(home + b"/tmp")

    def configure(self, settle: int) -> None:
        common: dict[str, Any] = {"settle": settle, "nice": 0, "ionice": "none"}
        for side in self.sides:
            facts = {
                **common,
                "instrument": side.name,
                "state_dir": os.fsdecode(side.state),
                "log": os.fsdecode(side.home + b"/log"),
            }
            self._write_configuration(side.home, facts)
        os.makedirs(self.login)
        facts = {
            **common,
            "root": os.fsdecode(self.root),
            "pull": [{"instrument": PULLED, "source": os.fsdecode(self.sides[1].source)}],
            "disk_percent": 100,
            "state_dir": os.fsdecode(self.login + b"/state"),
            "log": os.fsdecode(self.login + b"/log"),
            "on_verified": [HOOK.format(os.fsdecode(self.hook_log))],
        }
        del facts["settle"]
        self._write_configuration(self.login, facts)

    @staticmethod
    def _write_configuration(home: bytes, facts: dict[str, Any]) -> None:
        Path(os.fsdecode(home), "config.json").write_text(json.dumps(facts))

    # -- clocks -------------------------------------------------------------------------

    @property
    def host_seconds(self) -> float:
        return self.disk_ns / SECOND + self.host_ahead

    def tick_ns(self) -> int:
        """The time of the disks, which is never the same twice."""
        self.disk_ns += 1_000_001
        return self.disk_ns

    # -- what the test does -------------------------------------------------------------

    def fresh(self, size: int) -> bytes:
        self.serial += 1
        block = hashlib.sha256(b"%d" % self.serial).digest()
        return (block * (size // len(block) + 1))[:size]

    def put(self, side: Side, path: bytes, content: bytes, ago: int = 0) -> None:
        """A whole file is moved in, as MinKNOW does with reads."""
        place = os.path.join(side.source, path)
        if os.path.isdir(place):
            return
        made = os.path.join(self.home, b"made")
        Path(os.fsdecode(made)).write_bytes(content)
        self.set_time(made, self.tick_ns() - ago * SECOND)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.rename(made, place)
        self.changed(side, path)

    def changed(self, side: Side, *paths: bytes) -> None:
        """Note that the test changed files at the source; their directories changed too."""
        for path in paths:
            side.touched[path] = self.host_seconds
            self.renew(os.path.dirname(os.path.join(side.source, path)))

    def renew(self, path: bytes) -> None:
        """A directory in which something was changed has the time of its disk."""
        if os.path.isdir(path):
            self.set_time(path, self.tick_ns())

    @staticmethod
    def set_time(path: bytes, when_ns: int) -> None:
        os.utime(path, ns=(when_ns, when_ns), follow_symlinks=False)

    def move(self, side: Side, old: bytes, new: bytes) -> None:
        """A directory gets another name, with all that is known of what was in the old one."""
        gone = below(os.path.join(side.source, old))
        os.makedirs(os.path.dirname(os.path.join(side.source, new)), exist_ok=True)
        os.rename(os.path.join(side.source, old), os.path.join(side.source, new))
        self._as_known(side, old, new)
        self.changed(side, new, old, *(old + b"/" + each for each in gone))

    def copy(self, side: Side, old: bytes, new: bytes) -> None:
        target = os.path.join(side.source, new)
        shutil.copytree(os.fsdecode(os.path.join(side.source, old)), os.fsdecode(target))
        self._as_known(side, old, new)
        self.changed(side, new)

    def _as_known(self, side: Side, old: bytes, new: bytes) -> None:
        for path, when in list(side.touched.items()):
            if path.startswith(old + b"/"):
                side.touched[new + path[len(old) :]] = when

    def remove_tree(self, side: Side, path: bytes) -> None:
        place = os.path.join(side.source, path)
        if os.path.isdir(place):
            for each in below(place):
                side.touched[path + b"/" + each] = self.host_seconds
            shutil.rmtree(place)
            self.changed(side, path)

    def files_of(self, side: Side) -> list[bytes]:
        """The files at a source that events happen to."""
        return [
            path
            for path in sorted(below(side.source))
            if not path.startswith((b".ontpush/", KEPT))
            and os.path.basename(path) not in OWN
            and not path.endswith(UNFINISHED)
        ]

    def files_there(self, side: Side) -> list[bytes]:
        return [
            path
            for path in sorted(below(side.there))
            if not path.startswith(b".ontpush/")
            and os.path.basename(path) not in OWN
            and not is_unfinished(path)
        ]

    def hurt(self, side: Side, path: bytes, lost: bool) -> None:
        """Write into the book what the test did to a file at the destination just now."""
        now = (
            None
            if lost
            else ("file", Path(os.fsdecode(os.path.join(side.there, path))).read_bytes())
        )
        each = side.hurt.setdefault(path, Hurt())
        each.contents.add(now)
        if now:
            side.held.setdefault(path, set()).add(now)
        each.was_lost |= lost
        each.was_turned |= not lost
        each.until = max(each.until, int(self.is_in_flight))
        each.told = False

    # -- the programs -------------------------------------------------------------------

    def call(
        self,
        home: bytes,
        *words: bytes,
        step: int = 0,
        orphans: bool = False,
        codes: tuple[int, ...],
    ) -> Ended:
        """One call of the program under the configuration in `home`."""
        command = [words[0], b"--config", home + b"/config.json", *words[1:]]
        crash = Crash(self.host_seconds, self.disk_ns / SECOND, step, orphans)
        ended = self.zygote.call(command, crash=crash)
        self.disk_ns += SECOND // 4
        for side in self.sides:
            self._into_the_time_of_the_disk(side)
        said = ended.err.decode(errors="replace").strip()
        note(f"    {words[0].decode()} exit {ended.code} {said}")
        assert "Traceback" not in said, said
        assert "unexpected" not in said, said
        allowed = (*codes, CRASHED) if step else codes
        assert ended.code in allowed, (words, ended)
        return ended

    def _into_the_time_of_the_disk(self, side: Side) -> None:
        """What the program wrote at a source has the real time, which is not that of the test."""
        real = time.time_ns()
        for folder, _, names in os.walk(side.source):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                if abs(os.lstat(path).st_mtime_ns - real) < 600 * SECOND:
                    self.set_time(path, self.tick_ns())

    def push(self, step: int = 0, orphans: bool = False) -> Ended:
        side = self.sides[0]
        ended = self.call(
            side.home,
            b"push",
            b"--json",
            side.source,
            side.there,
            step=step,
            orphans=orphans,
            codes=(0,),
        )
        if ended.code != CRASHED:
            self._forget_what_a_full_look_saw(side)
        return ended

    def _forget_what_a_full_look_saw(self, side: Side) -> None:
        """Once a day every file of a run is looked at, and marks that are not right any more go."""
        skipped = [run for run in side.runs() if self.is_skipped(side, run)]
        for path, when in list(side.touched.items()):
            is_skipped = any(path.startswith(run + b"/") for run in skipped)
            exists = os.path.lexists(os.path.join(side.source, path))
            if exists and not is_skipped and self.host_seconds - when > 2 * DAY:
                del side.touched[path]

    def is_skipped(self, side: Side, run: bytes) -> bool:
        return os.path.lexists(os.path.join(side.source, run, SKIP))

    def hash(self, side: Side, step: int = 0, orphans: bool = False) -> Ended:
        return self.call(
            side.home, b"hash", b"--all", side.source, step=step, orphans=orphans, codes=(0,)
        )

    def pull(self, step: int = 0, orphans: bool = False, codes: tuple[int, ...] = (0, 1)) -> Ended:
        words = (b"pull", b"--json", PULLED.encode())
        return self.call(self.login, *words, step=step, orphans=orphans, codes=codes)

    def monitor(self, step: int = 0, orphans: bool = False) -> Ended:
        ended = self.call(
            self.login, b"monitor", b"--json", step=step, orphans=orphans, codes=(0, 1)
        )
        if ended.code == CRASHED:
            self.is_in_flight = True
        else:
            self.check_status()
        return ended

    # -- what must always hold ----------------------------------------------------------

    def check(self) -> None:
        """Hold what lies at either end against what is promised of it at every instant."""
        for side in self.sides:
            here, there = below(side.source), below(side.there)
            for path, content in here.items():
                side.held.setdefault(path, set()).add(content)
            self._believe_new_marks(side, there)
            for name, vouched in vouching(there):
                self._check_vouched(side, there, name, vouched)
            for name, vouched in vouching(here):
                self._check_vouched_here(side, here, name, vouched)
            for path, content in there.items():
                self._check_known(side, path, content)
        self._check_hooks()

    def _believe_new_marks(self, side: Side, there: dict[bytes, Content]) -> None:
        """A mark that was made just now says that what it vouches for was looked at."""
        for path, (_, content) in there.items():
            name = os.path.basename(path)
            facts = mark_facts(content) if name in (MARK, VERIFIED) else {}
            if "rollup" not in facts:
                continue
            # One that was lost alone is written again, and says when the run was read.
            looked = (facts["rollup"], facts.get("verified", content))
            if side.marks.get(path) != looked:
                side.marks[path] = looked
                run = os.path.dirname(path)
                rollup = there.get(os.path.join(run, ROLLUP), ("none", b""))[1]
                for each in {*OWN, *read_rollup(rollup)} & inside(side.hurt, run).keys():
                    self._heal(side, os.path.join(run, each), name)

    def _heal(self, side: Side, path: bytes, mark: bytes) -> None:
        each = side.hurt[path]
        if mark == VERIFIED and each.until:
            each.until -= 1
        elif mark == VERIFIED or side.pushes or not each.was_turned:
            del side.hurt[path]

    def _check_vouched(
        self, side: Side, there: dict[bytes, Content], mark: bytes, run: bytes
    ) -> None:
        for path, listed in read_rollup(there[os.path.join(run, ROLLUP)][1]).items():
            name = os.path.join(run, path)
            found = there.get(name)
            if found is None or found[0] == "link" or md5(found[1]) != listed:
                assert self.is_excused(side, name, found), (
                    f"{side.name}: {mark!r} vouches for {path!r}, of which lies there {found!r}"
                )

    @staticmethod
    def is_excused(side: Side, path: bytes, found: Content | None) -> bool:
        return path in side.hurt and found in side.hurt[path].contents

    @staticmethod
    def _check_vouched_here(
        side: Side, here: dict[bytes, Content], mark: bytes, run: bytes
    ) -> None:
        """What goes from a run that is done frees space, and is not missed."""
        for path, listed in read_rollup(here[os.path.join(run, ROLLUP)][1]).items():
            name = os.path.join(run, path)
            found = here.get(name)
            if found is None or md5(found[1]) != listed:
                assert name in side.touched, (
                    f"{side.name}, at the source: {mark!r} vouches for {path!r}, which is {found!r}"
                )

    def _check_known(self, side: Side, path: bytes, content: Content) -> None:
        name = os.path.basename(path)
        if path.startswith(b".ontpush/") or name in OWN or is_unfinished(path):
            return
        assert content in side.held.get(path, ()), f"{side.name}: {path!r} never held {content!r}"

    def _check_hooks(self) -> None:
        if not os.path.exists(self.hook_log):
            return
        for name in Path(os.fsdecode(self.hook_log)).read_bytes().split(b"\0")[:-1]:
            instrument, _, run = name.partition(b"/")
            (side,) = (each for each in self.sides if each.name == instrument.decode())
            start = run + b"/"
            is_excused = any(path.startswith(start) for path in side.hurt)
            assert is_excused, f"a hook was started for {name!r}, which is not right"
        os.unlink(self.hook_log)

    def check_status(self) -> None:
        """What is shown as verified after a tick is so."""
        ended = self.call(self.login, b"status", b"--json", codes=(0,))
        sides = {side.name: side for side in self.sides}
        for facts in json.loads(ended.out)["data"]["runs"]:
            if facts["verdict"] == "verified":
                side = sides[facts["instrument"]]
                run = facts["run"].encode("utf-8", "surrogateescape")
                self._check_shown(side, run)
        self.is_in_flight = False

    def _check_shown(self, side: Side, run: bytes) -> None:
        there = inside(below(side.there), run)
        is_vouched = is_vouched_for(there, VERIFIED)
        is_hurt = any(run + b"/" + name in side.hurt for name in OWN)
        assert is_vouched or is_hurt, f"{side.name}: {run!r} is shown as verified, and is not"

    # -- what must hold in the end ------------------------------------------------------

    def make_peace(self) -> None:
        """Clocks are right, days go by, nothing happens but ticks: all comes to its end."""
        note("peace")
        self.host_ahead = 0
        stuck, before = 0, [""]
        for day in range(PEACE_DAYS + 1):
            self.disk_ns += (26 * HOUR + (8 * DAY) * (day == 0)) * SECOND
            ended = [self.push(), self.hash(self.sides[1]), self.pull(), self.monitor()]
            self.check()
            wrong = self.faults(ended)
            note(f"    day {day}: {wrong}")
            self._do_as_told(ended[2])
            if not wrong and day > 0:
                break
            stuck = stuck + 1 if wrong == before else 0
            before = wrong
            if stuck == PATIENT_DAYS:
                break
        assert not wrong, "\n".join(wrong)
        idle = json.loads(self.push().out)["data"]["runs"]
        # What cannot be mended is asked for now and then.
        mended = [each["run"] for each in idle if each["sent_files"] and not self.is_beyond(each)]
        assert not mended, f"sent again, and nothing was new: {mended}"

    def _do_as_told(self, pulled: Ended) -> None:
        """A file that another replaced in the same second has to be touched: a pull cannot tell.

        Nor can a sidecar be told from a right one that is copied after a file that it is not of.
        """
        side = self.sides[1]
        for error in json.loads(pulled.out)["errors"]:
            run = (error.get("run") or "").encode("utf-8", "surrogateescape")
            if "`ontpush retry RUN` there" in error["message"]:
                self.call(side.home, b"retry", os.path.join(side.source, run), codes=(0,))
            if "`touch` it there" in error["message"]:
                start = run + b"/"
                files = [path for path in self.files_of(side) if path.startswith(start)]
                for path in files:
                    if not is_sidecar(path, files):
                        self.set_time(os.path.join(side.source, path), self.tick_ns())
                self.changed(side, *files)

    def is_beyond(self, facts: dict[str, Any]) -> bool:
        """Whether this is told of a run in which something is wrong that nobody can mend."""
        run = (facts.get("run") or "").encode("utf-8", "surrogateescape")
        return any(run in (each, side + b"/" + each) for side, each in self.beyond)

    def faults(self, ended: list[Ended]) -> list[str]:
        """What is not yet as it must be in the end."""
        wrong: list[str] = []
        self.beyond = set()
        for side, call in zip(self.sides, (ended[0], ended[2]), strict=True):
            states = {
                run["run"].encode("utf-8", "surrogateescape"): run["state"]
                for run in json.loads(call.out)["data"]["runs"]
            }
            here, there = below(side.source), below(side.there)
            self.beyond |= {
                (side.name.encode(), run) for run in set(self._beyond(side, here, there))
            }
            for run in side.runs():
                if SKIP in inside(here, run):
                    continue
                files = eligible(inside(here, run))
                is_finished = any(is_final_summary(path) for path in files)
                wrong += self._not_there(side, run, files, there, is_finished)
                if (side.name.encode(), run) in self.beyond:
                    continue
                if is_finished:
                    wrong += _not_finished(side, run, states.get(run), inside(there, run))
                elif files and states.get(run) not in ("waiting", "stalled", "done"):
                    wrong.append(f"{side.name}: {run!r} is {states.get(run)}")
            if sorted(states) != side.runs():
                wrong.append(f"{side.name}: runs {sorted(states)} and not {side.runs()}")
            wrong += [f"{side.name}: left over: {path!r}" for path in self._left_over(side)]
        for each in (ended[0], ended[2], ended[3]):
            told = [error for error in json.loads(each.out)["errors"] if not self.is_beyond(error)]
            wrong += [f"exit {each.code}: {error}" for error in told]
        return wrong

    def _beyond(
        self, side: Side, here: dict[bytes, Content], there: dict[bytes, Content]
    ) -> Iterator[bytes]:
        """The directories there in which something is wrong that nobody can mend.

        What is listed at either end is not what lies there, and at the source it is not any more,
        or in a run that is skipped.
        """
        sent = {
            run + b"/" + path
            for run in side.runs()
            if SKIP not in inside(here, run)
            for path in eligible(inside(here, run))
        }
        for path, (kind, content) in (*there.items(), *here.items()):
            run, name = os.path.split(path)
            if name != ROLLUP or kind != "file":
                continue
            for each, listed in read_rollup(content).items():
                found = there.get(run + b"/" + each)
                is_right = found is not None and md5(found[1]) == listed
                if not is_right and run + b"/" + each not in sent:
                    yield run

    def _not_there(
        self,
        side: Side,
        run: bytes,
        files: dict[bytes, Content],
        there: dict[bytes, Content],
        is_finished: bool,
    ) -> Iterator[str]:
        for path, content in files.items():
            name = run + b"/" + path
            if content[0] == "link" and not side.pushes:
                continue
            found = there.get(name)
            # What is hurt is seen when the run ends, a bit that turned after that when it is
            # read again.
            is_excused = self.is_excused(side, name, found) and not (
                is_finished and (found is None or side.hurt[name].told)
            )
            if found != content and not is_excused:
                yield f"{side.name}: {name!r} is not there, but {found!r}"

    def _left_over(self, side: Side) -> list[bytes]:
        # What a killed tick left in a run that is part of another by now is a file of that.
        source, there = below(side.source), below(side.there)
        here = {path for path in source if path.endswith(UNFINISHED)}
        odd = [
            run + b"/" + path
            for run in side.runs()
            if is_vouched_for(inside(there, run), VERIFIED)
            for path in left_in(inside(there, run))
            if run + b"/" + path not in here
        ]
        # A run that is skipped is left alone.
        looked_at = [run for run in side.runs() if run + b"/" + SKIP not in source]
        odd += [path for path in here if os.path.dirname(path) in looked_at]
        odd += [b"outbox"] * os.path.exists(side.state + b"/outbox")
        return odd


def is_unfinished(path: bytes) -> bool:
    """Whether this is a name of what rsync, or the program itself, has not finished."""
    return is_temporary(path) or path.endswith(UNFINISHED)


def left_in(files: dict[bytes, Content]) -> Iterator[bytes]:
    """What a killed transfer left in a run, of files that lie there whole, or of our own."""
    listed = read_rollup(files[ROLLUP][1])
    for path, content in files.items():
        if path not in listed and is_temporary(path):
            whole = to_become(path)
            is_known = whole in listed or os.path.basename(whole) in OWN
            if is_known and whole in files and files[whole][1].startswith(content[1]):
                yield path
        elif path not in listed and path.endswith(UNFINISHED):
            whole = path[: -len(UNFINISHED)]
            if whole == ROLLUP or os.path.basename(whole) in (MARK, SKIP, VERIFIED):
                yield path


def eligible(files: dict[bytes, Content]) -> dict[bytes, Content]:
    """Those of the files of a run that have to arrive."""
    return {
        path: content
        for path, content in files.items()
        if path != ROLLUP
        and os.path.basename(path) not in (MARK, SKIP, VERIFIED)
        and not path.endswith(UNFINISHED)
        and not is_sidecar(path, files)
    }


def vouching(files: dict[bytes, Content]) -> Iterator[tuple[bytes, bytes]]:
    """Each mark, at whatever depth, that vouches for the roll-up beside it; its directory."""
    for path in files:
        run, name = os.path.split(path)
        if name in (MARK, VERIFIED) and is_vouched_for(inside(files, run), name):
            yield path, run


def is_vouched_for(run: dict[bytes, Content], mark: bytes) -> bool:
    if mark not in run or ROLLUP not in run:
        return False
    return mark_facts(run[mark][1]).get("rollup") == md5(run[ROLLUP][1]).decode()


def _not_finished(
    side: Side, run: bytes, state: str | None, there: dict[bytes, Content]
) -> Iterator[str]:
    if state != "done":
        yield f"{side.name}: {run!r} is {state}"
    for mark in (MARK, VERIFIED):
        if not is_vouched_for(there, mark):
            yield f"{side.name}: {run!r}: no {mark!r}"


# -- the machine ------------------------------------------------------------------------


sides = st.sampled_from((0, 0, 1))
small = st.integers(0, 7)
large = st.integers(0, 20)
steps = st.integers(1, 60)
sizes = st.sampled_from((0, 1, 7, 64))


class Machine(RuleBasedStateMachine):
    """Everything that happens; `zygote` is set by the test."""

    zygote: Zygote
    made_steps = 0

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm"
        where = memory if os.access(memory, os.W_OK) else None
        self._home = tempfile.mkdtemp(prefix="ontpush-", dir=where)
        self.world = World(self.zygote, os.fsencode(self._home))
        self.has_begun = False

    def teardown(self) -> None:
        try:
            if self.has_begun:
                self.world.make_peace()
        finally:
            shutil.rmtree(self._home)

    def happened(self) -> None:
        type(self).made_steps += 1
        self.world.check()

    @initialize(settle=st.sampled_from((0, 0, 60)), first=st.sampled_from(("", "sent", "done")))
    def begin(self, settle: int, first: str) -> None:
        self.has_begun = True
        world = self.world
        world.configure(settle)
        for side in world.sides:
            world.put(side, KEPT + b"/pod5/a.pod5", world.fresh(7))
        if first:
            for side in world.sides:
                world.put(side, PLACES[0] + b"/pod5_pass/a.pod5", world.fresh(64))
                world.put(side, PLACES[0] + b"/pod5_pass/barcode01/b.pod5", world.fresh(7))
                world.put(side, PLACES[0] + b"/report_x.md", world.fresh(7))
                if first == "done":
                    world.put(side, PLACES[0] + b"/final_summary_0.txt", world.fresh(3))
            world.disk_ns += 70 * SECOND
            world.push()
            world.hash(world.sides[1])
            world.pull()
            world.monitor()
        self.happened()

    # -- at a source --------------------------------------------------------------------

    def run_of(self, who: int, pick: int) -> tuple[Side, bytes]:
        side = self.world.sides[who]
        return side, side.places[pick % len(side.places)]

    def file_of(self, who: int, which: int) -> tuple[Side, bytes | None]:
        side = self.world.sides[who]
        files = self.world.files_of(side)
        return side, files[which % len(files)] if files else None

    @rule(
        who=sides,
        pick=small,
        folder=st.sampled_from(FOLDERS),
        name=st.sampled_from(NAMES),
        size=sizes,
        ago=st.sampled_from((0, 0, 40 * DAY)),
    )
    def write(self, who: int, pick: int, folder: bytes, name: bytes, size: int, ago: int) -> None:
        side, run = self.run_of(who, pick)
        self.world.put(side, os.path.join(run, folder, name), self.world.fresh(size), ago)
        self.happened()

    @rule(who=sides, pick=small, number=st.integers(0, 1))
    def finish(self, who: int, pick: int, number: int) -> None:
        side, run = self.run_of(who, pick)
        name = b"final_summary_%d.txt" % number
        self.world.put(side, os.path.join(run, name), self.world.fresh(3))
        self.happened()

    @rule(who=sides, which=large, size=sizes)
    def grow(self, who: int, which: int, size: int) -> None:
        """Not a sidecar: one that is newer than its file says that its sum is right."""
        side, path = self.file_of(who, which)
        if path and not is_sidecar(path, self.world.files_of(side)):
            place = os.path.join(side.source, path)
            with open(place, "ab") as file:
                file.write(self.world.fresh(size))
            self.world.set_time(place, self.world.tick_ns())
            side.touched[path] = self.world.host_seconds
        self.happened()

    @rule(who=sides, which=large, how=st.sampled_from(("now", "same second", "older")))
    def replace(self, who: int, which: int, how: str) -> None:
        """Another file of the same size comes in the place of one."""
        side, path = self.file_of(who, which)
        if path:
            world = self.world
            place = os.path.join(side.source, path)
            found = os.lstat(place)
            world.put(side, path, world.fresh(found.st_size))
            odd = world.tick_ns() % SECOND
            when = {
                "now": world.tick_ns(),
                "same second": found.st_mtime_ns // SECOND * SECOND + odd,
                "older": found.st_mtime_ns - 1000 * SECOND - odd,
            }[how]
            world.set_time(place, when)
        self.happened()

    @rule(who=sides, which=large)
    def delete(self, who: int, which: int) -> None:
        side, path = self.file_of(who, which)
        if path:
            os.unlink(os.path.join(side.source, path))
            self.world.changed(side, path)
        self.happened()

    @rule(who=sides, pick=small, folder=st.sampled_from(FOLDERS))
    def delete_folder(self, who: int, pick: int, folder: bytes) -> None:
        """Also the run itself, as when space is freed."""
        side, run = self.run_of(who, pick)
        self.world.remove_tree(side, os.path.join(run, folder).rstrip(b"/"))
        self.happened()

    @rule(who=sides, pick=small, where=st.sampled_from((b"e/s/moved", b"f/g/moved", b"e/s/run1")))
    def move_run(self, who: int, pick: int, where: bytes) -> None:
        side, run = self.run_of(who, pick)
        is_free = not os.path.lexists(os.path.join(side.source, where))
        if is_free and os.path.isdir(os.path.join(side.source, run)):
            self.world.move(side, run, where)
            if where not in side.places:
                side.places.append(where)
        self.happened()

    # -- at the destination ---------------------------------------------------------------

    def file_there(self, who: int, which: int) -> tuple[Side, bytes | None]:
        side = self.world.sides[who]
        files = self.world.files_there(side)
        return side, files[which % len(files)] if files else None

    @rule(who=sides, which=large)
    def turn_a_bit(self, who: int, which: int) -> None:
        """Neither size nor time tell."""
        side, path = self.file_there(who, which)
        place = os.path.join(side.there, path) if path else b""
        if path and os.path.isfile(place) and os.path.getsize(place):
            found = os.lstat(place)
            with open(place, "r+b") as file:
                first = file.read(1)
                file.seek(0)
                file.write(bytes([first[0] ^ 255]))
            self.world.set_time(place, found.st_mtime_ns)
            self.world.hurt(side, path, lost=False)
        self.happened()

    # -- people and clocks -----------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, 70, HOUR, 26 * HOUR, 9 * DAY)))
    def wait(self, seconds: int) -> None:
        self.world.disk_ns += seconds * SECOND
        self.happened()

    @rule(days=st.sampled_from((-1, 0, 1)))
    def clock_jumps(self, days: int) -> None:
        self.world.host_ahead = days * DAY
        self.happened()

    @rule(pick=small)
    def skip(self, pick: int) -> None:
        self._command(0, pick, b"skip", b"a reason")

    @rule(pick=small)
    def retry(self, pick: int) -> None:
        self._command(0, pick, b"retry")

    @rule(who=sides, which=large)
    def retry_there(self, who: int, which: int) -> None:
        """At the cluster: the monitor is to read a run again."""
        world, side = self.world, self.world.sides[who]
        runs = sorted({run for _, run in vouching(below(side.there))})
        if runs:
            run = runs[which % len(runs)]
            # Without its data it is none.
            path = os.path.join(side.there, run)
            ended = world.call(world.login, b"retry", path, codes=(0, 1, 64))
            for each, hurt in side.hurt.items():
                hurt.told |= ended.code == 0 and each.startswith(run + b"/")
        self.happened()

    def _command(self, who: int, pick: int, command: bytes, *words: bytes) -> None:
        side = self.world.sides[who]
        runs = side.runs()
        if runs:
            path = os.path.join(side.source, runs[pick % len(runs)])
            self.world.call(side.home, command, path, *words, codes=(0,))
        self.happened()

    @rule(what=st.sampled_from(("ledger", "hashes", "login", "pulled")))
    def lose(self, what: str) -> None:
        world = self.world
        lost = {
            "ledger": world.sides[0].state,
            "hashes": world.sides[1].state,
            "login": world.login + b"/state",
            "pulled": world.login + b"/state/pull",
        }[what]
        shutil.rmtree(lost, ignore_errors=True)
        if what == "login":
            # With what people had asked for there.
            for side in world.sides:
                for hurt in side.hurt.values():
                    hurt.told = False
        self.happened()

    # -- ticks ------------------------------------------------------------------------------

    @rule(step=st.one_of(st.just(0), steps), orphans=st.booleans())
    def push(self, step: int, orphans: bool) -> None:
        self.world.push(step, orphans)
        self.happened()

    @rule()
    def push_again(self) -> None:
        self.world.push()
        self.happened()

    @rule(step=st.one_of(st.just(0), steps), orphans=st.booleans())
    def hash(self, step: int, orphans: bool) -> None:
        self.world.hash(self.world.sides[1], step, orphans)
        self.happened()

    @rule()
    def hash_and_pull(self) -> None:
        self.world.hash(self.world.sides[1])
        self.world.pull()
        self.happened()

    @rule(step=st.one_of(st.just(0), steps), orphans=st.booleans())
    def pull(self, step: int, orphans: bool) -> None:
        self.world.pull(step, orphans)
        self.happened()

    @rule(step=st.one_of(st.just(0), steps), orphans=st.booleans())
    def monitor(self, step: int, orphans: bool) -> None:
        self.world.monitor(step, orphans)
        self.happened()

    @rule()
    def monitor_again(self) -> None:
        self.world.monitor()
        self.happened()

    # -- runs in runs ---------------------------------------------------------------------

    @rule(
        who=sides,
        group=st.sampled_from(GROUPS),
        folder=st.sampled_from((b"bam", b"pod5", b"pod5_pass")),
        what=st.sampled_from(("empty", "file", "gone")),
    )
    def folder_above_runs(self, who: int, group: bytes, folder: bytes, what: str) -> None:
        side = self.world.sides[who]
        path = os.path.join(group, folder)
        if what == "gone":
            self.world.remove_tree(side, path)
        elif what == "file":
            self.world.put(side, path + b"/x.bam", self.world.fresh(7))
        else:
            os.makedirs(os.path.join(side.source, path), exist_ok=True)
            self.world.changed(side, path)
        self.happened()

    @rule(
        who=sides,
        group=st.sampled_from(GROUPS),
        name=st.sampled_from((b"final_summary_p.txt", b"sequencing_summary_p.txt", b"report_p.md")),
        is_there=st.booleans(),
    )
    def file_above_runs(self, who: int, group: bytes, name: bytes, is_there: bool) -> None:
        """As data pooling does; and it may be taken away again."""
        side = self.world.sides[who]
        path = os.path.join(group, name)
        if is_there:
            self.world.put(side, path, self.world.fresh(7))
        elif os.path.exists(os.path.join(side.source, path)):
            os.unlink(os.path.join(side.source, path))
            self.world.changed(side, path)
        self.happened()

    @rule(who=sides, pick=small, is_finished=st.booleans())
    def basecall_again(self, who: int, pick: int, is_finished: bool) -> None:
        """Basecalling after a run writes a run of its own into it."""
        side, run = self.run_of(who, pick)
        place = os.path.join(run, b"again")
        self.world.put(side, place + b"/fastq_pass/q.fastq", self.world.fresh(7))
        if is_finished:
            self.world.put(side, place + b"/final_summary_again.txt", self.world.fresh(3))
        self.happened()

    @rule(who=sides, pick=small, into=small)
    def copy_run(self, who: int, pick: int, into: int) -> None:
        """A whole run, marks and all, is copied into another."""
        side, run = self.run_of(who, pick)
        _, target = self.run_of(who, into)
        new = os.path.join(target, b"copy")
        places = [os.path.join(side.source, path) for path in (run, target)]
        is_free = not os.path.lexists(os.path.join(side.source, new))
        if run != target and is_free and all(map(os.path.isdir, places)):
            self.world.copy(side, run, new)
        self.happened()

    # -- what was verified and is lost ----------------------------------------------------

    @rule(who=sides, which=large)
    def lose_there(self, who: int, which: int) -> None:
        side, path = self.file_there(who, which)
        if path:
            os.unlink(os.path.join(side.there, path))
            self.world.hurt(side, path, lost=True)
        self.happened()

    @rule(
        who=sides,
        which=large,
        what=st.sampled_from(((MARK,), (VERIFIED,), (MARK, VERIFIED), (ROLLUP,), (MARK, ROLLUP))),
        is_emptied=st.booleans(),
    )
    def lose_marks(self, who: int, which: int, what: tuple[bytes, ...], is_emptied: bool) -> None:
        side = self.world.sides[who]
        runs = sorted(
            {os.path.dirname(path) for path in below(side.there) if path.endswith(b"md5sum")}
        )
        for name in what if runs else ():
            path = os.path.join(runs[which % len(runs)], name)
            place = os.path.join(side.there, path)
            if os.path.isfile(place):
                if is_emptied:
                    os.truncate(place, 0)
                else:
                    os.unlink(place)
                self.world.hurt(side, path, lost=not is_emptied)
        self.happened()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", range(SEED, SEED + STEPS // STEPS_OF_A_PART))
def test_any_order_of_events(zygote: Zygote, number: int) -> None:
    class Seeded(Machine):
        made_steps = 0

    Seeded.zygote = zygote
    begun = time.monotonic()
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            seed(number)(Seeded),
            settings=settings(
                max_examples=STEPS_OF_A_PART // STEPS_OF_AN_EXAMPLE + 2,
                stateful_step_count=STEPS_OF_AN_EXAMPLE,
                deadline=None,
                database=None,
                print_blob=True,
                phases=[Phase.generate, *[Phase.shrink] * SHRINK],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        took = time.monotonic() - begun
        print(f"seed {number}: {Seeded.made_steps} steps, {took:.0f} s")
