"""File names are bytes; here is how they are shown, put in JSON, and read back from rsync."""

import os
import re
from typing import Optional, Pattern

from ontpush.facts import limits
from ontpush.facts.words import OWN_FILES, UNFINISHED_SUFFIX

# What moves a cursor, turns a line round or is not seen, and what has no meaning of its own: the
# categories Cc, Cf, Co, Cs, Zl and Zp, and what is ignored where it cannot be drawn. Written out,
# for every Python has another Unicode.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U0010ffff]+"
)
# What would end a line. These alone, for ever: marks are compared with those of other versions.
_ENDS_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST_LINE = 1000
_TEMPORARY_END = re.compile(r"\.[A-Za-z0-9]{6}(?![\w.])")
_RSYNC_TEMPORARY = re.compile(r"((?:^|[' ])\..+?)" + _TEMPORARY_END.pattern)
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
    """`name` for people: one line of text that is seen, all else as backslash escapes."""
    return _escaped(name, _UNSEEN)


def named_in_mark(name: bytes) -> str:
    """`name` in a mark, by every version: one line, in which all else stands as it is."""
    return _escaped(name, _ENDS_A_LINE)


def _escaped(name: bytes, odd: Pattern[str]) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return odd.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def shortened(line: str, longest: int = _LONGEST_LINE) -> str:
    """A line that a person can read, whatever paths are in it: beginning and end of a long one."""
    if len(line) <= longest:
        return line
    half = longest // 2
    return f"{line[:half]} [...] {line[-half:]}"


def quoted(words: str) -> str:
    """What somebody else says, fit to be shown: none of it can be taken for words of ours."""
    return '"{}"'.format(shortened(words, limits.LONGEST_WORDS).replace('"', "'"))


def steady(text: str) -> str:
    """What stays of a message that tells the same of another moment.

    Without what rsync calls its temporary files, and without figures: sizes, times, processes.
    """
    parts = re.split('([/"\n])', text)
    return _FIGURES.sub("#", "".join(map(_without_temporary, parts)))


def _without_temporary(part: str) -> str:
    """Part of a text without what rsync made up of a name, looked for no further than it is there.

    Else a text with a thousand beginnings and no end takes the square of its length.
    """
    ends = [found.end() for found in _TEMPORARY_END.finditer(part)]
    if not ends:
        return part
    return _RSYNC_TEMPORARY.sub(r"\1.#", part[: ends[-1]]) + part[ends[-1] :]


def for_json(name: bytes) -> str:
    """`name` for programs: bytes that are not UTF-8 become surrogate escapes."""
    return name.decode("utf-8", "surrogateescape")


def from_json(name: str) -> bytes:
    """The inverse of `for_json`."""
    return name.encode("utf-8", "surrogateescape")


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
