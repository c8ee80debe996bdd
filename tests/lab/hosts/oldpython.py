"""The Python 3.6 of a Mk1C, as it is found on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.lab.hosts.podman import LabError

PROBE: Final = "import sys; print(sys.prefix if sys.version_info[:2] == (3, 6) else '')"


def find_python36() -> Path:
    """The folder of a Python 3.6 that can be shown to a host at its own path; else LabError."""
    for candidate in _candidates():
        prefix = _prefix(candidate)
        # One that lives among the system's own files cannot be shown without showing them all.
        if prefix and prefix not in {Path("/usr"), Path("/usr/local")}:
            return prefix
    raise LabError(
        "found no Python 3.6, the Mk1C's, in pyenv or on PATH: install it (pyenv install 3.6), "
        "or do without that host: --without mk1c"
    )


def _candidates() -> list[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(folder) / "python3.6" for folder in os.get_exec_path()]
    return [*sorted(pyenv.glob("versions/3.6*/bin/python3.6")), *on_path]


def _prefix(python: Path) -> Path | None:
    try:
        answer = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip()) if answer.stdout.strip() else None
