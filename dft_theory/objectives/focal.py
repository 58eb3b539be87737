"""Focal loss: less weight on tokens that the model already finds likely, the opposite of DFT."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Limit, Objective, Style


def focal(gamma: float) -> Objective:
    """Weight (1-p)^g - g p (1-p)^(g-1) log p; potential -(1-p)^g log p.

    The weight is the gradient's, with the factor (1-p)^g differentiated as its authors do.

    Raises: ValueError unless g >= 0.
    """
    if not gamma >= 0:
        raise ValueError(f"the exponent of the focal loss is at least 0, got {gamma}")

    def weight(t: TokenStats) -> Tensor:
        logp = finite(t.logp)
        rest = -torch.expm1(logp)
        pull = -logp.exp() * logp / rest.clamp_min(torch.finfo(rest.dtype).tiny)
        return rest**gamma * (1 + gamma * pull)

    def potential(t: TokenStats) -> Tensor:
        # For g < 1 the slope of (1-p)^g has no bound at p = 1, where log p = 0.
        rest = -torch.expm1(finite(t.logp))
        return -(rest.clamp_min(torch.finfo(rest.dtype).tiny) ** gamma) * t.logp

    return Objective(
        name=f"focal-{gamma:g}",
        title=f"Focal loss, exponent {gamma:g}",
        cite="lin2017focal",
        equation="w = (1 - p)^g - g p (1 - p)^(g-1) log p",
        weight=weight,
        potential=potential,
        # (1-p)|(1-p)^g - 1| <= g/e and p (1-p)^g |log p| <= 1/e: the field is within 2 g / e.
        limits=(Limit(parameter="gamma", at=0.0, family=focal, objective="sft", rate=1.0),),
        note="Stopping the gradient in the factor (1-p)^g gives another objective, without the "
        "second term of the weight.",
        style=Style(color="#CC6677", marker="p", linestyle="--"),
    )
