r"""An objective on top of a language-model head, without the logits ever standing there whole.

With hidden states h and logits z = h W^T + b the surrogate's gradient needs only the field of each
row: dL/dz = ((w + sum_v A_v) pi - w e_y - A) / D, and from it dL/dh = dL/dz W, dL/dW = dL/dz^T h.
Rows are independent given the weights, so a few rows of logits are made, turned into their own
gradient in place, multiplied away, and forgotten; both gradients are ready when the loss is. The
weights w and A are the objective's own functions, the same as everywhere. Objectives of one token
need one pass; those that compare tokens (a sequence, a batch, a pair) read all log-probabilities in
a first pass and are differentiated in a second.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, finite, upcast
from dft_theory.objectives import Objective
from dft_theory.objectives.parts import given, weighted_nll

ENTRIES = 1 << 23  # logits that are held at once: 32 MiB in float32


@dataclass(frozen=True, kw_only=True)
class Head:
    """Hidden states `[., H]` to logits `[., V]`: cap(scale (h W^T + b)), cap(x) = c tanh(x / c).

    Shapes: `weight` `[V, H]`, `bias` `[V]`. A tied head is the embedding itself: its gradient is
    added to what comes from below, as autograd does.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits in float32 or wider, and the slope of scale and cap where it is not constant."""
        raw = hidden @ self.weight.T
        if self.bias is not None:
            raw += self.bias
        z = upcast(raw)
        if self.scale != 1:
            z = z * self.scale
        if self.cap is None:
            return z, None
        bent = torch.tanh(z / self.cap)
        return bent * self.cap, self.scale * (1 - bent.square())


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen model's hidden states `[B, T, H']` at the same targets, and its head."""

    hidden: Tensor
    head: Head


@dataclass(frozen=True)
class Result:
    """The loss, and what was seen on the way: statistics and weights `[B, T]`, detached."""

    loss: Tensor
    stats: TokenStats
    weight: Tensor


def chunked(
    objective: Objective,
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    denominator: float | Tensor,
    extra: Mapping[str, Tensor] = MappingProxyType({}),
    reference: Reference | None = None,
    entries: int = ENTRIES,
) -> Result:
    """The surrogate of an objective, summed over targets and divided by `denominator`.

    Shapes: `hidden` `[B, T, H]` already at its targets `[B, T]`, `IGNORE_INDEX` where there is
    none. `extra` holds statistics `[B, T]` that only the caller knows (`advantage`, `old_logp`,
    `ref_logp`; `sampled` `[B, T, K]`); reference distributions come from `reference`. About
    `entries` logits are held at once, in one to three tensors of that size, and the gradients of
    head and hidden states. Objectives that compare the distributions of a whole batch
    (`sed-masked`) hold them all, and save nothing.

    Raises: ValueError for statistics that nobody provides, and logits that are NaN.
    """
    mask = targets != IGNORE_INDEX
    kept = {name: value[mask] for name, value in extra.items()}
    if reference is not None:
        kept["reference"] = reference.hidden[mask]
    job = _Job(objective, head, reference, mask, targets[mask], kept, denominator, entries)
    job.check()
    loss = _Chunked.apply(hidden[mask], head.weight, head.bias, job)
    seen = {name: _spread(torch.cat(parts), mask) for name, parts in job.seen.items()}
    weight = seen.pop("weight")
    stats = TokenStats(mask=mask, targets=targets.masked_fill(~mask, 0), **seen)
    return Result(loss, stats, weight)


