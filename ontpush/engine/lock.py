"""One tick at a time: a lock that goes with the process and that no child inherits.

A tick that is killed leaves children behind, which might overwrite what the next one has sent. So
the file holds a word while a tick is at work; whoever finds it there ends them first.
"""

import contextlib
import errno
import fcntl
import math
import os
import time
from typing import Iterator, List

from ontpush.engine.mark import date_text
from ontpush.engine.orphans import orphans_ended
from ontpush.engine.private import close_directory, open_private, owner_of
from ontpush.engine.settling import this_moment
from ontpush.facts.names import shown
from ontpush.facts.trouble import AtWork, BadConfiguration, Trouble, TryLater, unwritable

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
_ANOTHER = "name another with --state-dir"
_TOLD = b".told"
_STILL = b".still"
_LONGEST_NOTE = 200
_DAY = 86400
# The directories in a state directory, and that of a disk of its own.
_OWN = (b"check", b"checks", b"hooks", b"instruments", b"lost+found", b"outbox", b"pull", b"wanted")
# The locks that this process holds.
_ours: List[int] = []


class HeldTooLong(TryLater):
    """Something holds a lock and does nothing: no tick will do its work until a person ends it."""


@contextlib.contextmanager
def only_one(
    state_dir: bytes, name: bytes = b"lock", wait: bool = False, patience: float = math.inf
) -> Iterator[None]:
    """Hold a lock of the state directory, made if need be. AtWork where another holds it.

    Once a day HeldTooLong, where no step forward was made under it for `patience` seconds.
    """
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
            raise _held(path, os.fstat(descriptor), patience) from error
        with _stepping(descriptor), orphans_ended(descriptor, path):
            step_forward()  # the word of the tick is written by the clock of the disk
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + _TOLD)
            yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _stepping(descriptor: int) -> Iterator[None]:
    _ours.append(descriptor)
    try:
        step_forward()
        yield
    finally:
        _ours.remove(descriptor)


def step_forward() -> None:
    """Show by the time of the locks that we hold that their work gets on."""
    # By our own clock, with which it is compared, whatever that of a file server says.
    now = time.time()
    for descriptor in _ours:
        # On a disk that fails, the work itself finds that out and tells it.
        with contextlib.suppress(OSError):
            os.utime(descriptor, (now, now))


def held_too_long(state_dir: bytes, name: bytes, patience: float) -> str:
    """What holds a lock without a step forward for `patience` seconds, and since when; or empty."""
    path = os.path.join(state_dir, name)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    why = _no_step(path, found, patience)
    return why if why and is_held(state_dir, name) else ""


def _held(path: bytes, found: os.stat_result, patience: float) -> TryLater:
    why = _no_step(path, found, patience)
    if why and _may_tell(path + _TOLD):
        return HeldTooLong(why)
    return AtWork(f"another tick holds {shown(path)}; this one leaves the work to it")


def _no_step(path: bytes, found: os.stat_result, patience: float) -> str:
    if patience == math.inf or not _has_stood_still(path + _STILL, found, patience):
        return ""
    return (
        f"{shown(path)} is held by {_holder(found)}, and the work has stood still since"
        f" {date_text(found.st_mtime)}: see what it waits for, and end it"
    )


def _has_stood_still(note: bytes, found: os.stat_result, patience: float) -> bool:
    """Whether a look noted the same step that long ago, by a clock that nobody can set.

    That clock stops while the host sleeps, as the work does.
    """
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    step = f"{found.st_mtime_ns} {this_moment().boot} ".encode()
    # What cannot be noted, on a full disk, is noted by a later look.
    with contextlib.suppress(OSError):
        descriptor = open_private(note, os.O_RDWR)
        try:
            seen = os.read(descriptor, _LONGEST_NOTE)
            since = seen[len(step) :]
            if seen.startswith(step) and since.isdigit():
                return now - int(since) > patience
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, step + b"%d" % now, 0)
        finally:
            os.close(descriptor)
    return False


def _holder(found: os.stat_result) -> str:
    """Who holds the lock by the word of the kernel, which does not know those on other hosts."""
    device = found.st_dev
    place = f"{os.major(device):02x}:{os.minor(device):02x}:{found.st_ino}"
    try:
        with open("/proc/locks") as file:
            lines = [line.split() for line in file]
    except OSError:
        lines = []
    holders = [words[4] for words in lines if words[1] == "FLOCK" and words[5] == place]
    return f"process {holders[0]}" if holders else "a process, maybe on another host"


def _may_tell(told: bytes) -> bool:
    """Whether a lock was not told to be held for a day; if so, that is noted in the file `told`."""
    now = time.time()
    with contextlib.suppress(FileNotFoundError):
        if 0 <= now - os.stat(told).st_mtime < _DAY:
            return False
    # What cannot be noted, on a full disk, is told once more.
    with contextlib.suppress(OSError):
        os.close(open_private(told, os.O_WRONLY))
        os.utime(told, (now, now))
    return True


def close_state(state_dir: bytes) -> None:
    """Make the state directory, if need be, and let no other user enter it. Trouble.

    Another user could hold a lock in it, and no tick would do anything any more.
    """
    try:
        close_directory(state_dir, f"the state directory {shown(state_dir)}", _OWN, _ANOTHER)
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


def is_held(state_dir: bytes, name: bytes = b"lock") -> bool:
    """Whether a tick is at work at this moment; to be asked only where something says so."""
    try:
        descriptor = os.open(os.path.join(state_dir, name), os.O_RDONLY | os.O_NOFOLLOW)
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
