"""Lists that may be very long, in a private database of SQLite: a few megabytes of memory.

What does not fit there lies in a file without a name, in the directory for temporary files, and is
gone when the process is, however it ended.
"""

import contextlib
import sqlite3
import threading
from typing import Any, Iterable, Iterator, List, Sequence, Tuple

from ontpush.facts.trouble import TryLater

_CACHE_KIB = 2048
_PAGE = 2000


class Scratch:
    """One such database; close it at the end. Threads may share it. TryLater where it fails."""

    def __init__(self, schema: str) -> None:
        self._lock = threading.Lock()
        with _faults_told():
            self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            for statement in (
                "PRAGMA journal_mode = OFF",
                f"PRAGMA cache_size = -{_CACHE_KIB}",
                schema,
                "BEGIN",
            ):
                self._database.execute(statement)

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._database.close()

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        """What a statement gives."""
        with self._lock, _faults_told():
            return self._database.execute(statement, parameters).fetchall()

    def change(self, statement: str, each: Iterable[Sequence[Any]] = ((),)) -> int:
        """Do a statement with each of the parameters; how many rows it changed."""
        with self._lock, _faults_told():
            return self._database.executemany(statement, each).rowcount

    def ordered(self, statement: str) -> Iterator[Tuple[Any, ...]]:
        """All rows by their first column, a path; the statement ends in `path > ? … LIMIT ?`.

        Rows may be changed meanwhile.
        """
        after = b""
        while True:
            page = self.rows(statement, (after, _PAGE))
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1][0]


@contextlib.contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise TryLater(
            f"the directory for temporary files cannot be used: {error}; make room there, or name"
            " another with the environment variable TMPDIR"
        ) from error
