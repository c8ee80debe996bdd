"""`ontpush monitor` with runs verified by a real Slurm, one job a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.mailbox import Mailbox, content
from tests.lab.minknow import SimulatedRun
from tests.lab.slurm import Slurm
from tests.program import Program, is_verified, turn_a_bit, wait_for

# Verifications wait as long as there is a file of this name in the program's home.
WAITS = """\
import os, time
with open("/proc/self/cmdline", "rb") as file:
    words = file.read().split(b"\\0")
if b"verify" in words:
    while os.path.exists(os.environ["ONTPUSH_TEST"] + "/hold"):
        time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def _slurm() -> Iterator[Slurm]:
    with Slurm(processors=2) as slurm:
        yield slurm


@pytest.fixture
def slurm(_slurm: Slurm, monitor: Program) -> Iterator[Slurm]:
    """A cluster with two processors and nothing in its queue."""
    monitor.environment.update(_slurm.environment)
    monitor.settings.update(verify_in="slurm", slurm_partition="short", slurm_time="10")
    yield _slurm
    (monitor.home / "hold").unlink(missing_ok=True)
    _slurm.release()
    _slurm.wait_until_idle()


def push_runs(program: Program, data: Path, gridion: Path, count: int) -> list[Path]:
    """Done runs as they lie at the cluster."""
    runs = [SimulatedRun(data, group=f"group{number}", files=1) for number in range(count)]
    for run in runs:
        run.write_all()
    program.pushed(data, gridion)
    return [gridion / run.path.relative_to(data) for run in runs]


@pytest.mark.newest
def test_more_runs_than_slots_are_all_verified_by_jobs(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm, mailbox: Mailbox
) -> None:
    runs = push_runs(program, data, gridion, 5)
    (monitor.modules / "sitecustomize.py").write_text(WAITS)
    (monitor.home / "hold").touch()
    assert monitor.run("monitor").is_silent
    wait_for(lambda: list(slurm.jobs().values()).count("RUNNING") == 2, "no two jobs run")
    assert len(slurm.jobs()) == 5
    assert monitor.run("monitor").is_silent
    assert len(slurm.jobs()) == 5
    (monitor.home / "hold").unlink()
    slurm.wait_until_idle()
    assert not any(is_verified(run) for run in runs)
    assert monitor.run("monitor").is_silent
    assert all(is_verified(run) for run in runs)
    assert len(mailbox.mails()) == 5
    assert list((monitor.state / "checks").iterdir()) == []


def test_no_more_jobs_than_asked_for_are_in_the_queue(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm
) -> None:
    runs = push_runs(program, data, gridion, 3)
    monitor.settings["slurm_jobs"] = 1
    for _ in runs:
        assert monitor.run("monitor").is_silent
        assert len(slurm.jobs()) <= 1
        slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert all(is_verified(run) for run in runs)


def test_one_instrument_takes_no_more_than_half_of_the_queue_from_another(
    monitor: Program, program: Program, data: Path, root: Path, gridion: Path, slurm: Slurm
) -> None:
    (first, *_) = push_runs(program, data, gridion, 5)
    place = first.relative_to(gridion)
    shutil.copytree(first, root / "promethion" / place)
    (path,) = (gridion / ".ontpush").glob("*.json")
    told = json.loads(path.read_text())
    told["runs"] = [each for each in told["runs"] if each["run"] == str(place)]
    (root / "promethion" / ".ontpush").mkdir()
    (root / "promethion" / ".ontpush" / "host.json").write_text(json.dumps(told))
    monitor.settings["slurm_jobs"] = 4
    (monitor.modules / "sitecustomize.py").write_text(WAITS)
    (monitor.home / "hold").touch()
    assert monitor.run("monitor").is_silent
    assert submitted(monitor) == {"gridion": 2, "promethion": 1}


def submitted(monitor: Program) -> dict[str, int]:
    """How many jobs there are of each instrument, as the monitor knows them."""
    known = {
        path.stem: json.loads(path.read_text())["runs"].values()
        for path in monitor.state.glob("instruments/*.json")
    }
    return {name: sum("job" in each for each in runs) for name, runs in known.items()}


