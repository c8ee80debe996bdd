"""A cluster that cannot be reached or refuses: the exit code, one line that says why, and later."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import HOST, RRSYNC, Cluster
from tests.lab.minknow import SimulatedRun, snapshot
from tests.program import RSYNC, Program, Ran, is_done, wait_for


@pytest.fixture
def waiting(run: SimulatedRun) -> SimulatedRun:
    """A finished run that could be sent."""
    run.write_all()
    return run


def check_refusal(
    program: Program, run: SimulatedRun, destination: str, code: int, *words: str
) -> Ran:
    """A tick that must end with this code and one line that says these words."""
    before = snapshot(run.root)
    ran = program.push(run.root, destination)
    assert ran.code == code, ran
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    (logged,) = program.told("FAIL")
    for word in words:
        assert word in line
        assert word in logged
    assert snapshot(run.root) == before
    return ran


def check_recovery(program: Program, run: SimulatedRun, cluster: Cluster) -> None:
    """The next tick does it all."""
    (state,) = program.pushed(run.root, cluster.destination).values()
    assert (state["state"], state["error"]) == ("done", None)
    assert is_done(cluster.directory / run.path.relative_to(run.root))


@contextlib.contextmanager
def forced(cluster: Cluster, command: str | None) -> Iterator[None]:
    """Let the key do something else for a while."""
    cluster.forced_command(command)
    try:
        yield
    finally:
        cluster.forced_command(RRSYNC)


def test_a_cluster_that_is_switched_off(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    cluster.stop()
    try:
        check_refusal(program, waiting, cluster.destination, 69, HOST, "Connection refused")
    finally:
        cluster.start()
    check_recovery(program, waiting, cluster)


def test_a_host_name_that_is_not_known(program: Program, waiting: SimulatedRun) -> None:
    check_refusal(program, waiting, "cluster.invalid:runs", 69, "cluster.invalid", "resolve")


def test_a_host_that_takes_the_call_and_says_nothing(
    program: Program, waiting: SimulatedRun
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        program.settings.update(ssh_port=silent.getsockname()[1], connect_timeout=1)
        check_refusal(program, waiting, f"{HOST}:runs", 69, HOST)


def test_a_host_key_that_has_changed(program: Program, waiting: SimulatedRun) -> None:
    with Cluster() as cluster:
        program.settings.update(cluster.config())
        cluster.change_host_key()
        check_refusal(program, waiting, cluster.destination, 69, "host key", "has changed")


def test_a_host_key_that_is_not_known(
    program: Program, waiting: SimulatedRun, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    program.settings["ssh_known_hosts"] = str(tmp_path / "empty")
    check_refusal(program, waiting, cluster.destination, 69, "host key", "known_hosts")
    assert (tmp_path / "empty").read_text() == ""


def test_a_key_that_is_refused(program: Program, waiting: SimulatedRun, cluster: Cluster) -> None:
    cluster.refuse_key()
    try:
        check_refusal(program, waiting, cluster.destination, 69, "refuses the key")
    finally:
        cluster.accept_key()


def test_a_key_file_that_is_not_there(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    program.settings["ssh_key"] = "/nonexistent/key"
    check_refusal(program, waiting, cluster.destination, 69, "/nonexistent/key")


def test_a_key_file_that_others_can_read(
    program: Program, waiting: SimulatedRun, cluster: Cluster, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(cluster.key.read_bytes())
    key.chmod(0o644)
    program.settings["ssh_key"] = str(key)
    check_refusal(program, waiting, cluster.destination, 69, str(key))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo You shall not pass >&2; exit 1", ["You shall not pass"]),
        ("exit 1", []),
        ("echo Welcome to the cluster; eval $SSH_ORIGINAL_COMMAND", []),
        ("PATH=/nonexistent; eval $SSH_ORIGINAL_COMMAND", ["rsync"]),
        ("rrsync -ro {directory}", []),
    ],
)
def test_a_forced_command_that_is_none_of_ours(
    program: Program, waiting: SimulatedRun, cluster: Cluster, command: str, words: list[str]
) -> None:
    with forced(cluster, command.format(directory=cluster.directory)):
        check_refusal(program, waiting, cluster.destination, 69, HOST, *words)
    assert not list(cluster.directory.iterdir())


def test_a_directory_that_is_not_there_is_not_made(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    missing = f"{cluster.destination}/unmounted"
    check_refusal(program, waiting, missing, 69, "unmounted", "not there")
    assert not (cluster.directory / "unmounted").exists()


def test_a_directory_of_the_forced_command_that_is_not_there_is_not_made(
    program: Program, waiting: SimulatedRun, cluster: Cluster, tmp_path: Path
) -> None:
    with forced(cluster, f"rrsync -wo {tmp_path}/unmounted"):
        check_refusal(program, waiting, cluster.destination, 69)
    assert not (tmp_path / "unmounted").exists()


def test_another_transfer_into_the_same_directory(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    descriptor = os.open(cluster.directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        check_refusal(program, waiting, cluster.destination, 75, "another transfer")
    finally:
        os.close(descriptor)
    check_recovery(program, waiting, cluster)


def hang_up(cluster: Cluster) -> None:
    """Break the connection."""
    assert cluster.hang_up() == 1


def kill_the_other_end(cluster: Cluster) -> None:
    """Kill rrsync and its rsync."""
    for pid in cluster.sessions():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("deed", [hang_up, kill_the_other_end])
def test_a_connection_that_breaks_in_the_middle_of_a_transfer(
    program: Program, waiting: SimulatedRun, cluster: Cluster, deed: Callable[[Cluster], None]
) -> None:
    waiting.late_file("0_big", size=6_000_000)
    with program.pushing(waiting.root, cluster.destination, "--bwlimit", "2m") as tick:
        wait_for(lambda: list(cluster.directory.rglob(".0_big.*")), "nothing is sent")
        deed(cluster)
        _, err = tick.communicate()
    told, *heartbeat = err.decode().splitlines()
    assert ": the transfer broke off: " in told
    # What is left of it at the other end may still have the place to itself.
    refused = ["ontpush: another transfer into" in each for each in heartbeat]
    assert (tick.returncode, refused) in ((1, []), (75, [True])), err
    assert not list(cluster.directory.rglob("0_big"))
    check_recovery(program, waiting, cluster)


def test_a_connection_that_falls_silent_is_given_up(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    waiting.late_file("0_big", size=12_000_000)
    program.settings["io_timeout"] = 5
    with program.pushing(waiting.root, cluster.destination, "--bwlimit", "2m") as tick:
        wait_for(lambda: list(cluster.directory.rglob(".0_big.*")), "nothing is sent")
        frozen = cluster.sessions()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        _, err = tick.communicate()
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    # The end that was frozen may still hold the directory when the heartbeat comes.
    assert tick.returncode in (1, 75), err
    assert b"the transfer broke off" in err.splitlines()[0]


def test_the_first_run_to_meet_an_unreachable_cluster_speaks_for_all(
    program: Program, data: Path
) -> None:
    for name in ("one", "two", "three"):
        SimulatedRun(data, group=name, files=1).write_all()
    program.settings["ssh_port"] = 1
    ran = program.push(data, f"{HOST}:runs", "--json")
    assert ran.code == 69
    assert [error["code"] for error in ran.json["errors"]] == ["unreachable"]
    assert len(ran.json["data"]["runs"]) == 3
    assert len(program.told("FAIL")) == 1


def test_an_idle_tick_notices_that_the_cluster_is_away(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    check_recovery(program, waiting, cluster)
    cluster.stop()
    try:
        check_refusal(program, waiting, cluster.destination, 69, HOST)
    finally:
        cluster.start()


@pytest.mark.parametrize(
    "destination",
    [
        "rsync://host/module",
        "host::module",
        "user@host::module/path",
        "host:two words",
        "host:wild*card",
        "host:it's",
        "host:$HOME",
        "host:a;b",
        "-oProxyCommand=x:path",
    ],
)
def test_a_destination_that_would_be_mistaken_is_refused(
    program: Program, data: Path, destination: str
) -> None:
    ran = program.run("push", data, destination)
    assert ran.code == 64
    assert len(ran.err.splitlines()) == 1


def test_no_program_of_the_user_takes_part(
    program: Program, waiting: SimulatedRun, cluster: Cluster
) -> None:
    ssh = program.home / ".ssh"
    ssh.mkdir(mode=0o700)
    master = ssh / "master"
    (ssh / "config").write_text(f"Host *\n ControlMaster auto\n ControlPath {master}\n")
    program.environment["RSYNC_RSH"] = "/nonexistent"
    program.environment["RSYNC_PARTIAL_DIR"] = "/nonexistent"
    check_recovery(program, waiting, cluster)
    assert not master.exists()
    shutil.rmtree(ssh)


def test_a_run_that_breaks_off_every_tick_keeps_no_other_from_its_turn(
    program: Program, data: Path, cluster: Cluster
) -> None:
    stuck, other = (SimulatedRun(data, group=name, files=1) for name in ("a", "b"))
    for each in (stuck, other):
        each.write_all()
    names = program.home / "names"
    program.put_program(
        "rsync",
        f'case " $* " in *--files-from*) tr "\\0" "\\n" >{names};'
        f" grep -q {stuck.path.name} {names} && exit 30;"
        f' tr "\\n" "\\0" <{names} | {RSYNC} "$@"; exit $?;; esac\nexec {RSYNC} "$@"',
    )
    for _ in range(2):
        ran = program.push(data, cluster.destination, "--json")
        assert ran.code == 69
    assert ran.runs[str(other.path.relative_to(data))]["state"] == "done"
    assert is_done(cluster.directory / other.path.relative_to(data))
