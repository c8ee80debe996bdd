"""Tells a disk that fails here from a copy that is corrupt there, before anything is sent again.

A file that reads otherwise than when its sum was taken, though its size and times are the same,
was changed by nobody. Sent again, it would take the place of the last good copy.
"""

from typing import Iterable, List

from ontpush.engine.ledger import FileRecord, Ledger
from ontpush.engine.sums import Task, take_sums
from ontpush.engine.tick import RunInHand


def rotten_files(ledger: Ledger, run: RunInHand, paths: Iterable[bytes]) -> List[bytes]:
    """Those of `paths`, relative to the run, whose content changed and nothing else. Sorted."""
    files = ledger.files_at(run.id, paths)
    tasks = (Task(file, run.path + b"/" + file.path, file.size) for file in files if file.md5)
    rotten: List[bytes] = []
    for batch in take_sums(tasks, jobs=1):
        for summed in batch:
            file: FileRecord = summed.key
            found = summed.stat
            is_untouched = found is not None and summed.steady and file.is_as_hashed(found)
            if is_untouched and summed.md5 != file.md5:
                rotten.append(file.path)
    return sorted(rotten)
