"""The main job in under a minute: a simulated sequencer, a private cluster, and ticks between.

Everything lives in temporary directories and on loopback, and is gone at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.cluster import Cluster
from tests.lab.minknow import SimulatedRun

CHECKOUT = Path(__file__).resolve().parent.parent
FILES_BETWEEN_TICKS = 9


class Sequencer:
    """A sequencer's disk, its cron and its way to the cluster."""

    def __init__(self, home: Path, cluster: Cluster) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir()
        self._log = home / "ontpush.log"
        config = cluster.config(
            source=str(self.data),
            destination=cluster.destination,
            instrument="demo-mk1c",
            settle=0,
            log=str(self._log),
        )
        (home / "config.json").write_text(json.dumps(config))

    def ontpush(self, command: str, *arguments: str) -> list[str]:
        """Call the program as cron would, and give the lines that it logged and printed."""
        options = ["--config", str(self.home / "config.json"), "--state-dir", f"{self.home}/state"]
        before = self._log.stat().st_size if self._log.exists() else 0
        ended = subprocess.run(
            [sys.executable, "-m", "ontpush", command, *options, *arguments],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        logged = self._log.read_text()[before:] if self._log.exists() else ""
        return [line.partition(" ")[2] for line in logged.splitlines()] + ended.stdout.splitlines()


def main() -> None:
    """Tell the story."""
    with TemporaryDirectory(prefix="ontpush-demo-") as home, Cluster() as cluster:
        say("A cluster's login node is up. Its key can do nothing but write, through rrsync -wo.")
        sequencer = Sequencer(Path(home), cluster)
        run = SimulatedRun(
            sequencer.data, barcodes=["barcode01", "barcode02", "unclassified"], size=200_000
        )
        name = str(run.path.relative_to(sequencer.data))
        sequence(sequencer, run, name)
        corrupt(cluster, name)
        say("The run ends: reports, and at the very end its final summary. Another tick:")
        for _ in run.closing():
            pass
        show(sequencer.ontpush("push"), name)
        say("The corrupt copy was found and sent again; only then was the run marked done.")
        say("Three days later somebody basecalls again, and a file comes late. The next tick:")
        run.late_file("bam_pass/barcode01/rebasecalled_0.bam")
        show(sequencer.ontpush("push"), name)
        say("The run was opened again, the file sent, all of it verified. A tick with no news:")
        show(sequencer.ontpush("push"), name)
        finish(sequencer, cluster, run.path, name)


def sequence(sequencer: Sequencer, run: SimulatedRun, name: str) -> None:
    """Write the reads, with a tick of cron now and then."""
    say(f"MinKNOW starts a barcoded run, {name}, and writes file after file.")
    for count, batch in enumerate(batches(run.reads()), 1):
        say(f"{len(batch)} files later, tick {count}:")
        show(sequencer.ontpush("push"), name)


def batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    """The files as they are written, so many at a time."""
    batch = []
    for path in paths:
        batch.append(path)
        if len(batch) == FILES_BETWEEN_TICKS:
            yield batch
            batch = []
    if batch:
        yield batch


def corrupt(cluster: Cluster, name: str) -> None:
    """Flip a byte of a file that has arrived; size and time stay as they were."""
    victim = min((cluster.directory / name / "fastq_pass").rglob("*.fastq.gz"))
    times = victim.stat()
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    say(f"A disk of the cluster goes bad: one bit of {victim.name} flips. Nobody notices.")


def finish(sequencer: Sequencer, cluster: Cluster, source: Path, name: str) -> None:
    """Check both ends with the tools that everybody has, and show the table."""
    for place, where in ((source, "sequencer"), (cluster.directory / name, "cluster")):
        subprocess.run(["md5sum", "-c", "--strict", "--quiet", "md5sum"], cwd=place, check=True)
        say(f"On the {where}, `md5sum -c md5sum` passes for every file.")
    mark = (cluster.directory / name / "rsync.done").read_text()
    say("The done mark on the cluster:")
    show(mark.splitlines(), name)
    say("`ontpush status`:")
    show(sequencer.ontpush("status"), "")


def say(sentence: str) -> None:
    """A sentence of the story."""
    print(f"\n{sentence}", flush=True)


def show(lines: list[str], name: str) -> None:
    """What the program said, without the long name of the run."""
    for line in lines or ["(nothing to do, nothing said)"]:
        print("    " + (line.replace(name, "RUN") if name else line), flush=True)


if __name__ == "__main__":
    main()
