"""Makes the tables in the roles' README files from their argument specs: nothing is typed twice."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
ROLES = sorted(path.parent.parent for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml"))
HEADING = "## Variables\n"
NOTE = "Made from `meta/argument_specs.yml` by `./inv reference`.\n"
COLUMNS = "| variable | kind | default | meaning |\n| --- | --- | --- | --- |\n"


def options(role: Path) -> dict[str, Any]:
    """The public variables of a role, as its argument specs have them."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    found: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    return found


def page(role: Path) -> str:
    """The role's README: what stands above the table as it is, and the table made anew."""
    text = (role / "README.md").read_text(encoding="utf-8")
    above = text.split(HEADING)[0]
    return f"{above}{HEADING}\n{NOTE}\n{COLUMNS}{''.join(_rows(options(role), ''))}"


def _rows(specs: Mapping[str, Mapping[str, Any]], above: str) -> Iterator[str]:
    for name, spec in specs.items():
        default = "required" if spec.get("required") else _default(spec)
        yield f"| `{above}{name}` | {_kind(spec)} | {default} | {spec['description'].strip()} |\n"
        below = f"{above}{name}[]." if spec["type"] == "list" else f"{above}{name}."
        yield from _rows(spec.get("options", {}), below)


def _default(spec: Mapping[str, Any]) -> str:
    return f"`{json.dumps(spec['default'])}`" if "default" in spec else ""


def _kind(spec: Mapping[str, Any]) -> str:
    if "choices" in spec:
        return " or ".join(f"`{choice}`" for choice in spec["choices"])
    return f"list of {spec['elements']}" if "elements" in spec else str(spec["type"])


if __name__ == "__main__":
    for each in ROLES:
        (each / "README.md").write_text(page(each), encoding="utf-8")
        sys.stdout.write(f"wrote {each.name}/README.md\n")
