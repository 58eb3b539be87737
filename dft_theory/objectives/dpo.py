"""Direct Preference Optimization: a chosen against a rejected response, relative to a reference."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import log_ratio


def dpo(beta: float = 0.1) -> Objective:
    """Weight +-beta sigmoid(-beta D): D is the chosen minus the rejected response's log-ratio.

    Rows alternate chosen, rejected. Potential -log sigmoid(beta D) of each pair, shared over its
    tokens. Raises: ValueError, also for an odd number of rows.
    """
    if not beta > 0:
        raise ValueError(f"dpo takes a beta above 0, got {beta}")

    def margin(t: TokenStats) -> Tensor:
        """Beta D, `[pairs, 1]`; NaN between two impossible responses."""
        if t.logp.shape[0] % 2:
            raise ValueError(
                "dpo compares pairs: rows alternate chosen, rejected, and their number is even; "
                f"got {t.logp.shape[0]} rows"
            )
        x = log_ratio(t.logp, t.ref_logp).sum(-1, keepdim=True)
        return beta * (x[::2] - x[1::2])

    def weight(t: TokenStats) -> Tensor:
        # Two impossible responses have no order, and teach nothing.
        w = (beta * torch.sigmoid(-margin(t))).nan_to_num(0.0)
        return torch.stack([w, -w], dim=1).flatten(0, 1)

    def potential(t: TokenStats) -> Tensor:
        m = margin(t)
        loss = F.softplus(-torch.where(m.isnan(), 0.0, m))
        tokens = t.lengths().unflatten(0, (-1, 2)).sum(1).clamp_min(1)
        share: Tensor = (loss / tokens).repeat_interleave(2, dim=0)
        return share.expand_as(t.logp).masked_fill(~t.mask, 0.0)

    return Objective(
        name=f"dpo-{beta:g}",
        title=f"DPO (β = {beta:g})",
        cite="rafailov2023dpo",
        equation="w = +-beta sigmoid(-beta D)",
        family="sampled",
        level="group",
        weight=weight,
        potential=potential,
        needs=("ref_logp",),
        note="Only the margin counts: both probabilities may fall while the loss does.",
        style=Style(color="#6699CC", marker="v", linestyle="-"),
    )
