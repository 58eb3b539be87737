r"""An objective on top of a language-model head, without the logits ever standing there whole.

With hidden states h, logits z = h W^T + b and L the surrogate, the objective only says how L
depends on log-probabilities. Let g = dL/dlog pi, for each target token a row over the vocabulary:
-w at the target and 0 elsewhere, to which objectives with a target A(v) over the vocabulary add -A.
The log-softmax and the head give the rest,

    dL/dz = g - (sum_v g_v) pi,    dL/dh = dL/dz W,    dL/dW = (dL/dz)^T h,    dL/db = sum dL/dz.

Rows are independent given g: a few rows of logits are made, turned into their own gradient in
place, multiplied away and forgotten, and the gradients are ready when the loss is. g is
`Objective.surrogate` differentiated down to the log-probabilities, the same object as everywhere.
Where a token's weight depends on other tokens (a sequence, a batch, a pair), a first pass reads the
statistics of all of them, and a second one makes the gradients. The division by the number of
tokens comes last, in the backward pass: float16 could not hold g divided.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dft_theory.llm.head import Head, Reference, add_product_, statistics_
from dft_theory.logprobs import IGNORE_INDEX, TokenStats, upcast
from dft_theory.objectives import Objective, SumOver
from dft_theory.objectives.parts import given

__all__ = ["Head", "Reference", "Result", "chunked"]

NUMBERS = ("logp", "entropy", "ref_logp", "old_logp", "advantage")  # statistics that are kept


@dataclass(frozen=True)
class Result:
    """The loss, and what was seen on the way: statistics and weights w `[B, T]`, detached."""

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
    entries: int | None = None,
) -> Result:
    """The surrogate of an objective, summed over target tokens and divided by `denominator`.

    Shapes: `hidden` `[B, T, H]` that stand at their `targets` `[B, T]`; rows whose target is
    `IGNORE_INDEX` are dropped before the first product. `denominator` is usually the number of
    targets of a whole step. `extra` holds statistics `[B, T]` that only the caller knows
    (`advantage`, `old_logp`, `ref_logp`; `sampled` `[B, T, K]`); distributions of a frozen model
    come from `reference`. Products are taken in the dtype of `hidden`, statistics and sums in
    float32 or wider; gradients have the dtype of what they belong to.

    Memory: `entries` logits at once, in one tensor where weights read log p alone and in a few
    otherwise, besides the gradients of states and head. By default they are half as many as the
    head's weights, that is H/2 rows: fewer would add to the head's gradient too often. Objectives
    that compare the distributions of different tokens (`sed-masked`) hold all logits and save
    nothing. Under `torch.no_grad` no gradient is made.

    Raises: ValueError for statistics that nobody provides, targets outside the vocabulary, and
    logits at a target that hold NaN or +inf or are all -inf; RuntimeError for a second backward.
    """
    mask = targets != IGNORE_INDEX
    rows = _Rows(
        objective=objective,
        head=head.held(hidden.dtype),
        mask=mask,
        targets=targets[mask],
        extra={name: value[mask] for name, value in extra.items()},
        reference=None if reference is None else reference.kept(mask),
        entries=head.weight.numel() // 2 if entries is None else entries,
    )
    rows.check()
    inputs = [hidden[mask], head.weight, head.bias]
    if not torch.is_grad_enabled():  # which autograd's functions are not told
        inputs = [None if x is None else x.detach() for x in inputs]
    loss = _Chunked.apply(*inputs, rows, denominator)
    seen = {name: rows.at_home(torch.cat(parts)) for name, parts in rows.seen.items()}
    weight = seen.pop("weight")
    return Result(loss, TokenStats(mask=mask, targets=rows.at_home(rows.targets), **seen), weight)


@dataclass(frozen=True, eq=False)
class _Pull:
    """The surrogate, and g: in log pi(y) `[N]` and, with a target, in every log pi(v) `[N, V]`."""

    value: Tensor
    at_target: Tensor
    spread: Tensor | None = None

    def of_logits_(self, probs: Tensor, targets: Tensor, at: slice) -> Tensor:
        """dL/dz = g - (sum_v g_v) pi of the rows `at` of g, in place of the probabilities."""
        g, y = self.at_target[at], targets.unsqueeze(-1)
        if self.spread is None:
            return probs.mul_(-g[:, None]).scatter_add_(-1, y, g[:, None])
        total = g + self.spread[at].sum(-1)
        return probs.mul_(-total[:, None]).scatter_add_(-1, y, g[:, None]).add_(self.spread[at])


@dataclass(kw_only=True, eq=False)
class _Rows:
    """The N target tokens of one call, in order, and what may be known of them; no graphs.

    `seen` collects statistics of one number a token, for the result.
    """

    objective: Objective
    head: Head
    mask: Tensor
    targets: Tensor
    extra: dict[str, Tensor]
    reference: Reference | None
    entries: int
    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def check(self) -> None:
        """Raises: ValueError for a need that nobody provides, or a target that does not exist."""
        here = {"targets", "entropy", "log_probs", *self.extra}
        here |= set() if self.reference is None else {"ref_logp", "ref_log_probs"}
        for need in self.objective.needs:
            if need not in here:
                how = "reference=" if need.startswith("ref_") else "extra="
                raise ValueError(f"{self.objective.name} needs {need}: pass it in {how}")
        outside = (self.targets < 0) | (self.targets >= len(self.head.weight))
        if bool(outside.any()):
            raise ValueError(
                f"target {int(self.targets[outside][0])} is outside the head's vocabulary of "
                f"{len(self.head.weight)}: the usual cause is a tokenizer of another model"
            )

    @property
    def alone(self) -> bool:
        """Whether the weight of a token depends on that token only."""
        return self.objective.level == "token"

    @property
    def size(self) -> int:
        """Rows at once: of `entries` logits, or all where distributions are compared."""
        count = max(1, len(self.targets))
        if not self.alone and "log_probs" in self.objective.needs:
            return count
        return max(1, min(count, self.entries // len(self.head.weight)))

    def slices(self) -> Iterator[slice]:
        """All rows, `size` at a time; an empty slice where there are none."""
        for first in range(0, max(1, len(self.targets)), self.size):
            yield slice(first, first + self.size)

    def at_home(self, rows: Tensor) -> Tensor:
        """Rows `[N, ...]` at their places `[B, T, ...]`; 0 where there is no target."""
        home = rows.new_zeros(*self.mask.shape, *rows.shape[1:])
        home[self.mask] = rows
        return home

    def read(self, z: Tensor, at: slice) -> dict[str, Tensor]:
        """Statistics that the objective asks for; leaves probabilities in place of logits."""
        needs = self.objective.needs
        found = statistics_(z, self.targets[at], needs)
        found |= {name: value[at] for name, value in self.extra.items()}
        frozen = {"ref_logp", "ref_log_probs"} & set(needs)
        if self.reference is not None and frozen:
            out = self.reference.head.logits(self.reference.hidden[at], torch.empty_like(z))
            of_it = statistics_(out, self.targets[at], ("log_probs",))
            found |= {name: of_it[name.removeprefix("ref_")] for name in frozen}
        return {name: found[name] for name in ("logp", "targets", *needs)}

    def together(self, hidden: Tensor, room: Tensor) -> _Pull:
        """The pull on all rows, whose weights depend on one another, from a pass of their own."""
        parts = [self.read(self.head.logits(hidden[at], room), at) for at in self.slices()]
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        at_home = {name: self.at_home(value) for name, value in found.items()}
        value, *g = self.pull(TokenStats(mask=self.mask, **at_home))
        return self.noted(found, _Pull(value, *(x[self.mask] for x in g)))

    def apart(self, z: Tensor, at: slice) -> _Pull:
        """The pull on the rows `at`, whose weights depend on nothing else."""
        found = self.read(z, at)
        mask = torch.ones_like(found["targets"], dtype=torch.bool)[None]
        in_a_row = {name: value[None] for name, value in found.items()}
        value, *g = self.pull(TokenStats(mask=mask, **in_a_row))
        return self.noted(found, _Pull(value, *(x[0] for x in g)))

    def pull(self, t: TokenStats) -> tuple[Tensor, ...]:
        """The surrogate and g, by differentiating it down to the log-probabilities."""
        leaves = [t.logp] if self.objective.target is None else [t.logp, given(t.log_probs)]
        with torch.enable_grad():
            for leaf in leaves:
                leaf.requires_grad_()
            value = self.objective.surrogate(t, reduction=SumOver())
        return value.detach(), *torch.autograd.grad(value, leaves)

    def noted(self, found: Mapping[str, Tensor], pull: _Pull) -> _Pull:
        """Keeps the statistics of one number a token, and the weight: at the target g = -w."""
        numbers = {name: x.detach() for name, x in found.items() if name in NUMBERS}
        for name, value in (numbers | {"weight": -pull.at_target}).items():
            self.seen.setdefault(name, []).append(value)
        return pull


class _Chunked(torch.autograd.Function):
    """The gradients are made in the forward pass; the backward pass scales and hands them out."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: _Rows,
        denominator: float | Tensor,
    ) -> Tensor:
        """The loss; see `chunked`."""
        wide, wanted = upcast(hidden[:0]).dtype, ctx.needs_input_grad[:3]
        of_hidden = torch.zeros_like(hidden, dtype=wide) if wanted[0] else None
        of_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        of_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and wanted[2] else None
        room = hidden.new_empty(rows.size, len(weight), dtype=wide)
        with torch.autocast(hidden.device.type, enabled=False):
            whole = None if rows.alone else rows.together(hidden, room)
            value = hidden.new_zeros((), dtype=wide) if whole is None else whole.value
            for at in rows.slices() if whole is None or any(wanted) else ():
                h = hidden[at]
                z = rows.head.logits(h, room)
                slope = rows.head.slope(z)
                if whole is None:
                    pull, own = rows.apart(z, at), slice(None)
                    value += pull.value
                else:
                    statistics_(z, rows.targets[at], ())
                    pull, own = whole, at
                if not any(wanted):
                    continue
                dz = pull.of_logits_(z, rows.targets[at], own)
                if slope is not None:
                    dz *= slope
                narrow = dz.to(hidden.dtype)
                if of_hidden is not None:
                    add_product_(of_hidden[at], narrow, rows.head.weight)
                if of_weight is not None:
                    add_product_(of_weight, narrow.T, h)
                if of_bias is not None:
                    of_bias += dz.sum(0)
        broken = torch.cat(rows.seen["logp"]).isnan()
        if bool(broken.any()):
            raise ValueError(
                f"the logits of target {int(broken.nonzero()[0])} hold NaN or +inf, or are all "
                "-inf: look at the forward pass (overflow in half precision is the usual cause)"
            )
        ctx.grads, ctx.denominator = (of_hidden, of_weight, of_bias), denominator
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return value / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scales in place, for there is one of each. Raises: RuntimeError for a second time."""
        if ctx.grads is None:
            raise RuntimeError("a chunked loss can be differentiated once: compute it again")
        scale, grads, ctx.grads = upstream / ctx.denominator, ctx.grads, None
        made = zip(grads, ctx.dtypes, strict=True)
        return *(None if g is None else g.mul_(scale).to(d) for g, d in made), None, None
