"""What the tests have in common: the program on the Python of a host, and where runs go."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.cluster import Cluster
from tests.lab.mailbox import Mailbox
from tests.lab.minknow import SimulatedRun, real_layout
from tests.lab.oldrsync import OldRsync, fetched
from tests.lab.zygote import Zygote
from tests.program import CHECKOUT, Program, wait_for

BARCODED = ("fast5_pass", "fast5_fail", "fastq_pass", "fastq_fail")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--host-python",
        default=sys.executable,
        metavar="PATH",
        help="the Python that runs the program under test, as on a host",
    )
    parser.addoption(
        "--lab",
        default=".lab",
        metavar="DIR",
        help="the state directory of the lab that tests/fleet looks at",
    )


def pytest_configure() -> None:
    """Heed what a caller in the background or under nohup has us ignore: children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def host_python(request: pytest.FixtureRequest) -> str:
    """The interpreter that runs the program."""
    python: str = request.config.getoption("--host-python")
    return python


@pytest.fixture(scope="session")
def zygote(host_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """A process of that interpreter that forks for each call."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONWARNINGS": "error",
        # One that is killed while it looks for a place for temporary files leaves one there.
        "TMPDIR": str(tmp_path_factory.mktemp("zygote")),
    }
    with Zygote(host_python, environment) as zygote:
        yield zygote


@pytest.fixture
def program(host_python: str, zygote: Zygote, tmp_path: Path) -> Iterator[Program]:
    """The program, which must leave neither processes nor temporary files."""
    program = Program(host_python, tmp_path / "home", zygote)
    yield program
    left = program.processes()
    program.kill_all()
    assert not left
    assert not os.listdir(program.temporary)
    assert not (program.state / "outbox").exists()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory that holds the runs, `/data` on a sequencer."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def arrived(tmp_path: Path) -> Path:
    """The directory on this machine where runs go."""
    path = tmp_path / "arrived"
    path.mkdir()
    return path


@pytest.fixture
def run(data: Path) -> SimulatedRun:
    """A run that is not written yet."""
    return SimulatedRun(data, files=1)


@pytest.fixture(scope="module")
def _sshd() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(_sshd: Cluster, program: Program) -> Iterator[Cluster]:
    """A login node with rrsync as forced command, empty, known to the program."""
    program.settings.update(_sshd.config())
    yield _sshd
    wait_for(lambda: not _sshd.sessions(), "a session on the cluster does not end")
    for path in _sshd.directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The cluster's directory of instruments."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def gridion(root: Path) -> Path:
    """Where one instrument pushes to."""
    (root / "gridion").mkdir()
    return root / "gridion"


@pytest.fixture
def pushed(program: Program, run: SimulatedRun, data: Path, gridion: Path) -> Path:
    """A done run, as it lies at the cluster."""
    run.write_all()
    program.pushed(data, gridion)
    return gridion / run.path.relative_to(data)


@pytest.fixture(scope="session")
def _mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailbox]:
    with Mailbox(tmp_path_factory.mktemp("mail") / "box") as mailbox:
        yield mailbox


@pytest.fixture
def mailbox(_mailbox: Mailbox) -> Iterator[Mailbox]:
    """A mail server with nothing in it."""
    yield _mailbox
    _mailbox.start()
    _mailbox.empty()


@pytest.fixture
def monitor(
    host_python: str, zygote: Zygote, tmp_path: Path, root: Path, mailbox: Mailbox
) -> Iterator[Program]:
    """The program on the cluster, which tells everything by mail."""
    program = Program(host_python, tmp_path / "login", zygote)
    program.settings.update(root=str(root), notify=[{"url": mailbox.url}], disk_percent=100)
    yield program
    left = program.processes()
    program.kill_all()
    assert not left
    assert not os.listdir(program.temporary)


@pytest.fixture(scope="session")
def older() -> OldRsync:
    """rsync 3.2.3 with the rrsync written in perl."""
    return fetched(CHECKOUT, "bullseye")


@pytest.fixture(scope="session")
def samples() -> Path | None:
    """Real Nanopore data beside the checkout, where it is."""
    path = CHECKOUT.parent / "shared" / "ont-samples"
    return path if path.is_dir() else None


@pytest.fixture
def real_runs(samples: Path | None, data: Path) -> list[Path]:
    """Two finished runs with the paths of real ones, or made up where there are no samples."""
    if samples is None:
        barcoded = SimulatedRun(data, folders=BARCODED, barcodes=["barcode01", "unclassified"])
        return [barcoded.write_all(), SimulatedRun(data, group="second").write_all()]
    runs = []
    for layout in sorted((samples / "layouts").glob("*.txt")):
        paths = real_layout(layout.read_text().splitlines(), data)
        (summary,) = (path for path in paths if path.name.startswith("final_summary"))
        real = samples / "final_summary" / summary.name
        if real.exists():
            summary.write_bytes(real.read_bytes())
        runs.append(summary.parent)
    return runs
