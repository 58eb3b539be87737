"""SRFT's weight of its SFT term: the exponential of the entropy, with either sign."""

from typing import Literal

from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style


def srft_weight(form: Literal["paper", "code"] = "paper") -> Objective:
    """Weight exp(-H)/2 as the paper prints it, or exp(+H)/2 as the code computes it.

    H is the entropy of the next-token distribution in nats.
    Raises: ValueError for another form.
    """
    if form not in ("paper", "code"):
        raise ValueError(f"SRFT has a paper and a code form, got {form!r}")
    sign = -1.0 if form == "paper" else 1.0

    def weight(t: TokenStats) -> Tensor:
        assert t.entropy is not None
        return 0.5 * (sign * t.entropy).exp()

    return Objective(
        name=f"srft-{form}",
        title=f"SRFT's SFT weight ({form})",
        cite="fu2025srft",
        equation=f"w = exp({'-' if form == 'paper' else '+'}H) / 2",
        family="state",
        needs=("entropy",),
        weight=weight,
        optimum=lambda r: r,
        note="Equation (8) of the paper has exp(-H), the released code exp(+H): the one trusts "
        "states where the model is sure, the other where it is not.",
        style=Style(color="#999933", marker="^" if form == "paper" else "v", linestyle="--"),
    )