def test_a_job_names_what_is_corrupt(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm, mailbox: Mailbox
) -> None:
    (run,) = push_runs(program, data, gridion, 1)
    victim = next(run.glob("pod5_pass/*.pod5"))
    turn_a_bit(victim)
    assert monitor.run("monitor").is_silent
    slurm.wait_until_idle()
    assert victim.name in monitor.run("monitor").err
    (mail,) = mailbox.mails()
    assert victim.name in content(mail, "plain")
    assert not (run / "rsync.verified").exists()


def test_a_job_cancelled_by_hand_is_tried_again_up_to_the_limit(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm, mailbox: Mailbox
) -> None:
    (run,) = push_runs(program, data, gridion, 1)
    monitor.settings["slurm_tries"] = 2
    slurm.hold()
    for _ in range(2):
        assert monitor.run("monitor").is_silent
        (job,) = slurm.jobs()
        slurm.call("scancel", job)
        slurm.wait_until_idle()
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert "CANCELLED" in ran.err
    assert slurm.jobs() == {}
    (subject,) = mailbox.subjects()
    assert subject.startswith("verification failed")
    assert monitor.run("monitor").is_silent
    slurm.release()
    monitor.put_clock_forward(25 * 3600)
    monitor.settings["silent_minutes"] = 10**6
    assert monitor.run("monitor").is_silent
    slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert is_verified(run)
    assert any(subject.startswith("mended, verified") for subject in mailbox.subjects())


def test_a_node_that_goes_down_costs_a_try_and_no_run(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm
) -> None:
    (run,) = push_runs(program, data, gridion, 1)
    monitor.settings["slurm_options"] = ["--no-requeue"]
    (monitor.modules / "sitecustomize.py").write_text(WAITS)
    (monitor.home / "hold").touch()
    assert monitor.run("monitor").is_silent
    wait_for(lambda: "RUNNING" in slurm.jobs().values(), "the job does not run")
    slurm.stop_node()
    monitor.kill_all()
    slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert any("NODE_FAIL" in text for text in monitor.told("WARN"))
    assert "PENDING" in slurm.jobs().values()
    (monitor.home / "hold").unlink()
    slurm.start_node()
    slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert is_verified(run)


