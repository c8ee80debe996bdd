"""The configuration file: YAML or JSON, checked whole, every fault with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.lab.minknow import SimulatedRun
from tests.program import Program, Ran, is_done, mark

pytestmark = pytest.mark.newest

NO_YAML = "raise ImportError('no yaml here')\n"


@pytest.fixture
def with_yaml(program: Program) -> None:
    """A host that has PyYAML: our own."""
    (program.modules / "yaml").symlink_to(Path(yaml.__file__).parent)
    program.environment["PYTHONWARNINGS"] = "default"


@pytest.fixture
def without_yaml(program: Program) -> None:
    """A host that has none."""
    (program.modules / "yaml.py").write_text(NO_YAML)


def push_with(program: Program, text: str | bytes) -> Ran:
    """A tick with a configuration file of this content."""
    file = program.home / "config.yml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return program.call("push", "--config", file)


def faults(ran: Ran) -> list[tuple[int, str]]:
    """Line and text of each fault told, which must all be of the one file."""
    assert ran.code == 78
    assert ran.out == ""
    found = []
    for line in ran.err.splitlines():
        _, place, text = line.partition("config.yml:")
        number, _, text = text.partition(": ")
        assert place
        found.append((int(number), text))
    return found


def settings_of(program: Program, data: Path, arrived: Path) -> dict[str, object]:
    """All that a tick needs."""
    return {**program.settings, "source": str(data), "destination": str(arrived)}


def test_json_serves_where_there_is_no_pyyaml(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, without_yaml: None
) -> None:
    run.write_all()
    ran = push_with(program, json.dumps(settings_of(program, data, arrived), indent=4))
    assert ran.is_silent
    assert is_done(arrived / run.path.relative_to(data))


def test_yaml_serves_where_there_is_pyyaml(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, with_yaml: None
) -> None:
    run.write_all()
    text = yaml.safe_dump(settings_of(program, data, arrived))
    ran = push_with(program, f"# a comment\n{text}\nexclude:\n  - '*.tmp'\n  - core\n")
    assert ran.is_silent
    assert is_done(arrived / run.path.relative_to(data))


def test_yaml_without_pyyaml_says_what_to_do(program: Program, without_yaml: None) -> None:
    ((line, text),) = faults(push_with(program, "settle: 0\n"))
    assert line == 1
    assert "python3-yaml" in text
    assert "JSON" in text


YAML_FAULTS = """\
source: 7
settel: 60
jobs: 0
jobs: two
settle: -1

