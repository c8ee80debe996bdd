"""What a host that was taken over tells Ansible, and what odd values do: nothing of it gets in.

The roles are played on this machine, into a home that is empty; no host is needed.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.lab.oldrsync import fetched
from tests.program import CHECKOUT

# Three keys that nobody has the other half of.
KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{letter * 42}{letter}" for letter in "BCD"]
MINE = f"{KEYS[2]} me@my-machine"

# As a module does whose host puts more into its answer than it was asked for.
TELLS = """\
#!/bin/sh
. "$1"
printf '%s' "$told" | base64 -d
"""
TELL: list[dict[str, Any]] = [{"action": "tells told={{ told }}"}]


class Played(NamedTuple):
    """A playbook that has ended: its exit code and all that it printed."""

    code: int
    out: str

    @property
    def words(self) -> str:
        """What it printed, without where lines end."""
        return " ".join(self.out.split())

    @property
    def failed(self) -> set[str]:
        """The hosts on which something failed."""
        return set(re.findall(r"^(\S+) +: ok=.* failed=[1-9]", self.out, re.MULTILINE))


class Controller:
    """Ansible on this machine, which is also every host: with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runs = home / "runs"
        self.entries = home / ".ssh" / "authorized_keys"
        self.programs: list[Path] = []
        self.configuration = CHECKOUT / "ansible.cfg"
        self.entries.parent.mkdir(mode=0o700)
        (home / "library").mkdir()
        (home / "library" / "tells").write_text(TELLS)

    def play(self, tasks: list[dict[str, Any]], **hosts: Mapping[str, Any]) -> Played:
        """Play tasks on sequencers with these variables, with a cluster among the hosts."""
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        cluster = {"login": {**local, "ontpush_cluster_directory": str(self.runs)}}
        sequencers = {name: {**local, **variables} for name, variables in hosts.items()}
        groups = {"sequencers": {"hosts": sequencers}, "cluster": {"hosts": cluster}}
        inventory, playbook = self.home / "inventory.json", self.home / "play.json"
        inventory.write_text(json.dumps({"all": {"children": groups}}))
        play = {"hosts": "sequencers", "gather_facts": False, "tasks": tasks}
        playbook.write_text(json.dumps([play]))
        path = [*self.programs, Path(sys.executable).parent, *os.get_exec_path()]
        ended = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, playbook],
            cwd=self.home,
            env={
                **os.environ,
                "HOME": str(self.home),
                "PATH": os.pathsep.join(map(str, path)),
                "ANSIBLE_CONFIG": str(self.configuration),
                "ANSIBLE_ROLES_PATH": str(CHECKOUT / "roles"),
                "ANSIBLE_LIBRARY": str(self.home / "library"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        return Played(ended.returncode, ended.stdout + ended.stderr)

    def let_in(self, *instruments: Mapping[str, Any], **variables: Any) -> Played:
        """Give the cluster's role these instruments."""
        role = {"name": "ontpush_cluster"}
        more = {"ontpush_instruments": instruments, "__ontpush_entries_only": True, **variables}
        own = {"ontpush_cluster_directory": str(self.runs)}
        return self.play([{"include_role": role, "vars": {**own, **more}}], first={})

    def settle(self, **told: Mapping[str, Any]) -> Played:
        """Settle the entries of sequencers that each have a key, and have told these facts."""
        entry = {"name": "{{ ontpush_instrument }}", "from": ["10.1.2.3"]}
        entry["public_keys"] = ["{{ its_key }}"]
        tasks = [
            *TELL,
            {"set_fact": {"__ontpush_entry": entry}},
            {"include_tasks": str(CHECKOUT / "playbooks" / "tasks" / "entries.yml")},
        ]
        hosts = {
            name: {"ontpush_instrument": name, "its_key": key, **telling(told[name])}
            for name, key in zip(told, KEYS, strict=False)
        }
        return self.play(tasks, **hosts)

    def lines(self) -> list[str]:
        """What lets anybody in."""
        return self.entries.read_text().splitlines() if self.entries.exists() else []


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    """Ansible, with nothing set up."""
    return Controller(tmp_path)


def telling(facts: Mapping[str, Any]) -> dict[str, str]:
    """The variables of a host that tells these facts."""
    answer = json.dumps({"changed": False, "ansible_facts": facts})
    return {"told": base64.b64encode(answer.encode()).decode()}


def instrument(name: str = "mk1c", key: str = KEYS[0], address: str = "10.1.2.3") -> dict[str, Any]:
    """An instrument as the cluster's role is told of it."""
    return {"name": name, "public_keys": [key], "from": [address]}


def entry(controller: Controller, name: str = "mk1c", key: str = KEYS[0]) -> str:
    """The line that lets an instrument in."""
    (line,) = (line for line in controller.lines() if line.endswith(f" {key} ontpush:{name}"))
    return line


def with_rsync_of(controller: Controller, suite: str) -> str:
    """Have the cluster's rsync be that of an older Debian; where its rrsync lies."""
    rsync = fetched(CHECKOUT, suite)
    controller.programs = [rsync.rsync.parent]
    return str(rsync.rrsync)


# -- an rsync with known holes --------------------------------------------------------------


def test_an_rsync_without_known_holes_stores_links_as_they_are(controller: Controller) -> None:
    played = controller.let_in(instrument())
    assert played.code == 0, played.out
    assert f'command="/usr/bin/rrsync -wo -no-del {controller.runs}/mk1c"' in entry(controller)
    assert "WARNING" not in played.out


def test_an_older_rsync_gets_an_entry_that_puts_links_out_of_use(controller: Controller) -> None:
    rrsync = with_rsync_of(controller, "bookworm")
    played = controller.let_in(instrument(), ontpush_cluster_rrsync=rrsync)
    assert played.code == 0, played.out
    command = f'command="{rrsync} -wo -no-del -munge {controller.runs}/mk1c"'
    assert command in entry(controller)
    assert "WARNING: rsync 3.2.7 here lacks the security fixes of 3.5.0" in played.words
    assert f'find {controller.runs} -type l ! -lname "/rsyncd-munged/*"' in played.words


def test_an_entry_of_before_gets_what_an_older_rsync_needs_and_loses_it_again(
    controller: Controller,
) -> None:
    assert controller.let_in(instrument()).code == 0
    before = controller.lines()
    rrsync = with_rsync_of(controller, "bookworm")
    assert controller.let_in(instrument(), ontpush_cluster_rrsync=rrsync).code == 0
    (line,) = controller.lines()
    assert " -munge " in line
    controller.programs = []
    assert controller.let_in(instrument()).code == 0
    assert controller.lines() == before


def test_no_entry_is_written_where_a_link_could_lead_out(controller: Controller) -> None:
    rrsync = with_rsync_of(controller, "bullseye")
    played = controller.let_in(instrument(), ontpush_cluster_rrsync=rrsync)
    assert played.code != 0
    assert "knows no -munge" in played.out
    assert "ontpush_cluster_unsafe_rrsync" in played.out
    assert controller.lines() == []


def test_an_entry_is_written_there_where_the_inventory_says_so(controller: Controller) -> None:
    rrsync = with_rsync_of(controller, "bullseye")
    unsafe = {"ontpush_cluster_rrsync": rrsync, "ontpush_cluster_unsafe_rrsync": True}
    played = controller.let_in(instrument(), **unsafe)
    assert played.code == 0, played.out
    assert f'command="{rrsync} -wo {controller.runs}/mk1c"' in entry(controller)
    assert "can write anywhere that the login user may" in played.words


def test_what_is_shut_out_needs_no_safe_rsync(controller: Controller) -> None:
    assert controller.let_in(instrument()).code == 0
    rrsync = with_rsync_of(controller, "bullseye")
    shut_out = {**instrument(), "public_keys": []}
    played = controller.let_in(shut_out, ontpush_cluster_rrsync=rrsync)
    assert played.code == 0, played.out
    assert controller.lines() == []


def test_where_it_is_read_from_an_older_rsync_is_warned_of(controller: Controller) -> None:
    with_rsync_of(controller, "bookworm")
    role = {"name": "ontpush_sequencer", "tasks_from": "reading"}
    read = {"ontpush_cluster_host": "127.0.0.1", "ontpush_source": "/data"}
    played = controller.play([{"include_role": role}], mk1c=read)
    assert played.code == 0, played.out
    holes = "WARNING: mk1c: rsync 3.2.7 here lacks the security fixes of 3.5.0"
    assert f"{holes}: the key that reads could read what links below /data lead to" in played.words


# -- a key that belongs to another ----------------------------------------------------------


def test_the_key_of_another_instrument_or_of_a_person_is_not_taken_over(
    controller: Controller,
) -> None:
    controller.entries.write_text(f"{MINE}\n")
    assert controller.let_in(instrument("gridion", KEYS[1])).code == 0
    before = controller.lines()
    for stolen in (KEYS[1], KEYS[2]):
        played = controller.let_in(instrument("mk1c", stolen))
        assert played.code != 0
        assert "mk1c names a key that stands in a line of" in played.out
        assert controller.lines() == before


def test_two_instruments_with_one_key_are_not_let_in(controller: Controller) -> None:
    played = controller.let_in(instrument("mk1c"), instrument("gridion"))
    assert played.code != 0
    assert "two have the same key" in played.out
    assert controller.lines() == []


def test_the_line_of_an_instrument_is_replaced_and_nobody_elses(controller: Controller) -> None:
    controller.entries.write_text(f"# {KEYS[0]}\n{MINE}\n")
    assert controller.let_in(instrument(), instrument("gridion", KEYS[1])).code == 0
    old = entry(controller)
    added = f'expiry-time="20400101",{old}\r\n'
    controller.entries.write_text(controller.entries.read_text().replace(f"{old}\n", added))
    played = controller.let_in(instrument(address="10.9.9.9"))
    assert played.code == 0, played.out
    new = old.replace("10.1.2.3", "10.9.9.9")
    assert controller.lines() == [f"# {KEYS[0]}", MINE, new, entry(controller, "gridion", KEYS[1])]


# -- what a host tells ----------------------------------------------------------------------

HOSTILE_ENTRIES: dict[str, dict[str, Any]] = {
    "newline_in_name": {"name": "mk1c\n"},
    "slash_in_name": {"name": "../gridion"},
    "newline_in_address": {"from": ["10.1.2.3\n"]},
    "quote_in_address": {"from": ['10.1.2.3",command="sh']},
    "comma_in_address": {"from": ["10.1.2.3,*"]},
    "newline_in_key": {"public_keys": [f"{KEYS[0]}\n"]},
    "option_as_key": {"public_keys": ['command="sh" x']},
    "three_words": {"public_keys": [f"{KEYS[0]} ontpush:gridion"]},
    "escape_in_key": {"public_keys": ["ssh-ed25519 AAAA\x1b[2J"]},
    "half_a_key": {"public_keys": ["ssh-ed25519"]},
}


def test_no_odd_name_address_or_key_comes_into_an_entry(controller: Controller) -> None:
    tasks: list[dict[str, Any]] = [
        {"include_role": {"name": "ontpush_cluster", "tasks_from": "preflight"}}
    ]
    hosts: dict[str, dict[str, Any]] = {
        name: {
            "ontpush_cluster_directory": str(controller.runs),
            "ontpush_instruments": [{**instrument(), **odd}],
        }
        for name, odd in {"good": {}, **HOSTILE_ENTRIES}.items()
    }
    odd_directory = {"ontpush_cluster_directory": f"{controller.runs}\n"}
    hosts["newline_in_directory"] = {**hosts["good"], **odd_directory}
    played = controller.play(tasks, **hosts)
    assert played.failed == {*hosts} - {"good"}


ODD_VARIABLES: dict[str, dict[str, Any]] = {
    "instrument": {"ontpush_instrument": "mk1c\n"},
    "source": {"ontpush_source": "/data\n"},
    "newline": {"ontpush_every": "5\n"},
    "line": {"ontpush_every": "5\n* * * * * root evil"},
    "command": {"ontpush_every": "5; rm -rf"},
    "half": {"ontpush_every": "7.5"},
    "none": {"ontpush_every": 0},
}


def test_no_odd_variable_comes_into_crontab_or_configuration(controller: Controller) -> None:
    wanted = {name: next(iter(odd)) for name, odd in ODD_VARIABLES.items()}
    assert refused(controller, ODD_VARIABLES) == wanted


def test_no_odd_interval_comes_into_the_clusters_crontab(controller: Controller) -> None:
    tasks: list[dict[str, Any]] = [
        {"include_role": {"name": "ontpush_cluster", "tasks_from": "monitor_preflight"}}
    ]
    odd = [each["ontpush_every"] for each in ODD_VARIABLES.values() if "ontpush_every" in each]
    hosts = {f"h{number}": {"ontpush_monitor_every": value} for number, value in enumerate(odd)}
    played = controller.play(tasks, **hosts, good={"ontpush_monitor_every": 10})
    assert played.failed >= set(hosts)
    assert "ontpush_monitor_every must divide 60" in played.words
    # Before anything else was looked at, as it was there.
    steps = dict(re.findall(r"^(\w+) +: ok=(\d+) ", played.out, re.MULTILINE))
    assert all(int(steps[name]) < int(steps["good"]) for name in hosts)


def test_no_odd_host_key_is_pinned_at_the_cluster(controller: Controller) -> None:
    tasks: list[dict[str, Any]] = [
        {"include_role": {"name": "ontpush_cluster", "tasks_from": "monitor_preflight"}}
    ]
    keys: dict[str, Any] = {
        "text": "x",
        "marker": "@cert-authority * x",
        "escape": "ssh-ed25519 \x1b",
        "map": {},
    }
    keys["good"] = f"{KEYS[0]} root@mk1c"
    pull = {"user": "minit", "host": "mk1c", "port": 22}
    hosts = {
        name: {"ontpush_instruments": [{**instrument(), "pull": {**pull, "host_keys": [key]}}]}
        for name, key in keys.items()
    }
    played = controller.play(tasks, **hosts)
    assert set(re.findall(r"failed: \[(\w+)\] \(item=mk1c\)", played.out)) == {*keys} - {"good"}
    assert "mk1c: what it gives as its host keys are none" in played.words


ADDRESSES: dict[str, Any] = {
    "star": "*",
    "net": "0.0.0.0/0",
    "question": "10.1.2.?",
    "not": "!10.1.2.3",
    "list": "10.1.2.3,10.1.2.4",
    "quote": '10.1.2.3",command="sh',
    "newline": "10.1.2.3\n",
    "nested": ["10.1.2.3"],
}


def test_what_a_host_calls_its_address_is_one_address_or_refused(controller: Controller) -> None:
    told: dict[str, dict[str, Any]] = {
        name: {"default_ipv4": {"address": each}} for name, each in ADDRESSES.items()
    }
    told["many"] = {"all_ipv4_addresses": [f"10.1.{number}.1" for number in range(17)]}
    told["text"] = {"all_ipv4_addresses": "*"}
    hosts: dict[str, dict[str, Any]] = {name: {**telling(each)} for name, each in told.items()}
    hosts["plain"] = telling({"default_ipv4": {"address": "10.1.2.3"}})
    hosts["several"] = telling({"all_ipv4_addresses": ["10.1.2.3", "127.0.0.1", "10.2.3.4"]})
    hosts["told_otherwise"] = {**hosts["star"], "ontpush_from": ["10.1.2.*"]}
    assert refused(controller, hosts) == dict.fromkeys(told, "ontpush_from")


def refused(controller: Controller, hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the sequencer's role says is wrong with the variables of each host."""
    role = {"name": "ontpush_sequencer", "tasks_from": "preflight"}
    common = {
        **telling({}),
        "ontpush_user": "nobody",
        "ontpush_cluster_host": "login",
        "ontpush_cluster_user": "seqdata",
    }
    given = {
        name: {**common, "ontpush_instrument": name, **variables}
        for name, variables in hosts.items()
    }
    played = controller.play([*TELL, {"include_role": role}], **given)
    found = re.findall(r"^failed: \[(\S+)\] \(item=(\w+)\)", played.out, re.MULTILINE)
    return dict(found)


def test_what_a_host_tells_is_not_taken_for_the_inventory(controller: Controller) -> None:
    assert controller.settle(mk1c={}, gridion={}).code == 0
    before = controller.lines()
    assert len(before) == 2
    hostile = {
        "ontpush_instrument": "gridion",
        "ontpush_cluster_rrsync": "/bin/sh",
        "ontpush_monitor": True,
        "__ontpush_entries_state": "absent",
    }
    played = controller.settle(mk1c=hostile, gridion={})
    assert played.code != 0
    assert "mk1c tells facts that are named like variables of the inventory" in played.words
    assert controller.lines() == before


@pytest.mark.parametrize(
    "hostile",
    [
        {"ontpush_instrument": "gridion"},
        {"ontpush_cluster_rrsync": "/bin/sh"},
        {"inventory_hostname_short": "gridion", "inventory_hostname": "gridion"},
    ],
    ids=lambda hostile: next(iter(hostile)),
)
def test_nor_where_ansible_is_configured_to_take_it_so(
    controller: Controller, hostile: dict[str, str]
) -> None:
    controller.configuration = controller.home / "ansible.cfg"
    controller.configuration.write_text("[defaults]\ninject_facts_as_vars = True\n")
    played = controller.settle(mk1c=hostile, gridion={})
    assert played.code != 0
    assert "mk1c tells facts that are named like variables of the inventory" in played.words
    assert controller.lines() == []


ODD_STATES = {
    "no_json": "no",
    "no_object": "[1]",
    "no_runs": '{"data": {"runs": 7}}',
    "no_number": '{"data": {"runs": [{"run": "x", "state": "done", "bytes": "x"}]}}',
}


def test_what_a_host_calls_the_state_of_its_runs_hides_and_forges_no_row(
    controller: Controller,
) -> None:
    honest = {"state": "done", "files": 1, "bytes": 1, "sent_bytes": 1, "error": None}
    honest["warning"] = None
    forged = {**honest, "run": "a\nmk1c         failed\x1b[2J\u2028x"}
    said = {
        **ODD_STATES,
        "forging": json.dumps({"data": {"runs": [forged]}}),
        "good": json.dumps({"data": {"runs": [{**honest, "run": "a run"}]}}),
    }
    hosts = {name: {"__ontpush_status": {"rc": 0, "stdout": out}} for name, out in said.items()}
    (status,) = yaml.safe_load((CHECKOUT / "playbooks" / "status.yml").read_text())
    _, rows, show = status["tasks"]
    rows["ansible.builtin.include_tasks"] = str(CHECKOUT / "playbooks" / "tasks" / "rows.yml")
    played = controller.play([{"set_fact": status["vars"]}, rows, show], **hosts)
    table = played.out.partition("Show the table")[2].partition("PLAY RECAP")[0]
    shown = [line.strip(" -\"'") for line in table.splitlines()]
    for name in ODD_STATES:
        assert sum(line.startswith(name) for line in shown) == 1, played.out
    assert any(re.match(r"good +done +1 +0\.0 +100 % +a run$", line) for line in shown)
    assert any(line.endswith("a?mk1c         failed?[2J?x") for line in shown), played.out
    assert not any(line.startswith("mk1c") for line in shown)
