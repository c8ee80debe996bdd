"""The pieces of work that are measured, and what stands beside each."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from ontpush.engine.mark import mark_lines, md5_of_rollup
from tests.bench.fleet import make_fleet
from tests.bench.measure import BenchError, Cost, Pair, alternately, cost, output
from tests.bench.table import Row
from tests.bench.trees import barcoded, make_run
from tests.bench.workplace import Workplace
from tests.lab.cluster import HOST, Cluster

MB = 10**6

# The program, which writes its own peak, in KiB, to the file named first.
TELLS_PEAK = """
import resource, sys
from ontpush.__main__ import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=file)
sys.exit(code)
"""

# The program, which writes what its own thread has written, in bytes, to the file named first.
TELLS_WRITTEN = """
import sys
from ontpush.__main__ import main
code = main(sys.argv[2:])
with open("/proc/thread-self/io") as file:
    written = dict(line.split(": ") for line in file)["wchar"]
with open(sys.argv[1], "w") as file:
    print(written, file=file)
sys.exit(code)
"""

XARGS = "`xargs -0 -P2 md5sum`"
SUMS = 'find "$1" -type f -print0 | xargs -0 -P "$2" -n "$3" md5sum'
PUSH = """
find "$1" -type f -print0 | xargs -0 md5sum
rsync -a -e "$2" "$1/" "$3"
rsync -a -n -i -c -e "$2" "$1/" "$3"
"""


def sums(place: Workplace) -> Iterator[Row]:
    """Take sums of large files, which is reading and computing, and of small: each one counts."""
    files, size = place.either(40, 4), place.either(100, 10)
    large = _take_sums(place, make_run(place.fresh("source"), files=files, size=size * MB), 1)
    yield _row(f"sums of {files} files of {size} MB, 2 jobs", XARGS, 1.00, large)
    files = place.either(20_000, 400)
    small = _take_sums(place, make_run(place.fresh("source"), files=files, size=100_000), 250)
    yield _row(f"sums of {files:,} files of 100 KB, 2 jobs", XARGS, 1.00, small)
    both = [
        (our_large + our_small, their_large + their_small)
        for (our_large, their_large), (our_small, their_small) in zip(large, small, strict=True)
    ]
    yield _row("processor time of both", "`md5sum`", 1.05, both, lambda each: each.processor)


def _take_sums(place: Workplace, run: Path, batch: int) -> list[Pair]:
    """Take the sums of a run with two jobs, the other side `batch` files a call."""
    shell = ["sh", "-ec", SUMS, "sh", str(run), "2", str(batch)]

    def ours() -> Cost:
        return cost(place.ontpush("hash", run, jobs=2, sidecars=False))

    return alternately(ours, lambda: cost(shell), place.rounds)


def unfinished(place: Workplace) -> Iterator[Row]:
    """Tick while a large run goes on and nothing in it has changed."""
    folders, files = place.either(100, 10), place.either(2000, 100)
    source, destination = place.fresh("source"), place.fresh("destination")
    destination.mkdir()
    make_run(source, files=files, size=100, folders=barcoded("fastq_pass", folders), finished=False)
    tick = place.ontpush("push", source, destination, state_dir=str(place.fresh("state")))
    cost(tick)
    _expect(tick, "waiting", 1)
    pairs = place.compare(tick, _compare_trees(source, destination))
    work = f"idle tick, one unfinished run of {folders * files:,} files"
    yield _row(work, "`rsync -an` of the same tree", 0.50, pairs)


def done(place: Workplace) -> Iterator[Row]:
    """Tick when there are only runs that are done."""
    runs, files = place.either(1000, 20), place.either(190, 10)
    source, destination = place.fresh("source"), place.fresh("destination")
    for number in range(runs):
        make_run(source, files=files, size=100, sample=f"sample{number:04}")
    present = _mark_all_done(place, source, destination)
    tick = place.ontpush("push", source, destination, state_dir=str(place.fresh("state")))
    _expect(tick, "done", runs)
    _expect(tick, "done", runs)
    start = _start(place)
    pairs = place.compare(tick, _compare_trees(source, destination))
    yield _row(
        f"idle tick, {runs:,} done runs of {present:,} files, the interpreter's start"
        f" ({start:.3f} s) aside",
        "`rsync -an` of the same tree",
        0.10,
        [(Cost(ours.seconds - start, ours.processor, ours.peak), theirs) for ours, theirs in pairs],
    )


def _mark_all_done(place: Workplace, source: Path, destination: Path) -> int:
    """Bring all runs to the destination and mark them done; how many files each has.

    A thousand first pushes take minutes. So the files are copied at once, and each run gets what
    the program left in it if its state were lost since: roll-up and done mark.
    """
    told = json.loads(output(place.ontpush("hash", "--json", "--all", source, sidecars=False)))
    for facts in told["data"]["runs"]:
        run = Path(facts["run"])
        vouched = {
            "run": run.relative_to(source),
            "instrument": socket.gethostname().split(".")[0],
            "destination": str(destination),
            "rollup": md5_of_rollup(bytes(run)),
            "files": facts["files"],
            "bytes": facts["bytes"],
        }
        (run / "rsync.done").write_bytes(b"".join(mark_lines(time.time(), vouched)))
    cost(["rsync", "-a", f"{source}/", str(destination)])
    return int(facts["files"])


def push(place: Workplace) -> Iterator[Row]:
    """Bring a finished run over for the first time, with sums and verification."""
    files = place.either(200, 4)
    run = make_run(place.fresh("source"), files=files, size=10 * MB)
    source = run.parents[2]
    with Cluster(place.fresh("cluster")) as cluster:

        def ours() -> Cost:
            with _fresh_destination(place, cluster) as destination:
                config = cluster.config()
                ended = cost(place.ontpush("push", source, _remote(cluster, destination), **config))
                _take_mark_away(run)
                _expect_marked(destination / run.relative_to(source))
            return ended

        def theirs() -> Cost:
            with _fresh_destination(place, cluster) as destination:
                words = [str(source), cluster.ssh, _remote(cluster, destination)]
                return cost(["sh", "-ec", PUSH, "sh", *words])

        pairs = alternately(ours, theirs, place.rounds)
    yield _row(
        f"first push of {files / 100:g} GB with sums and verification, over ssh and rrsync",
        "`md5sum`, then `rsync`, then `rsync -n -i -c`",
        0.90,
        pairs,
    )


@contextlib.contextmanager
def _fresh_destination(place: Workplace, cluster: Cluster) -> Iterator[Path]:
    """A new directory on the cluster, which goes when it has served."""
    directory = cluster.directory / place.fresh("instrument").name
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def _remote(cluster: Cluster, directory: Path) -> str:
    return f"{cluster.user}@{HOST}:{directory.name}"


def memory(place: Workplace) -> Iterator[Row]:
    """Bring a run of very many files over for the first time, until it is done."""
    folders, files = place.either(100, 10), place.either(5000, 100)
    source, destination = place.fresh("source"), place.fresh("destination")
    destination.mkdir()
    run = make_run(source, files=files, size=0, folders=barcoded("fastq_pass", folders))
    told = place.fresh("peak")
    python, _, _, *words = place.ontpush("push", source, destination)
    ended = cost([python, "-c", TELLS_PEAK, str(told), *words])
    _expect_marked(destination / run.relative_to(source))
    work = f"peak memory, one run of {folders * files:,} files"
    own = int(told.read_text()) * 1024
    yield Row(f"{work}: ontpush itself", "", 100, [own / MB], [], own, "MB")
    yield Row(f"{work}: largest process", "", 100, [ended.peak / MB], [], ended.peak, "MB")


def one_more(place: Workplace) -> Iterator[Row]:
    """Tick when one file is new in a run of very many: what the state has to write of it.

    The roll-up, which is written whole, is not in the figure: once on its way, once in the run.
    """
    folders, files = place.either(100, 10), place.either(2000, 100)
    source, destination = place.fresh("source"), place.fresh("destination")
    destination.mkdir()
    run = make_run(
        source, files=files, size=0, folders=barcoded("fastq_pass", folders), finished=False
    )
    told, state = place.fresh("written"), str(place.fresh("state"))
    python, _, _, *words = place.ontpush("push", source, destination, state_dir=state)
    tick = [python, "-c", TELLS_WRITTEN, str(told), *words]
    cost(tick)
    (run / "fastq_pass" / "new.fastq").touch()
    ended = cost(tick)
    written = int(told.read_text()) - 2 * (run / "md5sum").stat().st_size
    work = f"written to the state for one new file in a run of {folders * files:,}"
    yield Row(work, "", 1, [written / MB], [], ended.peak, "MB")


def fleet(place: Workplace) -> Iterator[Row]:
    """Tick on the cluster when nothing in the whole fleet is new."""
    instruments, runs = place.either(200, 10), 100
    root = place.fresh("root")
    make_fleet(root, instruments, runs)
    tick = place.ontpush("monitor", root, state_dir=str(place.fresh("state")), disk_percent=100)
    told = json.loads(output([*tick[:4], "--json", *tick[4:]]))["data"]["instruments"]
    if sum(each["verified"] for each in told) != instruments * runs:
        raise BenchError("the first tick does not know all runs")
    first, *others = [cost(tick) for _ in range(place.either(4, 2))]
    work = f"tick of `monitor`, {instruments} instruments, {instruments * runs:,} runs, nothing new"
    peak = max(each.peak for each in [first, *others])
    yield Row(work, "", 5, [each.seconds for each in others], [], peak)
    yield Row(f"{work}: peak memory", "", 200, [peak / MB], [], peak, "MB")


def version(place: Workplace) -> Iterator[Row]:
    """Start, say the version and stop."""
    ours, theirs = [place.python, "-m", "ontpush", "--version"], _nothing(place)
    pairs = alternately(lambda: cost(ours), lambda: cost(theirs), place.either(41, 3))
    yield _row("`ontpush --version`", "`python3 -c pass`", 3.00, pairs)


def _nothing(place: Workplace) -> list[str]:
    return [place.python, "-c", "pass"]


def _start(place: Workplace) -> float:
    """How long the interpreter takes to start and stop, in seconds."""
    return median(cost(_nothing(place)).seconds for _ in range(place.either(20, 3)))


def _compare_trees(source: Path, destination: Path) -> list[str]:
    return ["rsync", "-an", f"{source}/", f"{destination}/"]


def _expect(tick: Sequence[str], state: str, runs: int) -> None:
    """Tick once, and make sure that all runs are where the measurement starts from."""
    *command, source, destination = tick
    told = json.loads(output([*command, "--json", source, destination]))["data"]["runs"]
    if [run["state"] for run in told] != [state] * runs:
        raise BenchError(f"not all of {runs} runs are {state}")


def _expect_marked(run: Path) -> None:
    if not (run / "rsync.done").exists():
        raise BenchError("the run that was pushed is not done")


def _take_mark_away(run: Path) -> None:
    """Make a run again what it was before it was pushed."""
    for name in ("rsync.done", "md5sum"):
        (run / name).unlink()


def _row(
    work: str,
    beside: str,
    limit: float,
    pairs: Sequence[Pair],
    figure: Callable[[Cost], float] = lambda cost: cost.seconds,
) -> Row:
    ours, theirs = ([figure(each) for each in side] for side in zip(*pairs, strict=True))
    peak = max(ours.peak for ours, _ in pairs)
    return Row(work, beside, limit, ours, theirs, peak)
