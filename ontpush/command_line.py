"""The command line: reads the call, runs the command, shows its Result."""

import argparse
import importlib
import json
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, NoReturn, Tuple

from ontpush import __version__
from ontpush.engine.children import catch_signals
from ontpush.facts.configuration import fault_of
from ontpush.facts.names import shortened, shown
from ontpush.facts.options import INTEGER, NUMBER, OPTIONS, SWITCH, Option
from ontpush.facts.trouble import Interrupted, Stopped, Trouble, Unexpected, WrongCall
from ontpush.output import ended
from ontpush.result import Result
from ontpush.settings import load_settings
from ontpush.terminal import Terminal

# These say nothing when all is well, unless somebody watches or asks.
WORKERS = ("push", "hash", "skip", "retry", "pull", "monitor")


class Command(NamedTuple):
    """A word of the command line, the arguments it takes and what it is for."""

    name: str
    arguments: str
    help: str
    dry_run: bool = False
    switches: Tuple[Tuple[str, str], ...] = ()


COMMANDS = (
    Command(
        "push",
        "[SRC DEST [RSYNC_FLAG...]]",
        "one tick over all runs below SRC: find, hash, send, verify, mark done",
        dry_run=True,
    ),
    Command(
        "hash",
        "RUN...",
        "take checksums only, with sidecars",
        switches=(("all", "every run below the one directory given"),),
    ),
    Command("status", "", "how every run stands"),
    Command(
        "verify",
        "RUN...",
        "check a run against its roll-up, and MinKNOW's own sums",
        switches=(
            (
                "untrusted",
                "read no file by two names, nor gigabytes of holes, and name but the first bad"
                " files: for a run that a stranger may have sent",
            ),
        ),
    ),
    Command("check", "[SRC DEST]", "is everything in order here, and what to do if not"),
    Command("skip", "RUN REASON", "leave a run alone from now on"),
    Command(
        "pull",
        "[INSTRUMENT...]",
        "one tick on the cluster: fetch what sequencers have hashed, verify, mark done",
    ),
    Command(
        "monitor",
        "[ROOT]",
        "one tick on the cluster: verify what arrived, tell people what they must know",
    ),
    Command("retry", "RUN", "take skip, failure or done back: the next tick reads all of it again"),
)


class _Parser(argparse.ArgumentParser):
    """Wrong calls are one line and exit 64."""

    def error(self, message: str) -> NoReturn:
        raise WrongCall(f"{message}; see {self.prog} --help")


