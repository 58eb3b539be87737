"""What a loss claims to compute, and the known ways of computing something else.

A wrong form is a point on four axes: how labels meet logits, which weight a token gets, what the
sum is divided by. A loss is diagnosed by its gradient: the form with the fewest errors whose
gradient it has, on every case.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, align, target_stats
from dft_theory.objectives import OBJECTIVES, Objective, Reduction, TokenMean, sft
from dft_theory.testing.cases import Case

# (logits, labels, N) to a scalar.
Loss = Callable[[Tensor, Tensor, int | None], Tensor]


@dataclass(frozen=True)
class Form:
    """A loss by its parts, and what is wrong with it: nothing for the claimed one."""

    faults: tuple[str, ...]
    loss: Loss


# How labels meet logits: (logits, labels) to (logits, targets) that stand side by side.
Alignment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# The loss of a weight under some reduction.
Value = Callable[[TokenStats, Reduction], Tensor]
# (terms, mask, labels, N) to a scalar.
Divide = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]


def claimed(objective: Objective, reduction: Reduction) -> Loss:
    """The objective under its reduction, as a function of (logits, labels, N)."""
    return _assemble(align, _surrogate(objective), _declared(reduction))


def attached(objective: Objective) -> Objective:
    """An objective whose potential is -w log pi with the weight differentiated too.

    Its gradient has the extra term -grad(w) log pi: what a forgotten detach computes.
    """

    def terms(t: TokenStats) -> Tensor:
        weight = objective.weight(t).expand_as(t.logp)
        found = torch.where(weight == 0, torch.zeros_like(t.logp), -weight * t.logp)
        if objective.target is None:
            return found
        assert t.log_probs is not None
        mass = objective.target(t)
        return found - torch.where(mass == 0, torch.zeros_like(mass), mass * t.log_probs).sum(-1)

    return replace(objective, potential=terms)


def size(objective: Objective, t: TokenStats) -> Tensor:
    """Total of the weights at each token, whatever their sign, `[B, T]`; 0 where masked."""
    total = objective.weight(t).expand_as(t.logp).abs()
    if objective.target is not None:
        total = total + objective.target(t).abs().sum(-1)
    return total.masked_fill(~t.mask, 0.0)


def at_targets(objective: Objective, t: TokenStats) -> Tensor:
    """The weight w + A(y): everything that multiplies log pi of the target itself, `[B, T]`."""
    total = objective.weight(t).expand_as(t.logp)
    if objective.target is None or t.targets is None:
        return total
    return total + objective.target(t).gather(-1, t.targets.unsqueeze(-1)).squeeze(-1)


def diagnose(
    gradient: Callable[[Case], Tensor],
    objective: Objective,
    reduction: Reduction,
    cases: tuple[Case, ...],
    same: Callable[[Tensor, Tensor], bool],
) -> tuple[str, ...] | None:
    """The faults of the first form that has this gradient on all cases; None where no form has.

    A constant multiple of the claimed gradient is recognised too.
    """
    found = [gradient(case) for case in cases]
    for form in forms(objective, reduction):
        if all(same(g, _gradient(form.loss, c)) for g, c in zip(found, cases, strict=True)):
            return form.faults
    wanted = [_gradient(claimed(objective, reduction), c) for c in cases]
    times = float(found[0].norm() / wanted[0].norm().clamp_min(1e-300))
    if all(same(g, times * w) for g, w in zip(found, wanted, strict=True)):
        return (f"scaled by {times:.4g}" if times else "no gradient at all",)
    return None


def forms(objective: Objective, reduction: Reduction) -> Iterator[Form]:
    """The claimed form and all known wrong ones, those with the fewest faults first."""
    found = [
        Form(tuple(name for name in (one, two, three) if name), _assemble(a, v, d))
        for (one, a), (two, v), (three, d) in product(
            _alignments(), _values(objective), _divisions(reduction)
        )
    ]
    for form in sorted(found, key=lambda form: len(form.faults)):
        # Another objective *and* two more faults: too many ways to be right by accident.
        if len(form.faults) < 3 or not any("computes" in fault for fault in form.faults):
            yield form


def _assemble(alignment: Alignment, value: Value, divide: Divide) -> Loss:
    def loss(logits: Tensor, labels: Tensor, n: int | None) -> Tensor:
        t = target_stats(*alignment(logits, labels), needs=("entropy", "log_probs"))
        return value(t, lambda terms, mask: divide(terms, mask, labels, n))

    return loss


def _gradient(loss: Loss, case: Case) -> Tensor:
    z = case.logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(z, case.labels, case.count), z)[0]


# --- how labels meet logits ---------------------------------------------------------------------


def _alignments() -> tuple[tuple[str, Alignment], ...]:
    return (
        ("", align),
        ("label roll wraps", lambda z, y: (z, torch.roll(y, -1, -1))),
        ("labels not shifted", lambda z, y: (z, y)),
        ("labels shifted twice", lambda z, y: align(*align(z, y))),
        ("trains on masked tokens", lambda z, y: align(z, y.clamp_min(0))),
    )


# --- which weight a token gets ------------------------------------------------------------------


def _surrogate(objective: Objective) -> Value:
    return lambda t, reduction: objective.surrogate(t, reduction=reduction)


def _values(objective: Objective) -> tuple[tuple[str, Value], ...]:
    without = attached(objective)
    squared = replace(objective, weight=lambda t: objective.weight(t).square())
    opposite = replace(objective, weight=lambda t: -objective.weight(t))
    named: list[tuple[str, Value]] = [
        ("", _surrogate(objective)),
        ("missing detach", lambda t, reduction: without.potential_value(t, reduction=reduction)),
        ("plain SFT", _surrogate(sft)),
        (_twice(objective), _surrogate(squared)),
        ("sign reversed", _surrogate(opposite)),
    ]
    others = [o for o in OBJECTIVES if o.is_function_of_p and o.name not in (objective.name, "sft")]
    return (*named, *((f"computes {o.name}", _surrogate(o)) for o in others))


def _twice(objective: Objective) -> str:
    return "weight applied twice" + (" (p^2)" if objective.name == "dft" else "")


# --- what the sum is divided by -----------------------------------------------------------------


def _declared(reduction: Reduction) -> Divide:
    def divide(terms: Tensor, mask: Tensor, _: Tensor, n: int | None) -> Tensor:
        if isinstance(reduction, TokenMean) and reduction.total is None:
            return TokenMean(n)(terms, mask)
        return reduction(terms, mask)

    return divide


def _divisions(reduction: Reduction) -> tuple[tuple[str, Divide], ...]:
    return (
        ("", _declared(reduction)),
        ("micro-batch mean", lambda x, m, _, __: x.sum() / m.sum().clamp_min(1)),
        (
            "weight averaged over kept tokens",
            lambda x, _, __, ___: x.sum() / (x.detach() != 0).sum().clamp_min(1),
        ),
        (
            "weight averaged over kept tokens",
            lambda x, _, __, n: x.sum() / (n or (x.detach() != 0).sum().clamp_min(1)),
        ),
        ("counts masked tokens", lambda x, _, __, ___: x.mean()),
        ("counts masked tokens", lambda x, _, y, __: x.sum() / y.numel()),
        (
            "counts the first label",
            lambda x, _, y, n: x.sum() / (n or (y != IGNORE_INDEX).sum().clamp_min(1)),
        ),
        ("not divided by the count", lambda x, _, __, ___: x.sum()),
        ("divided by the number of sequences", lambda x, _, __, ___: x.sum() / x.shape[0]),
        (
            "mean of sequence means",
            lambda x, m, _, __: (x.sum(-1) / m.sum(-1).clamp_min(1)).mean(),
        ),
        ("divided by N", lambda x, m, _, n: TokenMean(n)(x, m)),
    )
