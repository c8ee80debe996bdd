"""The done mark, `RUN/rsync.done`: it vouches for exactly one roll-up at one destination."""

import calendar
import errno
import os
import time
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional

from ontpush.engine.allowance import counted
from ontpush.engine.rollup import md5_and_size
from ontpush.facts import limits
from ontpush.facts.names import named_in_mark, shown
from ontpush.facts.regular import open_regular
from ontpush.facts.trouble import RunFailed
from ontpush.facts.words import DONE_MARK, NO_RUN_OF_ITS_OWN, ROLLUP, VOUCHING_MARKS

# Gone, or a link, pipe, device or directory: no mark of ours.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL)
_DATE = "%Y-%m-%dT%H:%M:%S+00:00"


def date_text(seconds: float) -> str:
    """A time since the epoch as the log and the marks write it."""
    return time.strftime(_DATE, time.gmtime(seconds))


def mark_lines(now: float, facts: Mapping[str, object]) -> List[bytes]:
    """A mark: a date, as in the original, then `key: value` lines."""
    lines = [date_text(now)] + [f"{key}: {value}" for key, value in facts.items()]
    return [line.encode("utf-8", "backslashreplace") + b"\n" for line in lines]


def read_mark(run: bytes, name: bytes = DONE_MARK) -> Optional[Dict[str, str]]:
    """The `key: value` lines of a run's mark and its `date`, or None where there is no mark."""
    try:
        return load_mark(run, name)
    except OSError:
        return None


def load_mark(run: bytes, name: bytes = DONE_MARK) -> Dict[str, str]:
    """What `read_mark` reads. OSError where it cannot be read, or is not there."""
    with open_regular(os.path.join(run, name)) as file:
        lines = file.read(limits.LARGEST_MARK).decode("utf-8", "replace").splitlines()
    facts = {"date": lines[0].strip()[: limits.LONGEST_DATE] if lines else ""}
    for line in lines[1:]:
        key, colon, value = line.partition(": ")
        if colon:
            facts.setdefault(key, value)
    return facts


def take_back(run: bytes, destination: Optional[str]) -> bool:
    """Remove the run's mark if it is about this destination; whether it was. RunFailed.

    One that cannot be read may be.
    """
    try:
        if load_mark(run).get("destination") != destination:
            return False
    except OSError as error:
        if error.errno in _NO_FILE:
            return False
    try:
        os.unlink(os.path.join(run, DONE_MARK))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunFailed(
            f"{shown(DONE_MARK)} no longer holds and cannot be removed: {error.strerror}; let this"
            " user write in the run"
        ) from error
    return True


def remove_marks(directory: bytes, paths: Iterable[bytes]) -> Iterator[bytes]:
    """Remove marks, relative to `directory`, of what is no run of its own; those that were there.

    Nobody may trust them, whoever frees space least of all. A file that is only called so, and
    vouches for nothing, stays. RunFailed.
    """
    for path in paths:
        above, name = os.path.split(os.path.join(directory, path))
        if "rollup" in (read_mark(above, name) or {}) and _remove(above, name, path):
            yield path


def disown(directory: bytes, names: Iterable[bytes], tell: Callable[[bytes, str], None]) -> None:
    """Remove the marks in a directory that is no run, or none any more, and holds these names.

    Nobody looks at its files. Each mark that was there is told, after the directory. RunFailed
    also where it cannot be known whether there is one: no byte waits for that here.
    """
    for name in sorted(set(VOUCHING_MARKS).intersection(names)):
        try:
            mark = load_mark(directory, name)
        except OSError as error:
            if error.errno in _NO_FILE:
                continue
            raise RunFailed(
                f"{shown(name)} may vouch for no run of its own and cannot be read:"
                f" {error.strerror}; move it away",
                directory,
            ) from error
        if "rollup" in mark and _remove(directory, name, name):
            tell(directory, f"{shown(name)} {NO_RUN_OF_ITS_OWN}")


def _remove(directory: bytes, name: bytes, called: bytes) -> bool:
    """Remove a mark of no run of its own; whether it was still there. RunFailed."""
    try:
        os.unlink(os.path.join(directory, name))
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        raise RunFailed(
            f"{shown(called)} vouches for no run of its own and cannot be removed:"
            f" {error.strerror}; move it away",
            directory,
        ) from error
    return True


def date_of(mark: Dict[str, str]) -> Optional[float]:
    """When a mark was made, in seconds since the epoch; None where its date is not one of ours."""
    try:
        return float(calendar.timegm(time.strptime(mark.get("date", ""), _DATE)))
    except ValueError:
        return None


def md5_of_rollup(run: bytes) -> Optional[str]:
    """The MD5 of the roll-up that lies in the run, as a mark names it; None where there is none."""
    try:
        return load_md5_of_rollup(run)
    except OSError:
        return None


def load_md5_of_rollup(run: bytes) -> str:
    """The MD5 of the roll-up that lies in the run. OSError where it cannot be read.

    TooMuch where an allowance is used up: each block counts.
    """
    with open_regular(os.path.join(run, ROLLUP)) as file:
        # Not line by line: whoever may write there could write one line without end.
        return md5_and_size(counted(iter(lambda: file.read(limits.ROLLUP_BLOCK), b"")))[0]


def vouches(
    mark: Optional[Dict[str, str]],
    rollup: Optional[str],
    run: bytes,
    instrument: str,
    destination: str,
) -> bool:
    """Whether a mark stands for this roll-up of what `instrument` has at `run` and sent there.

    A run that was renamed, or copied to another sequencer, brings its mark along, and nothing of
    it lies at its new place.
    """
    return (
        mark is not None
        and rollup is not None
        and mark.get("rollup") == rollup
        and mark.get("run") == named_in_mark(run)
        and mark.get("instrument") == instrument
        and mark.get("destination") == destination
    )
