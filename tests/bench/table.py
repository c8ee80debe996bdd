"""The table that comes of it, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

HEADINGS = ("work", "`ontpush`", "beside", "took", "ratio", "at most", "", "peak memory")


@dataclass(frozen=True)
class Row:
    """A line of the table: ours and the other's figures, round by round, and the limit.

    The limit is for the ratio, or where there is nothing beside it for ours. `peak` is that of
    our largest process, in bytes.
    """

    work: str
    beside: str
    limit: float
    ours: Sequence[float]
    theirs: Sequence[float]
    peak: float
    unit: str = "s"

    @property
    def figure(self) -> float:
        """What the limit is for: the median of the rounds' ratios, or of ours."""
        ratios = [our / their for our, their in zip(self.ours, self.theirs, strict=False)]
        return median(ratios or self.ours)

    @property
    def met(self) -> bool:
        return self.figure <= self.limit

    def cells(self) -> tuple[str, ...]:
        """What stands in the table: medians, and the limit with its verdict."""
        met = "met" if self.met else "NOT met"
        peak = f"{self.peak / 1e6:.0f} MB"
        ours = _measure(self.ours, self.unit)
        if not self.theirs:
            return (self.work, ours, "", "", "", f"{self.limit:g} {self.unit}", met, peak)
        theirs, ratio = _measure(self.theirs, self.unit), f"{self.figure:.2f}"
        return (self.work, ours, self.beside, theirs, ratio, f"{self.limit:.2f}", met, peak)


def table(rows: Iterable[Row]) -> str:
    """All rows under their headings."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _measure(figures: Sequence[float], unit: str) -> str:
    middle = median(figures)
    return f"{middle:.3g} {unit}"
