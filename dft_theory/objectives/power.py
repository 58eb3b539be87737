"""The family w = p^alpha between SFT (alpha = 0) and DFT (alpha = 1), and beyond."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Limit, Objective, Style


def power(alpha: float) -> Objective:
    """Weight p^alpha; potential (1 - p^alpha) / alpha, the generalised cross entropy.

    Population optimum: r^(1/(1-alpha)) normalised for alpha < 1, the mode of r at alpha = 1.
    Below 0 it is flatter than r, and the weight has no bound as p -> 0.
    Beyond 1 every vertex is stable and the answer depends on the start, so none is declared.
    """

    def potential(t: TokenStats) -> Tensor:
        return -t.logp if alpha == 0 else -torch.expm1(alpha * t.logp) / alpha

    def tempered(r: Tensor) -> Tensor:
        return torch.softmax(r.log() / (1 - alpha), dim=-1)

    def mode(r: Tensor) -> Tensor:
        return F.one_hot(r.argmax(-1), r.shape[-1]).to(r)

    return Objective(
        name=f"power-{alpha:g}",
        title=f"p^{alpha:g}",
        cite="zhang2018gce",
        equation="w = p^alpha",
        # At alpha = 0 the weight is 1 also where logp = -inf, and 0 * -inf is not.
        weight=lambda t: torch.exp(alpha * t.logp) if alpha else torch.ones_like(t.logp),
        potential=potential,
        optimum=tempered if alpha < 1 else mode if alpha == 1 else None,
        # |p^a - 1| <= a |log p| and |p^a - p| <= |a - 1| |log p| for p in (0, 1].
        limits=(
            Limit(parameter="alpha", at=0.0, family=power, objective="sft", rate=1.0),
            Limit(parameter="alpha", at=1.0, family=power, objective="dft", rate=1.0),
        ),
        note="Generalised cross-entropy, q = alpha. Between 0 and 1 it ends at sharpened data, "
        "below 0 at flattened (by a weight without a bound at p = 0), from 1 on at one token.",
        style=Style(
            color="#009E73", marker="D", linestyle=":" if alpha < 0 else "-" if alpha <= 1 else "--"
        ),
    )
