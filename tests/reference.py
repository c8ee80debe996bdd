"""Makes docs/reference.md from the program's own options: nothing in it is typed twice."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ontpush.command_line import COMMANDS
from ontpush.facts import limits
from ontpush.facts.options import CHOICES, OPTIONS, RECORDS, SWITCH, Option

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"

HEAD = """\
# Reference

Made from the program by `./inv reference`; change the program, not this page.

`ontpush` and `python3 -m ontpush` are the same program. Options come before the arguments:
what comes after DEST goes to rsync as it stands.
"""

COMMON = """\
Every command takes `--config FILE` (else `$ONTPUSH_CONFIG`, else `/etc/ontpush/config.yml` where
there is one), `-v`, `-q`, `--json`, `--version` and `--help`.
"""

EXIT_CODES = """\
## Exit codes

| code | meaning |
| --- | --- |
| 0 | all well |
| 1 | some run failed, the others were still done |
| 64 | wrong call |
| 69 | destination, sequencer or root out of reach |
| 75 | another tick is at work, or a passing fault: the next tick will do |
| 78 | configuration, or what it leads to on this host |
| 130, 143 | ended by Ctrl-C, by SIGTERM |
"""

FILE = """\
## The configuration file

YAML, or JSON, which every host can read; a flag beats the file. An unknown key, a wrong type or a
value out of range is refused with its place in the file, all faults at once.
"""


BOUNDS = """\
## Bounds

What one instrument may cost, whatever it sends. What exceeds a bound is that instrument's fault,
and told by its name; see [security](security.md).

| what | at most |
| --- | --- |
"""
BOUND = re.compile(r"# (?P<what>.+)\.\n(?P<name>[A-Z_]+) = .+?(?:  # (?P<unit>\w+))?\n")


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Commands\n", *_commands(), COMMON, FILE, _keys(), BOUNDS + bounds()]
    parts.append(EXIT_CODES)
    return "\n".join(parts)


def bounds() -> str:
    """A row for each bound of the table, in its order."""
    found = BOUND.finditer(inspect.getsource(limits))
    return "".join(
        f"| {each['what']} | {_amount(getattr(limits, each['name']), each['unit'])} |\n"
        for each in found
    )


def _amount(value: float, unit: str | None) -> str:
    for shift, name in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if unit == "bytes" and value % (1 << shift) == 0:
            return f"{int(value) >> shift} {name}"
    return f"{value:,.0f} {unit or ''}".strip()


def _commands() -> Iterator[str]:
    for command in COMMANDS:
        call = f"ontpush {command.name} [OPTIONS] {command.arguments}".strip()
        yield f"### `{call}`"
        yield f"\n{command.help[0].upper()}{command.help[1:]}.\n"
        flags = [f"`--{name}`: {text}" for name, text in command.switches]
        flags += ["`-n`, `--dry-run`: only tell what would be"] * command.dry_run
        flags += [_flag(option) for option in OPTIONS if command.name in option.flag_of]
        yield "\n".join(f"- {flag}" for flag in flags) + "\n"


def _flag(option: Option) -> str:
    if option.kind == SWITCH:
        return f"`{option.flag}`, `--no-{option.flag[2:]}`: {option.help}"
    return f"`{option.flag} {option.metavar}`: {option.help}{_default(option)}"


def _default(option: Option) -> str:
    return "" if option.default in (None, []) else f" (default {option.default})"


def _keys() -> str:
    rows = [row for option in OPTIONS for row in _rows(option, "")]
    return "\n".join(["| key | kind | meaning |", "| --- | --- | --- |", *rows, ""])


def _rows(option: Option, within: str) -> Iterator[str]:
    """The row of a key, and those of the keys in each item of its list."""
    name = within + option.key
    yield f"| `{name}` | {_kind(option)} | {option.help}{_default(option)} |"
    for field in option.fields:
        yield from _rows(field, f"{name}[].")


def _kind(option: Option) -> str:
    if option.kind == RECORDS:
        return "list of mappings"
    if option.choices:
        several = "some of " if option.kind == CHOICES else ""
        return several + " or ".join(f"`{choice}`" for choice in option.choices)
    if option.low is not None and option.high is not None:
        return f"{option.kind}, {option.low:g} to {option.high:g}"
    return f"{option.kind}: {option.wanted}" if option.wanted else option.kind


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name}\n")
