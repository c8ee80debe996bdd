"""Trees of files as tests read them, and what a roll-up and a mark say: nothing of the program."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from typing import TypeVar

ROLLUP, MARK, SKIP, VERIFIED = b"md5sum", b"rsync.done", b"rsync.skip", b"rsync.verified"
OWN = (ROLLUP, MARK, SKIP, VERIFIED)
UNFINISHED = b".ontpush-new"

T = TypeVar("T")
Content = tuple[str, bytes]


def below(root: bytes) -> dict[bytes, Content]:
    """Every file and link below `root`, by path: its bytes, or its target."""
    found: dict[bytes, Content] = {}
    for folder, folders, names in os.walk(root):
        for name in names + folders:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                found[os.path.relpath(path, root)] = ("link", os.readlink(path))
            elif name in names:
                with open(path, "rb") as file:
                    found[os.path.relpath(path, root)] = ("file", file.read())
    return found


def covered(files: dict[bytes, Content]) -> dict[bytes, bytes]:
    """What a run's roll-up must list of the `files` in it: the sum of each."""
    return {
        path: md5(content)
        for path, (kind, content) in files.items()
        if kind == "file"
        and path not in OWN
        and not path.endswith(UNFINISHED)
        and not is_sidecar(path, files)
    }


def is_finished(files: dict[bytes, Content]) -> bool:
    return any(is_final_summary(path) for path in files)


def is_final_summary(path: bytes) -> bool:
    return bool(re.fullmatch(rb"final_summary[^/]*\.txt", path))


def is_sidecar(path: bytes, files: Collection[bytes]) -> bool:
    return path.endswith(b".md5") and path[:-4] in files


def read_rollup(content: bytes) -> dict[bytes, bytes]:
    """The roll-up as coreutils reads it: path to sum, both as bytes."""
    listed = {}
    lines = content.split(b"\n")
    assert lines.pop() == b"", "a roll-up without its end"
    for line in lines:
        match = re.fullmatch(rb"(\\?)([0-9a-f]{32})  (.+)", line, re.DOTALL)
        assert match, f"no line of a roll-up: {line!r}"
        path = match[3]
        if match[1]:
            path = re.sub(
                rb"\\(.)", lambda found: {b"n": b"\n", b"r": b"\r"}.get(found[1], found[1]), path
            )
        listed[path] = match[2]
    assert sorted(listed) == list(listed), "not sorted by path"
    return listed


def mark_facts(content: bytes) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in content.decode().splitlines()[1:]]
    return dict(pairs)


def md5(content: bytes) -> bytes:
    return hashlib.md5(content).hexdigest().encode()


def inside(files: dict[bytes, T], run: bytes) -> dict[bytes, T]:
    """Those of `files` that lie in `run`, by their path in it."""
    start = run + b"/"
    return {path[len(start) :]: each for path, each in files.items() if path.startswith(start)}


def is_temporary(path: bytes) -> bool:
    """Whether this is a name that rsync gives a file which is not whole."""
    return bool(re.fullmatch(rb"\..*\.[A-Za-z0-9]{6}", os.path.basename(path), re.DOTALL))


def to_become(path: bytes) -> bytes:
    """The file that will have its own name when it is whole, of what `is_temporary`."""
    directory, name = os.path.split(path)
    return os.path.join(directory, name[1:-7])
