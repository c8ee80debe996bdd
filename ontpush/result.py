"""What a command comes to: computed whole by the command, shown afterwards by the command line."""

import re
from typing import Any, Callable, Dict, List, NamedTuple

from ontpush import __version__
from ontpush.facts.names import for_json
from ontpush.facts.trouble import BadConfiguration, Trouble, exit_code_of

_FIGURE = re.compile(r"[\d.,]+( [kMGT]?B| %)?\Z")


class Result(NamedTuple):
    """`data` for programs, `lines` for people, and every trouble there was.

    Both are functions: under cron nobody looks, and a thousand lines take their time.
    """

    command: str
    data: Callable[[], Dict[str, Any]]
    lines: Callable[[], List[str]]
    errors: List[Trouble]

    @property
    def exit_code(self) -> int:
        """That of all its troubles."""
        return exit_code_of(self.errors)

    def envelope(self) -> Dict[str, Any]:
        """The object that `--json` prints."""
        status = {0: "ok", 1: "partial"}.get(self.exit_code, "error")
        return {
            "ontpush": __version__,
            "command": self.command,
            "status": status,
            "exit_code": self.exit_code,
            "data": self.data(),
            "errors": [each for error in self.errors for each in _error_facts(error)],
        }


def _error_facts(error: Trouble) -> List[Dict[str, Any]]:
    run = None if error.run is None else for_json(error.run)
    messages = error.faults if isinstance(error, BadConfiguration) else [error.message]
    return [{"code": error.code, "message": message, "run": run} for message in messages]


def table(headings: List[str], rows: List[List[str]]) -> List[str]:
    """Columns lined up, numbers to the right; nothing but the headings where there is no row."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    return [
        "  ".join(
            cell.rjust(width) if _FIGURE.match(cell) else cell.ljust(width)
            for cell, width in zip(row, widths)
        ).rstrip()
        for row in [headings, *rows]
    ]
