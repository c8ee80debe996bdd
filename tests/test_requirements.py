"""What ./inv installs is what was looked at: each file by its sum."""

from __future__ import annotations

import re

import pytest

from tests.program import CHECKOUT

A_PIN = re.compile(
    r"[\w.-]+==[\w.]+(; python_version (<|>=) \"3\.\d+\")?( --hash=sha256:[0-9a-f]{64})+"
)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-newest.txt"])
def test_every_requirement_has_one_version_and_the_sums_of_its_files(name: str) -> None:
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    joined = re.sub(r" \\\n +", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "--require-hashes"
    assert [line[:60] for line in lines[1:] if not A_PIN.fullmatch(line)] == []
    assert len(lines) > 20
