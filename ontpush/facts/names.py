"""File names are bytes; here is how they are shown, put in JSON, and read back from rsync."""

import os
import re
from typing import Optional

from ontpush.facts.words import OWN_FILES, UNFINISHED_SUFFIX

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_LINE = 1000
_RSYNC_TEMPORARY = re.compile(r"((?:^|[/\"' ])\.[^/\"\n]+?)\.[A-Za-z0-9]{6}(?![\w.])")
_FIGURE = r"\d[\d.,:]*(?: (?:%|s|min|h|[kMGT]?B)(?!\w))?"
# One that stands by itself; one in a name tells which file.
_FIGURES = re.compile(rf"(?<![\w./-]){_FIGURE}(?: {_FIGURE})*(?![\w/])")
_TEMPORARY = re.compile(rb"(.*/)?\.([^/]+)\.[A-Za-z0-9]{6}\Z", re.DOTALL)
_RSYNC_ESCAPE = re.compile(rb"\\#([0-7]{3})")


def from_argument(text: str) -> bytes:
    """A text of the command line or the configuration as bytes, whatever the locale.

    Without a locale Python 3.6 takes file names for ASCII; a configuration is UTF-8 always.
    """
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")


def below(path: bytes, directory: bytes) -> bytes:
    """`path` relative to `directory`, above it; both as `os.path.realpath` gives them.

    os.path.relpath takes a quarter of an idle tick's time with a thousand runs.
    """
    return path[len(directory.rstrip(b"/")) + 1 :]


def shown(name: bytes) -> str:
    """`name` for people: one line of printable text, odd bytes as backslash escapes."""
    text = name.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def shortened(line: str) -> str:
    """A line that a person can read, whatever paths are in it: beginning and end of a long one."""
    if len(line) <= _LONGEST_LINE:
        return line
    half = _LONGEST_LINE // 2
    return f"{line[:half]} [...] {line[-half:]}"


def steady(text: str) -> str:
    """What stays of a message that tells the same of another moment.

    Without what rsync calls its temporary files, and without figures: sizes, times, processes.
    """
    return _FIGURES.sub("#", _RSYNC_TEMPORARY.sub(r"\1.#", text))


def for_json(name: bytes) -> str:
    """`name` for programs: bytes that are not UTF-8 become surrogate escapes."""
    return name.decode("utf-8", "surrogateescape")


def from_rsync(line: bytes) -> bytes:
    r"""Undo the `\#ooo` escapes that rsync prints for bytes outside printable ASCII."""
    return _RSYNC_ESCAPE.sub(lambda found: bytes([int(found.group(1), 8)]), line)


def was_to_become(path: bytes) -> Optional[bytes]:
    """The file that rsync was bringing, if `path` is what it calls one until that is whole.

    Or the roll-up or mark that we were writing, by our own name for such a one.
    """
    found = _TEMPORARY.match(path)
    if found:
        return (found.group(1) or b"") + found.group(2)
    whole = finished_name(path)
    return whole if whole != path and os.path.basename(whole) in OWN_FILES else None


def finished_name(name: bytes) -> bytes:
    """The name that a file of ours will have once it is whole; any other name as it is."""
    ends = name.endswith(UNFINISHED_SUFFIX)
    return name[: -len(UNFINISHED_SUFFIX)] if ends else name


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return "{:,} {}{}".format(count, noun, "" if count == 1 else "s")


def human_size(size: float) -> str:
    """Bytes as people read them: `999 B`, `1.2 kB`, `3.4 GB` (powers of 1000, as rsync has it)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def human_time(seconds: float) -> str:
    """A span as people read it: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = int(seconds / 60 + 0.5)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
