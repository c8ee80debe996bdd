"""An older rsync with the rrsync written in perl, as sequencers and clusters still have them.

rsync 3.2.4 replaced the perl rrsync by one in Python that accepts and refuses other things. The
older pair is taken from an older Debian release, through the package sources that this machine
already uses, and unpacked into a directory: nothing is installed and no root is needed.
"""

from __future__ import annotations

import fcntl
import gzip
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

KEYRINGS = Path("/usr/share/keyrings")

# All that apt reads and writes is in the work directory. The machine's other settings (a proxy,
# for instance) stay in force, save the hooks, which are about the machine's own package cache.
APT_CONF = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::SourceList "{work}/old.sources";
Dir::Etc::SourceParts "{work}/none";
Dir::State::Lists "{work}/lists";
Dir::State::Status "{work}/status";
Dir::Cache "{work}/cache";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "root";
"""

SOURCE = """\
Types: deb
URIs: {uri}
Suites: {suite}
Components: main
Signed-By: {keyring}

"""

# Started through the loader, not with LD_LIBRARY_PATH: the ssh that rsync starts would inherit
# that and load the older libraries too.
WRAPPER = """\
#!/bin/sh
exec {loader} --library-path {libraries} {program} "$@"
"""


class OldRsyncUnavailableError(Exception):
    """The older rsync cannot be had here; the message is one line that says why."""


@dataclass(frozen=True)
class OldRsync:
    """An older rsync, ready to run.

    `version` is rsync's own, such as `3.2.3`; `rrsync` starts this `rsync`, not the machine's.
    """

    suite: str
    version: str
    rsync: Path
    rrsync: Path


def old_rsync(cache_dir: Path, suite: str = "bullseye") -> OldRsync:
    """The rsync of the Debian release `suite`, fetched into `cache_dir` unless it is there.

    Several processes may ask at the same time. Raises OldRsyncUnavailableError.
    """
    home = cache_dir.resolve() / f"rsync-{suite}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=home.parent, prefix=f".{home.name}-") as work:
            _build(Path(work), home, suite)
    rsync, rrsync = home / "bin" / "rsync", home / "bin" / "rrsync"
    version = re.search(r"version v?(\S+)", _run(rsync, "--version"))
    if version is None:
        raise OldRsyncUnavailableError(f"{rsync} does not tell its version")
    return OldRsync(suite, version[1], rsync, rrsync)


def fetched(checkout: Path, suite: str) -> OldRsync:
    """The rsync of the Debian release `suite`, fetched once for all workers and sessions.

    Raises OldRsyncUnavailableError.
    """
    cache = checkout / ".pytest_cache" / "ontpush"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return old_rsync(cache, suite)


def _build(work: Path, home: Path, suite: str) -> None:
    """Make the whole of `home` beside it, then move it into place at once."""
    tree = work / "tree"
    for package in _fetch(work, suite):
        _run("dpkg-deb", "--extract", package, tree)
    _write_programs(tree, home)
    try:
        tree.rename(home)
    except OSError:
        if not home.exists():  # else another process was faster, and its copy is as good
            raise


def _fetch(work: Path, suite: str) -> list[Path]:
    """Download rsync and the libraries it depends on, save the C library."""
    refused = ""
    try:
        _write_apt_files(work, suite)
        apt = ["apt-get", "--quiet=2", f"--config-file={work / 'apt.conf'}"]
        try:
            _run(*apt, "update")
        except OldRsyncUnavailableError as error:  # one of several sources may lack the suite
            refused = f": {error}"
        _run(*apt, "download", "rsync", cwd=work)
        depends = _run("dpkg-deb", "--field", *work.glob("rsync_*.deb"), "Depends")
        libraries = set(re.findall(r"(?:lib|zlib)[^ ,]+", depends)) - {"libc6"}
        _run(*apt, "download", *sorted(libraries), cwd=work)
    except OldRsyncUnavailableError as error:
        reason = refused or f": {error}"
        raise OldRsyncUnavailableError(f"no rsync of Debian {suite} to be had{reason}") from error
    return sorted(work.glob("*.deb"))


def _write_apt_files(work: Path, suite: str) -> None:
    """Write what apt needs to look at `suite` alone, as if no package were installed."""
    for name in ("lists/partial", "cache/archives/partial", "none"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "apt.conf").write_text(APT_CONF.format(work=work))
    sources = [SOURCE.format(uri=u, suite=suite, keyring=_keyring()) for u in _archives()]
    (work / "old.sources").write_text("".join(sources))


def _archives() -> list[str]:
    """The archives this machine takes whole releases from, as apt itself reads its sources.

    Suites with a dash or a slash are additions to a release: updates, security, backports.
    """
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)")
    lines = [line.split(" ") for line in dict.fromkeys(targets.splitlines())]
    releases = [uri for uri, suite, part in lines if part == "main" and not set("-/") & set(suite)]
    if not releases:
        raise OldRsyncUnavailableError("apt has no source with a component named main")
    return list(dict.fromkeys(releases))


def _keyring() -> Path:
    """Debian's keys, by which apt checks what it downloads."""
    for suffix in (".gpg", ".pgp"):
        if (path := KEYRINGS / f"debian-archive-keyring{suffix}").exists():
            return path
    raise OldRsyncUnavailableError("the package debian-archive-keyring is not installed")


def _write_programs(tree: Path, home: Path) -> None:
    """Write `bin/rsync` and `bin/rrsync` into `tree`, which will be moved to `home`."""
    wrapper = home / "bin" / "rsync"
    _write_program(tree / "bin" / "rsync", _wrapper(tree, home))
    found = next((p for p in sorted(tree.rglob("rrsync*")) if p.suffix in ("", ".gz")), None)
    if found is None:
        raise OldRsyncUnavailableError("the package holds no rrsync")
    packed = found.read_bytes()
    script = (gzip.decompress(packed) if found.suffix == ".gz" else packed).decode()
    _write_program(tree / "bin" / "rrsync", script.replace("/usr/bin/rsync", str(wrapper)))


def _wrapper(tree: Path, home: Path) -> str:
    """The script that runs the unpacked rsync with the libraries unpacked beside it."""
    program = tree / "usr" / "bin" / "rsync"
    loader = re.search(rb"/lib[^\0]*/ld-[^\0]+", program.read_bytes())
    if loader is None:
        raise OldRsyncUnavailableError("the rsync in the package is no program for this machine")
    folders = {home / found.parent.relative_to(tree) for found in tree.rglob("*.so.*")}
    return WRAPPER.format(
        loader=shlex.quote(loader[0].decode()),
        libraries=shlex.quote(":".join(sorted(map(str, folders)))),
        program=shlex.quote(str(home / program.relative_to(tree))),
    )


def _write_program(path: Path, text: str) -> None:
    """Write an executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return what it prints, or raise with the last line it complained in."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=True, timeout=300
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()] or [str(error)]
        raise OldRsyncUnavailableError(lines[-1]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OldRsyncUnavailableError(str(error)) from error
    return done.stdout
