"""What of a run is wanted, lies here, was seen over there: on disk, for it may be very much."""

from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

from ontpush.engine.rollup import Listed, line_for, md5_and_size
from ontpush.engine.scratch import Scratch
from ontpush.facts.minknow import is_final_summary

# How a file looked over there: as it does here by size and time, otherwise, or as a link.
SAME, DIFFERENT, LINK = range(3)

_PATH_AND = "(path BLOB PRIMARY KEY, {}) WITHOUT ROWID"
_MISSING = """
SELECT wanted.path, wanted.md5 FROM wanted LEFT JOIN here ON here.path = wanted.path
WHERE (here.md5 IS NULL OR here.md5 <> wanted.md5) AND wanted.path > ?
ORDER BY wanted.path LIMIT ?
"""
_STALE = """
SELECT here.path, here.md5 FROM here JOIN wanted ON wanted.path = here.path
WHERE wanted.md5 <> here.md5 AND here.path > ? ORDER BY here.path LIMIT ?
"""
_GONE = """
SELECT path FROM here WHERE path NOT IN (SELECT path FROM wanted) AND path > ?
ORDER BY path LIMIT ?
"""
_UNLISTED = """
SELECT path FROM looked WHERE kind <> 2 AND path NOT IN (SELECT path FROM wanted) AND path > ?
ORDER BY path LIMIT ?
"""
_UNLIKE = """
SELECT path FROM wanted
WHERE path NOT IN (SELECT path FROM looked WHERE kind = 0) AND path > ? ORDER BY path LIMIT ?
"""


class Listing:
    """The files of one run, by path. TryLater where there is no room for temporary files."""

    def __init__(self) -> None:
        self._tables = Scratch("CREATE TABLE wanted " + _PATH_AND.format("md5 BLOB"))
        self._do("CREATE TABLE here " + _PATH_AND.format("md5 BLOB"))
        self._do("CREATE TABLE looked " + _PATH_AND.format("kind INTEGER"))

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.__exit__()

    def want(self, listed: Iterable[Listed]) -> None:
        """Take what is listed over there."""
        self._tables.change("INSERT OR REPLACE INTO wanted VALUES (?, ?)", listed)

    def have(self, listed: Iterable[Listed]) -> None:
        """Take what lies here and was read here."""
        self._tables.change("INSERT OR REPLACE INTO here VALUES (?, ?)", listed)

    def forget(self, paths: Iterable[bytes]) -> None:
        """Take back that these lie here as they should, of those that are wanted."""
        delete = "DELETE FROM here WHERE path = ? AND path IN (SELECT path FROM wanted)"
        self._tables.change(delete, ((path,) for path in paths))

    def forget_unlike(self) -> None:
        """Take back that what looks otherwise over there, or is not there, lies here."""
        self._do(
            "DELETE FROM here WHERE path IN (SELECT path FROM wanted)"
            " AND path NOT IN (SELECT path FROM looked WHERE kind = 0)"
        )

    def stale(self, count: int) -> Iterator[List[Listed]]:
        """What is listed here and wanted in another version, `count` at a time, as it is here."""
        return self._parts(_STALE, count)

    def keep(self, paths: Iterable[bytes]) -> None:
        """Want these no more: what lies here stays, as if they were gone over there."""
        self._tables.change("DELETE FROM wanted WHERE path = ?", ((path,) for path in paths))

    def forget_stale(self) -> None:
        """Take back what is listed here and wanted in another version."""
        self._do(
            "DELETE FROM here WHERE EXISTS"
            " (SELECT 1 FROM wanted WHERE wanted.path = here.path AND wanted.md5 <> here.md5)"
        )

    def missing(self, count: int) -> Iterator[List[Listed]]:
        """What is wanted and not here, `count` at a time, each once."""
        return self._parts(_MISSING, count)

    def is_complete(self) -> bool:
        """Whether all that is wanted lies here."""
        return not self._tables.rows(_MISSING, (b"", 1))

    def gone(self) -> Iterator[bytes]:
        """What lies here and is listed over there no more."""
        return self._paths(_GONE)

    def here(self) -> Iterator[bytes]:
        """What lies here."""
        return self._paths("SELECT path FROM here WHERE path > ? ORDER BY path LIMIT ?")

    def is_here(self, path: bytes) -> bool:
        """Whether this lies here, as a file of the run."""
        return bool(self._do("SELECT 1 FROM here WHERE path = ?", path))

    def lines(self) -> Iterator[bytes]:
        """The roll-up of what lies here."""
        rows = self._tables.ordered(
            "SELECT path, md5 FROM here WHERE path > ? ORDER BY path LIMIT ?"
        )
        return (line_for(path, md5) for path, md5 in rows)

    def rollup(self) -> str:
        """The MD5 of the roll-up of what lies here."""
        return md5_and_size(self.lines())[0]

    def counts(self) -> Tuple[int, int]:
        """How many files the run has at either end, and how many of them lie here."""
        ((wanted, here, both),) = self._do(
            "SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM here),"
            " (SELECT count(*) FROM here WHERE path IN (SELECT path FROM wanted))"
        )
        return wanted + here - both, here

    def final_summaries(self) -> List[bytes]:
        """The final summaries that are wanted."""
        select = "SELECT path FROM wanted WHERE path >= ? AND path < ?"
        rows = self._do(select, b"final_summary", b"final_summarz")
        return [path for (path,) in rows if b"/" not in path and is_final_summary(path)]

    # -- a fresh look over there --------------------------------------------------------

    def look_anew(self) -> None:
        """Forget what was seen over there."""
        self._do("DELETE FROM looked")

    def saw(self, seen: Iterable[Tuple[bytes, int]]) -> None:
        """Take what was seen over there: a path, and how it looked."""
        self._tables.change("INSERT OR REPLACE INTO looked VALUES (?, ?)", seen)

    def is_there(self, path: bytes) -> bool:
        """Whether anything of this name was seen over there."""
        return bool(self._do("SELECT 1 FROM looked WHERE path = ?", path))

    def is_file_there(self, path: bytes) -> bool:
        """Whether a file of this name was seen over there."""
        return bool(self._do("SELECT 1 FROM looked WHERE path = ? AND kind <> 2", path))

    def unlisted(self) -> Iterator[bytes]:
        """Files over there that are not wanted."""
        return self._paths(_UNLISTED)

    def unlike(self) -> Iterator[bytes]:
        """What is wanted and looks otherwise over there, or is not there."""
        return self._paths(_UNLIKE)

    def _parts(self, statement: str, count: int) -> Iterator[List[Listed]]:
        after = b""
        while True:
            part = [Listed(*row) for row in self._tables.rows(statement, (after, count))]
            if not part:
                return
            yield part
            after = part[-1].path

    def _paths(self, statement: str) -> Iterator[bytes]:
        return (path for (path,) in self._tables.ordered(statement))

    def _do(self, statement: str, *parameters: object) -> List[Tuple[Any, ...]]:
        return self._tables.rows(statement, parameters)


Saw = Callable[[Iterable[Tuple[bytes, int]]], None]


def first(*each: Iterator[bytes]) -> Optional[bytes]:
    """The first path of several lists, each of which is sorted."""
    return min(
        (path for path in (next(one, None) for one in each) if path is not None), default=None
    )
