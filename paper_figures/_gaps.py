"""Gaps between two objectives as dots with intervals: by rows of changes, at three scorings."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from dft_theory.experiment import interval
from dft_theory.figures import style
from dft_theory.figures.base import Cell, FigureData, require

# Metric of a record: label, colour, marker, and whether it is filled.
LOOKS = {
    "sampled": ("T = 1", style.PALETTE["black"], "o", True),
    "greedy": ("greedy", style.PALETTE["purple"], "s", False),
    "early_greedy": ("greedy, stopped early", style.PALETTE["green"], "D", False),
}
COLUMNS = ("row", "cell", "change", "metric", "gap", "low", "high")


def entry(row: str, cell: str, change: str, metric: str, gap: Tensor) -> tuple[Cell, ...]:
    """A row of the table: the mean of a paired difference `[seeds]` and its interval."""
    return (row, cell, change, metric, gap.mean().item(), *interval(gap))


def require_intervals(data: FigureData) -> None:
    """Every mean is in the middle of its interval."""
    gap, low, high = (data.column(c) for c in ("gap", "low", "high"))
    require((high >= low).all(), "intervals are not empty")
    require((abs((low + high) / 2 - gap) < 1e-9).all(), "a mean is in the middle of its interval")


def dots(axis: Axes, data: FigureData, changes: Sequence[str]) -> None:
    """One line of the panel for each change, from the top; a change may be missing."""
    for i, (metric, (label, color, marker, filled)) in enumerate(LOOKS.items()):
        found = [row for row in data.rows if row[3] == metric]
        place = {change: y for y, change in enumerate(changes)}
        gap, low, high = ([row[c] for row in found] for c in (4, 5, 6))
        at = [place[row[2]] + 0.24 * (i - 1) for row in found]
        axis.hlines(at, low, high, color=color, lw=0.8)
        face = color if filled else "white"
        axis.plot(gap, at, marker, ms=3.6, color=color, mfc=face, label=label)
    axis.axvline(0, color="#444444", lw=0.8, zorder=0)
    axis.set_ylim(len(changes) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    for y in range(1, len(changes), 2):
        axis.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", lw=0, zorder=-1)


def label(axis: Axes, names: Mapping[str, str]) -> None:
    """What stands beside the lines."""
    axis.set_yticks(range(len(names)), list(names.values()))
