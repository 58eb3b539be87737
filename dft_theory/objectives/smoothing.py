"""Cross-entropy held near the uniform distribution: label smoothing and an entropy bonus."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import given


def label_smoothing(eps: float = 0.1) -> Objective:
    """The target e_y becomes (1-eps) e_y + eps/V; population optimum (1-eps) r + eps/V.

    Raises: ValueError unless 0 <= eps < 1.
    """
    if not 0 <= eps < 1:
        raise ValueError(f"the smoothed share eps lies in [0, 1), got {eps}")

    return Objective(
        name=f"label-smoothing-{eps:g}",
        title=f"Label smoothing, ε = {eps:g}",
        cite="szegedy2016inception",
        equation="w = 1 - eps, A = eps / V",
        family="anchored",
        needs=("log_probs",),
        weight=lambda t: torch.full_like(t.logp, 1 - eps),
        target=lambda t: torch.full_like(given(t.log_probs), eps / given(t.log_probs).shape[-1]),
        potential=lambda t: (
            -(1 - eps) * t.logp - (eps * given(t.log_probs).mean(-1) if eps else 0.0)
        ),
        optimum=lambda r: (1 - eps) * r + eps / r.shape[-1],
        limits=(Limit(parameter="eps", at=0.0, family=label_smoothing, objective="sft", rate=1.0),),
        note="Forward KL to the uniform distribution, with eps = lam / (1 + lam), up to scale.",
        style=Style(color="#332288", marker="o", linestyle=":"),
    )


def entropy_regularised(lam: float = 0.1) -> Objective:
    """SFT minus lam times the entropy: weight 1 and -lam pi log pi on every token.

    Raises: ValueError unless lam >= 0.
    """
    if not lam >= 0:
        raise ValueError(f"the entropy bonus lam is at least 0, got {lam}")

    def surprise(t: TokenStats) -> Tensor:
        logp = given(t.log_probs)
        return -logp.exp() * finite(logp)

    return Objective(
        name=f"entropy-{lam:g}",
        title=f"SFT + {lam:g} entropy",
        cite="pereyra2017confidence",
        equation="w = 1, A = -lam pi log pi",
        family="anchored",
        needs=("log_probs",),
        weight=lambda t: torch.ones_like(t.logp),
        target=lambda t: lam * surprise(t),
        potential=lambda t: -t.logp - lam * surprise(t).sum(-1),
        # pi_v |log pi_v + H| is at most 0.3 + log(V) / 4, or 1/e: see `gem`.
        limits=(
            Limit(parameter="lam", at=0.0, family=entropy_regularised, objective="sft", rate=4.0),
        ),
        note="Reverse KL to the uniform distribution, up to a constant.",
        style=Style(color="#332288", marker="d", linestyle="--"),
    )
