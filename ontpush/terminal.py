"""What a person sees while a command works: events, and one line of progress on a terminal."""

import shutil
import sys
import time
from typing import Optional

from ontpush.engine.progress import InHand
from ontpush.facts.names import from_json, human_size, human_time, shortened, shown
from ontpush.output import write_lines

_REDRAW_SECONDS = 0.2


class Terminal:
    """Shows events and progress where somebody watches; nothing from cron."""

    def __init__(self, verbose: bool, quiet: bool, as_json: bool) -> None:
        self._stream = sys.stderr if as_json else sys.stdout
        self._tells = (verbose or self._stream.isatty()) and not quiet
        self._draws = sys.stderr.isatty() and not quiet
        self._drawn_at = 0.0
        self._drawn = False

    def tell(self, line: str) -> None:
        """An event of the log."""
        if self._tells:
            self.show(None)
            # The log has it too, and the runs matter more than whoever has stopped listening.
            self._tells = write_lines(self._stream, [shortened(line)]) is None

    def show(self, now: Optional[InHand]) -> None:
        """Draw how far the run in hand has come, or wipe it out."""
        if not self._draws or (now is None and not self._drawn):
            return
        if now is not None and time.monotonic() - self._drawn_at < _REDRAW_SECONDS:
            return
        self._drawn_at = time.monotonic() if now else 0.0
        self._drawn = now is not None
        width = shutil.get_terminal_size().columns - 1
        text = _line(now)[:width] if now else ""
        try:
            sys.stderr.write("\r" + text.ljust(width) + ("" if now else "\r"))
            sys.stderr.flush()
        except OSError:  # the terminal is gone: nobody watches
            self._draws = False


def _line(now: InHand) -> str:
    moment = time.time()
    left = now.time_left(moment)
    return "{} {:,}/{:,} files, {}/{}, {}/s{}: {}".format(
        now.doing,
        now.files,
        now.files_total,
        human_size(now.bytes),
        human_size(now.bytes_total),
        human_size(now.rate(moment)),
        "" if left is None else f", {human_time(left)} left",
        shown(from_json(now.run)).rpartition("/")[2],
    )
