"""Where and how the pieces of work are measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure import Pair, alternately, cost


@dataclass(frozen=True)
class Workplace:
    """Where and how to measure: `folder` is ours alone, `python` runs the program."""

    folder: Path
    python: str
    quick: bool
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def rounds(self) -> int:
        return self.either(6, 1)

    def either(self, full: int, quick: int) -> int:
        """A size: of the real work, or of the quick one."""
        return quick if self.quick else full

    def fresh(self, name: str) -> Path:
        """A path where nothing is yet."""
        return self.folder / f"{name}-{next(self._numbers)}"

    def ontpush(self, command: str, *words: object, **settings: object) -> list[str]:
        """A call of the program: at full speed, with a state of its own unless one is given."""
        state = str(self.fresh("state"))
        defaults = {"state_dir": state, "settle": 0, "nice": 0, "ionice": "none"}
        path = self.fresh("config.json")
        path.write_text(json.dumps({**defaults, **settings}))
        given = map(str, words)
        return [self.python, "-m", "ontpush", command, "--config", str(path), *given]

    def compare(self, ours: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
        """Measure two commands that can be given again and again."""
        return alternately(lambda: cost(ours), lambda: cost(theirs), self.rounds)
