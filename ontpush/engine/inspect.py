"""Checks a run, wherever it lies, against its roll-up and MinKNOW's own sums, cheapest first.

Missing and extra files come out of one walk, sizes of what the ledger remembers, and only
what is left is read: once, for both kinds of sum.
"""

import csv
import io
import os
import re
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.engine.look import is_ours
from ontpush.engine.mark import md5_of_rollup
from ontpush.engine.rollup import BadLine, Listed, read_rollup
from ontpush.engine.sums import Summed, Task, take_sums
from ontpush.facts.names import shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import ROLLUP

_RSYNC_TEMPORARY = re.compile(rb"(.*/)?\.([^/]+)\.[A-Za-z0-9]{6}\Z", re.DOTALL)
EMPTY_MD5 = bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e")


class Bad(NamedTuple):
    """A file that is not what it should be: `missing`, `extra`, `size`, `md5` or `sha256`."""

    path: bytes
    problem: str


class Inspection(NamedTuple):
    """What came of it: how many files and bytes were read, and every bad one, by path.

    `rollup` is the MD5 of the roll-up that they were held against.
    """

    files: int
    bytes: int
    bad: List[Bad]
    rollup: str


class _Expected(NamedTuple):
    path: bytes
    md5: bytes
    sha256: Optional[bytes]


def inspect_run(
    run: bytes,
    jobs: int,
    excluded: Callable[[bytes], bool],
    sizes: Callable[[bytes, bytes], Optional[int]],
    on_file: Callable[[int, int], None],
) -> Inspection:
    """Check the run at `run`; `sizes(path, md5)` gives the size of a file where it is known.

    RunFailed where there is no roll-up to check against, it is no roll-up, or it has changed
    meanwhile.
    """
    rollup = md5_of_rollup(run)
    listed = _listed(run)
    present = _files_of(run, excluded)
    sha256s = _minknow_sums(run)
    bad: List[Bad] = []
    to_read: List[Task] = []
    for path, sums, size in _side_by_side(listed, present):
        if sums is None:
            bad.append(Bad(path, "extra"))
        elif size is None:
            bad.append(Bad(path, "missing"))
        else:
            known = 0 if sums == EMPTY_MD5 else sizes(path, sums)
            if known is not None and known != size:
                bad.append(Bad(path, "size"))
            else:
                expected = _Expected(path, sums, sha256s.get(path))
                to_read.append(Task(expected, os.path.join(run, path), size))
    for batch in take_sums(to_read, jobs, with_sha256=bool(sha256s)):
        for summed in batch:
            bad += _judge(summed)
        on_file(len(batch), sum(each.stat.st_size for each in batch if each.stat))
    if rollup is None or md5_of_rollup(run) != rollup:
        raise RunFailed("md5sum changed while the run was verified: verify it again", run)
    return Inspection(len(to_read), sum(task.size for task in to_read), sorted(bad), rollup)


def _listed(run: bytes) -> List[Listed]:
    try:
        return sorted(read_rollup(os.path.join(run, ROLLUP)))
    except FileNotFoundError as error:
        raise RunFailed(
            "there is no roll-up (md5sum) to verify against: has it been hashed?", run
        ) from error
    except OSError as error:
        raise RunFailed(f"md5sum cannot be read: {error.strerror}", run) from error
    except BadLine as error:
        raise RunFailed(f"md5sum is damaged: {error}", run) from error


def _files_of(run: bytes, excluded: Callable[[bytes], bool]) -> List[Tuple[bytes, int]]:
    """Path and size of every regular file that a roll-up covers, sorted."""
    found: List[Tuple[bytes, int]] = []

    def fail(error: OSError) -> None:
        where = shown(os.path.relpath(os.fsencode(error.filename), run))
        raise RunFailed(f"{where}: {error.strerror}", run) from error

    for directory, directories, names in os.walk(run, onerror=fail):
        prefix = b"" if directory == run else os.path.relpath(directory, run) + b"/"
        directories[:] = [name for name in directories if not excluded(prefix + name)]
        names.sort()
        for name in names:
            path = os.path.join(directory, name)
            if (
                not is_ours(prefix, name, names)
                and not excluded(prefix + name)
                and os.path.isfile(path)
                and not os.path.islink(path)
            ):
                found.append((prefix + name, os.path.getsize(path)))
    found.sort()
    return found


def _side_by_side(
    listed: List[Listed], present: List[Tuple[bytes, int]]
) -> Iterator[Tuple[bytes, Optional[bytes], Optional[int]]]:
    """Each path with its listed MD5, or None, and its size, or None if it is not there."""
    sums = dict(listed)
    names = frozenset(sums)
    for path, size in present:
        if path in names or not _is_broken_off(path, names):
            yield path, sums.pop(path, None), size
    for path, md5 in sums.items():
        yield path, md5, None


def _is_broken_off(path: bytes, names: FrozenSet[bytes]) -> bool:
    """Whether this is what rsync had of a listed file when the power failed: never used again."""
    found = _RSYNC_TEMPORARY.match(path)
    return found is not None and (found.group(1) or b"") + found.group(2) in names


def _minknow_sums(run: bytes) -> Dict[bytes, bytes]:
    """The SHA-256 sums in `output_hash_*.csv`, by path; MinKNOW leaves some out, as of pod5."""
    sums: Dict[bytes, bytes] = {}
    for name in sorted(os.listdir(run)):
        if not (name.startswith(b"output_hash_") and name.endswith(b".csv")):
            continue
        path = os.path.join(run, name)
        try:
            with open_regular(path) as raw, io.TextIOWrapper(
                raw, newline="", encoding="utf-8", errors="surrogateescape"
            ) as file:
                for row in csv.DictReader(file):
                    where, sum_text = row.get("file_path") or "", row.get("file_hash") or ""
                    if where and sum_text:
                        key = where.encode("utf-8", "surrogateescape")
                        sums[os.path.normpath(key)] = bytes.fromhex(sum_text.strip())
        except (OSError, ValueError, csv.Error) as error:
            raise RunFailed(f"{shown(name)} cannot be used: {error}", run) from error
    return sums


def _judge(summed: Summed) -> Iterator[Bad]:
    expected: _Expected = summed.key
    if isinstance(summed.problem, FileNotFoundError):
        yield Bad(expected.path, "missing")
    elif summed.problem is not None or summed.md5 != expected.md5:
        yield Bad(expected.path, "md5")
    elif expected.sha256 is not None and summed.sha256 != expected.sha256:
        yield Bad(expected.path, "sha256")
