"""TALR: weights p^(1/tau) with a temperature read from the batch, floored or normalised."""

import math

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite
from dft_theory.objectives.base import Objective, Style

FLOOR = 0.01


def temperature(t: TokenStats) -> Tensor:
    """Tau in nats: the median over responses of a response's mean loss, a scalar.

    The lower one of two middle values. Responses without a target do not count.
    """
    losses = -finite(t.logp) * t.mask
    means = losses.sum(-1) / t.lengths().squeeze(-1)
    return means.nanmedian().clamp_min(torch.finfo(means.dtype).tiny)


talr = Objective(
    name="talr",
    title="TALR: max(p^(1/τ), 0.01)",
    cite="lin2025talr",
    equation="w = max(p^(1/tau), 0.01), tau = batch median of the mean loss",
    level="batch",
    weight=lambda t: (finite(t.logp) / temperature(t)).exp().clamp_min(FLOOR),
    note="The derivation puts the weights on a simplex; in use they are floored and not "
    "normalised, and then they are p^alpha with alpha = 1/tau, a value that the batch decides.",
    style=Style(color="#999933", marker="o", linestyle="--"),
)

talr_normalised = Objective(
    name="talr-normalised",
    title="TALR on the simplex",
    cite="lin2025talr",
    equation="w = p^(1/tau) / sum of p^(1/tau) over the batch",
    level="batch",
    weight=lambda t: torch.softmax(
        (finite(t.logp) / temperature(t)).masked_fill(~t.mask, -math.inf).flatten(), 0
    ).reshape(t.logp.shape),
    note="The minimiser of sum w_t l_t + tau sum w_t log w_t over weights that sum to 1: with it "
    "the learning rate depends on the number of tokens and on how likely they are.",
    style=Style(color="#999933", marker="s", linestyle=":"),
)


def talr_fixed(tau: float, floor: float = FLOOR) -> Objective:
    """Weight max(p^(1/tau), floor) at a temperature that does not move: then conservative.

    Raises: ValueError unless tau > 0 and 0 < floor < 1.
    """
    if not (tau > 0 and 0 < floor < 1):
        raise ValueError(f"needs tau > 0 and a floor in (0, 1), got {tau} and {floor}")
    kink = tau * math.log(floor)  # log p below which the floor holds

    def potential(t: TokenStats) -> Tensor:
        return torch.where(
            t.logp > kink, -tau * (t.logp / tau).exp(), floor * (kink - t.logp - tau)
        )

    other = floor != FLOOR
    return Objective(
        name=f"talr-fixed-{tau:g}" + other * f"-floor-{floor:g}",
        title=f"TALR at τ = {tau:g}" + other * f", floor {floor:g}",
        cite="lin2025talr",
        equation="w = max(p^(1/tau), floor)",
        weight=lambda t: (t.logp / tau).exp().clamp_min(floor),
        potential=potential,
        note="Without the floor it is p^(1/tau), generalised cross-entropy.",
        style=Style(color="#999933", marker="^"),
    )
