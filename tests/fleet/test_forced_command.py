"""What somebody who has taken an instrument over can do at the cluster: nothing but send runs.

Each test is one attempt, with the instrument's own key and from its own address. That an attempt
would succeed with an ordinary key is shown where it is not plain.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fleet.attacker import KEY, SERVER, Attacker, Tried
from tests.fleet.hosts import Fleet, Machine, wait_for
from tests.lab.hosts.table import RUNS

# Not that the newest Ansible could break it: its lab has the time.
pytestmark = pytest.mark.newest
HOME = "/home/seqdata"
SECRET = "the sequence of somebody else"
# Waits for what the client sends, and so for as long as the test wants.
HELD = f"{SERVER} . ."


@pytest.fixture(scope="module")
def attacker(fleet: Fleet) -> Iterator[Attacker]:
    """Somebody on a sequencer whose cron rests, and a cluster where there is something to steal."""
    machine = fleet.sequencers[-1]
    fleet.cluster.root(
        f"""
        for place in {HOME} {RUNS}/another {RUNS}/{machine.name}; do
            mkdir -p $place && echo '{SECRET}' > $place/secret.txt
            chown -R {fleet.cluster.host.user}: $place/secret.txt
        done
        chown {fleet.cluster.host.user}: {RUNS}/another
        """
    )
    machine.rest()
    yield Attacker(fleet, machine)
    machine.root("rm -rf /tmp/tmp.*")
    machine.go_on()
    fleet.cluster.root(
        f"""
        rm -rf {RUNS}/another {HOME}/secret.txt {HOME}/.ssh/rc
        cd {RUNS}/{machine.name}
        find . -mindepth 1 -maxdepth 1 -name '*attack*' -exec rm -rf {{}} +
        rm -rf secret.txt home
        """
    )


@pytest.fixture
def mark() -> str:
    """A name that nothing has had before."""
    return f"attack-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def guarded(attacker: Attacker) -> tuple[str, str]:
    """A script that prints what nobody else may change, and what it prints at the beginning."""
    script = f"cat {HOME}/.ssh/authorized_keys {HOME}/secret.txt; cd {RUNS}/another; grep -r ."
    return script, attacker.cluster.root(script)


@pytest.fixture(autouse=True)
def _nothing_else_changes(attacker: Attacker, guarded: tuple[str, str]) -> Iterator[None]:
    """Whatever was tried: entries and secrets are what they were."""
    yield
    script, before = guarded
    assert attacker.cluster.root(script) == before


def refused(tried: Tried) -> bool:
    """Whether an attempt failed, by what it was and not by a lock that somebody else held."""
    assert "Another instance" not in tried.seen, tried.seen
    assert "Permission denied (publickey" not in tried.seen, "the key itself does not work"
    assert SECRET not in tried.seen, tried.seen
    return tried.code != 0


def outside(attacker: Attacker, mark: str) -> list[str]:
    """What bears the mark at the cluster, but in the instrument's own directory."""
    own = f"{RUNS}/{attacker.machine.name}/"
    return [path for path in attacker.found(mark) if not path.startswith(own)]


@contextlib.contextmanager
def held(attacker: Attacker, options: str, before: str = "") -> Iterator[None]:
    """Keep a session at the cluster open, with further options of ssh."""
    session = f"$SSH {options} $TARGET '{HELD}'"
    script = f"{before} mkfifo pipe; sleep 15 > pipe & {session} < pipe; kill $!"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(attacker.run, script)
        try:
            wait_for(lambda: sessions(attacker.cluster), "the session does not begin", 10)
            yield
        finally:
            attacker.cluster.root("pkill -f 'rsync --server' || true")
            running.result()


def sessions(cluster: Machine) -> list[str]:
    """The processes of rsync at the cluster."""
    return cluster.root("pgrep -f 'rsync --server' || true").split()


def environment_of_sessions(attacker: Attacker) -> str:
    """The environment of what runs at the cluster for the attacker."""
    ids = " ".join(sessions(attacker.cluster))
    script = f"for id in {ids}; do tr '\\0' '\\n' < /proc/$id/environ; done"
    # Not even root of a container may look into others' environment.
    environment = attacker.cluster.user(script).stdout
    assert "SSH_CONNECTION" in environment
    return environment


def agents(attacker: Attacker) -> list[str]:
    """The sockets of agents at the cluster."""
    return attacker.cluster.root("find /tmp /home -type s -name '*agent*'").split()


def as_the_controller(fleet: Fleet, command: str, *options: str) -> None:
    """Log in at the cluster with a key that may do anything."""
    configuration = str(fleet.state / "ssh_config")
    ssh = ["ssh", "-F", configuration, *options, fleet.cluster.name, command]
    subprocess.run(ssh, check=True, capture_output=True, timeout=30)


