"""Sends files, and compares them with what lies there, by the system's rsync.

Names go by `--files-from --from0`, so that any name arrives.
"""

import contextlib
import os
import re
import tempfile
import threading
from typing import (
    IO,
    Callable,
    Collection,
    Iterable,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    TypeVar,
)

from ontpush.engine.children import Child
from ontpush.engine.complaints import (
    nothing_to_replace,
    only_vanished,
    trouble_of,
    why_not,
    without_greeting,
    worth_showing,
)
from ontpush.engine.transport import Transport, command_line, environment
from ontpush.facts.limits import MOST_COMPLAINTS
from ontpush.facts.names import from_rsync, human_time, shown
from ontpush.facts.trouble import OutOfReach, RunFailed, Trouble, TryLater, unwritable

_LINE = re.compile(rb"ontpush>(?P<item>.{11}) (?P<size>\d+) (?P<name>.*)\Z", re.DOTALL)
# Bytes a second that a disk reads at worst.
_SLOWEST_READ = 10 * 10**6

OnFile = Callable[[int, int], None]
Self = TypeVar("Self", bound="Call")


class Call:
    """One call of rsync, read by a thread of its own so that sums can be taken meanwhile.

    Without names, flags select what goes. `unheard` bytes may be read at one end while the other
    hears nothing. Use as a context manager and `finish()` in it; leaving
    it early ends rsync.
    """

    def __init__(
        self,
        transport: Transport,
        root: bytes,
        names: Optional[Iterable[bytes]],
        own_flags: List[str],
        unheard: int = 0,
    ) -> None:
        self._transport = transport
        # Closed in __exit__. Without the slash rsync takes a name that begins with # or ; for a
        # comment.
        self._list = _temporary(b"/" + name + b"\0" for name in names or ())
        self._reader = threading.Thread(target=self._read, daemon=True)
        # Not Thread.join: broken off by a signal, it may wait for ever the next time.
        self._read_all = threading.Event()
        self._fault: Optional[BaseException] = None
        self._has_begun = False
        patience = transport.io_timeout + unheard // _SLOWEST_READ
        command = command_line(transport, root, own_flags, names is not None, patience)
        limit = transport.transfer_hours * 3600
        try:
            self._child = Child(command, self._list, limit, environment())
        except FileNotFoundError as error:
            raise OutOfReach("rsync is not installed here: install the package rsync") from error

    def __enter__(self: "Self") -> "Self":
        self._reader.start()
        # Last: from here on an interrupt comes through, and only `__exit__` ends the child.
        self._child.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()
        self._read_all.wait()
        self._list.close()

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Told of every file and link: `item` is as in `man rsync`, --itemize-changes."""

    def _read(self) -> None:
        try:
            for line in self._child.lines():
                found = _LINE.match(line)
                self._has_begun = self._has_begun or found is not None
                if found and found.group("item")[1:2] in (b"f", b"L"):
                    self.on_line(found.group("item"), int(found.group("size")), found.group("name"))
        except ValueError:  # the pipe was closed because the call was ended
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._fault = error
        finally:
            self._read_all.set()

    def watch(self, *_: int) -> None:
        """Trouble if the call has failed meanwhile: for whoever works beside it."""
        if self._read_all.is_set():
            self.finish()

    def finish(self) -> Tuple[bool, List[str]]:
        """Wait for the end: whether all that is still there went, and what rsync complained of.

        Where all went, what was printed is what a login prints. Trouble where the call failed as
        a whole.
        """
        self._read_all.wait()
        if self._fault:
            raise self._fault
        code = self._child.wait()
        said = self._child.said().replace(b"\r", b"\n")
        complaints = worth_showing(said)
        if self._child.timed_out:
            hours = human_time(self._transport.transfer_hours * 3600)
            kind = RunFailed if self._has_begun else TryLater
            raise kind(f"a transfer was ended after {hours}; raise transfer_hours if it may last")
        if code not in (0, 23, 24):
            raise trouble_of(self._transport, code, complaints, self._has_begun)
        if code == 0:
            return True, []
        complaints = without_greeting(complaints)
        is_whole = self._child.said_all() and said.count(b"\n") <= MOST_COMPLAINTS
        return is_whole and only_vanished(complaints), complaints


def _temporary(parts: Iterable[bytes]) -> IO[bytes]:
    """A file without a name that holds `parts`, to be read from its beginning. Trouble."""
    try:
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            file.writelines(parts)
            file.seek(0)
        except OSError:
            with contextlib.suppress(OSError):  # which it has just told
                file.close()
            raise
    except OSError as error:
        raise temporary_trouble(error) from error
    return file


def temporary_trouble(error: OSError) -> Trouble:
    """Why no temporary file can be had. Python names the places itself where none will do."""
    place = "the directory for temporary files"
    if tempfile.tempdir:
        place += f", {tempfile.tempdir},"
    return unwritable(place, error, "name another with the environment variable TMPDIR")


class Sending(Call):
    """Sends files; `on_file(files, bytes)` is told of each as it arrives.

    `arrived` are the names that rsync has dealt with: those that a flag leaves out are not in it.
    `replaced` are those that took the place of another version.
    """

    def __init__(
        self,
        transport: Transport,
        root: bytes,
        names: Iterable[bytes],
        on_file: Optional[OnFile] = None,
        own_flags: Iterable[str] = (),
        unheard: int = 0,
    ) -> None:
        self.files = self.bytes = 0
        self.arrived: Set[bytes] = set()
        self.replaced: Set[bytes] = set()
        self._on_file = on_file
        super().__init__(transport, root, names, list(own_flags), unheard)

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Note a file or link, and count one whose bytes went over."""
        self.arrived.add(from_rsync(name))
        if item[:2] in (b"<f", b">f"):
            if item[2:3] != b"+":
                self.replaced.add(from_rsync(name))
            self.files += 1
            self.bytes += size
            if self._on_file:
                self._on_file(1, size)


