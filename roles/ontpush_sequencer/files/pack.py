"""Packs the program into one file that Python runs: `pack.py FOLDER FILE`.

One file arrives whole or not at all, and a version in use keeps its own. The same program gives
the same bytes, whoever packs it and when, so that a second converge has nothing to do.
"""

import sys
import zipfile
from pathlib import Path

# The path with links resolved: a tick that is under way stays with its version when `current`
# points to another.
START = """\
import os
import sys

sys.path[0] = os.path.realpath(sys.path[0])
from ontpush.__main__ import main

sys.exit(main())
"""


def pack(folder: Path, target: Path) -> None:
    """Write the package in `folder` to `target`, as an executable archive."""
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            _add(archive, "__main__.py", START.encode())
            for source in sorted(folder.rglob("*.py")):
                name = "ontpush/" + source.relative_to(folder).as_posix()
                _add(archive, name, source.read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
