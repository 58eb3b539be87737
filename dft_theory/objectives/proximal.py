"""SFT that stays near an earlier policy: a clip (PSFT) and a sigmoid (minorSFT) of the ratio."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import log_ratio, spread_over_tokens


def psft(eps_low: float = 0.2, eps_high: float = 0.28) -> Objective:
    """Weight rho 1[rho <= 1 + eps_high], rho = pi / pi_old: PPO's clip with advantage 1.

    Potential -min(rho, clip(rho, 1 - eps_low, 1 + eps_high)). Raises: ValueError.
    """
    if not (0 <= eps_low < 1 and eps_high >= 0):
        raise ValueError(
            f"psft clips to [1 - eps_low, 1 + eps_high] around 1, got {eps_low} and {eps_high}"
        )
    ceiling = math.log1p(eps_high)

    def weight(t: TokenStats) -> Tensor:
        x = log_ratio(t.logp, t.old_logp)
        return torch.where(x <= ceiling, x.clamp_max(ceiling).exp(), torch.zeros_like(x))

    def potential(t: TokenStats) -> Tensor:
        capped = log_ratio(t.logp, t.old_logp).clamp_max(ceiling).exp()
        return -torch.minimum(capped, capped.clamp_min(1 - eps_low))

    return Objective(
        name=f"psft-{eps_low:g}-{eps_high:g}",
        title=f"PSFT (clip {1 - eps_low:g} to {1 + eps_high:g})",
        cite="zhu2025psft",
        equation="w = rho 1[rho <= 1 + eps_high]",
        family="ratio",
        weight=weight,
        potential=potential,
        needs=("old_logp",),
        note="With advantage 1 the lower clip of the paper and of its recipe (0.2) never acts: "
        "the minimum takes rho itself below 1.",
        style=Style(color="#CC79A7", marker="s", linestyle="-."),
    )


def minor_sft(beta: float = 0.1) -> Objective:
    """Weight beta sigmoid(-beta log (pi / pi_ref)) of the response: it fades as pi outgrows pi_ref.

    Potential -log sigmoid(beta log (pi / pi_ref)). Raises: ValueError.
    """
    if not beta > 0:
        raise ValueError(f"minor_sft takes a beta above 0, got {beta}")

    def logit(t: TokenStats) -> Tensor:
        return beta * log_ratio(t.logp, t.ref_logp).sum(-1, keepdim=True)

    return Objective(
        name=f"minor-sft-{beta:g}",
        title=f"minorSFT (β = {beta:g})",
        cite="xie2024minorsft",
        equation="w = beta sigmoid(-beta log (pi / pi_ref))",
        family="ratio",
        level="sequence",
        weight=lambda t: beta * torch.sigmoid(-logit(t)),
        potential=lambda t: spread_over_tokens(F.softplus(-logit(t)), t),
        needs=("ref_logp",),
        note="The paper scales the weight by 2 / (beta m), m the length of the response, so that "
        "it begins as SFT averaged over tokens; TorchRL's loss, followed here, begins at beta / 2.",
        style=Style(color="#CC79A7", marker="o", linestyle="--"),
    )
