"""The ledger: an SQLite database of every run and file seen, their sums, and what was sent.

It is a cache, never the only copy of a fact: lost or damaged, it is made anew from the runs,
their roll-ups and their done marks. It must work on SQLite 3.22, which a Mk1C has.
"""

import collections
import contextlib
import math
import os
import sqlite3
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.engine.rollup import Listed
from ontpush.engine.settling import Moment, Seen, seconds_put
from ontpush.facts.names import shown
from ontpush.facts.regular import open_regular
from ontpush.facts.times import mtime_ns
from ontpush.facts.trouble import BadConfiguration, LedgerDamaged, Trouble, TryLater
from ontpush.facts.words import NEW

SCHEMA_VERSION = 4
_SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,        -- absolute
    source BLOB,                      -- the SRC below which it was found
    destination TEXT,                 -- what `sent`, `listed` and `state` are about
    state TEXT NOT NULL,
    error TEXT,
    warning TEXT,
    looked_at INTEGER NOT NULL,       -- last look at every file; 0: never
    changed_ns INTEGER NOT NULL,      -- newest modification time seen
    first_sent_at INTEGER,
    done_at INTEGER,
    rollup TEXT,                      -- MD5 of the roll-up that was delivered last
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sent_files INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    gone_at INTEGER,
    claim TEXT,                       -- under which name its place there was claimed; '': another
                                      -- sequencer's; NULL: to be claimed, whoever has it
    claim_seen_at INTEGER NOT NULL    -- when it was found to be so last
);
CREATE TABLE directories (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    path BLOB NOT NULL,               -- relative to the run, with a slash at the end; '' is the run
    token BLOB,                       -- how it looked when read last; NULL: read it again
    cleared INTEGER NOT NULL,         -- 0: a mark at the destination may vouch for what lies there
    UNIQUE (run, path)
);
CREATE TABLE files (
    directory INTEGER NOT NULL REFERENCES directories,
    name BLOB NOT NULL,
    size INTEGER,                     -- NULL: gone, or not complete yet
    mtime_ns INTEGER,
    ctime_ns INTEGER,                 -- when the sum was taken; 0: no sidecar may tell it
    md5 BLOB,                         -- NULL: not taken; empty: a symbolic link
    delivery INTEGER NOT NULL,        -- see NOT_OFFERED to ADOPTED
    listed BLOB,                      -- the sum that the roll-up at the destination may list
    PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE TABLE waiting (                -- files that have not settled, as they were seen first
    directory INTEGER NOT NULL,
    name BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    boot TEXT NOT NULL,               -- which start of this host
    since REAL NOT NULL,              -- seconds after it
    PRIMARY KEY (directory, name)
) WITHOUT ROWID;
CREATE TABLE last_call (              -- as of which the clock of this host has run on evenly
    boot TEXT,
    uptime REAL,
    clock REAL,
    was_put INTEGER                   -- whether somebody had put it just before
);
CREATE TABLE doubted (
    run INTEGER PRIMARY KEY,          -- its files are to be read again, whatever their sums
    after BLOB NOT NULL               -- only those after this path
);
"""
# What the destination may have of a file: nothing, this version, an older one, this one for sure.
# ADOPTED came from a roll-up found in the run: it may be there, and its sum is needed first.
NOT_OFFERED, OFFERED, OLDER, THERE, ADOPTED = range(5)
_KEPT_AFTER_GONE = 7 * 86400

# Rows that are read at once.
_PAGE = 2000

LINK = b""
GONE = b""


# A file as a look finds it: its name, size, modification time in nanoseconds, and LINK or None.
Taken = Tuple[bytes, int, int, Optional[bytes]]


class RunRecord(NamedTuple):
    """A row of `runs`; the fields are explained in the schema."""

    id: int
    path: bytes
    source: Optional[bytes]
    destination: Optional[str]
    state: str
    error: Optional[str]
    warning: Optional[str]
    looked_at: int
    changed_ns: int
    first_sent_at: Optional[int]
    done_at: Optional[int]
    rollup: Optional[str]
    files: int
    bytes: int
    sent_files: int
    sent_bytes: int
    gone_at: Optional[int]
    claim: Optional[str]
    claim_seen_at: int


class FileRecord(NamedTuple):
    """A file or link of a run: `path` is relative to the run, sizes in bytes."""

    directory: int
    path: bytes
    name: bytes
    size: int
    mtime_ns: int
    ctime_ns: Optional[int]
    md5: Optional[bytes]

    @property
    def key(self) -> Tuple[bytes, bytes]:
        """Its place in the order in which files are given out."""
        return self.path[: len(self.path) - len(self.name)], self.name

    def is_as_hashed(self, found: os.stat_result) -> bool:
        """Whether nothing touched the file since its sum was taken, going by size and times."""
        return (found.st_size, mtime_ns(found), found.st_ctime_ns) == (
            self.size,
            self.mtime_ns,
            self.ctime_ns,
        )


class Known(NamedTuple):
    """What a look at a directory compares a file with."""

    name: bytes
    size: Optional[int]
    mtime_ns: Optional[int]


class Totals(NamedTuple):
    """Files and bytes of a run, and how much of it lies at the destination."""

    files: int
    bytes: int
    sent_files: int
    sent_bytes: int
    unsent: int


class Ledger:
    """The open database; use as a context manager. Writes come in `with ledger.writing():`."""

    def __init__(self, path: bytes, made_if_need_be: bool) -> None:
        self.path = path
        # An address, because Python 3.6 takes no bytes for a path.
        address = "file:" + "".join(f"%{byte:02x}" for byte in path)
        address += "?mode=rwc" if made_if_need_be else "?mode=rw"
        try:
            self._database = sqlite3.connect(address, timeout=60, isolation_level=None, uri=True)
        except sqlite3.Error as error:
            raise BadConfiguration(
                f"{shown(path)}: cannot be opened: {error}; is the directory there and writable?"
            ) from error

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all of it or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    # -- runs -------------------------------------------------------------------------

    def runs(self, source: Optional[bytes] = None) -> List[RunRecord]:
        """Every run that is not gone, or those found below `source`."""
        where = "gone_at IS NULL" + (" AND source = ?" if source is not None else "")
        rows = self._database.execute(
            f"SELECT * FROM runs WHERE {where} ORDER BY path",
            () if source is None else (source,),
        )
        return [RunRecord(*row) for row in rows]

    def runs_elsewhere(self, source: bytes) -> List[RunRecord]:
        """Every run that is not gone and was not found below `source`."""
        rows = self._database.execute(
            "SELECT * FROM runs WHERE gone_at IS NULL AND source IS NOT ?", (source,)
        )
        return [RunRecord(*row) for row in rows]

    def host(self, here: str) -> str:
        """The host whose paths these are: `here` from now on, if there was none yet."""
        with self.writing():
            self._database.execute("CREATE TABLE IF NOT EXISTS host (name TEXT NOT NULL)")
            self._database.execute(
                "INSERT INTO host SELECT ? WHERE NOT EXISTS (SELECT 1 FROM host)", (here,)
            )
            return str(self._database.execute("SELECT name FROM host").fetchone()[0])

    def run(self, path: bytes) -> Optional[RunRecord]:
        """The run at the absolute `path`, also one that is gone."""
        row = self._database.execute("SELECT * FROM runs WHERE path = ?", (path,)).fetchone()
        return RunRecord(*row) if row else None

    def add_run(self, path: bytes) -> RunRecord:
        """Begin a record for the run at the absolute `path`."""
        self._database.execute(
            "INSERT INTO runs VALUES (NULL, ?, NULL, NULL, ?, NULL, NULL, 0, 0, NULL, NULL, NULL,"
            " 0, 0, 0, 0, NULL, NULL, 0)",
            (path, NEW),
        )
        record = self.run(path)
        if record is None:
            raise LedgerDamaged(f"{shown(self.path)}: lost a run just written")
        return record

    def update_run(self, run: int, **columns: Any) -> None:
        """Write these columns of a run, and leave what others wrote meanwhile as it is."""
        changes = ", ".join(f"{name} = ?" for name in columns)
        self._database.execute(
            f"UPDATE runs SET {changes} WHERE id = ?",
            (*columns.values(), run),
        )

    def claims_are_due(self, source: bytes, before: int, now: int) -> bool:
        """Whether a claim of a run below `source` was not seen to be ours since `before`."""
        row = self._database.execute(
            "SELECT 1 FROM runs WHERE gone_at IS NULL AND source = ? AND claim != ''"
            " AND claim_seen_at NOT BETWEEN ? AND ? LIMIT 1",
            (source, before, now),
        ).fetchone()
        return row is not None

    def forget_deliveries(self, run: int) -> None:
        """The run goes to another destination: nothing of it has been sent there."""
        self._update_files(
            run, "delivery = 0, listed = NULL", "delivery != 0 OR listed IS NOT NULL"
        )
        self._database.execute("UPDATE directories SET cleared = 0 WHERE run = ?", (run,))

    def doubt_sums(self, run: int) -> None:
        """All sums of the run are in doubt: they are to be taken anew and compared."""
        self._database.execute("INSERT OR REPLACE INTO doubted VALUES (?, x'')", (run,))

    def doubted_after(self, run: int) -> Optional[bytes]:
        """After which path the sums of the run are in doubt; None where none is."""
        row = self._database.execute("SELECT after FROM doubted WHERE run = ?", (run,)).fetchone()
        return bytes(row[0]) if row else None

    def doubt_only_after(self, run: int, path: bytes) -> None:
        """The files up to this path have been read again."""
        self._database.execute("UPDATE doubted SET after = ? WHERE run = ?", (path, run))

    def doubt_no_more(self, run: int) -> None:
        """All files of the run have been read again."""
        self._database.execute("DELETE FROM doubted WHERE run = ?", (run,))

    def tell_time(self, now: Moment) -> float:
        """For how many seconds this host's clock has not been put, going by the calls till now.

        The times that were noted by it are put with it. As long as it runs on evenly there is
        nothing to write.
        """
        row = self._database.execute("SELECT * FROM last_call").fetchone()
        before = Moment(*row[:3]) if row else None
        put = seconds_put(before, now)
        if before and not put and before.boot == now.boot and before.uptime <= now.uptime:
            return now.uptime - before.uptime if row[3] else math.inf
        with self.writing():
            self._database.execute("DELETE FROM last_call")
            self._database.execute("INSERT INTO last_call VALUES (?, ?, ?, ?)", (*now, bool(put)))
            if put:
                self._database.execute(
                    "UPDATE runs SET changed_ns = changed_ns + ? WHERE changed_ns != 0",
                    (int(put * 10**9),),
                )
        return 0 if put else math.inf

    def drop_long_gone(self, now: float) -> None:
        """Forget the files of runs whose directories went a week ago; their history stays."""
        of_gone = "SELECT d.id FROM directories d JOIN runs r ON r.id = d.run WHERE r.gone_at < ?"
        before = (now - _KEPT_AFTER_GONE,)
        self._database.execute(f"DELETE FROM files WHERE directory IN ({of_gone})", before)
        self._database.execute(f"DELETE FROM waiting WHERE directory IN ({of_gone})", before)
        self._database.execute(f"DELETE FROM directories WHERE id IN ({of_gone})", before)
        # What its roll-up at the destination lists is forgotten too: coming back, it begins anew.
        self._database.execute("UPDATE runs SET destination = NULL WHERE gone_at < ?", before)

    def tokens_of(self, run: int) -> Dict[bytes, Optional[bytes]]:
        """Each known directory of one run and what it looked like."""
        return dict(
            self._database.execute("SELECT path, token FROM directories WHERE run = ?", (run,))
        )

    # -- directories ------------------------------------------------------------------

    def tokens(self) -> Dict[int, Dict[bytes, Optional[bytes]]]:
        """For every run, each known directory and what it looked like."""
        tokens: Dict[int, Dict[bytes, Optional[bytes]]] = {}
        for run, path, token in self._database.execute("SELECT run, path, token FROM directories"):
            tokens.setdefault(run, {})[path] = token
        return tokens

    def known_directory(self, run: int, path: bytes) -> Optional[int]:
        """The number of a directory of a run; None where it has none yet."""
        found = self._database.execute(
            "SELECT id FROM directories WHERE run = ? AND path = ?", (run, path)
        ).fetchone()
        return int(found[0]) if found else None

    def directory(self, run: int, path: bytes) -> int:
        """The number of a directory of a run, new if need be."""
        known = self.known_directory(run, path)
        if known is not None:
            return known
        self._database.execute("INSERT INTO directories VALUES (NULL, ?, ?, NULL, 0)", (run, path))
        return self.directory(run, path)

    def set_token(self, directory: int, token: Optional[bytes]) -> None:
        """Remember what a directory looked like before it was read."""
        self._database.execute("UPDATE directories SET token = ? WHERE id = ?", (token, directory))

    def watch_no_files(self, run: int) -> None:
        """Of each directory of the run remember its own time alone, the first 8 bytes."""
        self._database.execute(
            "UPDATE directories SET token = substr(token, 1, 8)"
            " WHERE run = ? AND path != x'' AND length(token) > 8",
            (run,),
        )

    def waiting_in(self, directory: int) -> Dict[bytes, Seen]:
        """The files of a directory that had not settled at the last look, by name."""
        rows = self._database.execute(
            "SELECT name, size, mtime_ns, ctime_ns, boot, since FROM waiting WHERE directory = ?",
            (directory,),
        )
        return {row[0]: Seen(*row[1:]) for row in rows}

    def set_waiting(self, directory: int, files: Dict[bytes, Seen]) -> None:
        """Remember which files of a directory have not settled."""
        self._database.execute("DELETE FROM waiting WHERE directory = ?", (directory,))
        self._database.executemany(
            "INSERT INTO waiting VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((directory, name, *seen) for name, seen in files.items()),
        )

    def uncleared(self, run: int) -> List[bytes]:
        """The directories of a run where a mark at the destination may vouch for something."""
        rows = self._database.execute(
            "SELECT path FROM directories WHERE run = ? AND cleared = 0 ORDER BY path", (run,)
        )
        return [path for (path,) in rows]

    def note_cleared(self, run: int, paths: Iterable[bytes]) -> None:
        """No mark vouches for anything in these directories of a run any more."""
        self._database.executemany(
            "UPDATE directories SET cleared = 1 WHERE run = ? AND path = ?",
            ((run, path) for path in paths),
        )

    def known_in(self, directory: int, after: bytes, limit: int) -> List[Known]:
        """The next `limit` files of a directory, by name."""
        rows = self._database.execute(
            "SELECT name, size, mtime_ns FROM files WHERE directory = ? AND name > ?"
            " ORDER BY name LIMIT ?",
            (directory, after, limit),
        )
        return [Known(*row) for row in rows]

    # -- files ------------------------------------------------------------------------

    def take_new(self, directory: int, found: List[Taken]) -> None:
        """Files never seen before: to be hashed and sent."""
        self._database.executemany(
            "INSERT INTO files VALUES (?, ?, ?, ?, NULL, ?, 0, NULL)",
            ((directory, name, size, mtime, md5) for name, size, mtime, md5 in found),
        )

    def take_changed(self, directory: int, found: List[Taken]) -> None:
        """Files that are other than they were, or complete now: to be hashed and sent."""
        self._database.executemany(
            "UPDATE files SET size = ?, mtime_ns = ?, ctime_ns = 0, md5 = ?,"
            " delivery = CASE WHEN delivery IN (0, 4) THEN delivery ELSE 2 END"
            " WHERE directory = ? AND name = ?",
            ((size, mtime, md5, directory, name) for name, size, mtime, md5 in found),
        )

    def put_back(self, directory: int, names: Iterable[bytes]) -> None:
        """Files that are gone or not complete: not to be sent or listed as they are."""
        keys = [(directory, name) for name in names]
        self._database.executemany(
            "DELETE FROM files WHERE directory = ? AND name = ? AND delivery = 0", keys
        )
        self._database.executemany(
            "UPDATE files SET size = NULL, mtime_ns = NULL, ctime_ns = NULL, md5 = NULL,"
            " delivery = CASE WHEN delivery IN (0, 4) THEN delivery ELSE 2 END"
            " WHERE directory = ? AND name = ?",
            keys,
        )

    def changed(self, run: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        """The next `limit` files to send of which the destination may have another version."""
        return self._files(run, "f.delivery IN (2, 4)", after, limit)

    def broken_off(self, run: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        """The next `limit` files to send that an earlier call may have brought over already."""
        return self._files(run, "f.delivery = 1", after, limit)

    def fresh(self, run: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        """The next `limit` files to send that are new or changed."""
        return self._files(run, "f.delivery IN (0, 2)", after, limit)

    def unsummed(self, run: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        """The next `limit` files without a sum, by directory and name."""
        return self._files(run, "f.md5 IS NULL", after, limit)

    def all_files(self, run: int, after: Tuple[bytes, bytes], limit: int) -> List[FileRecord]:
        """The next `limit` files and links of the run, by directory and name."""
        return self._files(run, "1", after, limit)

    def files_at(self, run: int, paths: Iterable[bytes]) -> List[FileRecord]:
        """The files at these paths, relative to the run; what is not known is passed over."""
        wheres = [(path[: path.rfind(b"/") + 1], path[path.rfind(b"/") + 1 :]) for path in paths]
        return [
            file
            for directory, name in wheres
            for file in self._select("d.path = ? AND f.name = ?", (run, directory, name))
        ]

    def _files(
        self, run: int, where: str, after: Tuple[bytes, bytes], limit: int
    ) -> List[FileRecord]:
        return self._select(
            f"{where} AND (d.path > ? OR (d.path = ? AND f.name > ?))"
            " ORDER BY d.path, f.name LIMIT ?",
            (run, after[0], after[0], after[1], limit),
        )

    def _select(self, where: str, values: Tuple[Any, ...]) -> List[FileRecord]:
        rows = self._database.execute(
            "SELECT d.id, d.path, f.name, f.size, f.mtime_ns, f.ctime_ns, f.md5"
            " FROM directories d JOIN files f ON f.directory = d.id"
            f" WHERE d.run = ? AND f.size IS NOT NULL AND {where}",
            values,
        )
        return [FileRecord(row[0], row[1] + row[2], *row[2:]) for row in rows]

    def store_sums(self, files: Iterable[FileRecord]) -> None:
        """Keep the sums of these files and when they were changed last."""
        self._database.executemany(
            "UPDATE files SET md5 = ?, ctime_ns = ? WHERE directory = ? AND name = ?",
            ((file.md5, file.ctime_ns, file.directory, file.name) for file in files),
        )

    def offer_new(self, files: Iterable[FileRecord]) -> None:
        """These files are about to be sent: what was new may lie there from now on."""
        self._database.executemany(
            "UPDATE files SET delivery = 1 WHERE directory = ? AND name = ? AND delivery = 0",
            ((file.directory, file.name) for file in files),
        )

    def store_delivery(self, files: Iterable[FileRecord], delivery: int) -> None:
        """What the destination may have of these files from now on."""
        self._database.executemany(
            "UPDATE files SET delivery = ? WHERE directory = ? AND name = ?",
            ((delivery, file.directory, file.name) for file in files),
        )

    def distrust(self, files: Iterable[FileRecord]) -> None:
        """Take the sums of these files again and send them again."""
        self._database.executemany(
            "UPDATE files SET md5 = CASE md5 WHEN x'' THEN md5 END, ctime_ns = 0, delivery = 2"
            " WHERE directory = ? AND name = ?",
            ((file.directory, file.name) for file in files),
        )

    def distrust_paths(self, run: int, paths: Iterable[bytes]) -> None:
        """The same, for paths relative to the run; what is not known is passed over."""
        self._database.executemany(
            "UPDATE files SET md5 = CASE md5 WHEN x'' THEN md5 END, ctime_ns = 0, delivery = 2"
            " WHERE name = ? AND directory ="
            " (SELECT id FROM directories WHERE run = ? AND path = ?)",
            ((path[path.rfind(b"/") + 1 :], run, path[: path.rfind(b"/") + 1]) for path in paths),
        )

    def sizes(self, run: int) -> Iterator[Tuple[bytes, bytes, int]]:
        """Path, MD5 and size in bytes of each file of a run that has a sum."""
        for directory, path in self._directories(run):
            for name, md5, size in self._rows(
                directory, "md5, size", "md5 IS NOT NULL AND size IS NOT NULL"
            ):
                yield path + name, md5, size

    def names(self, run: int) -> Iterator[bytes]:
        """The name, without its directory, of every file and link of a run."""
        for directory, _ in self._directories(run):
            for name, *_ in self._rows(directory, "size", "size IS NOT NULL"):
                yield name

    def _directories(self, run: int) -> List[Tuple[int, bytes]]:
        """Number and path of every directory of a run, by path."""
        return self._database.execute(
            "SELECT id, path FROM directories WHERE run = ? ORDER BY path", (run,)
        ).fetchall()

    def _rows(self, directory: int, columns: str, where: str) -> Iterator[Tuple[Any, ...]]:
        """Name and `columns` of the files in a directory, by name.

        A page at a time: who reads is slow, and a query that is not at its end keeps all others
        from writing.
        """
        after = b""
        while True:
            rows = self._database.execute(
                f"SELECT name, {columns} FROM files WHERE directory = ? AND name > ?"
                f" AND {where} ORDER BY name LIMIT {_PAGE:d}",
                (directory, after),
            ).fetchall()
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def totals(self, run: int) -> Totals:
        """Files and bytes of a run, symbolic links not counted but for `unsent`."""
        row = self._database.execute(
            "SELECT total(md5 IS NULL OR md5 != x''), total(size), total(delivery = 3"
            " AND md5 != x''), total(size * (delivery = 3)), total(delivery != 3)"
            " FROM files WHERE directory IN (SELECT id FROM directories WHERE run = ?)"
            " AND size IS NOT NULL",
            (run,),
        ).fetchone()
        return Totals(*(int(number) for number in row))

    # -- the roll-up ------------------------------------------------------------------

    def rollup(self, run: int) -> Iterator[Listed]:
        """What the roll-up is to list: every file that lies at the destination, by path."""
        return self._listing(run, "md5", "delivery = 3 AND md5 != x''")

    def summed(self, run: int) -> Iterator[Listed]:
        """Every file with a sum, sent or not, by path: the roll-up of `ontpush hash`."""
        return self._listing(run, "md5", "md5 != x''")

    _CONTRADICTED = (
        "listed IS NOT NULL AND size IS NOT NULL AND delivery != 3"
        " AND (md5 IS NULL OR md5 != listed)"
    )

    def contradicted(self, run: int) -> int:
        """How many files about to be sent differ from what the destination's roll-up may list."""
        row = self._database.execute(
            f"SELECT count(*) FROM files WHERE {self._CONTRADICTED} AND directory IN"
            " (SELECT id FROM directories WHERE run = ?)",
            (run,),
        ).fetchone()
        return int(row[0])

    def uncontradicted(self, run: int) -> Iterator[Listed]:
        """What the destination's roll-up may list and will be true of the bytes there."""
        return self._listing(run, "listed", f"listed IS NOT NULL AND NOT ({self._CONTRADICTED})")

    def listed(self, run: int) -> Iterator[Listed]:
        """What the destination's roll-up may list, by path."""
        return self._listing(run, "listed", "listed IS NOT NULL")

    def _listing(self, run: int, column: str, where: str) -> Iterator[Listed]:
        """By path, though it is read directory by directory: nothing is sorted, or held at once."""
        waiting = collections.deque(self._directories(run))

        def first_and_below() -> Iterator[Listed]:
            number, directory = waiting.popleft()
            for name, md5 in self._rows(number, column, where):
                path = directory + name
                while waiting and waiting[0][1].startswith(directory) and waiting[0][1] < path:
                    yield from first_and_below()
                yield Listed(path, md5)

        while waiting:
            yield from first_and_below()

    def unlist_contradicted(self, run: int) -> None:
        """The roll-up without the contradicted files has been delivered."""
        self._update_files(run, "listed = NULL", self._CONTRADICTED)

    def rollup_is_stale(self, run: int) -> bool:
        """Whether the roll-up at the destination lists other than what lies there."""
        row = self._database.execute(
            "SELECT 1 FROM directories d JOIN files f ON f.directory = d.id WHERE d.run = ? AND"
            " ((f.delivery = 3 AND f.md5 != x'' AND (f.listed IS NULL OR f.listed != f.md5))"
            " OR (f.listed IS NOT NULL AND f.size IS NULL)) LIMIT 1",
            (run,),
        ).fetchone()
        return row is not None

    def list_sent(self, run: int) -> None:
        """The roll-up of all that lies there is about to be delivered: it may be there now."""
        self._update_files(run, "listed = md5", "delivery = 3 AND md5 != x'' AND listed IS NOT md5")

    def unlist_unsent(self, run: int) -> None:
        """That roll-up has been delivered: nothing else is listed any more."""
        self._update_files(run, "listed = NULL", "listed IS NOT NULL AND delivery != 3")
        self._database.execute(
            "DELETE FROM directories WHERE run = ? AND token = x'' AND path != x''"
            " AND NOT EXISTS (SELECT 1 FROM files WHERE directory = directories.id)",
            (run,),
        )

    def unlist_all(self, run: int) -> None:
        """An empty roll-up has been delivered."""
        self._update_files(run, "listed = NULL", "listed IS NOT NULL")

    def _update_files(self, run: int, change: str, where: str) -> None:
        self._database.execute(
            f"UPDATE files SET {change} WHERE ({where}) AND directory IN"
            " (SELECT id FROM directories WHERE run = ?)",
            (run,),
        )

    def adopt(self, directory: int, listed: Iterable[Tuple[bytes, bytes]]) -> None:
        """Names and sums of a roll-up from before this database: they may lie there so."""
        for name, md5 in listed:
            self._database.execute(
                "INSERT OR IGNORE INTO files VALUES (?, ?, NULL, NULL, NULL, NULL, 4, NULL)",
                (directory, name),
            )
            self._database.execute(
                "UPDATE files SET listed = ?, delivery = 4 WHERE directory = ? AND name = ?",
                (md5, directory, name),
            )

    def believe_listed(self, run: int, until_ns: int) -> None:
        """A done mark vouches for that roll-up: what is no newer than the mark lies there so."""
        self._update_files(
            run,
            "md5 = listed, delivery = 3",
            f"listed IS NOT NULL AND size IS NOT NULL AND mtime_ns <= {until_ns:d}",
        )

    def doubt(self, files: Iterable[FileRecord]) -> None:
        """Take the sums of these files again, and let rsync compare them by content."""
        self._database.executemany(
            "UPDATE files SET md5 = CASE md5 WHEN x'' THEN md5 END, ctime_ns = 0, delivery = 4"
            " WHERE directory = ? AND name = ?",
            ((file.directory, file.name) for file in files),
        )

    def disbelieve_listed(self, run: int) -> None:
        """The mark does not fit what is in the run: take all sums again."""
        self._update_files(run, "md5 = NULL, delivery = 4", "listed IS NOT NULL")

    def doubt_deliveries(self, run: int) -> None:
        """Let rsync compare by content whatever was taken to lie there."""
        self._update_files(run, "delivery = 4", "delivery = 3")

    def settle_adopted(self, run: int) -> None:
        """Adopted files have their sums: they may be sent now, compared by content."""
        self._update_files(run, "delivery = 1", "delivery = 4")


def open_ledger(state_dir: bytes) -> Ledger:
    """The ledger in `state_dir`, new where there is none, one of this version or a new one.

    For whoever holds the lock of the state directory. LedgerDamaged says that it was unreadable
    and has been set aside: open again.
    """
    ledger = Ledger(_path_in(state_dir), made_if_need_be=True)
    with _closed_on_trouble(ledger), damage_set_aside(ledger):
        version = _version(ledger)
        if version is None:
            _make_tables(ledger)
    if version in (None, SCHEMA_VERSION):
        return ledger
    set_aside(ledger)
    return open_ledger(state_dir)


def existing_ledger(state_dir: bytes) -> Optional[Ledger]:
    """The ledger in `state_dir` as it is, for anybody; None where there is none yet.

    BadConfiguration where this user may not read it, TryLater where it cannot be read at all.
    """
    path = readable_file(state_dir)
    if path is None:
        return None
    ledger = Ledger(path, made_if_need_be=False)
    with _closed_on_trouble(ledger), faults_told(ledger):
        version = _version(ledger)
        if version not in (None, SCHEMA_VERSION):
            raise _unusable(ledger, "is of another version of ontpush")
    if version is not None:
        return ledger
    ledger.__exit__()
    return None


def readable_file(state_dir: bytes) -> Optional[bytes]:
    """The file of the ledger, None where there is none. BadConfiguration if it is out of reach."""
    path = _path_in(state_dir)
    try:
        open_regular(path, through_links=True).close()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadConfiguration(
            f"{shown(path)} cannot be read: {error.strerror}; call as the user of the ticks, or"
            " name another state directory with --state-dir"
        ) from error
    return path


def _path_in(state_dir: bytes) -> bytes:
    return os.path.join(state_dir, b"ledger.sqlite3")


@contextlib.contextmanager
def _closed_on_trouble(ledger: Ledger) -> Iterator[None]:
    try:
        yield
    except BaseException:
        ledger.__exit__()
        raise


def _version(ledger: Ledger) -> Optional[int]:
    """The version of the tables, None where there are none yet."""
    database = ledger._database
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version == SCHEMA_VERSION:
        database.execute("SELECT count(*) FROM runs").fetchone()
    elif not version and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
        return None
    return version


def _make_tables(ledger: Ledger) -> None:
    with ledger.writing():
        for statement in _SCHEMA.split(";\n"):
            ledger._database.execute(statement)
        ledger._database.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")


def set_aside(ledger: Ledger) -> bytes:
    """Move an unusable database out of the way; it is a cache and is made anew."""
    ledger._database.close()
    aside = ledger.path + b".unusable"
    os.replace(ledger.path, aside)
    for suffix in (b"-journal", b"-wal", b"-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(ledger.path + suffix)
    return aside


@contextlib.contextmanager
def damage_set_aside(ledger: Ledger) -> Iterator[None]:
    """Turn faults of the database into Trouble; set a damaged one aside.

    For whoever holds the lock of the state directory.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _passing(ledger, error) or _damaged(ledger, error) from error


@contextlib.contextmanager
def faults_told(ledger: Ledger) -> Iterator[None]:
    """Turn faults of the database into Trouble; leave a damaged one to the next tick."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _passing(ledger, error) or _unusable(ledger, str(error)) from error


def _passing(ledger: Ledger, error: sqlite3.DatabaseError) -> Optional[Trouble]:
    """Why the database cannot be used, if not because it is damaged."""
    said = str(error)
    if "readonly" in said:
        return BadConfiguration(
            f"{shown(ledger.path)}: this user may not write it; call as the user of the ticks"
        )
    damage = ("malformed", "no such table", "no such column")
    if not isinstance(error, sqlite3.OperationalError) or any(word in said for word in damage):
        return None
    return TryLater(f"{shown(ledger.path)}: {said}; the next tick tries again")


def _unusable(ledger: Ledger, why: str) -> TryLater:
    return TryLater(f"{shown(ledger.path)}: {why}; the next tick makes it anew")


def _damaged(ledger: Ledger, error: sqlite3.Error) -> LedgerDamaged:
    aside = set_aside(ledger)
    return LedgerDamaged(
        f"{shown(ledger.path)}: {error}; set aside as {shown(aside)} and made anew from the runs"
    )
