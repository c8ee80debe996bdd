"""What there is before the roles come: `python -m tests.fleet.prepare LAB`.

Every file of every host is noted, so that removal can be held against it, and on each sequencer a
run goes on: it waits for the first tick of cron.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fleet.hosts import Fleet
from tests.fleet.traces import note
from tests.lab.minknow import SimulatedRun


def going_on(folder: Path) -> SimulatedRun:
    """A run that has not ended, with spaces in its name and barcodes; always the same one."""
    run = SimulatedRun(folder, sample="a test lib", barcodes=["barcode01", "unclassified"])
    for _ in run.reads():
        pass
    return run


def main(state: Path) -> None:
    """Note what is there, then let sequencing begin."""
    fleet = Fleet(state)
    note(fleet)
    with TemporaryDirectory(prefix="ontpush-fleet-") as folder:
        run = going_on(Path(folder))
        for machine in fleet.sequencers:
            machine.receive(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
