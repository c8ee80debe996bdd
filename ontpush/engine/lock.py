"""One tick at a time: a lock that goes with the process and that no child inherits.

A tick that is killed leaves children behind, which might overwrite what the next one has sent. So
the file holds a word while a tick is at work; whoever finds it there ends them first.
"""

import contextlib
import fcntl
import os
from typing import Iterator

from ontpush.engine.orphans import orphans_ended
from ontpush.facts.names import shown
from ontpush.facts.trouble import BadConfiguration, TryLater


@contextlib.contextmanager
def only_one(state_dir: bytes) -> Iterator[None]:
    """Hold the lock of the state directory, made if need be. TryLater where another holds it."""
    path = os.path.join(state_dir, b"lock")
    try:
        os.makedirs(state_dir, mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BadConfiguration(
            f"the state directory {shown(state_dir)} cannot be written: {error.strerror};"
            " name another with --state-dir"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TryLater(
                f"another tick holds {shown(path)}; this one leaves the work to it"
            ) from error
        with orphans_ended(descriptor, path):
            yield
    finally:
        os.close(descriptor)
