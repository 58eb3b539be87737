"""Every objective of the catalogue. A new one is a file in this folder and a name in the tuple."""

from dft_theory.objectives.base import Level, Limit, Objective, Style
from dft_theory.objectives.dft import dft, dft_geometric, dft_sequence
from dft_theory.objectives.gates import floored, mixed, thresholded
from dft_theory.objectives.power import power
from dft_theory.objectives.reductions import (
    MicrobatchTokenMean,
    Reduction,
    SequenceMean,
    SumOver,
    TokenMean,
)
from dft_theory.objectives.sft import sft
from dft_theory.registry import Registry

OBJECTIVES: tuple[Objective, ...] = (
    sft,
    dft,
    dft_sequence,
    dft_geometric,
    power(0.5),
    power(2.0),
    floored(0.1),
    thresholded(0.2, ">="),
    thresholded(0.2, "<="),
    mixed(0.5),
)

objectives: Registry[Objective] = Registry("objective", OBJECTIVES)

__all__ = [
    "OBJECTIVES",
    "Level",
    "Limit",
    "MicrobatchTokenMean",
    "Objective",
    "Reduction",
    "SequenceMean",
    "Style",
    "SumOver",
    "TokenMean",
    "dft",
    "dft_geometric",
    "dft_sequence",
    "floored",
    "mixed",
    "objectives",
    "power",
    "sft",
    "thresholded",
]
