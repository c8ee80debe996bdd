"""`ontpush` and `python3 -m ontpush`: the last resort for errors, and a quick `--version`."""

import os
import sys
from typing import List, Optional

from ontpush import __version__


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one call; its exit code. No traceback ever reaches the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed_streams()
    if arguments == ["--version"]:
        print(__version__)
        return 0
    from ontpush.command_line import run
    from ontpush.facts.trouble import Interrupted

    try:
        return run(arguments)
    except Interrupted as interrupt:
        sys.stderr.write("ontpush: interrupted; the next call goes on from here\n")
        return interrupt.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:  # noqa: BLE001
        return _last_resort(error)


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


def _last_resort(error: Exception) -> int:
    """A fault that nobody foresaw: one line for the user, the place for whoever mends it."""
    import traceback

    place = traceback.extract_tb(error.__traceback__)[-1]
    sys.stderr.write(
        "ontpush: unexpected {}: {} (in {} line {}); nothing is marked done by a call that"
        " ends so; please report it\n".format(
            type(error).__name__,
            str(error).replace("\n", " ").encode("ascii", "backslashreplace").decode(),
            os.path.basename(place.filename),
            place.lineno,
        )
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
