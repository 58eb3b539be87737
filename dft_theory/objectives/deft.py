"""DEFT: p^alpha with an exponent that each token chooses by itself."""

import numpy as np
import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import given

NODES = 64  # of the quadrature: its slope is then the weight to 1e-14


def deft_cayley_fixed(alpha0: float) -> Objective:
    """Weight p^(a0 + (1-a0) p/(2-p)): between p^a0 for rare tokens and DFT for likely ones.

    The potential int_p^1 u^(alpha(u)-1) du has no closed form. With u = s^(2/a0) its integrand is
    smooth also at 0, where Gauss-Legendre quadrature then needs few nodes; `[B, T, 64]` numbers.

    Raises: ValueError unless 0 < a0 <= 1.
    """
    if not 0 < alpha0 <= 1:
        raise ValueError(f"the exponent at p = 0 lies in (0, 1], got {alpha0}")
    power = 2 / alpha0
    x, c = np.polynomial.legendre.leggauss(NODES)

    def potential(t: TokenStats) -> Tensor:
        x_unit, c_unit = (torch.as_tensor(a).to(t.logp) / 2 for a in (x + 1, c))
        start = (t.logp / power).exp().unsqueeze(-1)
        s = start + (1 - start) * x_unit
        logu = power * s.log()
        density = power * s * ((1 - alpha0) * _cayley(logu) * logu).exp()
        return ((1 - start) * density * c_unit).sum(-1)

    return Objective(
        name=f"deft-cayley-fixed-{alpha0:g}",
        title=f"DEFT (Cayley), α₀ = {alpha0:g}",
        cite="wang2026deft",
        equation="w = p^(a0 + (1 - a0) p / (2 - p))",
        weight=lambda t: _weight(t, alpha0),
        potential=potential,
        # The exponent lies between a0 and 1, so |w - p| <= (1 - a0) |log p|.
        limits=(Limit(parameter="alpha0", at=1.0, family=deft_cayley_fixed, objective="dft",
                      rate=1.0),),
        note="The released code sets a0 from each batch; held fixed, there is a potential.",
        style=Style(color="#88CCEE", marker="P"),
    )  # fmt: skip


deft_cayley = Objective(
    name="deft-cayley",
    title="DEFT (Cayley)",
    cite="wang2026deft",
    equation="w = p^(a0 + (1 - a0) p / (2 - p)), a0 = half the batch's mean p",
    level="batch",
    weight=lambda t: _weight(t, 0.5 * _mean_p(t)),
    note="The exponent at p = 0 is half the mean probability of the batch: it is read from the "
    "released code, and the same token weighs more among unlikely ones.",
    style=Style(color="#88CCEE", marker="X", linestyle="--"),
)

deft_renyi = Objective(
    name="deft-renyi",
    title="DEFT (Rényi-2)",
    cite="wang2026deft",
    equation="w = p^(sum_v pi_v^2)",
    family="state",
    needs=("log_probs",),
    weight=lambda t: (_concentration(t) * t.logp).exp(),
    note="The exponent lies between 1/V, nearly SFT, where the model is unsure and 1, DFT, where "
    "it is certain. The field is not conservative for more than two tokens.",
    style=Style(color="#44AA99", marker="*"),
)


def _weight(t: TokenStats, alpha0: Tensor | float) -> Tensor:
    # Where no target of a batch is possible a0 = 0 too, and 0 times infinity is not the limit 1.
    logp = finite(t.logp)
    return ((alpha0 + (1 - alpha0) * _cayley(logp)) * logp).exp()


def _cayley(logp: Tensor) -> Tensor:
    p = logp.exp()
    return p / (2 - p)


def _mean_p(t: TokenStats) -> Tensor:
    return (t.logp.exp() * t.mask).sum() / t.mask.sum().clamp_min(1)


def _concentration(t: TokenStats) -> Tensor:
    return (2 * given(t.log_probs)).exp().sum(-1)