# -- what it is for -------------------------------------------------------------------------


def test_what_it_is_for_works(attacker: Attacker, mark: str) -> None:
    tried = attacker.run(f'touch {mark}; rsync -e "$SSH" {mark} $TARGET:')
    assert tried.code == 0, tried.seen
    assert attacker.found(mark) == [f"{RUNS}/{attacker.machine.name}/{mark}"]


# -- commands -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "touch {home}/{mark}",
        "sh -c 'touch {home}/{mark}'",
        "{server} . .; touch {home}/{mark}",
        "{server} . . && touch {home}/{mark}",
        "{server} . . | touch {home}/{mark}",
        "{server} . $(touch {home}/{mark})",
        "{server} . `touch {home}/{mark}`",
        "{server} . .\ntouch {home}/{mark}",
        "{server} . . > {home}/{mark}",
        "env rsync --server . {home}/{mark}",
        "/usr/bin/rrsync {home}",
        "internal-sftp",
    ],
)
def test_no_command_runs(attacker: Attacker, mark: str, command: str) -> None:
    command = command.format(home=HOME, mark=mark, server=SERVER)
    attacker.run(f"$SSH $TARGET {shlex.quote(command)} < /dev/null")
    assert attacker.found(mark) == []


def test_no_shell_opens(attacker: Attacker, mark: str) -> None:
    assert refused(attacker.run(f'echo "touch {HOME}/{mark}" | $SSH $TARGET'))
    assert attacker.found(mark) == []


def test_no_terminal_is_given(attacker: Attacker) -> None:
    tried = attacker.run(f"ssh -tt -i $KEY $OPTIONS $TARGET '{HELD}' < /dev/null")
    assert "PTY allocation request failed" in tried.seen


def test_no_script_of_the_user_runs(fleet: Fleet, attacker: Attacker, mark: str) -> None:
    attacker.cluster.root(f"echo 'touch {HOME}/{mark}-$1$USER' > {HOME}/.ssh/rc")
    attacker.run(f"$SSH $TARGET '{HELD}' < /dev/null")
    assert attacker.found(mark) == []
    as_the_controller(fleet, "true")
    assert attacker.found(mark) != []
    attacker.cluster.root(f"rm -f {HOME}/.ssh/rc {HOME}/{mark}*")


@pytest.mark.parametrize("name", ["BASH_ENV", "LD_PRELOAD", "PATH", "PYTHONPATH", "RSYNC_RSH"])
def test_no_variable_is_taken_over(attacker: Attacker, mark: str, name: str) -> None:
    with held(attacker, f"-o SetEnv={name}={mark}"):
        assert mark not in environment_of_sessions(attacker)


def test_a_variable_of_language_starts_nothing(attacker: Attacker, mark: str) -> None:
    attacker.run(
        f"export LC_ALL='() {{ :; }}; touch {HOME}/{mark}' LC_RSYNC='$(touch {HOME}/{mark})'\n"
        f"$SSH -o 'SendEnv=LC_*' $TARGET '{HELD}' < /dev/null"
    )
    assert attacker.found(mark) == []


# -- files by other means -------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["-O", "-s"], ids=["of old", "over sftp"])
def test_scp_takes_nothing_there(attacker: Attacker, mark: str, protocol: str) -> None:
    copy = f"scp {protocol} -i $KEY $OPTIONS"
    assert refused(attacker.run(f"touch {mark}; {copy} {mark} $TARGET:{HOME}/{mark}"))
    assert attacker.found(mark) == []


@pytest.mark.parametrize("protocol", ["-O", "-s"], ids=["of old", "over sftp"])
def test_scp_brings_nothing_back(attacker: Attacker, protocol: str) -> None:
    copy = f"scp {protocol} -i $KEY $OPTIONS"
    assert refused(attacker.run(f"{copy} $TARGET:{HOME}/secret.txt got; cat got"))


def test_sftp_opens_nothing(attacker: Attacker) -> None:
    batch = f"ls {HOME}\nget {HOME}/secret.txt /dev/stdout\n"
    call = "sftp -b batch -i $KEY $OPTIONS $TARGET"
    assert refused(attacker.run(f"printf {shlex.quote(batch)} > batch; {call}"))


# -- ways into the network ------------------------------------------------------------------

# Prints the first line that a server behind a local port says, or nothing.
BANNER = """
reach() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1; $2 head -n 1 <&3" 2>/dev/null && break
        sleep 0.2
    done
}
"""


def prohibited(tried: Tried, answer: str) -> bool:
    """Whether the cluster was asked to connect and would not: the answer never came."""
    return "open failed" in tried.seen and answer not in tried.seen


