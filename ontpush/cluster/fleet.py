"""Which instruments there are: one directory each below the root, told by its heartbeat.

An instrument is called what its directory is called, whatever it says of itself.
"""

import os
from itertools import islice
from typing import Collection, Iterator, List, NamedTuple, Optional, Tuple

from ontpush.facts import limits
from ontpush.facts.names import from_argument, quoted, shown
from ontpush.facts.words import HEARTBEAT_DIRECTORY


class Instrument(NamedTuple):
    """Its name, the directory below which its runs lie, and its heartbeat where there is one.

    One that is `pulled` from does not send by itself.
    """

    name: str
    base: bytes
    heartbeat: Optional[bytes]
    pulled: bool

    def says(self, words: str) -> str:
        """Words of its heartbeat as such; where we pull, our own `pull` writes it."""
        speaker = "`ontpush pull`" if self.pulled else self.name
        return f"{speaker} says: {quoted(words)}"


def instruments(root: bytes, pulled: Collection[str]) -> List[Instrument]:
    """All instruments below the absolute `root`, by name. OSError where it cannot be read.

    Where the root itself is a destination, each heartbeat there is an instrument, unless a
    directory has its name. Those that are `pulled` from are there also before they were heard for
    the first time.
    """
    found = []
    for base in _directories(root):
        beats = heartbeats_in(base)
        if beats:
            # A sequencer that was given another name left its old heartbeat behind.
            found.append((shown(os.path.basename(base)), base, max(beats)[1]))
    known = {name for name, _, _ in found}
    for _, path in heartbeats_in(root):
        name = shown(os.path.basename(path)[: -len(b".json")])
        if name not in known:
            found.append((name, root, path))
            known.add(name)
    unheard = [name for name in pulled if name not in known]
    heard = [Instrument(name, base, path, name in pulled) for name, base, path in found]
    return heard + [
        Instrument(name, os.path.join(root, from_argument(name)), None, True) for name in unheard
    ]


def why_lost(place: bytes) -> str:
    """Why no instrument is to be seen at the directory that it had."""
    try:
        with os.scandir(place) as entries:
            return "is empty" if next(entries, None) is None else "holds no heartbeat"
    except FileNotFoundError:
        return "is a link that leads nowhere" if os.path.islink(place) else "is not there"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _directories(root: bytes) -> Iterator[bytes]:
    """The paths of the directories in the root. OSError.

    A link to one, say to another disk, is the administrator's: instruments can plant links there
    only where the root itself is their destination.
    """
    with_links = not os.path.lexists(os.path.join(root, HEARTBEAT_DIRECTORY))
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        is_directory = os.path.isdir(path) and (with_links or not os.path.islink(path))
        if is_directory and not name.startswith(b"."):
            yield path


def heartbeats_in(base: bytes) -> List[Tuple[int, bytes]]:
    """When each heartbeat below `base` arrived, in nanoseconds, and its path.

    Where the place of the heartbeats cannot be read, or holds too many, it stands for one: reading
    it will tell why.
    """
    directory = os.path.join(base, HEARTBEAT_DIRECTORY)
    if os.path.islink(directory):
        return []
    try:
        with os.scandir(directory) as entries:
            names = sorted(each.name for each in islice(entries, limits.MOST_HEARTBEATS))
            if next(entries, None) is not None:
                return [(0, directory)]
        paths = [os.path.join(directory, name) for name in names if name.endswith(b".json")]
        return [(os.lstat(path).st_ctime_ns, path) for path in paths]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        return [(0, directory)]
