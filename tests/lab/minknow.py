"""A sequencer that needs no flow cell: runs named and laid out as MinKNOW does.

A run is written step by step, so that a test can look, push or pull the plug between any two
files. Contents are arbitrary bytes, the same for the same run, and differ from file to file. The
names follow Oxford Nanopore's ont-output-specifications.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

READS = ("pod5_pass", "pod5_fail", "fastq_pass", "fastq_fail")
READS_AND_BAM = (*READS, "bam_pass", "bam_fail")
SUFFIXES = {
    "fast5": (".fast5",),
    "pod5": (".pod5",),
    "fastq": (".fastq.gz",),
    "bam": (".bam", ".bam.bai"),
}
WRITTEN_ELSEWHERE = Path("intermediate")  # where MinKNOW keeps a file until it is complete
HASH_COLUMNS = (
    "runid,protocol_group_id,flow_cell_id,sample_id,file_hash,file_path,barcode,barcode_alias"
)
SUMMARY_COLUMNS = "filename_fastq\tread_id\trun_id\tchannel\tpasses_filtering\n"
BLOCK = 1 << 20  # bytes of randomness that a larger file repeats


@dataclass(frozen=True)
class SimulatedRun:
    """One acquisition and the directory it fills.

    `folders` are data folders by name: `pod5`, `bam_pass` and so on. Each gets `files` batches
    of `size` bytes, per barcode where there are `barcodes` (any names: aliases, `unclassified`).
    `pooled` drops the run's own level, so that acquisitions share the sample's directory.
    `hashes` adds an `output_hash_*.csv`. `directory` and `protocol` are made up unless given.
    Two runs are alike in every byte when all of this is alike, save `root`.
    """

    root: Path
    group: str = "20260302_MIN2_lab"
    sample: str = "sample01"
    device: str = "MN32284"
    flow_cell: str = "FBA12345"
    start: datetime = datetime(2026, 3, 2, 9, 30, 12, 345678, tzinfo=timezone.utc)
    folders: Sequence[str] = READS
    barcodes: Sequence[str] = ()
    files: int = 3
    size: int = 2000
    seed: int = 0
    pooled: bool = False
    hashes: bool = False
    directory: Path | None = None
    protocol: str = ""
    _reads: list[Path] = field(default_factory=list, init=False, repr=False, compare=False)

    @functools.cached_property
    def path(self) -> Path:
        """The run's directory, below `root` unless `directory` says where."""
        if self.directory is not None:
            return self.directory
        sample = self.root / self.group / self.sample
        name = f"{self.start:%Y%m%d_%H%M}_{self.device}_{self.flow_cell}_{self.protocol_id[:8]}"
        return sample if self.pooled else sample / name

    @property
    def final_summary(self) -> Path:
        """The file whose presence says that the acquisition is over."""
        return self.path / f"final_summary_{self._ids}.txt"

    @property
    def sequencing_summary(self) -> Path:
        """The table of reads, which grows in place during the run."""
        return self.path / f"sequencing_summary_{self._ids}.txt"

    @functools.cached_property
    def protocol_id(self) -> str:
        """The protocol's run id, a UUID; its first eight digits are in most names."""
        digits = self._digits("protocol", 32)
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        return self.protocol or "-".join(parts)

    @functools.cached_property
    def acquisition_id(self) -> str:
        """The acquisition's run id, 40 hexadecimal digits."""
        return self._digits("acquisition", 40)

    def steps(self) -> Iterator[Path]:
        """Write the run from its first file to its last: one file, or growth of one, a step."""
        yield from self.reads()
        yield from self.closing()

    def reads(self) -> Iterator[Path]:
        """Write what comes while the run goes on: batch by batch, every folder and barcode."""
        yield self._grow(f"sample_sheet_{self._report}.csv", self._sample_sheet())
        yield self._grow(self.sequencing_summary.name, SUMMARY_COLUMNS)
        for batch in range(self.files):
            before = len(self._reads)
            for folder in self.folders:
                for barcode in self.barcodes or [""]:
                    yield from self._batch(folder, barcode, batch)
            yield self._grow(self.sequencing_summary.name, self._summary_lines(before))
            yield self._grow(f"throughput_{self._ids}.csv", f"{batch},{batch * 4000},0\n")
        yield self._grow(f"pore_activity_{self._ids}.csv", "Channel State,Minutes\nstrand,60\n")

    def closing(self) -> Iterator[Path]:
        """Write what comes at the end: reports, hashes, and the final summary last."""
        for suffix in ("html", "json", "md"):
            yield self.late_file(f"report_{self._report}.{suffix}")
        if self.barcodes:
            yield self.late_file(f"barcode_alignment_{self._ids}.tsv")
        yield self.late_file(f"other_reports/pore_scan_data_{self._ids}.csv")
        if self.hashes:
            yield self._grow(f"output_hash_{self._report}.csv", self._output_hashes())
        yield self._grow(self.final_summary.name, self._final_summary())

    def write_all(self) -> Path:
        """Write the whole run and return its directory."""
        for _ in self.steps():
            pass
        return self.path

    def finish(self) -> Path:
        """End the run now, whatever it has written, and return the final summary."""
        *_, last = self.closing()
        return last

    def late_file(self, name: str, size: int | None = None) -> Path:
        """Move a complete file into the run, as post-run basecalling does after the end."""
        path = self.path / name
        whole = self.root / WRITTEN_ELSEWHERE / self.acquisition_id / path.name
        _fill(whole, f"{self._key}/{name}", self.size if size is None else size, self.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        return whole.replace(path)

    def another(self, **changes: Any) -> SimulatedRun:
        """A later acquisition into the same directory: a restart, or data pooling."""
        later: dict[str, Any] = {
            "start": self.start + timedelta(hours=2),
            "directory": self.path,
            "protocol": "" if self.pooled else self.protocol_id,
        }
        return replace(self, **{**later, **changes})

    @property
    def _key(self) -> str:
        """What the random contents and ids of this acquisition depend on."""
        return f"{self.seed}/{self.group}/{self.sample}/{self.device}/{self.flow_cell}/{self.start}"

    @property
    def _ids(self) -> str:
        return f"{self.flow_cell}_{self.protocol_id[:8]}_{self.acquisition_id[:8]}"

    @property
    def _report(self) -> str:
        """The part of a report's name that tells the acquisition, five minutes into the run."""
        begin = self.start + timedelta(minutes=5)
        return f"{self.flow_cell}_{begin:%Y%m%d_%H%M}_{self.protocol_id[:8]}"

    def _digits(self, what: str, count: int) -> str:
        return f"{random.Random(f'{self._key}/{what}').getrandbits(4 * count):0{count}x}"

    def _batch(self, folder: str, barcode: str, batch: int) -> Iterator[Path]:
        """Write one batch of reads in one folder, with its index where there is one."""
        kind, _, status = folder.partition("_")
        place = f"{folder}/{barcode}" if barcode else folder
        parts = [part for part in (self.flow_cell, status, barcode) if part]
        short_ids = [self.protocol_id[:8], self.acquisition_id[:8], str(batch)]
        for suffix in SUFFIXES[kind]:
            path = self.late_file(f"{place}/{'_'.join([*parts, *short_ids])}{suffix}")
            self._reads.append(path)
            yield path

    def _grow(self, name: str, text: str) -> Path:
        """Append to a file in place."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
        return path

    def _sample_sheet(self) -> str:
        columns = "protocol_run_id,position_id,flow_cell_id,sample_id,experiment_id\n"
        values = (self.protocol_id, self.device, self.flow_cell, self.sample, self.group)
        return f"{columns}{','.join(values)}\n"

    def _summary_lines(self, first: int) -> str:
        """The sequencing summary's rows from file `first` on, as if each held a single read."""
        names = [path.name for path in self._reads[first:] if path.name.endswith(".fastq.gz")]
        rows = [(name, self._digits(name, 32), self.acquisition_id, "1", "TRUE") for name in names]
        return "".join("\t".join(row) + "\n" for row in rows)

    def _output_hashes(self) -> str:
        """A row for every file of reads, with its SHA-256, which MinKNOW omits for pod5."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(HASH_COLUMNS.split(","))
        for path in [*self._reads, self.sequencing_summary]:
            digest = "" if path.suffix == ".pod5" else _sha256(path)
            place = path.relative_to(self.path)
            barcode = place.parts[1] if len(place.parts) == 3 else ""
            run = (self.protocol_id, self.group, self.flow_cell, self.sample)
            writer.writerow([*run, digest, place, barcode, barcode])
        return table.getvalue()

    def _final_summary(self) -> str:
        """The lines of a final summary, with the counts of what was really written."""
        end = self.start + timedelta(hours=1)
        lines = {
            "instrument": self.device,
            "position": "",
            "flow_cell_id": self.flow_cell,
            "sample_id": self.sample,
            "protocol_group_id": self.group,
            "protocol": "sequencing/sequencing_MIN114_DNA_e8_2_400K:FLO-MIN114:SQK-LSK114:400",
            "protocol_run_id": self.protocol_id,
            "acquisition_run_id": self.acquisition_id,
            "started": self.start.isoformat(),
            "acquisition_stopped": end.isoformat(),
            "processing_stopped": (end + timedelta(seconds=1)).isoformat(),
            "basecalling_enabled": "1",
            "sequencing_summary_file": self.sequencing_summary.name,
        }
        for kind, (suffix, *_) in SUFFIXES.items():
            written = sum(path.name.endswith(suffix) for path in self._reads)
            lines[f"{kind}_files_in_final_dest"] = str(written)
            lines[f"{kind}_files_in_fallback"] = "0"
        return "".join(f"{key}={value}\n" for key, value in lines.items())


def real_layout(lines: Iterable[str], root: Path, seed: int = 0, size: int = 1000) -> list[Path]:
    """Make the files whose paths below `root` are `lines`, `size` bytes each, and return them."""
    paths = [root / line.strip() for line in lines if line.strip()]
    for path in paths:
        _fill(path, f"{seed}/{path.relative_to(root)}", size, seed)
    return paths


def age(path: Path, seconds: float) -> None:
    """Make a file, or a directory and all below it, older than it is, so that it is settled."""
    below = [*_below(os.fsencode(path), ())] if path.is_dir() and not path.is_symlink() else []
    for name in (*below, os.fsencode(path)):
        status = os.stat(name, follow_symlinks=False)
        older = status.st_mtime_ns - round(seconds * 1e9)
        os.utime(name, ns=(status.st_atime_ns, older), follow_symlinks=False)


def snapshot(directory: Path, without: Collection[str] = ()) -> dict[bytes, bytes]:
    """What every file below a directory holds, for comparing two trees.

    Keys are relative paths; values are MD5 sums in hex, or `-> TARGET` for a symbolic link.
    Directories count only by their files. `without` are patterns of names to leave out, with
    all below them.
    """
    root = os.fsencode(directory)
    patterns = [os.fsencode(pattern) for pattern in without]
    found = {}
    for path in _below(root, patterns):
        if os.path.islink(path):
            found[os.path.relpath(path, root)] = b"-> " + os.readlink(path)
        elif os.path.isfile(path):
            found[os.path.relpath(path, root)] = _md5(path)
    return found


def _below(folder: bytes, without: Collection[bytes]) -> Iterator[bytes]:
    """All paths below a folder, a folder's contents before itself; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not any(fnmatchcase(entry.name, pattern) for pattern in without):
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(entry.path, without)
                yield entry.path


def _fill(path: Path, key: str, size: int, seed: int) -> None:
    """Write a file of `size` bytes that no other key has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = _block(seed, min(size, BLOCK))
    left = size
    with path.open("wb") as file:
        left -= file.write(hashlib.md5(key.encode()).hexdigest().encode()[:left])
        while left > 0:
            left -= file.write(block[:left])


@functools.lru_cache(maxsize=8)
def _block(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _md5(path: bytes) -> bytes:
    with open(path, "rb") as file:
        digest = hashlib.md5()
        while chunk := file.read(BLOCK):
            digest.update(chunk)
    return digest.hexdigest().encode()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