class Comparing(Call):
    """Compares with what lies at the destination, and changes nothing there.

    By content, unless size and time are enough. `-n -i -c` needs no right to read there. A name
    that a flag leaves out is neither `same` nor `different`.
    """

    def __init__(
        self,
        transport: Transport,
        root: bytes,
        names: Iterable[bytes],
        on_file: Optional[OnFile] = None,
        unheard: int = 0,
        by_content: bool = True,
    ) -> None:
        self.different: Set[bytes] = set()
        self.same: Set[bytes] = set()
        self._on_file = on_file
        super().__init__(transport, root, names, ["-n", *["-c"] * by_content], unheard)

    def on_line(self, item: bytes, size: int, name: bytes) -> None:
        """Keep the name of a file or link."""
        (self.same if item[:1] == b"." else self.different).add(from_rsync(name))
        if self._on_file:
            self._on_file(1, size)


class Swapped(NamedTuple):
    """What a call dealt with, and what of it took the place of another version there."""

    arrived: Set[bytes]
    replaced: Set[bytes]


def swap(
    transport: Transport,
    root: bytes,
    names: Collection[bytes],
    only_over_another: bool = False,
    pretended: bool = False,
) -> Swapped:
    """Send what is not the same there, by content; RunFailed where not all of that went.

    What a flag leaves out, and what there is none to replace of, is in neither set. Only
    `pretended`, it changes nothing there.
    """
    flags = ["-n"] * pretended + ["--checksum"] + ["--existing"] * only_over_another
    with Sending(transport, root, names, own_flags=flags) as sending:
        complete, complaints = sending.finish()
    if not complete and not (only_over_another and nothing_to_replace(complaints)):
        said = "\n".join(complaints)
        name = next((name for name in sorted(names) if shown(name) in said), b"")
        what = shown(os.path.basename(name)) or "a small file of ours"
        raise RunFailed(f"{what} did not arrive: {why_not(complaints, name)}")
    return Swapped(sending.arrived, sending.replaced)


def send(transport: Transport, root: bytes, name: bytes, only_over_another: bool = False) -> None:
    """Send one small file, unless there is none it would replace. RunFailed where it did not go."""
    # Two of one second can have the same size: never ask rsync's quick check.
    flags = ["--ignore-times", *["--existing"] * only_over_another]
    with Sending(transport, root, [name], own_flags=flags) as sending:
        complete, complaints = sending.finish()
    if not complete or (name not in sending.arrived and not only_over_another):
        raise RunFailed(f"{shown(os.path.basename(name))} did not arrive: {why_not(complaints)}")
