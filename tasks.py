"""The tasks of this checkout: `./inv --list` names them, `./inv --help TASK` explains one.

The exit code of a command that fails becomes that of `./inv`.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from invoke import Context, Exit, task

from tests.lab.memory import place_in_memory

HERE = Path(__file__).resolve().parent
CALLER = os.environ.get("ONTPUSH_CALLER_DIR", os.getcwd())
PYTHON = sys.executable
NEWEST = HERE / ".venv-newest"
CACHES = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis")

MOST_WORKERS = 16
ROOM_FOR_TESTS = 2 << 30  # bytes

Version = tuple[int, ...]
FLOOR: Version = (3, 6)

# Of the Pythons here, those that a newer ansible-core runs on.
FOR_NEWEST_CORE: tuple[Version, Version] = ((3, 11), (3, 15))
# What makes and runs hosts, by the Debian package that has it.
LAB_PROGRAMS = {"mmdebstrap": "mmdebstrap", "podman": "podman", "runc": "runc"}
SLURM_PROGRAMS = {
    "sbatch": "slurm-client",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "munged": "munge",
}

# ansible-core 2.16, the last that manages Python 3.6, runs on Pythons before this one.
TOO_NEW_FOR_MK1C: Version = (3, 13)

# Tells version and path, the real one behind a wrapper. Fails in a virtual environment, which may
# hold packages that a host does not have.
PROBE = """
import sys
print(*sys.version_info[:3])
print(sys.executable)
sys.exit(sys.prefix != sys.base_prefix)
"""

PROGRAM_HELP = {
    "settle": "take files that have not changed for this many seconds",
    "jobs": "hash this many files at the same time",
    "state-dir": "keep the state here; default: the user's own place",
    "verbose": "say what is done",
}


@task
def demo(c: Context) -> None:
    """Show a run on its way from sequencer to cluster, all on this machine."""
    finish(run(c, PYTHON, "-m", "tests.demo"))


@task(help={"fix": "put right what can be, and format"})
def lint(c: Context, fix: bool = False) -> None:
    """Check style, types, roles, and that Python 3.6 still does; --fix formats."""
    finish(linted(c, fix))


@task(
    help={
        "all": "run all tests with the newest Python and Ansible, too, not only what may break",
        "only": "run the tests whose names match this expression (pytest -k)",
        "python": "run the program with this Python instead",
    },
)
def test(c: Context, all: bool = False, only: str = "", python: str = "") -> None:
    """Lint, then run all tests on Python 3.6, on the newest here what that may break, the fleet's.

    The fleet's run beside the others, in the same way with two Ansibles. With --only or --python
    they are left out: ./inv fleet runs them alone.
    """
    hosts = given_python(python) if python else host_pythons()
    with_fleet = not (only or python)
    need(c, {**SLURM_PROGRAMS, **(LAB_PROGRAMS if with_fleet and not os.geteuid() else {})})
    # The fleet's tests mostly wait for cron: the others run meanwhile.
    with beside([str(HERE / "inv"), "fleet", *["--all"] * all] * with_fleet) as of_fleet:
        finish(linted(c))
        oldest = min(hosts)
        codes = [
            run_tests(c, version, path, only, newest_only=version > oldest and not (all or only))
            for version, path in hosts.items()
        ]
        codes.append(of_fleet())
    finish(max(codes))


@task(
    help={
        "steps": "how many things happen",
        "seed": "the first seed; each part of the hunt has its own",
        "python": "run the program with this Python instead",
        "shrink": "look for the shortest way to a fault, for minutes",
    }
)
def machine(
    c: Context,
    steps: int = 50000,
    seed: int = 0,
    python: str = "",
    shrink: bool = False,
) -> None:
    """Let things happen in any order, at both ends, and hold everything against the interface.

    The seeds are printed; the one that showed a fault shows it again.
    """
    seed = seed or int(time.time())
    os.environ.update(ONTPUSH_MACHINE_STEPS=str(steps), ONTPUSH_MACHINE_SEED=str(seed))
    if shrink:
        os.environ["ONTPUSH_MACHINE_SHRINK"] = "1"
    which = ["tests/test_machine.py", f"--host-python={python or PYTHON}", "-rA"]
    print(f"first seed: {seed}", flush=True)
    finish(run(c, PYTHON, "-m", "pytest", "-q", *side_by_side(), *which))


@task(
    help={
        "all": "run all tests with the newest ansible-core, too, not only what that may break",
        "only": "run the tests whose names match this expression (pytest -k)",
    }
)
def fleet(c: Context, all: bool = False, only: str = "") -> None:
    """Test the roles on real hosts, with the ansible-core for a Mk1C and with the newest."""
    if os.geteuid():
        lacking("only root can make hosts to test the roles on: NOT tested")
        return
    need(c, LAB_PROGRAMS)
    ansibles = [Path(PYTHON).parent, *newest_ansible(c)]
    selection = [*without_mk1c(), *[f"--only={only}"] * bool(only), *["--all"] * all]
    finish(run(c, PYTHON, "-m", "tests.fleet", *map(str, ansibles), *selection))


@task(
    help={
        "down": "remove the hosts and all that belongs to them",
        "images": "with --down: also what hosts are made from",
    }
)
def lab(c: Context, down: bool = False, images: bool = False) -> None:
    """Make three sequencers and a cluster to play with, on this machine, and say how to get in."""
    need(c, LAB_PROGRAMS)
    given = ["down", *["--images"] * images] if down else ["up", *without_mk1c()]
    finish(run(c, PYTHON, "-m", "tests.lab.hosts", *given))


@task(
    help={
        "inventory": "file or directory that names your hosts; default: inventory",
        "limit": "set up these hosts only",
        "check": "only tell what would change",
        "ask-become-pass": "ask for the password of sudo on the sequencers",
    }
)
def deploy(
    c: Context,
    inventory: str = "",
    limit: str = "",
    check: bool = False,
    ask_become_pass: bool = False,
) -> None:
    """Set up the sequencers and the cluster of the inventory, as playbooks/site.yml does."""
    if sys.version_info >= TOO_NEW_FOR_MK1C:
        print(
            f"{PYTHON} is Python {dotted(sys.version_info[:2])}, too new for the ansible-core that"
            " manages a Mk1C (Python 3.6): it is out of reach from here. Take a controller with"
            " Python 3.10 to 3.12 for it.",
            file=sys.stderr,
        )
    hosts = ["-i", from_caller(inventory)] if inventory else []
    switches = [*["--check"] * check, *["--ask-become-pass"] * ask_become_pass]
    given = [*hosts, *["--limit", limit] * bool(limit), *switches]
    finish(run(c, tool("ansible-playbook"), *given, "playbooks/site.yml"))


@task(name="hash", help={"run": "directory of the run", **PROGRAM_HELP})
def hash_run(
    c: Context,
    run: str,
    settle: str = "",
    jobs: str = "",
    state_dir: str = "",
    verbose: bool = False,
) -> None:
    """Make the checksums of one run, as `ontpush hash` does."""
    finish(ontpush(c, "hash", *options(settle, jobs, state_dir, verbose), from_caller(run)))


@task(
    help={
        "src": "directory that holds the runs",
        "dest": "directory, or HOST:DIRECTORY, where they go",
        "flags": "flags for rsync, quoted as for a shell, for example --flags '--bwlimit=50m -z'",
        **PROGRAM_HELP,
    }
)
def sync(
    c: Context,
    src: str,
    dest: str,
    flags: str = "",
    settle: str = "",
    jobs: str = "",
    state_dir: str = "",
    verbose: bool = False,
) -> None:
    """Send the runs under SRC to DEST, as one tick of `ontpush push` does."""
    arguments = [from_caller(src), dest if is_remote(dest) else from_caller(dest)]
    given = options(settle, jobs, state_dir, verbose)
    finish(ontpush(c, "push", *given, *arguments, *words(flags)))


@task(help={"quick": "smaller data, rougher figures", "only": "name of the one to run"})
def bench(c: Context, quick: bool = False, only: str = "") -> None:
    """Measure the speed of scanning, hashing and sending."""
    selection = [*["--quick"] * quick, *["--only", only] * bool(only)]
    finish(run(c, PYTHON, "-m", "tests.bench", *selection))


@task
def reference(c: Context) -> None:
    """Write docs/reference.md and the roles' tables anew from what they describe."""
    finish(max(run(c, PYTHON, "-m", module) for module in ("tests.reference", "tests.role_pages")))


