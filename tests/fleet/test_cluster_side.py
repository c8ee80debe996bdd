"""cron on the sequencer, cron and Slurm on the cluster, a mail server: nobody else does a thing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.hosts import CHECKOUT, Fleet, Machine, wait_for
from tests.lab.hosts.podman import podman
from tests.lab.hosts.table import RUNS
from tests.lab.minknow import SimulatedRun

pytestmark = pytest.mark.timeout(900)
PATIENCE = 400.0  # seconds: some ticks of cron at both ends, and a busy machine
MAIL = "/srv/mail/new"
CRON = "* * * * * PYTHONPATH=$HOME/ontpush python3 -m ontpush {command} --config $HOME/ontpush.json"


def settings(fleet: Fleet) -> dict[str, object]:
    """The configuration of the cluster: Slurm verifies, the lab is told by mail."""
    return {
        "root": RUNS,
        "state_dir": "/home/seqdata/state",
        "log": "/home/seqdata/ontpush.log",
        "verify_in": "slurm",
        "slurm_partition": "short",
        "silent_minutes": 2.5,
        "notify": [{"url": "mailto:lab@example.org"}],
        "on_verified": ["echo $ONTPUSH_RUN >>$HOME/followed"],
        "disk_percent": 100,
    }


def install(fleet: Fleet, facts: dict[str, object], *commands: str) -> None:
    """Do at the cluster what docs/cluster.md says, as its user."""
    container = fleet.cluster.lab.container(fleet.cluster.name)
    copy = ["podman", "cp", f"{CHECKOUT}/ontpush", f"{container}:/home/seqdata/module"]
    subprocess.run(copy, check=True)
    fleet.cluster.root("chown -R seqdata: /home/seqdata/module")
    lines = "\n".join(CRON.format(command=command) for command in commands)
    ended = fleet.cluster.user(
        "rm -rf ~/ontpush; mkdir ~/ontpush && mv ~/module ~/ontpush/ontpush\n"
        f"cat >~/ontpush.json <<'END'\n{json.dumps(facts)}\nEND\n"
        f"crontab - <<'END'\n{lines}\nEND\n"
    )
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def monitored(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet with a monitor at the cluster, called by cron every minute."""
    install(fleet, settings(fleet), "monitor")
    yield fleet
    fleet.cluster.user("crontab -r; rm -rf ~/ontpush ~/ontpush.json ~/state ~/followed")


def mails(fleet: Fleet, subject: str) -> list[str]:
    """Every mail in the box, whole, whose subject begins so."""
    script = f"cd {MAIL} 2>/dev/null && grep -lF 'Subject: [ontpush] {subject}' * || true"
    names = fleet.cluster.root(script).split()
    return [fleet.cluster.root(f"cat {MAIL}/{name}") for name in names]


def write(machine: Machine, folder: Path, sample: str) -> str:
    """A finished run on a sequencer; its path below /data."""
    run = SimulatedRun(folder, sample=sample, files=2)
    run.write_all()
    machine.receive(run)
    return str(run.path.relative_to(run.root))


def verified(fleet: Fleet, machine: Machine, run: str) -> bool:
    """Whether the cluster vouches for the roll-up of a run, and that for its bytes."""
    script = f"""
        cd '{RUNS}/{machine.name}/{run}' 2>/dev/null && test -e rsync.verified || exit 0
        grep -qF "rollup: $(md5sum < md5sum | cut -c-32)" rsync.verified || exit 0
        md5sum -c --quiet --strict md5sum && echo verified
    """
    return "verified" in fleet.cluster.root(script)


def test_a_run_is_pushed_verified_in_slurm_followed_and_told_by_mail(
    monitored: Fleet, sequencer: Machine, tmp_path: Path
) -> None:
    run = write(sequencer, tmp_path, "by push")
    name = f"{run.rpartition('/')[2]} ({sequencer.name})"
    wait_for(lambda: verified(monitored, sequencer, run), "it is not verified", PATIENCE)
    wait_for(lambda: mails(monitored, f"verified: {name}"), "no mail comes", PATIENCE)
    (mail,) = mails(monitored, f"verified: {name}")
    for word in ("text/plain", "text/html", "lab@example.org", "To do", "<table>", "FBA12345"):
        assert word in mail
    place = f"{RUNS}/{sequencer.name}/{run}"
    wait_for(
        lambda: place in monitored.cluster.root("cat /home/seqdata/followed || true"),
        "the hook is not started",
        PATIENCE,
    )


