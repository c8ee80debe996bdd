"""Delivers our own small files; roll-up and done mark each in a transfer of its own.

They go from an outbox in the state directory, so that a file lies in the run only after it
has arrived: a done mark in a run is never one that the cluster does not have.
"""

import contextlib
import errno
import os
from typing import Iterable, Iterator, Mapping

from ontpush.engine.rollup import write_whole
from ontpush.engine.send import Swapped, send, swap
from ontpush.engine.transport import Transport
from ontpush.facts.directories import make_directory, remove_directory
from ontpush.facts.names import shown
from ontpush.facts.trouble import RunFailed, unwritable


def deliver(
    transport: Transport,
    outbox: bytes,
    name: bytes,
    lines: Iterable[bytes],
    only_over_another: bool = False,
) -> int:
    """Send a file made of `lines` to `name`, relative to the destination. Trouble.

    Its modification time in nanoseconds, which the one in the run is to have as well.
    """
    path = os.path.join(outbox, name)
    try:
        with _faults_told(outbox):
            make_directory(os.path.dirname(path))
            write_whole(path, lines)
            changed = os.stat(path).st_mtime_ns
        send(transport, outbox, name, only_over_another)
        return changed
    finally:
        remove_directory(outbox)


def exchange(
    transport: Transport,
    outbox: bytes,
    files: Mapping[bytes, bytes],
    only_over_another: bool = False,
    pretended: bool = False,
) -> Swapped:
    """Send files, by name with their content, in one call: what lay there that was other. Trouble.

    The one way to learn something through a key that can only write. Without files no call is made.
    """
    if not files:
        return Swapped(set(), set())
    remove_directory(outbox)  # what a killed tick left
    try:
        with _faults_told(outbox):
            _fill(outbox, files)
        return swap(transport, outbox, files, only_over_another, pretended)
    finally:
        remove_directory(outbox)


def _fill(outbox: bytes, files: Mapping[bytes, bytes]) -> None:
    """Not forced to disk: there may be a thousand, and none is used after a crash."""
    for name, content in files.items():
        path = os.path.join(outbox, name)
        make_directory(os.path.dirname(path))
        with open(path, "xb") as file:
            file.write(content)


@contextlib.contextmanager
def _faults_told(outbox: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise RunFailed(
                f"its path is too long for the state directory, {shown(outbox)}: shorten one of the"
                " two"
            ) from error
        advice = "nothing else may lie there, and this user must be able to write it"
        raise unwritable(shown(outbox), error, advice) from error
