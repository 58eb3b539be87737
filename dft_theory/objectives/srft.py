"""SRFT's weights: exp(-H) or exp(+H) on demonstrations, exp(H) on rollouts that succeed."""

from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given, one_of


def srft_weight(form: Literal["paper", "code"] = "paper") -> Objective:
    """Weight exp(-H)/2 as the paper prints it, or exp(+H)/2 as the code computes it.

    H is the entropy of the next-token distribution in nats.
    Raises: ValueError for another form.
    """
    one_of(("paper", "code"), form, "srft_weight(form=)")
    sign = -1.0 if form == "paper" else 1.0

    def weight(t: TokenStats) -> Tensor:
        return 0.5 * (sign * given(t.entropy)).exp()

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


# Only a part of the mixture `srft`, so it is not registered.
srft_reward = Objective(
    name="srft-reward",
    title="A, and A exp(H) / 10 where A > 0",
    cite="fu2025srft",
    equation="w = A (0.1 exp(H) if A > 0 else 1)",
    family="sampled",
    weight=lambda t: (
        given(t.advantage)
        * torch.where(given(t.advantage) > 0, 0.1 * torch.exp(given(t.entropy)), 1.0)
    ),
    needs=("advantage", "entropy"),
)
