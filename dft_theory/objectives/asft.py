"""SFT and DFT held near a reference by forward KL: what ASFT trains, and where it ends."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import given


def sft_kl(lam: float) -> Objective:
    """SFT plus lam KL(ref || pi): weight 1 and lam pi_ref on every token.

    Population optimum (r + lam b) / (1 + lam). Raises: ValueError unless lam >= 0.
    """
    anchor(lam)
    return Objective(
        name=f"sft-kl-{lam:g}",
        title=f"SFT + {lam:g} KL(ref‖π)",
        cite="zhu2025asft",
        equation="w = 1, A = lam pi_ref",
        family="anchored",
        needs=("log_probs", "ref_log_probs"),
        weight=lambda t: torch.ones_like(t.logp),
        target=lambda t: lam * given(t.ref_log_probs).exp(),
        potential=lambda t: -t.logp + lam * forward_kl(t),
        optimum=lambda r, b: (r + lam * b) / (1 + lam),
        limits=(Limit(parameter="lam", at=0.0, family=sft_kl, objective="sft", rate=1.0),),
        note="The residual r + lam b has mass 1 + lam: it is no distribution before it is divided.",
        style=Style(color="#882255", marker="o"),
    )


def asft(lam: float = 0.05) -> Objective:
    """DFT plus lam KL(ref || pi): weight p and lam pi_ref on every token.

    Population optimum p_v = lam b_v / (nu - r_v), normalised by nu. Raises: ValueError unless
    lam > 0.
    """
    anchor(lam)
    if lam == 0:
        raise ValueError("without an anchor, lam = 0, this is `dft`")
    return Objective(
        name=f"asft-{lam:g}",
        title=f"ASFT, λ = {lam:g}",
        cite="zhu2025asft",
        equation="w = p, A = lam pi_ref",
        family="anchored",
        needs=("log_probs", "ref_log_probs"),
        weight=lambda t: t.logp.exp(),
        target=lambda t: lam * given(t.ref_log_probs).exp(),
        potential=lambda t: -t.logp.exp() + lam * forward_kl(t),
        optimum=_pulled(lam),
        limits=(Limit(parameter="lam", at=0.0, family=asft, objective="dft", rate=1.0),),
        note="DFT's own pull vanishes with p, so a token that the reference thinks impossible is "
        "held by the anchor. lam is 0.05 in the paper and 0.1 in the code's default.",
        style=Style(color="#882255", marker="s", linestyle="--"),
    )


def asft_fixed_point(lam: float, b: float) -> float:
    """Where ASFT leaves one demonstration whose reference probability is b.

    p = ((1-lam) + sqrt((1-lam)^2 + 4 lam b)) / 2, from p (1-p) + lam (b-p) = 0.
    Raises: ValueError unless lam >= 0 and b is a probability.
    """
    anchor(lam)
    if not 0 <= b <= 1:
        raise ValueError(f"b is a probability, got {b}")
    return ((1 - lam) + math.sqrt((1 - lam) ** 2 + 4 * lam * b)) / 2


def _pulled(lam: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The minimiser of -r.p + lam KL(b || p): convex, and one number nu by bisection."""

    def optimum(r: Tensor, b: Tensor) -> Tensor:
        low, high = r.max(), r.max() + lam  # at `high` the mass is at most 1
        for _ in range(200):
            middle = (low + high) / 2
            heavy = bool((lam * b / (middle - r)).nansum() > 1)
            low, high = (middle, high) if heavy else (low, middle)
        rest = torch.where(high > r, lam * b / (high - r), 0.0)
        # The mode of r takes what is left: rounding, or all it has where the reference excludes it.
        return rest + (1 - rest.sum()) * F.one_hot(r.argmax(-1), r.shape[-1])

    return optimum


def forward_kl(t: TokenStats) -> Tensor:
    """KL(ref || pi) of each next-token distribution in nats, `[B, T]`; 0 log 0 = 0."""
    log_b = given(t.ref_log_probs)
    b = log_b.exp()
    terms = b * (log_b - given(t.log_probs))
    return torch.where(b == 0, torch.zeros_like(terms), terms).sum(-1)


def anchor(lam: float) -> None:
    """Raises: ValueError where `lam` is no strength of an anchor."""
    if not 0 <= lam < math.inf:
        raise ValueError(f"the strength lam of an anchor is at least 0, got {lam}")
