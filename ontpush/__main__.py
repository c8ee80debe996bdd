"""`ontpush` and `python3 -m ontpush`: a quick `--version`, and an end without a traceback."""

import os
import sys
from typing import List, Optional

from ontpush import __version__
from ontpush.output import ended


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one call; its exit code. No traceback ever reaches the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    if arguments == ["--version"]:
        return ended(0, [__version__], [])
    from ontpush.facts.trouble import Interrupted, Stopped, Trouble, Unexpected

    try:
        from ontpush.command_line import run

        return run(arguments)
    except SystemExit as asked:  # help has been printed
        return ended(int(asked.code or 0), [], [])
    except Interrupted as interrupt:
        trouble: Trouble = Stopped(interrupt.exit_code)
    except Exception as error:  # noqa: BLE001
        trouble = Unexpected(error)
    return ended(trouble.exit_code, [], [f"ontpush: {trouble.message}"])


def _open_closed_streams() -> None:
    """A caller may have closed the standard streams: no other file must take their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


if __name__ == "__main__":
    sys.exit(main())
