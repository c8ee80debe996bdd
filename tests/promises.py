"""Makes docs/promises.md from promises.yml: what is promised where, and which tests hold it.

`python -m tests.promises` writes the page; with `--missing` it names what stands in no
sentence of the list and yet promises something, by one of the words that do.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

CHECKOUT: Final = Path(__file__).resolve().parent.parent
LIST: Final = Path(__file__).with_name("promises.yml")
PAGE: Final = CHECKOUT / "docs" / "promises.md"
# Beside the checkout, where there is one: what people and programs may rely on.
INTERFACE: Final = "interface.md"
# Every sentence of these that promises something is in the list.
WHOLE: Final = (
    "README.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/cluster-without-ansible.md",
    "docs/cluster.md",
    "docs/decisions/",
    "docs/install.md",
    "docs/keys.md",
    "docs/lab.md",
    "docs/performance.md",
    "docs/reference.md",
    "docs/removal.md",
    "docs/security.md",
    "docs/upgrade.md",
    INTERFACE,
)
PROMISING: Final = re.compile(r"\b(never|always|only|every|nothing|nobody|none)\b", re.IGNORECASE)
HEAD: Final = """\
# What is promised, and what holds it

Each sentence stands so in the file that is named; the tests below it fail when it is broken. Made
from `tests/promises.yml` by `./inv promises`. Of {whole}, every sentence with *never*, *always*,
*only*, *every* or *nothing* is here; `interface.md` is looked at where it lies beside the checkout.
"""


class Promise(NamedTuple):
    """What is said, by the file in which it stands so, and the tests that hold it."""

    title: str
    said: dict[str, list[str]]
    tests: list[str]


def promises() -> list[Promise]:
    """The list."""
    listed = _read()["promises"]
    return [Promise(each["promise"], each["said"], each["tests"].split()) for each in listed]


@functools.lru_cache
def _read() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    return content


def source(file: str) -> str | None:
    """The text of a file that promises, without its line breaks; None if it is not here."""
    path = CHECKOUT / file
    if file == INTERFACE:
        path = CHECKOUT.parent / "shared" / "design" / file
    return flat(path.read_text(encoding="utf-8")) if path.exists() else None


def files() -> Iterator[str]:
    """The files of WHOLE, those of a directory one by one."""
    for name in WHOLE:
        if name.endswith("/"):
            yield from (f"{name}{each.name}" for each in sorted((CHECKOUT / name).glob("*.md")))
        else:
            yield name


def flat(text: str) -> str:
    """A text without code, one blank between two words."""
    return " ".join(re.sub(r"(?ms)^```.*?^```$", "", text).split())


def missing() -> Iterator[str]:
    """Each word that promises something and stands in no sentence of the list, with its place."""
    for file in files():
        text = source(file) or ""
        listed = [span for quote in quotes(file) for span in found(quote, text)]
        for word in PROMISING.finditer(text):
            if not any(begin <= word.start() < end for begin, end in listed):
                yield f"{file}: …{text[max(0, word.start() - 60) : word.end() + 60]}…"


def quotes(file: str) -> list[str]:
    """What the list has of a file, what promises nothing included."""
    of_others: list[str] = _read()["no_promise"].get(file, [])
    return [flat(quote) for each in promises() for quote in each.said.get(file, [])] + of_others


def found(quote: str, text: str) -> list[tuple[int, int]]:
    """Where a quote stands in a text."""
    return [match.span() for match in re.finditer(re.escape(quote), text)]


def page() -> str:
    """The page, from the list."""
    whole = ", ".join(f"`{file}`" for file in WHOLE)
    parts = [HEAD.format(whole=whole)]
    for each in promises():
        parts.append(f"\n## {each.title}\n\n")
        for file, quotes in each.said.items():
            parts += [f"- {file}: “{flat(quote)}”\n" for quote in quotes]
        parts.append("\nHeld by " + ", ".join(f"`{test}`" for test in each.tests) + ".\n")
    return "".join(parts)


if __name__ == "__main__":
    if "--missing" in sys.argv:
        sys.stdout.writelines(f"{sentence}\n" for sentence in missing())
    else:
        PAGE.write_text(page(), encoding="utf-8")
        sys.stdout.write("wrote docs/promises.md\n")