def run(arguments: List[str]) -> int:
    """The whole program but for the last resort: the exit code of one call."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    call: Dict[str, Any] = {
        "command": command,
        "json": "--json" in arguments,
        "quiet": True,
        "verbose": False,
    }
    try:
        catch_signals()
        call.update(parse(arguments))
        return _show(_perform(call), call)
    except Trouble as error:
        trouble = error
    except Interrupted as interrupt:
        trouble = Stopped(interrupt.exit_code)
    except Exception as error:  # noqa: BLE001
        trouble = Unexpected(error)
    return _show(Result(call["command"], dict, list, [trouble]), call)


def parse(arguments: List[str]) -> Dict[str, Any]:
    """The call as a dictionary: `command`, its `words`, switches, and the options given."""
    parser = _Parser(prog="ontpush", description="Brings Nanopore runs safely to the cluster.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for command in COMMANDS:
        _add_command(commands, command)
    call = vars(parser.parse_args(arguments))
    if not call["command"]:
        raise WrongCall("which command? see ontpush --help")
    if call["words"][:1] == ["--"]:
        del call["words"][0]
    return call


def _add_command(commands: Any, command: Command) -> None:
    parser = commands.add_parser(
        command.name,
        help=command.help,
        description=command.help,
        usage=f"ontpush {command.name} [OPTIONS] {command.arguments}",
    )
    parser.add_argument("--config", metavar="FILE", help="else $ONTPUSH_CONFIG, or the system's")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every step")
    parser.add_argument("-q", "--quiet", action="store_true", help="tell nothing but trouble")
    parser.add_argument("--json", action="store_true", help="print one object for programs")
    parser.add_argument("--version", action="version", version=__version__)
    if command.dry_run:
        parser.add_argument("-n", "--dry-run", action="store_true", help="only tell what would be")
    for name, help_text in command.switches:
        parser.add_argument("--" + name, action="store_true", help=help_text)
    for option in OPTIONS:
        if command.name in option.flag_of:
            _add_option(parser, option)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    text = option.help.replace("%", "%%")
    if option.kind == SWITCH:
        off = "--no-" + option.flag[2:]
        parser.add_argument(
            option.flag, dest=option.key, action="store_const", const=True, help=text
        )
        parser.add_argument(off, dest=option.key, action="store_const", const=False, help="or not")
        return
    if option.default is not None:
        text += f" (default {option.default})"
    parser.add_argument(option.flag, dest=option.key, metavar=option.metavar, help=text)


def _perform(call: Dict[str, Any]) -> Result:
    """Run the command that `call` asks for."""
    name, words = call["command"], call["words"]
    flags = {
        option.key: _value(option, call[option.key])
        for option in OPTIONS
        if call.get(option.key) is not None
    }
    if words and not next(each for each in COMMANDS if each.name == name).arguments:
        raise WrongCall(f"{words[0]!r} is too much: {name} takes no arguments")
    if name == "monitor" and words:
        if len(words) > 1:
            raise WrongCall(f"{words[1]!r} is too much; give one directory")
        flags["root"] = words[0]
    if name in ("push", "check"):
        flags.update(_places(words, may_have_flags=name == "push"))
    settings = load_settings(call["config"], flags)
    settings.update(verbose=call["verbose"], dry_run=call.get("dry_run", False), words=words)
    switches = [switch for command in COMMANDS for switch, _ in command.switches]
    settings.update((switch, call.get(switch, False)) for switch in switches)
    terminal = Terminal(call["verbose"], call["quiet"], call["json"])
    module = importlib.import_module("ontpush.commands." + name)
    result: Result = getattr(module, name)(settings, terminal.show, terminal.tell)
    return result


def _places(words: List[str], may_have_flags: bool) -> Dict[str, Any]:
    """SRC, DEST and flags for rsync, if they were given."""
    if not words:
        return {}
    if len(words) == 1:
        raise WrongCall(f"DEST is missing after {words[0]}; options come before SRC")
    if words[2:] and not may_have_flags:
        raise WrongCall(f"{words[2]!r} is too much; give SRC and DEST")
    places: Dict[str, Any] = {"source": words[0], "destination": words[1]}
    if words[2:]:
        places["rsync_flags"] = words[2:]
    return places


def _value(option: Option, text: Any) -> Any:
    """A flag's text as the kind of value that the option takes. WrongCall."""
    value = text
    if option.kind in (INTEGER, NUMBER):
        try:
            value = int(text) if option.kind == INTEGER else float(text)
        except ValueError:
            noun = "a whole number" if option.kind == INTEGER else "a number"
            raise WrongCall(f"{option.flag} must be {noun}, is {text!r}") from None
    fault = fault_of(option, value)
    if fault:
        raise WrongCall(f"{option.flag} {fault}")
    return value


def _is_watched(call: Dict[str, Any]) -> bool:
    return call["command"] not in WORKERS or call["verbose"] or sys.stdout.isatty()


def _show(result: Result, call: Dict[str, Any]) -> int:
    """Print a Result: one object, or lines for people; trouble to standard error."""
    lines: List[str] = []
    if call["json"]:
        lines = [json.dumps(result.envelope())]
    elif not call["quiet"] and _is_watched(call):
        lines = result.lines()
    return ended(result.exit_code, lines, _complaints(result))


def _complaints(result: Result) -> Iterator[str]:
    for error in result.errors:
        where = f"{shown(error.run)}: " if error.run else ""
        for message in error.message.split("\n"):
            yield shortened(f"ontpush: {where}{message}")
