"""The roll-up, `RUN/md5sum`, and its sidecars: coreutils' format, written whole by rename."""

import contextlib
import os
import re
from binascii import hexlify
from typing import IO, Iterable, Iterator, NamedTuple, Optional, Tuple

from ontpush.engine.sums import new_md5
from ontpush.facts.regular import open_regular
from ontpush.facts.words import SIDECAR_SUFFIX, UNFINISHED_SUFFIX

# A path has 4096 bytes at most, each escaped at worst.
_LONGEST_LINE = 16384
_LINE = re.compile(rb"(\\?)([0-9a-fA-F]{32}) [ *](.+)\Z", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[\\\n\r]")
_ESCAPES = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {value: key for key, value in _ESCAPES.items()}


class Listed(NamedTuple):
    """A line of a roll-up: a path relative to the run and the 16 bytes of its MD5."""

    path: bytes
    md5: bytes


class BadLine(ValueError):
    """A line that is not of coreutils' format; `number` counts from 1."""

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is no line of md5sum")


def line_for(path: bytes, md5: bytes) -> bytes:
    """The line of `md5sum` for a file, its name escaped as coreutils does."""
    line = b"%s  %s\n" % (hexlify(md5), path)
    if _TO_ESCAPE.search(path) is None:
        return line
    escaped = _TO_ESCAPE.sub(lambda found: _ESCAPES[found.group()], line[:-1])
    return b"\\" + escaped + b"\n"


def parse_line(line: bytes, number: int) -> Listed:
    """The inverse of `line_for`; also takes the binary mode's `*`. BadLine for anything else."""
    found = _LINE.match(line.rstrip(b"\n"))
    if not found:
        raise BadLine(number)
    path = found.group(3)
    if found.group(1):
        path = re.sub(rb"\\[\\nr]", lambda part: _UNESCAPES[part.group()], path)
    return Listed(path, bytes.fromhex(found.group(2).decode()))


def read_rollup(path: bytes) -> Iterator[Listed]:
    """The lines of the roll-up at `path`, in its order. OSError, BadLine."""
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            listed = parse_line(line, number)
            yield listed._replace(path=re.sub(rb"\A(\./+)+", b"", listed.path))


def write_whole(
    path: bytes, lines: Iterable[bytes], changed: Optional[int] = None, mode: int = 0o666
) -> None:
    """Write a file so that it is seen under its name only when it is whole and on disk.

    `changed`: its modification time in nanoseconds, if not now. The umask takes from `mode`.
    """
    unfinished = path + UNFINISHED_SUFFIX
    try:
        with _new_file(unfinished, mode) as file:
            file.writelines(lines)
            file.flush()
            if changed is not None:
                os.utime(file.fileno(), ns=(changed, changed))
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise
    _sync_directory(os.path.dirname(path))


def _new_file(path: bytes, mode: int = 0o666) -> IO[bytes]:
    """Open a file to write that was not there: never one that somebody else put there."""
    _remove(path)
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def _remove(unfinished: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(unfinished)


def _sync_directory(directory: bytes) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_sidecar(path: bytes, md5: bytes) -> None:
    """Write `FILE.md5` beside FILE, as `md5sum FILE > FILE.md5` does in its directory.

    Not forced to disk one by one: a lost sidecar is written again, never believed wrongly.
    """
    unfinished = path + SIDECAR_SUFFIX + UNFINISHED_SUFFIX
    try:
        with _new_file(unfinished) as file:
            file.write(line_for(os.path.basename(path), md5))
        os.replace(unfinished, path + SIDECAR_SUFFIX)
    except BaseException:
        _remove(unfinished)
        raise


def read_sidecar(path: bytes, of: os.stat_result) -> Optional[bytes]:
    """The MD5 in the sidecar of the file at `path`, whose stat is `of`, if it can be believed.

    It must be newer than the file and name it. The times of change are held against each
    other too: a file moved in over another keeps its old modification time.
    """
    try:
        with open_regular(path + SIDECAR_SUFFIX) as file:
            sidecar = os.fstat(file.fileno())
            if sidecar.st_mtime_ns <= of.st_mtime_ns or sidecar.st_ctime_ns < of.st_ctime_ns:
                return None
            listed = parse_line(file.read(65536), 1)
    except (OSError, ValueError):
        return None
    return listed.md5 if os.path.basename(listed.path) == os.path.basename(path) else None


def md5_and_size(lines: Iterable[bytes]) -> Tuple[str, int]:
    """MD5 in hex and length in bytes of a file made of `lines`."""
    digest, size = new_md5(), 0
    for line in lines:
        digest.update(line)
        size += len(line)
    return digest.hexdigest(), size
