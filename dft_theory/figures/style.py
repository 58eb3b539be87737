"""One look for every figure: print at column width, legible, safe for colour-blind readers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.style
from numpy.typing import NDArray

COLUMN = 3.3  # inches: one column of a two-column page
TEXT = 6.9  # inches: the whole text width
PALETTE = {
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "grey": "#8A8A8A",
}
_SHEET = Path(__file__).with_name("dft.mplstyle")


@contextmanager
def use() -> Iterator[None]:
    """The project's style, on top of matplotlib's defaults and not of the reader's settings."""
    with matplotlib.style.context(["default", _SHEET]):
        yield


def panels(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = COLUMN,
    height: float = 2.3,
    share: tuple[bool, bool] = (False, False),
) -> tuple[matplotlib.figure.Figure, NDArray[Any]]:
    """A figure of `width` by `height` inches and its `[rows, columns]` axes; `share` is (x, y).

    It belongs to no global list of open figures, so nothing has to close it.
    """
    figure = matplotlib.figure.Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share[0], sharey=share[1])
    return figure, axes


def letter(axes: NDArray[Any]) -> None:
    """Put a, b, c, ... in front of the panels' titles, in reading order."""
    for i, panel in enumerate(axes.flat):
        panel.set_title(f"{chr(ord('a') + i)}   {panel.get_title(loc='left')}".rstrip(), loc="left")
