"""Discriminative fine-tuning (the other "DFT"): a demonstration against sampled negatives."""

import math

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given


def discriminative_ft(tau: float = 1.0, negatives: int = 2) -> Objective:
    """Weight 1 for the demonstration and -u_k / sum u for negatives, u = exp(s / tau) / pi_ref.

    s is the log-probability of a response; negatives were drawn from the reference. Rows stand in
    blocks of a demonstration and its negatives, whose weights sum to 0. Potential
    -s + tau log mean_k u_k. Raises: ValueError, also for rows that are not whole blocks.
    """
    if not tau > 0 or negatives < 1:
        raise ValueError(f"tau is above 0 and negatives at least 1, got {tau} and {negatives}")
    size = 1 + negatives

    def scores(t: TokenStats) -> tuple[Tensor, Tensor]:
        """Log u of the negatives `[blocks, K]`, and where a block has none, `[blocks, 1]`."""
        if t.logp.shape[0] % size:
            raise ValueError(
                f"rows stand in blocks of a demonstration and {negatives} negatives: their number "
                f"is a multiple of {size}; got {t.logp.shape[0]} rows"
            )
        drawn = finite(given(t.ref_logp)).sum(-1, keepdim=True)
        log_u = t.sequence_logp() / tau - drawn
        # An empty row is no negative.
        log_u = log_u.masked_fill(t.lengths() == 0, -math.inf).reshape(-1, size)[:, 1:]
        none = log_u.isneginf().all(-1, keepdim=True)
        return log_u.masked_fill(none, 0.0), none

    def weight(t: TokenStats) -> Tensor:
        log_u, none = scores(t)
        push = torch.softmax(log_u, -1).masked_fill(none, 0.0)
        return torch.cat([torch.ones_like(push[:, :1]), -push], dim=1).reshape(-1, 1)

    def potential(t: TokenStats) -> Tensor:
        normaliser = tau * (scores(t)[0].logsumexp(-1, keepdim=True) - math.log(negatives))
        tokens = t.lengths().reshape(-1, size)[:, 1:].sum(-1, keepdim=True).clamp_min(1)
        share = (normaliser / tokens).unsqueeze(-1).expand(-1, negatives, t.logp.shape[1])
        pull = -t.logp.unflatten(0, (-1, size))[:, :1]
        return torch.cat([pull, share], dim=1).flatten(0, 1).masked_fill(~t.mask, 0.0)

    return Objective(
        name=f"discriminative-ft-{tau:g}-{negatives}",
        title=f"Discriminative FT (τ = {tau:g}, {negatives} negatives)",
        cite="guo2025discriminative",
        equation="w = 1, -u_k / sum u",
        family="sampled",
        level="group",
        weight=weight,
        potential=potential,
        needs=("ref_logp",),
        note="The code keeps a moving average of the normaliser over epochs instead of "
        "normalising over the negatives at hand; at tau = 1 an exact normaliser makes it SFT.",
        style=Style(color="#6699CC", marker="^", linestyle="--"),
    )