def test_no_local_port_leads_into_the_network(attacker: Attacker) -> None:
    script = f"{BANNER}$SSH -N -L 2201:127.0.0.1:22 $TARGET & reach 2201; kill $!"
    assert prohibited(attacker.run(script), "SSH-2.0")
    assert prohibited(attacker.run("$SSH -W 127.0.0.1:22 $TARGET"), "SSH-2.0")


def test_no_local_port_leads_to_a_socket(attacker: Attacker) -> None:
    socket = "/run/dbus/system_bus_socket"
    tried = attacker.run(
        f"{BANNER}$SSH -N -L 2202:{socket} $TARGET &"
        f" reach 2202 'printf \"\\0AUTH\\r\\n\" >&3;'; kill $!"
    )
    assert prohibited(tried, "REJECTED")


def test_no_port_of_the_cluster_leads_back(attacker: Attacker) -> None:
    forward = "-o ExitOnForwardFailure=yes -R 127.0.0.1:2203:127.0.0.1:22"
    tried = attacker.run(f"$SSH {forward} -N $TARGET")
    assert "remote port forwarding failed" in tried.seen


def test_no_proxy_leads_into_the_network(attacker: Attacker) -> None:
    # A greeting without a password, then "connect to 127.0.0.1, port 22".
    greeting = r'printf "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16" >&3;'
    proxy = "$SSH -N -D 2204 $TARGET &"
    tried = attacker.run(f"{BANNER}{proxy} reach 2204 '{greeting}' | tr -cd '[:print:]'; kill $!")
    assert prohibited(tried, "SSH-2.0")


def test_no_tunnel_opens(attacker: Attacker) -> None:
    tried = attacker.run("$SSH -o ExitOnForwardFailure=yes -w any:any -N $TARGET")
    assert refused(tried)


def test_no_agent_is_forwarded(attacker: Attacker) -> None:
    with held(attacker, "-A", before="eval $(ssh-agent) >/dev/null;"):
        assert agents(attacker) == []


def test_no_display_is_forwarded(attacker: Attacker) -> None:
    tried = attacker.run(f"DISPLAY=127.0.0.1:0 $SSH -Y $TARGET '{HELD}' < /dev/null")
    assert "X11 forwarding request failed" in tried.seen


# -- reading --------------------------------------------------------------------------------

READABLE = ["secret.txt", f"{HOME}/secret.txt", "../another/secret.txt", "../../secret.txt"]


@pytest.mark.parametrize("path", READABLE)
def test_nothing_is_read(attacker: Attacker, path: str) -> None:
    assert refused(attacker.run(f'rsync -e "$SSH" $TARGET:{path} got; cat got'))


@pytest.mark.parametrize("path", ["", ".", "/", f"{HOME}/", "../", "*"])
def test_nothing_is_listed(attacker: Attacker, path: str) -> None:
    tried = attacker.run(f'rsync -e "$SSH" --list-only $TARGET:{shlex.quote(path)}')
    assert refused(tried)
    assert "secret.txt" not in tried.seen


@pytest.mark.parametrize(
    "server",
    [
        "rsync --server --sender -vlogDtpre.iLsfxCIvu . secret.txt",
        "rsync --server -vlogDtpre.iLsfxCIvu --sender . secret.txt",
        "rsync --server --daemon .",
        "rsync --daemon --config=/dev/stdin --no-detach",
        "rsync --server -s",
        f"rsync --server -logDtpre.iLsfxCIvu --files-from={HOME}/secret.txt . .",
        "rsync --server -logDtprKe.iLsfxCIvu . .",
        "rsync --server -logDtpre.iLsfxCIvu --write-devices . .",
    ],
)
def test_no_other_server_starts(attacker: Attacker, server: str) -> None:
    assert refused(attacker.run(f"$SSH $TARGET {shlex.quote(server)} < /dev/null"))


# -- writing elsewhere ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "../another/",
        "../../",
        "x/../../another/",
        f"{RUNS}/another/",
        f"{HOME}/.ssh/",
        f"{HOME}/",
        "/tmp/",
        "~/",
        "../*/",
        "../anoth[e]r/",
        "../{another,another}/",
        "..",
    ],
)
def test_nothing_is_written_elsewhere(attacker: Attacker, mark: str, place: str) -> None:
    attacker.run(f'touch {mark}; rsync --mkpath -e "$SSH" {mark} "$TARGET:{place}"')
    assert outside(attacker, mark) == []


@pytest.mark.parametrize("up", ["..", "a/../.."])
def test_no_name_in_the_list_leads_out(attacker: Attacker, mark: str, up: str) -> None:
    # The sender says names to the receiver that its own user never had to have on disk.
    attacker.run(
        f"mkdir -p base/a; touch {mark}; cd base; echo '{up}/{mark}' > list\n"
        f'rsync -R --no-implied-dirs --files-from=list -e "$SSH" . $TARGET:'
    )
    assert outside(attacker, mark) == []