@task
def promises(c: Context) -> None:
    """Write docs/promises.md anew: what is promised where, and which tests hold it."""
    finish(run(c, PYTHON, "-m", "tests.promises"))


@task
def clean(c: Context) -> None:
    """Remove .venv, .venv-newest and all caches, and nothing else."""
    caches = [HERE / name for name in (*CACHES, NEWEST.name)]
    # .venv last: it holds the Python that does this.
    folders = [*caches, *HERE.rglob("__pycache__"), HERE / ".venv"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    left = [str(folder) for folder in folders if folder.exists()]
    if left:
        raise Exit(f"could not remove {shlex.join(left)}: whose are they?")


def run(c: Context, *command: str) -> int:
    """Run a command with the caller's own terminal, or files, and return its exit code.

    Context.run would merge both outputs on a terminal and leave the command behind on SIGTERM.
    """
    if c.config.run.dry or c.config.run.echo:
        print(shlex.join(command), flush=True)
    if c.config.run.dry:
        return 0
    signal.signal(signal.SIGTERM, terminated)
    return ended(subprocess.Popen(command))


def ended(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child and return its exit code; broken off, let it end and do nothing after it."""
    try:
        return as_in_shell(child.wait())
    except KeyboardInterrupt:  # of which the terminal has told the child, too
        raise Exit(code=as_in_shell(child.wait()) or 130) from None
    except Terminated:
        child.terminate()
        raise Exit(code=as_in_shell(child.wait()) or 143) from None


class Terminated(BaseException):
    """SIGTERM came."""


def terminated(*_: object) -> NoReturn:
    """Be told of SIGTERM once: what is ended then may take its time."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def tool(name: str) -> str:
    """The path of a program in .venv."""
    return str(Path(PYTHON).with_name(name))


def as_in_shell(code: int) -> int:
    """Give the code that a shell gives: 143 where subprocess says -15, ended by SIGTERM."""
    return code if code >= 0 else 128 - code


def ontpush(c: Context, *arguments: str) -> int:
    """Run the program from this checkout and return its exit code."""
    return run(c, PYTHON, "-m", "ontpush", *arguments)


def finish(code: int) -> None:
    """End here with this exit code, unless it is 0."""
    if code:
        raise Exit(code=code)


def from_caller(path: str) -> str:
    """Make a path that the caller gave absolute: tasks run in the checkout, they may not be."""
    return os.path.join(CALLER, path)


def is_remote(destination: str) -> bool:
    """Tell a destination on another host as rsync does: by a colon before the first slash."""
    return ":" in destination.split("/")[0]


def options(settle: str, jobs: str, state_dir: str, verbose: bool) -> list[str]:
    """Spell out those options of the program that were given."""
    state = from_caller(state_dir) if state_dir else ""
    pairs = [("--settle", settle), ("--jobs", jobs), ("--state-dir", state)]
    return [word for pair in pairs if pair[1] for word in pair] + ["-v"] * verbose


def words(flags: str) -> list[str]:
    """Split flags as a shell does."""
    try:
        return shlex.split(flags)
    except ValueError as error:
        raise Exit(f"--flags {flags}: {error}; quote it as for a shell", 64) from None


def linted(c: Context, fix: bool = False) -> int:
    """Run all checks that run nothing of the project; the highest exit code."""
    path = os.pathsep.join([str(Path(PYTHON).parent), *os.get_exec_path()])
    checks = [
        [PYTHON, "-m", "ruff", "check", *["--fix"] * fix],
        [PYTHON, "-m", "ruff", "format", *["--check"] * (not fix)],
        [PYTHON, "-m", "mypy"],
        # Without postponed evaluation, which 3.6 does not have, annotations are evaluated.
        [tool("vermin"), "--quiet", "--violations", "--eval-annotations", "-t=3.6-", "ontpush"],
        ["sh", "-n", "inv"],
        [tool("yamllint"), "--strict", "."],
        # It looks for ansible-playbook on PATH.
        ["env", f"PATH={path}", tool("ansible-lint"), "-q", "--strict", "--profile=production"],
    ]
    return max([run(c, *check) for check in checks])


def run_tests(c: Context, version: Version, python: str, only: str, *, newest_only: bool) -> int:
    """Run the tests with the program on one Python; return pytest's exit code."""
    print(f"\nThe program on Python {dotted(version)}, {python}:", flush=True)
    # With "=": pytest does not know this option yet when it looks for paths among its arguments.
    selection = [f"--host-python={python}", *["-k", only] * bool(only)]
    selection += ["-m", "newest"] * newest_only
    place = place_in_memory(ROOM_FOR_TESTS)
    if place:
        # There a ledger's fsync, of which a test has dozens, costs nothing.
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(place)
    return run(c, PYTHON, "-m", "pytest", *side_by_side(), "--ignore=tests/fleet", *selection)


def side_by_side() -> list[str]:
    """Say how many tests run at once: some always wait, for rsync, sshd or Slurm.

    More would take the processors from the fleet's tests, which end last. What a worker with long
    ones has not begun is done by those that have none left.
    """
    workers = min(3 * (os.cpu_count() or 1) // 2, MOST_WORKERS)
    return [f"-n{workers}", "--dist=worksteal"]


@contextlib.contextmanager
def beside(command: list[str]) -> Iterator[Callable[[], int]]:
    """Run a command, if there is one, beside what the block does.

    Gives a function that waits for it, shows what it said and returns its exit code.
    """
    if not command:
        yield lambda: 0
        return
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)

        def show_and_tell() -> int:
            code = ended(child)
            said.seek(0)
            print(said.read().decode(errors="replace"), flush=True)
            return code

        try:
            yield show_and_tell
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


def newest_ansible(c: Context) -> list[Path]:
    """Make .venv-newest, unless it is current, and return where its programs are."""
    if sys.version_info >= TOO_NEW_FOR_MK1C:
        # .venv has it already.
        lacking("no Python 3.10 to 3.12 here: the roles are NOT tested with ansible-core 2.16")
        return []
    first, end = FOR_NEWEST_CORE
    pythons = {version: path for version, path in find_pythons().items() if first <= version < end}
    if not pythons:
        lacking("no Python 3.11 or newer here: the roles are NOT tested with a newer ansible-core")
        return []
    wanted, copy = HERE / "requirements-newest.txt", NEWEST / "requirements-newest.txt"
    if not copy.exists() or copy.read_bytes() != wanted.read_bytes():
        shutil.rmtree(NEWEST, ignore_errors=True)
        install = [str(NEWEST / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(wanted)]
        finish(run(c, pythons[max(pythons)], "-m", "venv", str(NEWEST)))
        finish(run(c, *install, "--disable-pip-version-check"))
        shutil.copy(wanted, copy)
    return [NEWEST / "bin"]


def without_mk1c() -> list[str]:
    """The options that leave the Mk1C out where there is no Python to stand for its own."""
    if any(version[:2] == FLOOR for version in find_pythons()):
        return []
    lacking(f"Python {dotted(FLOOR)}, the Mk1C's, is not in pyenv nor on PATH: NO such host")
    return ["--without", "mk1c"]


def lacking(what: str) -> None:
    """Say what cannot be done here; where everything must be, in CI, end."""
    if os.environ.get("CI"):
        raise Exit(what)
    print(what, file=sys.stderr)


def need(c: Context, programs: dict[str, str]) -> None:
    """Install missing programs, program to Debian package, or tell how."""
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid():
        raise Exit(
            f"programs are missing; install them with: sudo apt-get install {' '.join(missing)}"
        )
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    print(f"installing with apt-get: {' '.join(missing)}", file=sys.stderr)
    finish(run(c, "apt-get", "-qq", "update"))
    finish(run(c, "apt-get", "-qq", "install", "--yes", "--no-install-recommends", *missing))


def host_pythons() -> dict[Version, str]:
    """Choose the Pythons that stand for the hosts: the floor and the newest, version to path."""
    found = find_pythons()
    if not found:
        raise Exit("found no Python to test the program on: give one with --python PATH")
    floors = [version for version in found if version[:2] == FLOOR]
    if not floors:
        missing = f"Python {dotted(FLOOR)}, the oldest on a host, is not on PATH nor in pyenv"
        if os.environ.get("CI"):
            raise Exit(f"{missing}: install it")
        print(f"{missing}: NOT tested on it", file=sys.stderr)
    return {version: found[version] for version in [*floors[-1:], max(found)]}


def given_python(python: str) -> dict[Version, str]:
    """Take the one Python that the caller names, by path or as found on PATH."""
    found = probe(from_caller(python) if "/" in python else python)
    if not found:
        raise Exit(f"{python} does not run, or belongs to a virtual environment")
    return dict([found])


def find_pythons() -> dict[Version, str]:
    """Find the Pythons on PATH and pyenv's, oldest first, version to path."""
    names = re.compile(r"python3(\.\d+)?")
    folders = [Path(folder) for folder in os.get_exec_path()]
    on_path = [file for folder in folders for file in folder.glob("python3*")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [*pyenv.glob("versions/*/bin/python3"), *on_path]
    probed = [probe(str(file)) for file in candidates if names.fullmatch(file.name)]
    return dict(sorted(found for found in probed if found))


def probe(python: str) -> tuple[Version, str] | None:
    """Ask a Python for its version and real path; None where it does not run."""
    try:
        answer = subprocess.run(
            [python, "-c", PROBE], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version, path = answer.stdout.splitlines()
    return tuple(map(int, version.split())), path


def dotted(version: Version) -> str:
    """Write a version as people do: 3.6.15."""
    return ".".join(map(str, version))