ionice: fast
sidecars: "yes"
exclude: "*.tmp"
rsync_flags: [1, -z]
ssh_port: 70000
nice: 20
log: ""
stall_hours: .nan
bwlimit: 20
3: x
instrument: null
"""
EXPECTED = {
    1: "source",
    2: "did you mean settle",
    3: "jobs: must be at least 1",
    4: "jobs",
    5: "settle: must be at least 0",
    7: "ionice: must be one of",
    8: "sidecars: must be true or false",
    9: "exclude: must be a list",
    10: "rsync_flags",
    11: "ssh_port: must be at most 65535",
    12: "nice: must be at most 19",
    13: "log",
    14: "stall_hours",
    15: "bwlimit: must be text",
    16: "unknown key 3",
}


def test_all_faults_of_a_yaml_file_are_told_at_once_with_their_lines(
    program: Program, with_yaml: None
) -> None:
    found = faults(push_with(program, YAML_FAULTS))
    assert [line for line, _ in found] == list(EXPECTED)
    for line, text in found:
        assert EXPECTED[line] in text


def test_all_faults_of_a_json_file_are_told_at_once_with_their_lines(
    program: Program, without_yaml: None
) -> None:
    text = """{
    "source": 7,
    "settel": 60, "jobs": 1.5,
    "destination": "exclude: no key",
    "exclude": ["a", 1],
    "sidecars": 1,
    "settle": true, "settle": 0,
    "nice"
        : "19"
}"""
    found = faults(push_with(program, text))
    assert [line for line, _ in found] == [2, 3, 3, 5, 6, 7, 7, 8]
    words = ["source", "did you mean settle", "jobs", "exclude", "sidecars", "settle", "settle"]
    for (_, said), word in zip(found, [*words, "nice"], strict=True):
        assert word in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transfer_hours", 1e9),
        ("stall_hours", 1e9),
        ("source", "\ud800"),
        ("exclude", ["\ud800"]),
        ("instrument", "a\nrollup: 00"),
        ("instrument", "a\u2028b"),
        ("bwlimit", "-5"),
        ("bwlimit", "fast"),
        ("exclude", ["*.tmp", "tmp/"]),
        ("exclude", ["/tmp"]),
        ("exclude", ["./tmp"]),
        ("exclude", ["a/../tmp"]),
        ("exclude", ["a//tmp"]),
    ],
)
def test_a_value_that_can_only_be_a_mistake_is_a_fault(
    program: Program, key: str, value: object
) -> None:
    ((line, text),) = faults(push_with(program, json.dumps({key: value})))
    assert line == 1
    assert text.startswith(f"{key}: must be ")


def test_names_with_dots_may_be_excluded(program: Program, data: Path, arrived: Path) -> None:
    program.settings["exclude"] = [".*", "..x", "a/.b", "*/...", "x."]
    assert program.pushed(data, arrived) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rsync_flags", ["--delete"]),
        ("rsync_flags", ["--no-such-flag"]),
        ("destination", "host:a b"),
        ("destination", "rsync://host/module"),
    ],
)
def test_what_rsync_could_not_do_is_a_fault_of_the_file_that_asks_for_it(
    program: Program, run: SimulatedRun, data: Path, arrived: Path, key: str, value: object
) -> None:
    run.write_all()
    ran = push_with(program, json.dumps({**settings_of(program, data, arrived), key: value}))
    assert ran.code == 78
    assert len(ran.err.splitlines()) == 1
    assert not list(arrived.iterdir())


def test_an_error_of_the_configuration_is_one_fault_an_entry_in_json(program: Program) -> None:
    program.settings.update(nonsense=1, jobs=0)
    ran = program.run("status", "--json")
    assert ran.code == 78
    errors = ran.json["errors"]
    assert [error["code"] for error in errors] == ["configuration"] * 2
    assert ran.json["status"] == "error"


@pytest.mark.parametrize(
    "text",
    [
        "settle: [1, 2",
        "- a\n- list\n",
        "just text",
        "a: b: c\n",
        "settle: &x [*x]\n",
        "source: !!python/object:os.system x\n",
        "\tsettle: 1\n",
        "[]",
        "7",
        "null",
        '"text"',
        "[" * 1500,
        "{" + '"a":[' * 1500,
        b"source: \xff\xfe\n",
        b"\x00",
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(
    program: Program, with_yaml: None, text: str | bytes
) -> None:
    ran = push_with(program, text)
    assert ran.code == 78
    assert len(ran.err.splitlines()) == 1
    assert "config.yml" in ran.err


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "---\n"])
def test_an_empty_file_leaves_the_defaults(program: Program, with_yaml: None, text: str) -> None:
    ran = push_with(program, text)
    assert ran.code == 64
    assert "which runs?" in ran.err


def test_a_byte_order_mark_is_no_fault(program: Program) -> None:
    assert push_with(program, b"\xef\xbb\xbf{}").code == 64


@pytest.mark.parametrize("name", ["nonexistent.yml", ".", "pipe"])
def test_a_file_that_cannot_be_read_is_a_fault_of_the_configuration(
    program: Program, name: str
) -> None:
    os.mkfifo(program.home / "pipe")
    ran = program.call("status", "--config", program.home / name)
    assert ran.code == 78
    assert "cannot be read" in ran.err


def test_the_environment_names_the_file_and_an_option_beats_it(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    file = program.home / "from environment.json"
    file.write_text(json.dumps(settings_of(program, data, arrived)))
    program.environment["ONTPUSH_CONFIG"] = str(file)
    assert program.call("push").is_silent
    assert is_done(arrived / run.path.relative_to(data))
    program.environment["ONTPUSH_CONFIG"] = "/nonexistent"
    assert program.call("status").code == 78
    assert program.call("status", "--config", file).code == 0


def test_a_flag_beats_the_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings["settle"] = 86400
    assert program.pushed(data, arrived, "--settle", "0").popitem()[1]["state"] == "done"
    other = program.home / "other state"
    assert program.run("status", "--state-dir", other, "--json").runs == {}


def test_the_places_of_the_call_beat_those_of_the_file(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    program.settings.update(source="/nonexistent", destination="/nonexistent")
    program.pushed(data, arrived)
    assert is_done(arrived / run.path.relative_to(data))


def test_the_state_of_an_ordinary_user_lies_where_such_things_lie(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    if os.geteuid() == 0:
        program.within = ["unshare", "--user"]
    del program.settings["state_dir"]
    program.environment["XDG_STATE_HOME"] = str(program.home / "xdg")
    program.pushed(data, arrived)
    assert (program.home / "xdg" / "ontpush").is_dir()
    del program.environment["XDG_STATE_HOME"]
    program.pushed(data, arrived)
    assert (program.home / ".local" / "state" / "ontpush").is_dir()


def test_a_user_without_a_home_has_to_say_where_the_state_may_lie(
    program: Program, data: Path, arrived: Path
) -> None:
    del program.settings["state_dir"], program.environment["HOME"]
    # As whoever has no entry in the list of users: to be nobody else than root needs no right.
    (program.modules / "sitecustomize.py").write_text(
        "import os\nos.geteuid = os.getuid = lambda: 54321\n"
    )
    ran = program.push(data, arrived)
    assert ran.code == 78
    assert "--state-dir" in ran.err
    assert not (program.home / "~").exists()
    # For that user all lies in other hands.
    ran = program.push(data, arrived, "--state-dir", str(program.state))
    assert ran.code == 78
    assert "belongs to root" in ran.err
    (program.modules / "sitecustomize.py").unlink()
    assert program.push(data, arrived, "--state-dir", str(program.state)).code == 0


def test_names_that_are_not_ascii_serve_on_a_host_without_a_locale(
    program: Program, tmp_path: Path
) -> None:
    source, destination = tmp_path / "Läufe", tmp_path / "Cluster №1"
    destination.mkdir()
    run = SimulatedRun(source, files=1)
    run.write_all()
    (run.path / "Grün.tmp").touch()
    program.log_file = program.home / "Protokoll für alle.log"
    program.settings.update(
        source=str(source),
        destination=str(destination),
        instrument="Gerät",
        exclude=["Grün*"],
        log=str(program.log_file),
        state_dir=str(program.home / "Zustand ä"),
    )
    program.environment.update(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    ran = program.run("push")
    assert ran.is_silent, ran
    there = destination / run.path.relative_to(source)
    assert is_done(there)
    assert mark(there)["instrument"] == "Gerät"
    assert not (there / "Grün.tmp").exists()
    assert program.told("MARK DONE")


def test_places_that_are_not_utf_8_serve_or_are_refused(
    program: Program, run: SimulatedRun, data: Path, arrived: Path
) -> None:
    run.write_all()
    odd = os.fsdecode(os.fsencode(program.home) + b"/\xff\xfe")
    program.settings.update(state_dir=f"{odd} state", log=f"{odd}.log")
    ran = program.push(data, arrived)
    if ran.code == 78:  # Python 3.6 opens no database of such a name
        return
    assert ran.is_silent
    assert is_done(arrived / run.path.relative_to(data))
    assert program.run("status", "--json").runs.popitem()[1]["state"] == "done"
    assert "MARK DONE" in Path(f"{odd}.log").read_text()
