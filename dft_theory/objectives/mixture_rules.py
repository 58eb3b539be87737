"""The rules of the hybrids: advantages of a prefix, hints, adaptive shares, projected conflicts."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.grpo import group_advantages
from dft_theory.objectives.parts import real


def prefix_advantages(continued: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages of K continuations of one prefix, and of that prefix in each row, `[K]` each.

    From rewards `continued [K]` and those of rollouts without a prefix, `free [N]`. As released:
    continuations are normalised within their group, a single one keeps its raw reward; the
    prefix gets (that score - mean of the free rewards) / K.
    """
    continued, free = real(continued), real(free)
    k = continued.shape[0]
    score = group_advantages(continued, k).squeeze(-1) if k > 1 else continued
    return score, (score - free.mean()) / k


def top_entropy(t: TokenStats, share: float) -> TokenStats:
    """Only the given share of the target tokens, at least one, where the entropy is largest.

    Needs `entropy`; of equal entropies the earlier token is kept. Raises: ValueError for a share
    outside (0, 1], or without the entropy.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is a part of the tokens, in (0, 1]; got {share}")
    if t.entropy is None:
        raise ValueError("top_entropy needs entropy: pass it in TokenStats")
    uncertain_first = t.entropy.masked_fill(~t.mask, -torch.inf).flatten()
    order = uncertain_first.argsort(descending=True, stable=True)
    kept = torch.zeros_like(t.mask).flatten()
    kept[order[: max(1, round(share * int(t.mask.sum())))]] = True
    mask = kept.view_as(t.mask) & t.mask
    return replace(t, mask=mask, logp=t.logp.masked_fill(~mask, 0.0))


def hint_survival(length: int, p: float) -> Tensor:
    """P(l > h) for positions h = 0 ... length - 1 and hint lengths l ~ Bin(length, p), float64."""
    exactly = [math.comb(length, n) * p**n * (1 - p) ** (length - n) for n in range(length + 1)]
    return torch.tensor(exactly, dtype=torch.float64).flip(0).cumsum(0).flip(0)[1:]


def meta_slope(utility: Tensor, imitation: Tensor, reinforcement: Tensor, rate: float) -> Tensor:
    """Slope dU(theta')/dmu for one step theta' = theta - rate [(1 - mu) g_RL + mu g_SFT].

    -rate <grad U(theta'), g_SFT - g_RL>, from the gradient of the utility *after* the step and
    those of the two losses before it, each `[D]`.
    """
    return -rate * utility @ (imitation - reinforcement)


def amft_step(mu: float, slope: float, excess: float, *, rate: float, entropy_rate: float) -> float:
    """The next mu: clip(mu + rate dU/dmu + entropy_rate (H* - H), 0, 1), with excess H* - H."""
    return min(max(mu + rate * slope + entropy_rate * excess, 0.0), 1.0)


def without_conflict(imitation: Tensor, reinforcement: Tensor) -> Tensor:
    """g_SFT less its part along g_RL where the two point apart (negative cosine), `[D]`."""
    along = imitation @ reinforcement
    if along >= 0:
        return imitation
    return imitation - along / (reinforcement @ reinforcement) * reinforcement
