"""cron on the sequencer, cron and Slurm on the cluster, a mail server: nobody else does a thing."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fleet.hosts import LONG, Fleet, Machine, wait_for
from tests.fleet.monitored import HOME, sources, switch_off, variables
from tests.lab.hosts.table import RUNS
from tests.lab.minknow import SimulatedRun

pytestmark = LONG
PATIENCE = 400.0  # seconds: some ticks of cron at both ends, and a busy machine
MAIL = "/srv/mail/new"


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


class Scene(NamedTuple):
    """What is under way on all hosts at once, for each step takes minutes of cron.

    `pushing` has two runs, in one of which a bit is turned at the cluster once it is done; `cut`
    is cut off the network until `joined` is closed; `read`, the first of the inventory, is pulled
    from.
    """

    pushing: Machine
    pushed: str
    turned: str
    victim: str
    cut: Machine
    joined: contextlib.ExitStack
    read: Machine
    pulled: str


@pytest.fixture(scope="module")
def scene(monitored: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Everything begun; what comes of it is for the tests to wait for."""
    cluster, read, cut, pushing = monitored.cluster, *three_of(monitored.sequencers)
    # Nothing is verified before the bit is turned.
    cluster.root("scontrol update PartitionName=short State=DOWN")
    pushed, turned = (
        write(pushing, tmp_path_factory.mktemp("run"), sample)
        for sample in ("by push", "with a bit")
    )
    read_from(monitored, read).write_text("ontpush_pull: true\n")
    # Without --limit: what one host is to be must not be taken for what all are.
    played = monitored.play("site", *variables())
    assert played.code == 0, played.out
    wait_for(lambda: monitored.heartbeat(cut), f"{cut.name} is not heard", PATIENCE)
    pulled = write(read, tmp_path_factory.mktemp("run"), "by pull")
    with contextlib.ExitStack() as joined:
        joined.enter_context(cut_off(cut))
        wait_for(lambda: monitored.arrived(pushing, turned), "it is not done", PATIENCE)
        victim = turn_a_bit(cluster, f"{RUNS}/{pushing.name}/{turned}")
        cluster.root("scontrol update PartitionName=short State=UP")
        yield Scene(pushing, pushed, turned, victim, cut, joined, read, pulled)


def three_of(machines: list[Machine]) -> tuple[Machine, Machine, Machine]:
    """Three sequencers; of two, the first twice: cut off, it is pulled from later."""
    first, *others = machines
    return first, others[0] if others[1:] else first, others[-1]


def read_from(fleet: Fleet, machine: Machine) -> Path:
    """The file of the inventory with the variables of one host."""
    path = fleet.state / "inventory" / "host_vars" / f"{machine.name}.yml"
    path.parent.mkdir(exist_ok=True)
    return path


def turn_a_bit(cluster: Machine, run: str) -> str:
    """Damage a file of a run at the cluster, its size and time as they were; its path there."""
    victim = cluster.root(f"cd '{run}' && ls pod5_pass/* | head -n 1").strip()
    turn = f"import os; p = '{run}/{victim}'; s = os.stat(p); f = open(p, 'r+b'); b = f.read(1)"
    turn += "; f.seek(0); f.write(bytes([b[0] ^ 1])); f.close(); os.utime(p, ns=(0, s.st_mtime_ns))"
    cluster.root(f'python3 -c "{turn}"')
    return victim


@contextlib.contextmanager
def cut_off(machine: Machine) -> Iterator[None]:
    """A host whose network is down."""
    link = ["nsenter", "--target", f"{machine.pid}", "--net", "ip", "link", "set", "eth0"]
    subprocess.run([*link, "down"], check=True)
    try:
        yield
    finally:
        subprocess.run([*link, "up"], check=True)


def test_a_sequencer_cut_off_the_network_is_told_once_and_once_when_it_is_back(
    monitored: Fleet, scene: Scene
) -> None:
    silent, back = f"silent: {scene.cut.name}", f"back: {scene.cut.name}"
    wait_for(lambda: mails(monitored, silent), "no mail", PATIENCE)
    wait_for_a_tick(monitored)
    scene.joined.close()
    wait_for(lambda: mails(monitored, back), "no mail", PATIENCE)
    assert len(mails(monitored, silent)) == 1
    assert len(mails(monitored, back)) == 1


def wait_for_a_tick(fleet: Fleet) -> None:
    """Return when cron at the cluster has called the monitor once more."""

    def ticks() -> int:
        lines = fleet.cluster.root("journalctl --quiet --unit cron").splitlines()
        return sum("CMD" in line and "ontpush monitor" in line for line in lines)

    before = ticks()
    wait_for(lambda: ticks() > before, "cron does not call the monitor", PATIENCE)


