"""Calls of podman, with the one configuration that also works where little is allowed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

CONFIGURATION: Final = Path(__file__).with_name("containers.conf")
LABEL: Final = "ontpush.lab"


class LabError(Exception):
    """Something that the lab needs is missing or failed; the message says what to do."""


def call(*command: str | Path, stdin: str | None = None, **environment: str) -> str:
    """Run a program of this machine and return what it printed; LabError where it fails.

    With all of this process's environment, and `environment`.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, "CONTAINERS_CONF": str(CONFIGURATION), **environment}
    try:
        ended = subprocess.run(
            words, input=stdin, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        hint = "install it with: apt-get install podman runc mmdebstrap openssh-client"
        raise LabError(f"{words[0]} is not here; {hint}") from None
    if ended.returncode:
        last = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-12:]
        raise LabError(f"{' '.join(words[:3])} ... failed: " + "\n".join(last))
    return ended.stdout


def podman(*arguments: str | Path, stdin: str | None = None) -> str:
    """Call podman and return what it printed; LabError where it fails."""
    return call("podman", *arguments, stdin=stdin)


def on_host(container: str, script: str) -> str:
    """Run a shell script as root on a host that is up, and return what it printed."""
    return podman("exec", "-i", container, "sh", "-eu", stdin=script)
