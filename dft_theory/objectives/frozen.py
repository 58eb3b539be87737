"""What frozen policies and outside coefficients bring into an objective."""

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats


def given(x: Tensor | None) -> Tensor:
    """A statistic that the objective names in `needs`, and that is therefore there."""
    assert x is not None
    return x


def log_ratio(logp: Tensor | None, frozen: Tensor | None) -> Tensor:
    """Log (pi / frozen) of each token in nats, `[B, T]`; -inf where pi = 0, also for 0/0."""
    return given(logp) - given(frozen).clamp_min(-1e30)


def held(weight: Tensor, t: TokenStats) -> Tensor:
    """-w log pi for weights that do not depend on the policy: surrogate and potential in one.

    0 log 0 = 0.
    """
    return torch.where(weight == 0, torch.zeros_like(t.logp), -weight * t.logp)


def shared(total: Tensor, t: TokenStats) -> Tensor:
    """A value of each response `[B, 1]` shared out evenly over its tokens, `[B, T]`."""
    return (total / t.lengths().clamp_min(1)).expand_as(t.logp).masked_fill(~t.mask, 0.0)
