"""Finds the runs below a source directory, each once, by what they hold and not by name."""

import os
from typing import Callable, Iterator, List, NamedTuple

from ontpush.facts.minknow import is_data_folder, is_service_directory, is_summary
from ontpush.facts.names import shown
from ontpush.facts.trouble import WrongCall

Complain = Callable[[OSError], None]


class Found(NamedTuple):
    """A run's absolute path and what lies directly in it."""

    path: bytes
    entries: "List[os.DirEntry[bytes]]"


def find_runs(source: bytes, complain: Complain) -> Iterator[Found]:
    """Every run below the absolute `source`, in order of path.

    A directory that cannot be read is told to `complain` and passed over; one that has just
    gone is passed over in silence, as is a symbolic link.
    """
    return _below(source, complain, directly_in_source=True)


def _below(directory: bytes, complain: Complain, directly_in_source: bool) -> Iterator[Found]:
    try:
        entries = list_directory(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        complain(error)
        return
    if is_run(entries) and not directly_in_source:
        yield Found(directory, entries)
        return
    entries.sort(key=_name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not is_service_directory(
            entry.name, directly_in_source
        ):
            yield from _below(entry.path, complain, directly_in_source=False)


def _name(entry: "os.DirEntry[bytes]") -> bytes:
    return entry.name


def list_directory(directory: bytes) -> "List[os.DirEntry[bytes]]":
    """What lies directly in `directory`. OSError."""
    with os.scandir(directory) as entries:
        return list(entries)


def is_run(entries: "List[os.DirEntry[bytes]]") -> bool:
    """Whether a directory that holds `entries` is a run: a data folder or a summary is enough."""
    return any(
        (is_data_folder(entry.name) and entry.is_dir(follow_symlinks=False))
        or (is_summary(entry.name) and entry.is_file(follow_symlinks=False))
        for entry in entries
    )


def open_run(path: bytes) -> Found:
    """The run that the user named. WrongCall where there is none."""
    path = os.path.realpath(path)
    try:
        entries = list_directory(path)
    except OSError as error:
        raise WrongCall(f"{shown(path)}: {error.strerror}", run=path) from error
    if not is_run(entries):
        raise WrongCall(
            f"{shown(path)}: no run: it holds neither a data folder (pod5_pass, fastq_pass, …)"
            " nor a final_summary or sequencing_summary file",
            run=path,
        )
    return Found(path, entries)
