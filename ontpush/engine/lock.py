"""One tick at a time: a lock that goes with the process and that no child inherits.

A tick that is killed leaves children behind, which might overwrite what the next one has sent. So
the file holds a word while a tick is at work; whoever finds it there ends them first.
"""

import contextlib
import errno
import fcntl
import os
from typing import Iterator

from ontpush.engine.orphans import orphans_ended
from ontpush.engine.private import close_directory, open_private, owner_of
from ontpush.facts.names import shown
from ontpush.facts.trouble import AtWork, BadConfiguration, Trouble, unwritable

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_ANOTHER = "name another with --state-dir"


@contextlib.contextmanager
def only_one(state_dir: bytes, name: bytes = b"lock", wait: bool = False) -> Iterator[None]:
    """Hold a lock of the state directory, made if need be. AtWork where another holds it."""
    path = os.path.join(state_dir, name)
    close_state(state_dir)
    try:
        descriptor = open_private(path, os.O_RDWR)
    except OSError as error:
        raise _unusable(state_dir, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise BadConfiguration(
                    f"the disk of {shown(state_dir)} has no locks: mount it with flock (Lustre:"
                    " -o flock), or name another place with --state-dir"
                ) from error
            raise AtWork(
                f"another tick holds {shown(path)}; this one leaves the work to it"
            ) from error
        with orphans_ended(descriptor, path):
            yield
    finally:
        os.close(descriptor)


def close_state(state_dir: bytes) -> None:
    """Make the state directory, if need be, and let no other user enter it. Trouble.

    Another user could hold a lock in it, and no tick would do anything any more.
    """
    try:
        close_directory(state_dir, f"the state directory {shown(state_dir)}", _ANOTHER)
    except OSError as error:
        raise _unusable(state_dir, error) from error


def require_readable(state_dir: bytes) -> None:
    """Refuse to show what another user's state directory hides. BadConfiguration."""
    try:
        os.scandir(state_dir).close()
    except FileNotFoundError:
        return  # no tick has made it yet
    except OSError as error:
        place = f"the state directory {shown(state_dir)} cannot be read: {error.strerror}"
        who = owner_of(state_dir) or "the user of the ticks"
        raise BadConfiguration(f"{place}; call as {who}, or {_ANOTHER}") from error


def _unusable(state_dir: bytes, error: OSError) -> Trouble:
    return unwritable(f"the state directory {shown(state_dir)}", error, _ANOTHER)


def is_held(state_dir: bytes) -> bool:
    """Whether a tick is at work at this moment; to be asked only where something says so."""
    try:
        descriptor = os.open(os.path.join(state_dir, b"lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, and for an instant: a tick that begins in it would be turned away.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
