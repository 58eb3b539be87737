"""One-Token Rollout: next tokens sampled at each demonstrated prefix, rewarded if they match."""

import math

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given


def one_token_rollout(b: float = 0.0) -> Objective:
    """Target mean_k r(v_k) e_{v_k} over sampled tokens v_k: r = 1 for the demonstrated one, else b.

    Over samples from pi its mean is (1 - b) DFT. The potential is that of samples held fixed.
    Raises: ValueError.
    """
    if not (math.isfinite(b) and b < 1):
        raise ValueError(f"the reward b of other tokens is a number below 1, got {b}")

    def target(t: TokenStats) -> Tensor:
        sampled, log_probs = given(t.sampled), given(t.log_probs)
        hit = sampled == given(t.targets).unsqueeze(-1)
        reward = (hit.to(log_probs) * (1 - b) + b) / sampled.shape[-1]
        return torch.zeros_like(log_probs).scatter_add(-1, sampled, reward)

    def potential(t: TokenStats) -> Tensor:
        mass = target(t)
        return torch.where(mass == 0, torch.zeros_like(mass), -mass * given(t.log_probs)).sum(-1)

    return Objective(
        name=f"one-token-rollout-{b:g}",
        title=f"One-Token Rollout (b = {b:g})",
        cite="ming2025otr",
        equation="A = mean_k r(v_k) e_{v_k}",
        family="sampled",
        weight=lambda t: torch.zeros_like(t.logp),
        target=target,
        potential=potential,
        needs=("targets", "log_probs", "sampled"),
        note="Exact for samples from pi at temperature 1; the paper's b and number of samples "
        "were not at hand.",
        style=Style(color="#661100", marker="*", linestyle=":"),
    )