def test_a_controller_that_is_down_holds_up_no_other_work(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm, mailbox: Mailbox
) -> None:
    (run,) = push_runs(program, data, gridion, 1)
    monitor.put_program("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    monitor.put_clock_forward(2 * 3600)
    ran = monitor.run("monitor")
    assert ran.code == 1
    assert ran.err == "ontpush: squeue: Unable to contact slurm controller\n"
    assert mailbox.subjects() == ["silent: gridion"]
    (monitor.programs / "squeue").unlink()
    assert monitor.run("monitor").is_silent
    slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert is_verified(run)


def test_a_job_that_vanishes_without_a_trace_is_given_up_after_a_while(
    monitor: Program, program: Program, data: Path, gridion: Path, slurm: Slurm
) -> None:
    (run,) = push_runs(program, data, gridion, 1)
    assert monitor.run("monitor").is_silent
    slurm.wait_until_idle()
    (verdict,) = (monitor.state / "checks").glob("*.json")
    verdict.unlink()
    for name in ("sacct", "scontrol"):
        monitor.put_program(name, "exit 1")
    assert monitor.run("monitor").is_silent
    assert slurm.jobs() == {}
    monitor.put_clock_forward(61)
    assert monitor.run("monitor").is_silent
    slurm.wait_until_idle()
    assert monitor.run("monitor").is_silent
    assert is_verified(run)


# -- a Slurm that misbehaves ----------------------------------------------------------------------


@pytest.fixture
def odd_slurm(monitor: Program) -> Program:
    """Programs that take a job and say what a test lets them say; each call leaves a line."""
    monitor.settings.update(verify_in="slurm", silent_minutes=10**6)
    monitor.put_program("sbatch", "cat >/dev/null; echo sbatch >>$ONTPUSH_TEST/calls; echo 77")
    monitor.put_program("squeue", "echo squeue $* >>$ONTPUSH_TEST/calls")
    monitor.put_program("sacct", "echo sacct >>$ONTPUSH_TEST/calls; echo FAILED")
    monitor.put_program("scontrol", "echo scontrol >>$ONTPUSH_TEST/calls; exit 1")
    return monitor


def calls(monitor: Program, name: str) -> list[str]:
    lines = (monitor.home / "calls").read_text().splitlines()
    return [line for line in lines if line.split()[0] == name]


def test_the_output_that_a_mail_names_is_there(
    odd_slurm: Program, pushed: Path, mailbox: Mailbox
) -> None:
    odd_slurm.settings["slurm_tries"] = 1
    odd_slurm.put_program(
        "sbatch",
        'cat >/dev/null; echo 77; for each; do case $each in *.log) echo why >"$each";; esac; done',
    )
    assert odd_slurm.run("monitor").is_silent
    assert odd_slurm.run("monitor").code == 1
    (log,) = (odd_slurm.state / "checks").iterdir()
    assert log.read_text() == "why\n"
    (mail,) = mailbox.mails()
    assert str(log) in content(mail, "plain").replace("\n", "")
    assert odd_slurm.run("monitor").is_silent
    assert log.exists()


def test_a_greeting_before_the_number_of_a_job_is_passed_over(
    odd_slurm: Program, pushed: Path
) -> None:
    odd_slurm.put_program(
        "sbatch", "cat >/dev/null; echo x >>$ONTPUSH_TEST/calls; printf 'Welcome to 3\\n77;lab\\n'"
    )
    odd_slurm.put_program("squeue", "echo 77 RUNNING")
    assert odd_slurm.run("monitor").is_silent
    assert odd_slurm.run("monitor").is_silent
    assert len(calls(odd_slurm, "x")) == 1


def test_an_sbatch_that_gives_no_number_is_given_up_and_told(
    odd_slurm: Program, pushed: Path, mailbox: Mailbox
) -> None:
    odd_slurm.put_program(
        "sbatch", "cat >/dev/null; echo x >>$ONTPUSH_TEST/calls; printf '\\033[31mred\\n'"
    )
    for _ in range(5):
        assert "\033" not in odd_slurm.run("monitor").err
    assert len(calls(odd_slurm, "x")) == 3
    (subject,) = mailbox.subjects()
    assert subject.startswith("verification failed")


def test_a_job_that_is_held_is_told_after_a_day(
    odd_slurm: Program, pushed: Path, mailbox: Mailbox
) -> None:
    assert odd_slurm.run("monitor").is_silent
    odd_slurm.put_program("squeue", "echo 77 PENDING")
    assert odd_slurm.run("monitor").is_silent
    assert mailbox.subjects() == []
    odd_slurm.put_clock_forward(25 * 3600)
    assert odd_slurm.run("monitor").is_silent
    (mail,) = mailbox.mails()
    assert "squeue -j 77" in content(mail, "plain")
    assert odd_slurm.run("monitor").is_silent
    assert mailbox.subjects() == []


def test_programs_that_hang_are_asked_once_a_look(
    odd_slurm: Program, program: Program, data: Path, gridion: Path
) -> None:
    push_runs(program, data, gridion, 4)
    count = "n=$(wc -l <$ONTPUSH_TEST/calls); echo $n"
    odd_slurm.put_program("sbatch", f"cat >/dev/null; echo sbatch >>$ONTPUSH_TEST/calls; {count}")
    assert odd_slurm.run("monitor").is_silent
    for name in ("sacct", "scontrol"):
        odd_slurm.put_program(name, f"echo {name} >>$ONTPUSH_TEST/calls; exec sleep 600")
    (odd_slurm.modules / "sitecustomize.py").write_text(
        "import ontpush.cluster.slurm\nontpush.cluster.slurm._LIMIT = 0.5\n"
    )
    ran = odd_slurm.run("monitor")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "scontrol has not answered" in line
    assert (len(calls(odd_slurm, "sacct")), len(calls(odd_slurm, "scontrol"))) == (1, 1)


def test_the_queue_is_asked_for_by_number_where_the_user_has_no_name(
    odd_slurm: Program, pushed: Path
) -> None:
    assert odd_slurm.run("monitor").is_silent
    (asked,) = calls(odd_slurm, "squeue")
    assert f"-u {os.geteuid()} " in asked
