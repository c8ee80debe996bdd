"""Heeds `rsync.skip` at once, also where it is written while the run is being worked on."""

import os

from ontpush.facts.words import SKIP_MARK


class Skipped(Exception):
    """Somebody wants the run to be left alone: it is left as it is now."""


def heed_skip(run: bytes) -> None:
    """Skipped if there is a skip mark in the run at the absolute path `run`."""
    if os.path.lexists(os.path.join(run, SKIP_MARK)):
        raise Skipped
