"""Figures that are computed into a data file, drawn from that file alone, and checked."""

from dft_theory.figures.base import (
    ExpectationFailed,
    Figure,
    FigureData,
    FigureError,
    discover,
    draw,
    find_folder,
    recompute,
    require,
)

__all__ = [
    "ExpectationFailed",
    "Figure",
    "FigureData",
    "FigureError",
    "discover",
    "draw",
    "find_folder",
    "recompute",
    "require",
]
