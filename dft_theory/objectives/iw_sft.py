"""Importance-weighted SFT: demonstrations weighted by the ratio of the policy to the reference."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.base import Objective, Style
from dft_theory.objectives.parts import log_ratio, one_of, spread_over_tokens, weighted_nll

_STYLES = {
    "token": Style(color="#0072B2", marker="<", linestyle=":"),
    "geometric-mean": Style(color="#0072B2", marker=">", linestyle="-."),
    "sequence": Style(color="#0072B2", marker="p", linestyle="--"),
}


def iw_sft(
    level: Literal["token", "geometric-mean", "sequence"] = "geometric-mean",
    *,
    temperature: float = 1.0,
    clamp: tuple[float, float] | None = (0.0, 16.0),
    q: Literal["current", "old"] = "current",
) -> Objective:
    """Weight clamp((q / pi_ref)^T), of the token, of the response or its geometric mean.

    q is the current policy, or an earlier one in `old_logp` (a moving average). Without a clamp
    and with q the current policy, the potential of a token or a whole response is
    -(pi / pi_ref)^T / T; a clamp continues it by logarithms. Its optimum over responses is the
    largest r / b at T = 1, and (r / b^T)^(1/(1-T)) normalised below. Raises: ValueError.
    """
    one_of(_STYLES, level, "iw_sft(level=)")
    one_of(("current", "old"), q, "iw_sft(q=)")
    low, high = clamp or (0.0, math.inf)
    if not (temperature > 0 and 0 <= low < high):
        raise ValueError(
            "iw_sft takes a temperature above 0 and a clamp (low, high) with 0 <= low < high, "
            f"got {temperature} and {clamp}"
        )
    floor, ceiling = (math.log(c) if c > 0 else -math.inf for c in (low, high))

    def exponent(t: TokenStats) -> Tensor:
        x = log_ratio(t.logp if q == "current" else t.old_logp, t.ref_logp)
        if level != "token":
            x = x.sum(-1, keepdim=True)
        return temperature * (x / t.lengths().clamp_min(1) if level == "geometric-mean" else x)

    def weight(t: TokenStats) -> Tensor:
        return exponent(t).clamp(floor, ceiling).exp()

    def potential(t: TokenStats) -> Tensor:
        if q == "old":
            return weighted_nll(weight(t), t)
        x = exponent(t)
        inside = x.clamp(floor, ceiling)
        # -w / T where the clamp is open; beyond it -w log pi, with equal values at the ends.
        beyond = torch.where(x == inside, torch.zeros_like(x), x - inside)
        value = -inside.exp() * (1 + beyond) / temperature
        return spread_over_tokens(value, t) if level == "sequence" else value * t.mask

    def optimum(r: Tensor, b: Tensor) -> Tensor:
        # A response that is never demonstrated has no share, also where the reference excludes it.
        score = torch.where(r == 0, -math.inf, r.log() - temperature * b.log())
        if temperature < 1:
            return torch.softmax(score / (1 - temperature), -1)
        return F.one_hot(score.argmax(-1), r.shape[-1]).to(r)

    settles = clamp is None and q == "current" and temperature <= 1 and level != "geometric-mean"
    marks = [f"temperature-{temperature:g}"] * (temperature != 1) + ["lagged"] * (q == "old")
    bounds = [] if clamp is None else [f"clamp-{low:g}-{high:g}"]
    return Objective(
        name="-".join(["iw-sft", level, *marks, *bounds]),
        title=f"iw-SFT ({', '.join([level, *marks, *bounds]).replace('-', ' ')})",
        cite="qin2025iwsft",
        equation="w = clamp((q / pi_ref)^T)",
        family="ratio",
        level=level,
        weight=weight,
        potential=potential,
        optimum=optimum if settles else None,
        needs=("ref_logp",) + (("old_logp",) if q == "old" else ()),
        note="The paper weights by the ratio of whole responses; the released code by its "
        "geometric mean, T = 1, clamped to [0, 16] (its token branch: [0.2, 1.8]); the control "
        "code takes q from a moving average with T = 10 and a clamp at 1000.",
        style=_STYLES[level],
    )
