"""Weights cut or held at a probability c: floors, thresholds, and the mix of SFT and DFT."""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Limit, Objective, Style
from dft_theory.objectives.parts import one_of


def floored(c: float) -> Objective:
    """Weight max(p, c): DFT that never forgets a token entirely (GOLD's floor)."""
    _probability(c)

    def potential(t: TokenStats) -> Tensor:
        p = t.logp.exp()
        # -p above the floor and -c log p + c log c - c below: equal values and slopes at p = c.
        return torch.where(p > c, -p, -c * t.logp + c * math.log(c) - c)

    return Objective(
        name=f"floored-{c:g}",
        title=f"max(p, {c:g})",
        cite="pang2021gold",
        equation="w = max(p, c)",
        weight=lambda t: t.logp.exp().clamp_min(c),
        potential=potential,
        limits=(
            Limit(parameter="c", at=0.0, family=floored, objective="dft", rate=1.0),
            Limit(parameter="c", at=1.0, family=floored, objective="sft", rate=1.0),
        ),
        note="Below c it is SFT at c times the learning rate: an unlikely token is learned "
        "slowly, where DFT would give it up.",
        style=Style(color="#E69F00", marker="P"),
    )


def thresholded(c: float, keep: Literal[">=", "<="] = ">=") -> Objective:
    """Weight 1[p >= c] or 1[p <= c]: SFT on the tokens the model finds likely, or unlikely.

    Raises: ValueError unless 0 < c <= 1, and for another comparison.
    """
    _probability(c)
    one_of((">=", "<="), keep, "thresholded(keep=)")
    log_c = math.log(c)

    def kept(t: TokenStats) -> Tensor:
        return t.logp >= log_c if keep == ">=" else t.logp <= log_c

    return Objective(
        name=f"thresholded-{'above' if keep == '>=' else 'below'}-{c:g}",
        title=f"SFT on p {'≥' if keep == '>=' else '≤'} {c:g}",
        cite="li2025beyond",
        equation="w = 1[p >= c]" if keep == ">=" else "w = 1[p <= c]",
        weight=lambda t: kept(t).to(t.logp.dtype),
        potential=lambda t: torch.where(kept(t), log_c - t.logp, torch.zeros_like(t.logp)),
        note="Trainers that average over the kept tokens alone multiply the learning rate by "
        "N / N_kept as well. Masking p < c alone is also published as ProFiT (2601.09195).",
        style=Style(color="#56B4E9", marker="X" if keep == ">=" else "x", linestyle=":"),
    )


def mixed(alpha: float) -> Objective:
    """Alpha DFT + (1 - alpha) SFT: weight alpha p + 1 - alpha.

    Raises: ValueError unless 0 <= alpha <= 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of DFT, in [0, 1], got {alpha}")
    return Objective(
        name=f"mixed-{alpha:g}",
        title=f"{alpha:g} DFT + {1 - alpha:g} SFT",
        cite="zhang2023mixce",
        equation="w = alpha p + 1 - alpha",
        weight=lambda t: alpha * t.logp.exp() + (1 - alpha),
        # At alpha = 1 the second term is 0 also where logp = -inf.
        potential=lambda t: -alpha * t.logp.exp() - ((1 - alpha) * t.logp if alpha < 1 else 0.0),
        limits=(
            Limit(parameter="alpha", at=0.0, family=mixed, objective="sft", rate=1.0),
            Limit(parameter="alpha", at=1.0, family=mixed, objective="dft", rate=1.0),
        ),
        note="No token weighs less than 1 - alpha, so none is given up, however unlikely.",
        style=Style(color="#332288", marker="*", linestyle="--"),
    )


def mixce(eta: float) -> Objective:
    """MixCE with ratio eta: `mixed` under its older name, weight eta + (1 - eta) p.

    Raises: ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is the share of the forward cross-entropy, in [0, 1], got {eta}")
    return replace(
        mixed(1 - eta),
        name=f"mixce-{eta:g}",
        title=f"MixCE, η = {eta:g}",
        cite="zhang2023mixce",
        equation="w = eta + (1 - eta) p",
        limits=(
            Limit(parameter="eta", at=0.0, family=mixce, objective="dft", rate=1.0),
            Limit(parameter="eta", at=1.0, family=mixce, objective="sft", rate=1.0),
        ),
        note="The reverse cross-entropy is approximated by p on the data; with eta = 0 the "
        "released lines are DFT's, two years earlier.",
        style=Style(color="#332288", marker="P", linestyle="-."),
    )


def _probability(c: float) -> None:
    if not 0 < c <= 1:
        raise ValueError(f"c is a probability in (0, 1], got {c}")
