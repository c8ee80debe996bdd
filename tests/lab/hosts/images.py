"""What the hosts boot from: Debian's packages, nothing else, made once and kept."""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.lab.hosts.podman import call, podman
from tests.lab.hosts.table import BASE, Host
from tests.lab.memory import place_in_memory

REPOSITORY: Final = "localhost/ontpush-lab"
# Two at the same time, and what they are packed into.
ROOM_FOR_IMAGES: Final = 4 << 30  # bytes


def image(host: Host) -> str:
    """Name the image of a host, after the release and the packages that go in."""
    packages = ",".join(sorted({*BASE, *host.packages}))
    key = hashlib.sha256(packages.encode()).hexdigest()[:12]
    return f"{REPOSITORY}:{host.suite}-{key}"


def ensure_image(host: Host) -> None:
    """Make the image of a host unless it is here already; half a minute, and once only."""
    if not _exists(image(host)):
        # dpkg writes thousands of files, each of them to the disk at once.
        place = place_in_memory(ROOM_FOR_IMAGES)
        with TemporaryDirectory(prefix="ontpush-image-", dir=place) as folder:
            archive = Path(folder) / "root.tar"
            packages = ",".join([*BASE, *host.packages])
            call(
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={packages}",
                host.suite,
                archive,
                TMPDIR=folder,
            )
            podman("import", "--quiet", archive, image(host))


def remove_images() -> None:
    """Remove every image of the lab, also those of packages that are no longer asked for."""
    names = podman("images", "--noheading", "--format", "{{.Repository}}:{{.Tag}}", REPOSITORY)
    for name in names.split():
        podman("rmi", "--force", name)


def _exists(name: str) -> bool:
    return bool(podman("images", "--quiet", name).strip())
