"""What is this user's alone: directories that no other may enter, files that no other planted."""

import os
import pwd
import stat
from typing import Collection

from ontpush.facts.directories import make_directory, names_in
from ontpush.facts.names import shown
from ontpush.facts.trouble import BadConfiguration

_OF_OTHERS = 0o077
_ROOT = 0


def close_directory(path: bytes, place: str, own: Collection[bytes], advice: str) -> None:
    """Make a directory that only this user may enter, or close one that others may. OSError.

    BadConfiguration where it is another user's, or a link that another user made, or where others
    would be shut out of a directory in it that is not one of its `own`.
    """
    make_private(path)
    if _is_link_of_another(path):
        raise BadConfiguration(f"{place} is a link that another user made; {advice}")
    found = os.stat(path)
    if found.st_uid != os.geteuid():
        owner = _user_name(found.st_uid)
        raise BadConfiguration(f"{place} belongs to {owner}: call as that user, or {advice}")
    if found.st_mode & _OF_OTHERS:
        for name in names_in(os.path.realpath(path))[1]:
            if name not in own:
                raise BadConfiguration(
                    f"{place} holds {shown(name)}, and is to be closed to other users: {advice}, or"
                    " close it by hand"
                )
        os.chmod(path, stat.S_IMODE(found.st_mode) & ~_OF_OTHERS)


def make_private(path: bytes) -> None:
    """Make a directory, and those above it that are missing, for this user alone. OSError."""
    make_directory(path, 0o700)


def open_private(path: bytes, flags: int) -> int:
    """Open a file of a closed directory for this user alone, made if need be. OSError.

    BadConfiguration where it is none of ours: a link, a pipe, a file of another user.
    """
    # Opening a pipe would wait for whoever is at its other end.
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    if os.path.islink(path):
        raise _not_ours(path)
    descriptor = os.open(path, flags, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _not_ours(path)
        if found.st_mode & _OF_OTHERS:
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~_OF_OTHERS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_log(path: bytes, flags: int) -> int:
    """Open a log, made if need be: a link of this user's or of root's is followed. OSError.

    BadConfiguration where another user put it there: a file only in a directory as /tmp, for
    logrotate may have made it for another one elsewhere.
    """
    if _is_link_of_another(path):
        raise _planted(path)
    flags |= os.O_CLOEXEC
    try:  # Linux may refuse to make what another user has, without a word of why
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o640)
    found = os.fstat(descriptor)
    is_file_of_another = stat.S_ISREG(found.st_mode) and _is_another(found.st_uid)
    if is_file_of_another and _all_may_put_files_beside(path):
        os.close(descriptor)
        raise _planted(path)
    return descriptor


def _all_may_put_files_beside(path: bytes) -> bool:
    """Whether any user may make a file there. A group that may is let in by root: /var/log."""
    found = os.stat(os.path.dirname(os.path.realpath(path)))
    return bool(found.st_mode & stat.S_IWOTH) or _is_another(found.st_uid)


def owner_of(path: bytes) -> str:
    """What the owner is called; empty where that cannot be seen."""
    try:
        return _user_name(os.stat(path).st_uid)
    except OSError:
        return ""


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _is_link_of_another(path: bytes) -> bool:
    found = os.lstat(path) if os.path.lexists(path) else None
    is_link = found is not None and stat.S_ISLNK(found.st_mode)
    return found is not None and is_link and _is_another(found.st_uid)


def _is_another(user: int) -> bool:
    return user not in (os.geteuid(), _ROOT)


def _not_ours(path: bytes) -> BadConfiguration:
    return BadConfiguration(
        f"{shown(path)} is a link, no regular file, or another user's: see who put it there,"
        " and remove it"
    )


def _planted(path: bytes) -> BadConfiguration:
    return BadConfiguration(
        f"the log {shown(path)} is another user's file or link: remove it, or name another with"
        " --log"
    )
