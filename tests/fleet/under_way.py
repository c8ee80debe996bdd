"""A push that is on its way while something else happens, for as long as that takes."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tests.fleet.attacker import address
from tests.fleet.hosts import Fleet, Machine, wait_for
from tests.lab.minknow import SimulatedRun

SIZE: Final = 5_000_000  # of each file; sent slowly enough to be met on the way
RATE: Final = "1m"  # a second
PATIENCE: Final = 1500  # seconds that it may be stopped: a busy machine plays for minutes


@contextlib.contextmanager
def push_under_way(fleet: Fleet, machine: Machine, folder: Path, group: str) -> Iterator[str]:
    """Stop a push of a new run on its way for the block; then it goes on, and ends well.

    Gives the path of the run below /data. cron, whose tick would be faster, rests from then on.
    """
    run = SimulatedRun(folder, group=group, size=SIZE, files=2, folders=["pod5"])
    run.write_all()
    machine.rest()
    machine.receive(run)
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(push_by_hand, fleet, machine)
        session = f"pgrep -f 'rrsync .*/{machine.name}$' || true"
        # Between two calls of rsync there is none to stop; the first asks for its version, and
        # stopped then, no session would ever begin.
        stop = "pkill -STOP -x rsync && echo stopped || true"
        wait_for(lambda: fleet.cluster.root(session) and machine.root(stop), "no push begins")
        try:
            yield str(run.path.relative_to(run.root))
        finally:
            machine.root("pkill -CONT -x rsync")
    assert pushed.result().returncode == 0, pushed.result()


def push_by_hand(fleet: Fleet, machine: Machine) -> subprocess.CompletedProcess[str]:
    """A slow tick, tried again as long as one of cron's holds the lock.

    Neither end of it takes being stopped for a broken connection.
    """
    destination = shlex.quote(f"{fleet.cluster.host.user}@{address(fleet)}:.")
    push = f"ontpush push --config $patient --settle 0 /data {destination} --bwlimit={RATE}"
    script = f"""
        patient=$(mktemp)
        trap 'rm $patient' EXIT
        sed '1s/{{/{{"io_timeout": {PATIENCE},/' /etc/ontpush/config.yml >$patient
        while {push}; code=$?; [ $code -eq 75 ]; do sleep 1; done; exit $code
    """
    return machine.user(script, PATIENCE)