def test_a_turned_bit_is_named_mended_by_the_next_ticks_and_told(
    monitored: Fleet, sequencer: Machine, tmp_path: Path
) -> None:
    cluster = monitored.cluster
    cluster.root("scontrol update PartitionName=short State=DOWN")
    run = write(sequencer, tmp_path, "with a bit")
    name = f"{run.rpartition('/')[2]} ({sequencer.name})"
    place = f"{RUNS}/{sequencer.name}/{run}"
    wait_for(lambda: monitored.arrived(sequencer, run), "it is not done", PATIENCE)
    victim = cluster.root(f"cd '{place}' && ls pod5_pass/* | head -n 1").strip()
    turn = f"import os; p = '{place}/{victim}'; s = os.stat(p); f = open(p, 'r+b'); b = f.read(1)"
    turn += "; f.seek(0); f.write(bytes([b[0] ^ 1])); f.close(); os.utime(p, ns=(0, s.st_mtime_ns))"
    cluster.root(f'python3 -c "{turn}"')
    cluster.root("scontrol update PartitionName=short State=UP")
    wait_for(lambda: mails(monitored, f"verification failed: {name}"), "no mail", PATIENCE)
    (mail,) = mails(monitored, f"verification failed: {name}")
    assert victim in mail
    assert not verified(monitored, sequencer, run)
    wait_for(lambda: mails(monitored, f"mended, verified: {name}"), "no mail", PATIENCE)
    assert verified(monitored, sequencer, run)
    assert len(mails(monitored, f"verification failed: {name}")) == 1


def test_a_sequencer_cut_off_the_network_is_told_once_and_once_when_it_is_back(
    monitored: Fleet, sequencer: Machine
) -> None:
    silent, back = f"silent: {sequencer.name}", f"back: {sequencer.name}"
    before = len(mails(monitored, silent)), len(mails(monitored, back))
    with cut_off(sequencer):
        wait_for(lambda: len(mails(monitored, silent)) > before[0], "no mail", PATIENCE)
        wait_for_ticks(monitored, 2)
    wait_for(lambda: len(mails(monitored, back)) > before[1], "no mail", PATIENCE)
    assert len(mails(monitored, silent)) == before[0] + 1
    assert len(mails(monitored, back)) == before[1] + 1


@contextlib.contextmanager
def cut_off(machine: Machine) -> Iterator[None]:
    """A host whose network is down."""
    pid = podman("inspect", "--format", "{{.State.Pid}}", machine.lab.container(machine.name))
    link = ["nsenter", "--target", pid.strip(), "--net", "ip", "link", "set", "eth0"]
    subprocess.run([*link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run([*link, "up"], check=True)


def wait_for_ticks(fleet: Fleet, count: int) -> None:
    """Return when cron at the cluster has called the monitor so many times more."""

    def ticks() -> int:
        lines = fleet.cluster.root("journalctl --quiet --unit cron").splitlines()
        return sum("CMD" in line and "ontpush monitor" in line for line in lines)

    before = ticks()
    wait_for(lambda: ticks() >= before + count, "cron does not call the monitor", PATIENCE)


def test_an_instrument_switched_to_pull_is_fetched_from_and_told_the_same(
    monitored: Fleet, sequencer: Machine, tmp_path: Path
) -> None:
    played = monitored.play(
        "site", "--limit", f"{sequencer.name},cluster", "-e", "ontpush_pull=true"
    )
    assert played.code == 0, played.out
    source = {
        "instrument": sequencer.name,
        "source": f"{sequencer.host.user}@{sequencer.name}:.",
        "ssh_key": "/home/seqdata/.ssh/ontpush_pull",
    }
    keys = sequencer.root("cat /etc/ssh/ssh_host_ed25519_key.pub")
    monitored.cluster.user(f"echo '{sequencer.name} {keys.strip()}' >>~/.ssh/known_hosts")
    try:
        install(monitored, {**settings(monitored), "pull": [source]}, "monitor", "pull")
        run = write(sequencer, tmp_path, "by pull")
        name = f"{run.rpartition('/')[2]} ({sequencer.name})"
        wait_for(lambda: verified(monitored, sequencer, run), "it is not verified", PATIENCE)
        wait_for(lambda: mails(monitored, f"verified: {name}"), "no mail comes", PATIENCE)
        (mail,) = mails(monitored, f"verified: {name}")
        assert "text/html" in mail
        assert not sequencer.holds(f"/data/{run}/rsync.done")
    finally:
        install(monitored, settings(monitored), "monitor")
        assert monitored.play("site", "--limit", f"{sequencer.name},cluster").code == 0
