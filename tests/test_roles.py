"""What the roles say of their variables is the same wherever they say it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.role_pages import CHECKOUT, ROLES, options, page

every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def comments(role: Path) -> dict[str, str]:
    """What stands in the line above each default."""
    text = (role / "defaults" / "main.yml").read_text(encoding="utf-8")
    return {name: above for above, name in re.findall(r"^# (.+)\n(\w+):", text, re.MULTILINE)}


@every_role
def test_the_defaults_are_those_of_the_argument_specs(role: Path) -> None:
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    assert defaults == {name: spec["default"] for name, spec in options(role).items()}


@every_role
def test_every_default_has_the_comment_that_its_argument_spec_has(role: Path) -> None:
    assert comments(role) == {name: spec["description"] for name, spec in options(role).items()}


@every_role
def test_the_table_in_the_readme_is_made_from_the_argument_specs(role: Path) -> None:
    assert (role / "README.md").read_text(encoding="utf-8") == page(role), "run ./inv reference"


def test_roles_and_playbooks_use_built_in_modules_only() -> None:
    parts = (role for name in ("roles", "playbooks") for role in (CHECKOUT / name).rglob("*.yml"))
    text = "".join(part.read_text(encoding="utf-8") for part in parts)
    modules = re.findall(r"^ +(?:- )?(\w+\.\w+\.\w+):", text, re.MULTILINE)
    assert modules
    assert [module for module in modules if not module.startswith("ansible.builtin.")] == []


def test_no_pattern_of_a_role_or_playbook_lets_a_newline_through_at_its_end() -> None:
    parts = (part for name in ("roles", "playbooks") for part in (CHECKOUT / name).rglob("*.yml"))
    lines = [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if re.search(r"match|search|regex", line)]
    assert any("\\Z" in line for line in patterns)
    assert [line for line in patterns if "$" in line] == []


def test_both_roles_are_looked_at() -> None:
    assert [role.name for role in ROLES] == ["ontpush_cluster", "ontpush_sequencer"]
