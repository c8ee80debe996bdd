"""What MinKNOW writes: its folders, its service directories, its final summary.

Source: nanoporetech/ont-output-specifications and real runs; a run is told by what it
holds, never by its name, because people type half of that name.
"""

import re
from typing import Dict, FrozenSet, Iterable, List, Set

DATA_KINDS = ("fast5", "pod5", "fastq", "bam")

# `pod5`, `fastq_pass`, `bam_fail_2`; not `bam_only`, which is somebody's experiment.
_DATA_FOLDER = re.compile(rb"(fast5|pod5|fastq|bam)(_(pass|fail|skip)([^A-Za-z].*)?)?\Z", re.DOTALL)
_SUMMARY = re.compile(rb"(final|sequencing)_summary.*\.txt\Z", re.DOTALL)
# What MinKNOW writes beside the data folders of a run, and nobody else does.
_BESIDE = re.compile(
    rb"(sample_sheet_|throughput_|pore_activity_|duty_time|report_|output_hash_|barcode_alignment_)"
)
_FINAL_SUMMARY = re.compile(rb"final_summary.*\.txt\Z", re.DOTALL)
_KIND_OF_FILE = re.compile(rb"\.(?:(fast5)|(pod5)|(fastq|fq)(?:\.gz)?|(bam))\Z")
_COUNT = re.compile(r"({})_files_in_(final_dest|fallback)\Z".format("|".join(DATA_KINDS)))
_FIGURE = re.compile(r"[0-9]{1,18}\Z")
# Counts that would be right for one kind; more say nothing.
_MOST_POSSIBLE = 10000

# Directories of /data that belong to MinKNOW itself and never hold a run.
SERVICE_DIRECTORIES: FrozenSet[bytes] = frozenset(
    b"queued_reads intermediate persistence pings logs Install_logs reads reports core-dump-db"
    b" devices lost+found network user_scripts epi2me_inside".split()
)


def is_data_folder(name: bytes) -> bool:
    """Whether a directory of this name holds reads and so makes its parent a run."""
    return _DATA_FOLDER.match(name) is not None


def is_summary(name: bytes) -> bool:
    """Whether a file of this name makes the directory that holds it a run."""
    return _SUMMARY.match(name) is not None


def is_beside_data(name: bytes) -> bool:
    """Whether MinKNOW writes a file of this name beside the data folders of a run."""
    return _BESIDE.match(name) is not None


def is_final_summary(name: bytes) -> bool:
    """Whether a file of this name says that an acquisition has ended."""
    return _FINAL_SUMMARY.match(name) is not None


def is_service_directory(name: bytes, directly_in_source: bool) -> bool:
    """Whether the search for runs stays out of a directory of this name."""
    if name == b"tmp" or name.startswith(b"."):
        return True
    return directly_in_source and name in SERVICE_DIRECTORIES


def count_kinds(names: Iterable[bytes]) -> Dict[str, int]:
    """How many of the files `names` are read files, by kind."""
    counts = dict.fromkeys(DATA_KINDS, 0)
    for name in names:
        found = _KIND_OF_FILE.search(name)
        if found and found.lastindex:
            counts[DATA_KINDS[found.lastindex - 1]] += 1
    return counts


class Promised:
    """The file counts of one or more final summaries of a run, added up.

    A key may stand twice in one summary with different values (seen in a release of 2022),
    so each kind has a set of counts that would be right. Keys vary by release: a kind that
    a summary leaves out is not judged.
    """

    def __init__(self) -> None:
        self.in_run: Dict[str, Set[int]] = {kind: {0} for kind in DATA_KINDS}
        self.in_fallback: Dict[str, int] = dict.fromkeys(DATA_KINDS, 0)
        self._unjudged: Set[str] = set()

    def add(self, text: str) -> None:
        """Take the counts of one final summary, `key=value` lines."""
        stated: Dict[str, List[int]] = {}
        for line in text.splitlines():
            key, _, value = line.partition("=")
            found = _COUNT.match(key.strip())
            if not found or not _FIGURE.match(value.strip()):
                continue
            if found.group(2) == "fallback":
                self.in_fallback[found.group(1)] += int(value)
            else:
                stated.setdefault(found.group(1), []).append(int(value))
        for kind in DATA_KINDS:
            if kind not in stated:
                self._unjudged.add(kind)
                continue
            possible = set(stated[kind]) | {sum(stated[kind])}
            if len(self.in_run[kind]) * len(possible) > _MOST_POSSIBLE:
                self._unjudged.add(kind)
                continue
            self.in_run[kind] = {a + b for a in self.in_run[kind] for b in possible}

    def complaints(self, present: Dict[str, int]) -> List[str]:
        """What the summaries promise and the run, with `present` files a kind, does not have.

        More files than promised are no complaint: basecalling after the run adds some.
        """
        found = []
        for kind in DATA_KINDS:
            possible = self.in_run[kind]
            judged = kind not in self._unjudged and present[kind] not in possible
            if judged and present[kind] < max(possible):
                found.append(
                    f"final summary counts {max(possible)} {kind} files,"
                    f" the run has {present[kind]}"
                )
            if self.in_fallback[kind]:
                found.append(
                    f"{self.in_fallback[kind]} {kind} files are in MinKNOW's fallback folder,"
                    " not in the run"
                )
        return found
