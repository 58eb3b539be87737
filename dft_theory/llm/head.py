"""The last layer of a language model: hidden states to logits, to statistics of target tokens."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dft_theory.logprobs import finite


@dataclass(frozen=True, kw_only=True)
class Head:
    """Hidden states `[n, H]` to logits `[n, V]`: cap(scale (h W^T + b)), cap(x) = c tanh(x / c).

    Shapes: `weight` W `[V, H]`, `bias` b `[V]`. A tied head is the embedding itself: its gradient
    is added to what comes from below, as autograd does.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def held(self, dtype: torch.dtype) -> Self:
        """The same head without a graph; products will be taken in that dtype."""
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, weight=self.weight.detach().to(dtype), bias=bias)

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Logits in the first n rows of `out`, whose dtype is float32 or wider."""
        z = out[: len(hidden)]
        if z.dtype == hidden.dtype:
            torch.mm(hidden, self.weight.T, out=z)
        else:
            z.copy_(hidden @ self.weight.T)
        if self.bias is not None:
            z += self.bias
        if self.scale != 1:
            z *= self.scale
        if self.cap is not None:
            z.div_(self.cap).tanh_().mul_(self.cap)
        return z

    def slope(self, logits: Tensor) -> Tensor | float | None:
        """Derivative of the logits in h W^T + b, elementwise; None where it is 1."""
        if self.cap is None:
            return None if self.scale == 1 else self.scale
        return self.scale * (1 - (logits / self.cap).square())


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen model's hidden states `[B, T, H']` at the same targets, and its head."""

    hidden: Tensor
    head: Head

    def kept(self, mask: Tensor) -> Self:
        """The same for the target tokens alone, `[N, H']`, without a graph."""
        hidden = self.hidden.detach()[mask]
        return replace(self, hidden=hidden, head=self.head.held(hidden.dtype))


def statistics_(logits: Tensor, targets: Tensor, needs: Collection[str]) -> dict[str, Tensor]:
    """Statistics of rows by their names in `TokenStats`; leaves pi in place of the logits.

    Shapes: logits `[n, V]`, targets `[n]`. Log p is (z_y - max z) - log sum exp (z - max z): near
    p = 1 the last term alone is left, with its own rounding and not that of the logits.
    """
    y = targets.unsqueeze(-1)
    z = logits.sub_(logits.amax(-1, keepdim=True))
    reached, found = z.gather(-1, y), {"targets": targets}
    if "log_probs" in needs or "entropy" in needs:
        log_z = z.logsumexp(-1, keepdim=True)
        log_probs = z - log_z
        probs = torch.exp(log_probs, out=z)
        if "entropy" in needs:
            found["entropy"] = -(probs * finite(log_probs)).sum(-1)
        if "log_probs" in needs:
            found["log_probs"] = log_probs
    else:
        probs = z.exp_()
        total = probs.sum(-1, keepdim=True)
        probs /= total
        log_z = total.log()
    found["logp"] = (reached - log_z).squeeze(-1)
    return found


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a b to `total`, which may be of a wider dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
