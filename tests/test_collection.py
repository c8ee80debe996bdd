"""The checkout is an Ansible collection: built, installed and called by its name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.role_pages import CHECKOUT, ROLES

INVENTORY = """\
[sequencers]
mk1c ansible_user=minit
[cluster]
login
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of collections in which this one is installed."""
    call(tmp_path, "ansible-galaxy", "collection", "build", "--output-path", tmp_path, CHECKOUT)
    (archive,) = tmp_path.glob("*.tar.gz")
    collections = tmp_path / "collections"
    call(tmp_path, "ansible-galaxy", "collection", "install", "-p", collections, archive)
    return collections


def call(home: Path, program: str, *arguments: str | Path) -> str:
    """Run a program of Ansible's that knows only what lies in `home`; return what it prints."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "ANSIBLE_HOME": str(home / "ansible"),
        "ANSIBLE_COLLECTIONS_PATH": str(home / "collections"),
    }
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    ended = subprocess.run(
        command,
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_a_playbook_of_the_installed_collection_finds_its_roles(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "hosts").write_text(INVENTORY)
    tasks = call(
        tmp_path,
        "ansible-playbook",
        "-i",
        tmp_path / "hosts",
        "--list-tasks",
        "ontpush.ontpush.site",
    )
    assert "ontpush.ontpush.ontpush_sequencer" in tasks


def test_the_installed_collection_holds_program_roles_and_playbooks_and_nothing_of_the_workshop(
    installed: Path,
) -> None:
    root = installed / "ansible_collections" / "ontpush" / "ontpush"
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    assert folders == {"docs", "meta", "ontpush", "playbooks", "roles"}
    assert {path.name for path in (root / "roles").iterdir()} == {role.name for role in ROLES}
    assert {path.name for path in (root / "playbooks").glob("*.yml")} == {
        path.name for path in (CHECKOUT / "playbooks").glob("*.yml")
    }
    modules = {path.relative_to(root) for path in (root / "ontpush").rglob("*.py")}
    assert modules == {path.relative_to(CHECKOUT) for path in (CHECKOUT / "ontpush").rglob("*.py")}


def test_the_collection_has_the_version_of_the_program() -> None:
    versions = [
        re.findall(r'^(?:version: |__version__ = ")([\d.]+)', path.read_text(), re.MULTILINE)
        for path in (CHECKOUT / "galaxy.yml", CHECKOUT / "ontpush" / "__init__.py")
    ]
    assert versions[0] == versions[1] != []
