"""SFT under other f-divergences: the derivative of a concave phi of the implicit reward."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import log_ratio, one_of

Function = Callable[[Tensor], Tensor]

# phi, phi' and the x at which phi' = c. Each phi is concave: phi' falls as x rises.
_PHI: dict[str, tuple[Function, Function, Callable[[float], float]]] = {
    "kl": (lambda x: -torch.exp(-1 - x), lambda x: torch.exp(-1 - x), lambda c: -1 - math.log(c)),
    "hellinger": (lambda x: x / (1 + x), lambda x: (1 + x) ** -2, lambda c: c**-0.5 - 1),
    "js": (
        lambda x: torch.log(2 - torch.exp(-x)),
        lambda x: 1 / (2 * torch.exp(x) - 1),
        lambda c: math.log((1 + 1 / c) / 2),
    ),
    "chi2": (lambda x: x - x**2 / 2, lambda x: 1 - x, lambda c: 1 - c),
}
_MARKERS = {"kl": "d", "hellinger": "h", "js": "8", "chi2": "H"}


def f_divergence(
    kind: Literal["kl", "hellinger", "js", "chi2"], beta: float = 1.0, *, cap: float = 10.0
) -> Objective:
    """Weight beta phi'(x), x = beta log (pi / pi_ref) of the token, with phi' held below `cap`.

    Potential -phi(x), continued by a line of slope -cap. For KL the optimum is
    (r b^beta)^(1/(1+beta)) normalised, where the cap is not reached. Raises: ValueError.
    """
    one_of(_PHI, kind, "f_divergence")
    if not (beta > 0 and cap > 1):
        raise ValueError(f"f_divergence takes beta > 0 and cap > 1, got {beta} and {cap}")
    phi, slope, inverse = _PHI[kind]
    # Hellinger has a pole at x = -1 and Jensen-Shannon at -log 2: the cap is reached before it.
    floor = inverse(cap)

    def reward(t: TokenStats) -> Tensor:
        return beta * log_ratio(t.logp, t.ref_logp)

    def potential(t: TokenStats) -> Tensor:
        x = reward(t)
        inside = x.clamp_min(floor)
        return -phi(inside) - cap * (x - inside)

    other = cap != 10.0
    return Objective(
        name=f"f-divergence-{kind}-{beta:g}" + other * f"-cap-{cap:g}",
        title=f"f-divergence SFT ({kind}, β = {beta:g})" + other * f", cap {cap:g}",
        cite="wang2025implicit",
        equation="w = beta phi'(beta log (pi / pi_ref))",
        family="ratio",
        weight=lambda t: beta * slope(reward(t).clamp_min(floor)),
        potential=potential,
        optimum=(lambda r, b: torch.softmax((r.log() + beta * b.log()) / (1 + beta), -1))
        if kind == "kl"
        else None,
        needs=("ref_logp",),
        note="phi as in inverse soft-Q learning (Garg et al. 2021); the paper's own closed forms "
        "were not at hand. The cap is ours: it keeps the weight off its pole and finite at pi = 0. "
        "For chi2 the weight is negative beyond x = 1.",
        style=Style(color="#999933", marker=_MARKERS[kind], linestyle=":"),
    )
