"""Finds the runs below a source directory, each once, by what they hold and not by name."""

import errno
import os
from typing import Callable, Iterator, List, NamedTuple, Set

from ontpush.engine.allowance import counted
from ontpush.facts.minknow import (
    is_beside_data,
    is_data_folder,
    is_final_summary,
    is_service_directory,
    is_summary,
)
from ontpush.facts.trouble import RunFailed, WrongCall
from ontpush.facts.words import ROLLUP

# An entry keeps its path in memory: a long one counts for several.
_LONG_PATH = 256  # bytes
Complain = Callable[[RunFailed], None]


class Found(NamedTuple):
    """A run's absolute path and what lies directly in it."""

    path: bytes
    entries: "List[os.DirEntry[bytes]]"

    @property
    def names(self) -> Set[bytes]:
        """The names of all that."""
        return {entry.name for entry in self.entries}


def find_runs(
    source: bytes,
    complain: Complain,
    no_run: "Callable[[Found], None]" = lambda _: None,
    may_enter: Callable[[bytes], bool] = lambda _: True,
) -> Iterator[Found]:
    """Every run below the absolute `source`, in order of path.

    Which directories are runs is a function of what lies on disk now. A directory that cannot be
    read is told to `complain`, its absolute path as the run, and passed over; one that has just
    gone is passed over in silence, as is a symbolic link. Each directory below the source that is
    neither a run nor part of one is told to `no_run`. What `may_enter` refuses, by its path, is not
    searched.
    """
    waiting = [source]
    while waiting:
        directory = waiting.pop()
        entries = _listed(directory, complain)
        found = Found(directory, entries)
        if directory != source:
            by_minknow = _is_written_by_minknow(entries)
            if is_run(entries) and (by_minknow or not _holds_runs(entries, may_enter)):
                yield found
                continue
            no_run(found)
        below = _to_search(entries, directory == source)
        waiting += sorted(filter(may_enter, below), reverse=True)


def _is_written_by_minknow(entries: "List[os.DirEntry[bytes]]") -> bool:
    """Whether more than a data folder, which anybody may have made, tells that this is a run."""
    return any(
        (is_summary(entry.name) or is_beside_data(entry.name))
        and entry.is_file(follow_symlinks=False)
        for entry in entries
    )


def _holds_runs(entries: "List[os.DirEntry[bytes]]", may_enter: Callable[[bytes], bool]) -> bool:
    """Whether runs lie below, outside the data folders among `entries`.

    A directory there that looks like a run is one, or has one below it in turn.
    """
    outside = [entry for entry in entries if not _is_data(entry)]
    waiting = list(filter(may_enter, _to_search(outside, False)))
    while waiting:
        below = _listed(waiting.pop(), lambda _: None)
        if is_run(below):
            return True
        waiting += filter(may_enter, _to_search(below, False))
    return False


def _listed(directory: bytes, complain: Complain) -> "List[os.DirEntry[bytes]]":
    try:
        return list_directory(directory)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        advice = "; give this user the right to read it" if error.errno == errno.EACCES else ""
        complain(RunFailed(f"cannot be searched for runs: {error.strerror}{advice}", directory))
    return []


def _to_search(entries: "List[os.DirEntry[bytes]]", directly_in_source: bool) -> Iterator[bytes]:
    """The paths of the directories among `entries` that may hold runs."""
    for entry in entries:
        is_service = is_service_directory(entry.name, directly_in_source)
        if not is_service and entry.is_dir(follow_symlinks=False):
            yield entry.path


def list_directory(directory: bytes) -> "List[os.DirEntry[bytes]]":
    """What lies directly in `directory`. OSError; TooMuch where an allowance is used up."""
    with os.scandir(directory) as entries:
        return list(counted(entries, lambda entry: 1 + len(entry.path) // _LONG_PATH))


def is_run(entries: "List[os.DirEntry[bytes]]") -> bool:
    """Whether a directory that holds `entries` looks like a run: a data folder or a summary."""
    return any(
        _is_data(entry) or (is_summary(entry.name) and entry.is_file(follow_symlinks=False))
        for entry in entries
    )


def _is_data(entry: "os.DirEntry[bytes]") -> bool:
    return is_data_folder(entry.name) and entry.is_dir(follow_symlinks=False)


def left_out(found: Found) -> List[bytes]:
    """The data folders in a directory that is no run, because runs lie beside them."""
    return [entry.path for entry in filter(_is_data, found.entries)]


def final_summaries(found: Found) -> List[bytes]:
    """The names of the run's final summaries, sorted; a link or directory is none."""
    return sorted(
        entry.name
        for entry in found.entries
        if is_final_summary(entry.name) and entry.is_file(follow_symlinks=False)
    )


def open_run(path: bytes, or_what_was_one: bool = False) -> Found:
    """The run that the user named. WrongCall where there is none.

    By its roll-up one can tell what was a run and has lost all that made it one.
    """
    path = os.path.realpath(path)
    try:
        entries = list_directory(path)
    except OSError as error:
        raise WrongCall(error.strerror or str(error), run=path) from error
    was_one = or_what_was_one and any(entry.name == ROLLUP for entry in entries)
    if not is_run(entries) and not was_one:
        raise WrongCall(
            "no run: it holds neither a data folder (pod5_pass, fastq_pass, …)"
            " nor a final_summary or sequencing_summary file",
            run=path,
        )
    return Found(path, entries)
