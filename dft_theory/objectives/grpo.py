"""GRPO: advantages within a group of samples, and PPO's clip around the policy that drew them."""

import math
from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import given, log_ratio, one_of, real


def group_advantages(
    rewards: Tensor, size: int, scale: Literal["deviation", "none"] = "deviation"
) -> Tensor:
    """Reward minus the mean of its group, by its standard deviation unless scale is "none".

    Shapes: rewards `[B]`, the samples of one prompt standing together, `size` each; returns
    `[B, 1]`. The deviation is that of a sample (n - 1) plus 1e-6, so a group of equal rewards
    has advantage 0. Raises: ValueError where B is no multiple of `size`, and for another scale.
    """
    one_of(("deviation", "none"), scale, "group_advantages(scale=)")
    if rewards.dim() != 1 or size < 2 or rewards.shape[0] % size:
        raise ValueError(
            f"rewards are one number for each response, in groups of size >= 2: {size} does not "
            f"fit the shape {list(rewards.shape)}"
        )
    grouped = real(rewards).unflatten(0, (-1, size))
    centred: Tensor = grouped - grouped.mean(-1, keepdim=True)
    if scale == "deviation":
        centred = centred / (grouped.std(-1, keepdim=True) + 1e-6)
    return centred.reshape(-1, 1)


def grpo(eps_low: float = 0.2, eps_high: float = 0.2) -> Objective:
    """Weight A rho, rho = pi / pi_old of the token, and 0 where PPO's clip acts.

    Potential -min(A rho, A clip(rho, 1 - eps_low, 1 + eps_high)). Raises: ValueError.
    """
    if not (0 <= eps_low < 1 and eps_high >= 0):
        raise ValueError(
            f"grpo clips to [1 - eps_low, 1 + eps_high] around 1, got {eps_low} and {eps_high}"
        )
    floor, ceiling = math.log1p(-eps_low), math.log1p(eps_high)

    def clipped(t: TokenStats) -> tuple[Tensor, Tensor]:
        x = log_ratio(t.logp, t.old_logp)
        return x, torch.where(given(t.advantage) >= 0, x.clamp_max(ceiling), x.clamp_min(floor))

    def weight(t: TokenStats) -> Tensor:
        x, kept = clipped(t)
        return torch.where(x == kept, given(t.advantage) * kept.exp(), torch.zeros_like(x))

    return Objective(
        name=f"grpo-{eps_low:g}-{eps_high:g}",
        title=f"GRPO (clip {1 - eps_low:g} to {1 + eps_high:g})",
        cite="shao2024deepseekmath",
        equation="w = A rho, 0 where clipped",
        family="sampled",
        weight=weight,
        potential=lambda t: -given(t.advantage) * clipped(t)[1].exp(),
        needs=("old_logp", "advantage"),
        note="The paper's KL to a reference is left out. Trainers add a second clip for A < 0.",
        style=Style(color="#661100", marker="s", linestyle="-"),
    )
