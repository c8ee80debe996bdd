"""Has a lab's host keep what its Python compiles from archives.

Each task of a playbook brings its module as an archive, and Python compiles it anew: half of the
processor time of all hosts. It lies on a host as a module of its own, which every start of Python
there imports. Python 3.8 and newer; an older one cannot be told.
"""

import _imp
import contextlib
import marshal
import os
import zipimport
from types import CodeType
from typing import Any

FOLDER = "/tmp/.compiled-{}"  # of each user
really_compile = zipimport._compile_source  # type: ignore[attr-defined]


def compile_once(path: str, source: bytes) -> CodeType:
    """The code of `source`; it names the archive that it was first compiled from."""
    folder = FOLDER.format(os.geteuid())
    kept = os.path.join(folder, _imp.source_hash(len(source), source).hex())
    with contextlib.suppress(OSError), open(kept, "rb") as file:
        found: CodeType = marshal.load(file)  # noqa: S302 - by this user himself
        return found
    code: CodeType = really_compile(path, source)
    with contextlib.suppress(OSError):
        _keep(folder, kept, code)
    return code


def _keep(folder: str, kept: str, code: CodeType) -> None:
    os.makedirs(folder, mode=0o700, exist_ok=True)
    unfinished = f"{kept}.{os.getpid()}"
    with open(unfinished, "wb") as file:
        marshal.dump(code, file)
    os.replace(unfinished, kept)


archives: Any = zipimport
archives._compile_source = compile_once