LINK_TO = [HOME, f"{RUNS}/another", "../another", "../../.ssh"]


@pytest.mark.parametrize("target", LINK_TO)
def test_a_planted_link_leads_nowhere(attacker: Attacker, mark: str, target: str) -> None:
    link = f"link-{mark}"
    plant = f'rm -rf {link}; ln -s {target} {link}; rsync -l --force -e "$SSH" {link} $TARGET:'
    planted = attacker.run(plant)
    assert planted.code == 0, planted.seen
    inside = f"rm -rf {link}; mkdir {link}; cp new-{mark} {link};"
    ways = (
        f'rsync -e "$SSH" new-{mark} $TARGET:{link}/',
        f'rsync -e "$SSH" new-{mark} "$TARGET:{link[:-1]}?/"',
        f'{inside} rsync -r -e "$SSH" {link} $TARGET:',
        f'{inside} rsync -rK -e "$SSH" {link} $TARGET:',
        f'{inside} rsync -rR -e "$SSH" {link}/new-{mark} $TARGET:',
        f'{inside} rsync -rR --no-implied-dirs -e "$SSH" {link}/new-{mark} $TARGET:',
    )
    attacker.run("\n".join([f"touch new-{mark}", *[f"{plant}\n{way}" for way in ways]]), 60)
    assert outside(attacker, f"new-{mark}") == []


@pytest.mark.parametrize("option", ["--temp-dir", "--partial-dir", "--backup-dir"])
@pytest.mark.parametrize("target", [HOME, "../another"])
def test_no_directory_of_an_option_leads_out(
    attacker: Attacker, mark: str, option: str, target: str
) -> None:
    link = f"link-{mark}"
    attacker.run(f'ln -s {target} {link}; rsync -l -e "$SSH" {link} $TARGET:')
    for place in (link, target):
        server = f"rsync --server -blogDtpre.iLsfxCIvu {option} {place} . ."
        assert refused(attacker.run(f"$SSH $TARGET '{server}' < /dev/null"))
        attacker.run(f'echo new > {mark}; rsync -b {option}={place} -e "$SSH" {mark} $TARGET:')
        attacker.run(f'echo newer > {mark}; rsync -b {option}={place} -e "$SSH" {mark} $TARGET:')
    assert outside(attacker, mark) == []


def test_a_link_to_a_file_is_replaced_not_followed(attacker: Attacker, mark: str) -> None:
    entries = f"{HOME}/.ssh/authorized_keys"
    attacker.run(f'ln -s {entries} {mark}; rsync -l -e "$SSH" {mark} $TARGET:')
    for option in ("--inplace", "--append", "--partial", "--delay-updates", "-c"):
        attacker.run(f'echo mine > {mark}; rsync {option} -e "$SSH" {mark} $TARGET:')
    # That the entries are what they were is looked at after every test.
    assert outside(attacker, mark) == []


@pytest.mark.parametrize("option", ["--copy-dest", "--link-dest", "--compare-dest"])
def test_nothing_is_compared_with_what_others_have(attacker: Attacker, option: str) -> None:
    server = f"rsync --server -logDtpre.iLsfxCIvu {option} ../another . ."
    assert refused(attacker.run(f"$SSH $TARGET '{server}' < /dev/null"))


@pytest.mark.parametrize("option", ["--delete", "--delete-before", "--remove-source-files"])
def test_nothing_is_deleted(attacker: Attacker, option: str) -> None:
    attacker.run(f'mkdir empty; rsync -r {option} -e "$SSH" empty/ $TARGET:')
    assert attacker.cluster.holds(f"{RUNS}/{attacker.machine.name}/secret.txt")


def test_no_device_is_made(attacker: Attacker, mark: str) -> None:
    attacker.run(f'mkfifo {mark}; rsync --specials -e "$SSH" {mark} $TARGET:')
    script = f"find {RUNS} -name '{mark}*' -type p"
    assert attacker.cluster.root(script) == ""


# -- from elsewhere -------------------------------------------------------------------------


def test_a_stolen_key_is_worth_nothing_on_another_host(fleet: Fleet, attacker: Attacker) -> None:
    thief = Attacker(fleet, fleet.sequencers[0])
    if thief.machine == attacker.machine:
        pytest.fail("a lab with one sequencer has no other host to steal to")
    key = attacker.machine.root(f"cat {KEY}")
    stolen = "(umask 077; cat > key) <<'END'\n" + key + "END\n"
    tried = thief.run(f"{stolen}ssh -T -i key $OPTIONS $TARGET '{HELD}' < /dev/null; rm key")
    assert "Permission denied (publickey" in tried.seen
