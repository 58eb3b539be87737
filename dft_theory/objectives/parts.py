"""The parts that weights and potentials are put together from."""

from collections.abc import Collection

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats, finite


def given(x: Tensor | None) -> Tensor:
    """A statistic that the objective names in `needs`, and that is therefore there."""
    assert x is not None
    return x


def log_ratio(logp: Tensor | None, base: Tensor | None) -> Tensor:
    """Log (pi / base) of each token in nats, `[B, T]`; -inf where pi = 0, also for 0/0."""
    return given(logp) - finite(given(base))


def weighted_nll(weight: Tensor, t: TokenStats) -> Tensor:
    """-w log pi of each target token, in the dtype of `logp`; 0 where w = 0, also at pi = 0.

    Surrogate and potential in one for weights that do not depend on the policy.
    """
    w = weight.to(t.logp.dtype)
    return torch.where(w == 0, torch.zeros_like(t.logp), -w * t.logp)


def spread_over_tokens(total: Tensor, t: TokenStats) -> Tensor:
    """A value of each response `[B, 1]` shared out evenly over its tokens, `[B, T]`."""
    return (total / t.lengths().clamp_min(1)).expand_as(t.logp).masked_fill(~t.mask, 0.0)


def real(x: Tensor) -> Tensor:
    """Integer or boolean numbers, such as rewards counted by a verifier, as float32."""
    return x if x.is_floating_point() else x.float()


def one_of(known: Collection[str], value: str, what: str) -> None:
    """Raises: ValueError where `value` is none of the `known` ones."""
    if value not in known:
        raise ValueError(f"{what} knows {', '.join(known)}, not {value!r}")
