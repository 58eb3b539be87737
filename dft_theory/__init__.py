"""Dynamic Fine-Tuning (DFT; Wu et al., arXiv 2508.05629): its identity, proved and checked.

SFT's gradient is a policy gradient with reward 1[y = y*] and importance weight 1/pi(y|x); DFT
multiplies each token's loss by the stop-gradient of its own probability and removes the weight.
"""

from typing import TYPE_CHECKING, Any

from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import (
    OBJECTIVES,
    MicrobatchTokenMean,
    Objective,
    SequenceMean,
    SumOver,
    TokenMean,
    dft,
    dft_geometric,
    dft_sequence,
    floored,
    mixed,
    power,
    sft,
    thresholded,
)
from dft_theory.policies import AutoregressivePolicy, Policy, TabularPolicy, ToyTransformer

if TYPE_CHECKING:
    from dft_theory.claims import CLAIMS, Claim
    from dft_theory.xrays import xray

__version__ = "0.1.0"

__all__ = [
    "CLAIMS",
    "OBJECTIVES",
    "AutoregressivePolicy",
    "Claim",
    "MicrobatchTokenMean",
    "Objective",
    "Policy",
    "SequenceMean",
    "SumOver",
    "TabularPolicy",
    "TokenMean",
    "TokenStats",
    "ToyTransformer",
    "claim",
    "dft",
    "dft_geometric",
    "dft_sequence",
    "floored",
    "mixed",
    "objective",
    "power",
    "sft",
    "thresholded",
    "token_stats",
    "xray",
]


def objective(name: str) -> Objective:
    """The registered objective of that name; an unknown one raises with the nearest names."""
    from dft_theory.objectives import objectives

    return objectives[name]


def claim(name: str) -> "Claim":
    """The claim of that name; an unknown one raises with the nearest names."""
    from dft_theory.claims import claims

    return claims[name]


def __getattr__(name: str) -> Any:
    # The claims bring scipy with them: loaded when asked for, not at import.
    if name in ("CLAIMS", "Claim"):
        from dft_theory import claims

        return getattr(claims, name)
    if name == "xray":
        from dft_theory import xrays

        return xrays.xray
    raise AttributeError(f"module 'dft_theory' has no attribute {name!r}")
