"""SED-SFT: cross-entropy plus lam (p - 1/2)^2, on every token or where the model is unsure."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import given


def sed(lam: float = 1.0) -> Objective:
    """Weight 1 - lam p (2p - 1); potential -log p + lam (p - 1/2)^2: the penalty on every token.

    Raises: ValueError unless lam >= 0.
    """
    _penalty(lam)
    return Objective(
        name=f"sed-{lam:g}",
        title=f"SED-SFT, λ = {lam:g}, every token",
        cite="chen2026sed",
        equation="w = 1 - lam p (2p - 1)",
        weight=lambda t: 1 - lam * _slope(t),
        potential=lambda t: -t.logp + lam * (t.logp.exp() - 0.5).square(),
        limits=(Limit(parameter="lam", at=0.0, family=sed, objective="sft", rate=1.0),),
        note="A single demonstration is still learned to p = 1 for every lam <= 1, the published "
        "value included; above, p stops at (lam + sqrt(lam^2 + 8 lam)) / (4 lam).",
        style=Style(color="#44AA99", marker="d", linestyle="-" if lam <= 1 else ":"),
    )


def sed_masked(lam: float = 1.0, k: int = 2, ratio: float = 0.7) -> Objective:
    """As `sed`, the penalty only where the k likeliest tokens hold less than the batch's share.

    M = 1[sum of the top k < tau], tau the (1-ratio)-quantile of that sum over the target tokens of
    the batch. No potential: M jumps with the whole next-token distribution.

    Raises: ValueError unless lam >= 0, k >= 1 and 0 <= ratio <= 1.
    """
    _penalty(lam)
    if k < 1 or not 0 <= ratio <= 1:
        raise ValueError(f"the mask needs k >= 1 and a ratio in [0, 1], got {k} and {ratio}")

    def weight(t: TokenStats) -> Tensor:
        probs = given(t.log_probs).exp()
        # What the top k leave, which is exactly 0 where there are no other tokens.
        top = probs.topk(min(k, probs.shape[-1])).indices
        rest = probs.scatter(-1, top, 0.0).sum(-1)
        # One more entry that does not count: a quantile of nothing would be an error.
        held = F.pad(rest.masked_fill(~t.mask, torch.nan).flatten(), (0, 1), value=torch.nan)
        return 1 - lam * (rest > held.nanquantile(ratio)) * _slope(t)

    other = (k, ratio) != (2, 0.7)
    return Objective(
        name=f"sed-masked-{lam:g}" + other * f"-top-{k}-ratio-{ratio:g}",
        title=f"SED-SFT, λ = {lam:g}, unsure tokens" + other * f" (top {k}, ratio {ratio:g})",
        cite="chen2026sed",
        equation="w = 1 - lam M p (2p - 1), M = 1[top-k mass < batch quantile]",
        family="state",
        level="batch",
        needs=("log_probs",),
        weight=weight,
        note="As released, the quantile is taken of the top-10 mass and the mask of the top-2 "
        "mass, unless k is passed: far more tokens are then penalised than the ratio says.",
        style=Style(color="#44AA99", marker="D", linestyle="--"),
    )


def _slope(t: TokenStats) -> Tensor:
    """The derivative of (p - 1/2)^2 in log p."""
    p = t.logp.exp()
    return p * (2 * p - 1)


def _penalty(lam: float) -> None:
    if not lam >= 0:
        raise ValueError(f"the penalty lam is at least 0, got {lam}")