def test_a_run_is_pushed_verified_in_slurm_followed_and_told_by_mail(
    monitored: Fleet, scene: Scene
) -> None:
    mail = mail_of_verified(monitored, scene.pushing, scene.pushed)
    for word in ("text/plain", "text/html", "lab@example.org", "To do", "<table>", "FBA12345"):
        assert word in mail
    place = f"{RUNS}/{scene.pushing.name}/{scene.pushed}"
    wait_for(
        lambda: place in monitored.cluster.root("cat /home/seqdata/followed || true"),
        "the hook is not started",
        PATIENCE,
    )


def mail_of_verified(fleet: Fleet, machine: Machine, run: str, what: str = "verified") -> str:
    """The one mail that tells that a run is, and is right to."""
    subject = f"{what}: {run.rpartition('/')[2]} ({machine.name})"
    wait_for(lambda: verified(fleet, machine, run), "it is not verified", PATIENCE)
    wait_for(lambda: mails(fleet, subject), "no mail comes", PATIENCE)
    (mail,) = mails(fleet, subject)
    return mail


def test_a_turned_bit_is_named_mended_by_the_next_ticks_and_told(
    monitored: Fleet, scene: Scene
) -> None:
    subject = f"verification failed: {scene.turned.rpartition('/')[2]} ({scene.pushing.name})"
    wait_for(lambda: mails(monitored, subject), "no mail", PATIENCE)
    assert mail_of_verified(monitored, scene.pushing, scene.turned, "mended, verified")
    (mail,) = mails(monitored, subject)
    assert scene.victim in mail
    log = "/home/seqdata/.local/state/ontpush/ontpush.log"
    lines = monitored.cluster.root(f"grep -F '{scene.turned}' {log}").splitlines()
    words = [line.split()[1] for line in lines]
    assert words.index("FAIL") < words.index("MARK")
    assert words.count("MARK") == 1


def test_a_run_of_an_instrument_switched_to_pull_is_fetched_verified_and_told_the_same(
    monitored: Fleet, scene: Scene
) -> None:
    assert sources(monitored) == [scene.read.name]
    assert "text/html" in mail_of_verified(monitored, scene.read, scene.pulled)
    assert not scene.read.holds(f"/data/{scene.pulled}/rsync.done")


def test_the_cluster_may_read_there_and_do_nothing_else_and_what_it_was_sent_with_is_gone(
    monitored: Fleet, scene: Scene
) -> None:
    keys = f"/home/{scene.read.host.user}/.ssh/authorized_keys"
    entries = scene.read.root(f"cat {keys}").splitlines()
    (entry,) = [line for line in entries if line.endswith(" ontpush:pull")]
    assert re.fullmatch(
        r'restrict,from="[^"]+",command="/\S+/rrsync -ro /data" ssh-ed25519 \S+ ontpush:pull', entry
    )
    assert not scene.read.holds("/etc/ontpush/id_ed25519")
    assert f" ontpush:{scene.read.name}\n" not in monitored.cluster.root(
        "cat /home/seqdata/.ssh/authorized_keys"
    )


def test_the_key_that_reads_never_left_the_cluster(monitored: Fleet, scene: Scene) -> None:
    key = f"/home/{monitored.cluster.host.user}/.ssh/ontpush_pull"
    assert monitored.who_holds(monitored.cluster, key) == [f"{monitored.cluster.name}:{key}"]


def test_switched_back_to_push_it_is_read_no_more(monitored: Fleet, scene: Scene) -> None:
    read_from(monitored, scene.read).unlink()
    # Begun by cron before the role comes, it leaves its heartbeat after cron calls another.
    tick = "ontpush hash --all /data"
    scene.read.begin_and_stop(tick)
    try:
        with ThreadPoolExecutor(1) as pool:
            playing = pool.submit(monitored.play, "site", *variables())
            # As long as the playbook is at work: on a busy machine it takes its time.
            wait_for(lambda: playing.done() or cron_pushes(scene.read), "cron is not told", 1800)
            scene.read.continue_stopped(tick)
        played = playing.result()
    finally:
        scene.read.root(f"pkill -KILL -f '{tick}' || true")
    assert played.code == 0, played.out
    assert "WARNING" not in played.out
    assert sources(monitored) == []
    assert "ontpush pull" not in monitored.cluster.root("crontab -u seqdata -l")
    assert not scene.read.holds("/data/.ontpush")


def cron_pushes(machine: Machine) -> bool:
    """Whether cron there is told to push."""
    return "ontpush push" in machine.root("cat /etc/cron.d/ontpush")


def test_switched_off_it_leaves_nothing(monitored: Fleet, home: str) -> None:
    switch_off(monitored)
    assert monitored.cluster.root(HOME) == home