@dataclass(eq=False)
class _Job:
    """What one call works on; N rows are the targets, in order. `seen` collects statistics."""

    objective: Objective
    head: Head
    reference: Reference | None
    mask: Tensor
    targets: Tensor
    kept: dict[str, Tensor]
    denominator: float | Tensor
    entries: int
    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def check(self) -> None:
        """Raises: ValueError where a statistic is needed that nobody provides."""
        here = {"targets", "entropy", "log_probs", *self.kept}
        if self.reference is not None:
            here |= {"ref_logp", "ref_log_probs"}
        for need in self.objective.needs:
            if need not in here:
                how = "reference=" if need.startswith("ref_") else "extra="
                raise ValueError(f"{self.objective.name} needs {need}: pass it in {how}")

    @property
    def alone(self) -> bool:
        """Whether a row's weight depends on that row only."""
        return self.objective.level == "token"

    def rows(self) -> Iterator[slice]:
        """Slices of so many rows that their logits have about `entries` entries."""
        size = max(1, self.entries // len(self.head.weight))
        if not self.alone and "log_probs" in self.objective.needs:
            size = max(1, len(self.targets))
        for first in range(0, len(self.targets), size):
            yield slice(first, first + size)

    def read(self, logits: Tensor, at: slice) -> tuple[TokenStats, Tensor]:
        """Statistics `[1, n]` of rows, and their probabilities `[n, V]` in place of the logits."""
        needs, y = self.objective.needs, self.targets[at, None]
        at_target = logits.gather(-1, y).squeeze(-1)
        top = logits.amax(-1, keepdim=True)
        shifted = logits.sub_(top)
        log_probs = None
        if "log_probs" in needs or "entropy" in needs:
            log_z = shifted.logsumexp(-1, keepdim=True)
            log_probs = shifted - log_z
            probs = torch.exp(log_probs, out=shifted)
        else:
            probs = shifted.exp_()
            total = probs.sum(-1, keepdim=True)
            probs.div_(total)
            log_z = total.log_()
        logp = at_target - (top + log_z).squeeze(-1)
        if bool(torch.isnan(logp).any()):
            row = int(torch.isnan(logp).nonzero()[0])
            raise ValueError(
                f"the logits of target {row + (at.start or 0)} hold NaN or +inf, or are all -inf: "
                "look at the forward pass (overflow in half precision is the usual cause)"
            )
        found: dict[str, Any] = {"logp": logp, "targets": y.squeeze(-1)}
        if "entropy" in needs:
            found["entropy"] = -(probs * finite(given(log_probs))).sum(-1)
        if "log_probs" in needs:
            found["log_probs"] = log_probs
        found |= {name: value[at] for name, value in self.kept.items() if name != "reference"}
        if self.reference is not None and {"ref_logp", "ref_log_probs"} & set(needs):
            frozen = self.reference.head.logits(self.kept["reference"][at])[0].log_softmax(-1)
            found["ref_logp"] = frozen.gather(-1, y).squeeze(-1)
            found["ref_log_probs"] = frozen
        mask = torch.ones_like(logp, dtype=torch.bool)[None]
        return TokenStats(mask=mask, **{k: v[None] for k, v in found.items()}), probs

    def weights(self, hidden: Tensor) -> Tensor | None:
        """First pass: the weight `[N]` of each row where rows depend on one another, else None."""
        if self.alone:
            return None
        parts = [self.read(self.head.logits(hidden[at])[0], at)[0] for at in self.rows()]
        names = {"logp", "targets", *self.objective.needs}
        shape: dict[str, Tensor] = {}
        for name in names:
            flat = torch.cat([getattr(p, name)[0] for p in parts]) if parts else None
            if flat is not None:
                shape[name] = _spread(flat, self.mask)
        if not parts:
            return self.targets.new_zeros(0, dtype=hidden.dtype)
        stats = TokenStats(mask=self.mask, **shape)
        return self.objective.weight(stats).expand_as(stats.logp)[self.mask]

    def note(self, stats: TokenStats, weight: Tensor) -> None:
        """Keeps the statistics of single numbers."""
        for name in ("logp", "entropy", "ref_logp", "old_logp", "advantage"):
            if (value := getattr(stats, name)) is not None:
                self.seen.setdefault(name, []).append(value[0])
        self.seen.setdefault("weight", []).append(weight)


class _Chunked(torch.autograd.Function):
    """The gradients are made in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        """The loss; see `chunked`."""
        wide = upcast(hidden[:0]).dtype
        wanted = ctx.needs_input_grad[:3]
        like = (hidden, weight, bias)
        grads = [
            torch.zeros_like(x, dtype=wide) if want and x is not None else None
            for x, want in zip(like, wanted, strict=True)
        ]
        held, over = job.weights(hidden), job.denominator
        value = hidden.new_zeros((), dtype=wide)
        for at in job.rows():
            h = hidden[at]
            logits, slope = job.head.logits(h)
            stats, probs = job.read(logits, at)
            w = job.objective.weight(stats).expand_as(stats.logp)[0] if held is None else held[at]
            w = w.to(wide)
            job.note(stats, w)
            value += weighted_nll(w[None], stats).sum()
            spread = None
            if job.objective.target is not None:
                spread = job.objective.target(stats)[0].to(wide)
                logq = given(stats.log_probs)[0]
                value -= torch.where(spread == 0, 0.0, spread * logq).sum()
            if not any(wanted):
                continue
            # dL/dz, in place of the probabilities.
            total = w if spread is None else w + spread.sum(-1)
            dz = probs.mul_((total / over)[:, None])
            dz.scatter_add_(-1, job.targets[at, None], -(w / over)[:, None])
            if spread is not None:
                dz -= spread / over
            if slope is not None:
                dz *= slope
            elif job.head.scale != 1:
                dz *= job.head.scale
            _multiply(dz, h, weight, grads, at)
        if not len(job.targets):
            job.seen = {"logp": [value.new_zeros(0)], "weight": [value.new_zeros(0)]}
        ctx.grads = [
            g.to(x.dtype) if g is not None and x is not None else None
            for g, x in zip(grads, like, strict=True)
        ]
        return value / over

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients of hidden states, weight and bias, in place: there is one of each.

        Raises: RuntimeError when they are asked for a second time.
        """
        (scale,), grads = upstream, ctx.grads
        if grads is None:
            raise RuntimeError(
                "the loss of a chunked head can be differentiated once: call it again"
            )
        ctx.grads = None
        return (*(g if g is None else g.mul_(scale.to(g.dtype)) for g in grads), None)


def _multiply(dz: Tensor, h: Tensor, weight: Tensor, grads: list[Tensor | None], at: slice) -> None:
    """Adds what the rows `at` give to the gradients of hidden states, weight and bias."""
    of_hidden, of_weight, of_bias = grads
    narrow = dz.to(h.dtype)
    if of_hidden is not None:
        of_hidden[at] = narrow @ weight
    if of_weight is not None:
        if narrow.dtype == of_weight.dtype:
            of_weight.addmm_(narrow.T, h)
        else:
            of_weight += narrow.T @ h
    if of_bias is not None:
        of_bias += dz.sum(0)


def _spread(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows `[N, ...]` at their places `[B, T, ...]`; 0 where there is no target."""
    out = rows.new_zeros(*mask.shape, *rows.shape[1:])
    out[mask] = rows
    return out
