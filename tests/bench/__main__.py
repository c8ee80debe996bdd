"""`./inv bench`: measures every piece of work, or one, and prints the table."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ontpush import __version__
from tests.bench import rows
from tests.bench.measure import BenchError
from tests.bench.table import Row, table
from tests.bench.workplace import Workplace
from tests.lab.cluster import ClusterError


class Work(NamedTuple):
    """A piece of work and the space its trees take, in GB and thousands of files."""

    measure: Callable[[Workplace], Iterator[Row]]
    gigabytes: int
    files: int = 0


WORKS = {
    "sums": Work(rows.sums, 7),
    "unfinished": Work(rows.unfinished, 3, 410),
    "done": Work(rows.done, 3, 420),
    "push": Work(rows.push, 5),
    "one-more": Work(rows.one_more, 3, 410),
    "memory": Work(rows.memory, 2, 1010),
    "fleet": Work(rows.fleet, 1, 150),
    "version": Work(rows.version, 0),
}


def main() -> int:
    """Measure, print, clean up; 1 where something did not run, whatever the figures are."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    measured: list[Row] = []
    failed = False
    with TemporaryDirectory(prefix="ontpush-bench-") as folder:
        for name in [options.only] if options.only else WORKS:
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            try:
                measured += _measure(WORKS[name], Path(folder) / name, options)
            except (BenchError, ClusterError, OSError) as error:
                print(f"bench: {name}: {error}", file=sys.stderr)
                failed = True
    print(_circumstances(options), table(measured), sep="\n\n")
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./inv bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller data, rougher figures")
    parser.add_argument("--only", choices=WORKS, metavar="NAME", help=f"one of {', '.join(WORKS)}")
    parser.add_argument("--python", default=sys.executable, help="run the program with this one")
    return parser.parse_args()


def _measure(work: Work, folder: Path, options: argparse.Namespace) -> list[Row]:
    """Measure one piece of work in a folder of its own, which goes with all it holds."""
    folder.mkdir()
    try:
        if not options.quick:
            _require_space(work, folder)
        return list(work.measure(Workplace(folder, options.python, options.quick)))
    finally:
        shutil.rmtree(folder)


def _require_space(work: Work, folder: Path) -> None:
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < work.gigabytes * 10**9:
        raise BenchError(f"needs {work.gigabytes} GB free: name another place with TMPDIR")
    if disk.f_files and disk.f_favail < work.files * 1000:
        raise BenchError(f"needs {work.files},000 free inodes: name another place with TMPDIR")


def _circumstances(options: argparse.Namespace) -> str:
    """What the figures depend on, as far as another machine can have it too."""
    programs = {
        "Python": [options.python, "--version"],
        "rsync": ["rsync", "--version"],
        "coreutils": ["md5sum", "--version"],
        "OpenSSH": ["ssh", "-V"],
    }
    facts = [f"ontpush {__version__}"]
    facts += [f"{name} {_version(command)}" for name, command in programs.items()]
    facts += [f"{len(os.sched_getaffinity(0))} cores"]
    return ", ".join(facts + ["quick, so that the figures mean nothing"] * options.quick)


def _version(command: list[str]) -> str:
    """The first thing in what a program says that looks like a version."""
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    found = re.search(rb"\d+(\.\d+)+\w*", told.stdout)
    return found[0].decode() if found else "?"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
