"""One loss beside what it claims to be, and how far apart rounding may bring them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, align, token_stats
from dft_theory.objectives import Objective, Reduction, TokenMean
from dft_theory.testing import forms
from dft_theory.testing.calls import Answer, CallForm, LossFunction
from dft_theory.testing.cases import Case

# Rounding units of float32 allowed on log p, per unit of the largest logit. Absolute: near
# log p = 0 the kernels themselves have no correct digits left. Float64 is held to the same, for
# many losses compute in float32 whatever they are given.
UNITS = 16.0


@dataclass(frozen=True)
class Probe:
    """One loss, what it claims, and the claim as a loss of its own to compare with."""

    loss: LossFunction
    objective: Objective
    reduction: Reduction

    @cached_property
    def claim(self) -> LossFunction:
        """The claimed objective, called the plain way."""
        return LossFunction(forms.claimed(self.objective, self.reduction), _plain())

    def expected(self, case: Case) -> Answer:
        """Value of the claimed surrogate; gradient from the closed form `field`, not autograd."""
        t = self._stats(case)
        field = self.objective.field(t) * self._coefficient(case).unsqueeze(-1)
        gradient = torch.cat([-field, torch.zeros_like(field[:, :1])], 1).detach()
        return Answer(self.claim(case).value, gradient)

    def gap(self, found: Answer, expected: Answer, case: Case) -> tuple[float, float]:
        """Distance in value and in gradient, as fractions of what rounding explains."""
        t = self._stats(case)
        size = forms.size(self.objective, t) * self._coefficient(case)
        reach = case.logits[case.logits.isfinite()].abs().max().clamp_min(1.0)
        delta = UNITS * torch.finfo(torch.float32).eps * reach
        depth = torch.where(t.logp.isfinite(), 1 - t.logp, torch.ones_like(t.logp))
        value_scale = torch.maximum((size * depth).sum(), _largest(expected.value))
        gradient_scale = torch.maximum(size.max(), _largest(expected.gradient))
        value_unit, gradient_unit = _unit(found.value), _unit(found.gradient)
        return (
            _excess(found.value, expected.value, delta * value_scale, value_unit),
            _excess(found.gradient, expected.gradient, delta * gradient_scale, gradient_unit),
        )

    def _stats(self, case: Case) -> TokenStats:
        with torch.no_grad():
            return token_stats(case.logits, case.labels, needs=("entropy", "log_probs"))

    def _coefficient(self, case: Case) -> Tensor:
        """What the reduction multiplies each term by, `[B, T-1]`."""
        mask = align(case.logits, case.labels)[1] != IGNORE_INDEX
        terms = torch.zeros(mask.shape, dtype=torch.float64, requires_grad=True)
        total = with_count(self.reduction, case.count)(terms, mask)
        return torch.autograd.grad(total, terms)[0]


def with_count(reduction: Reduction, n: int | None) -> Reduction:
    """The reduction as told the global count: only a token mean without a total of its own asks."""
    if isinstance(reduction, TokenMean) and reduction.total is None:
        return replace(reduction, total=n)
    return reduction


def _plain() -> CallForm:
    return CallForm("f(logits, labels, N)", lambda z: z, lambda n: (n,))


def unequal(p: Probe, before: Case, after: Case, back: Callable[[Tensor], Tensor]) -> str:
    """What differs between two batches that mean the same: "value", "gradient" or nothing.

    "claim" where the claimed loss itself tells them apart. `back` maps a gradient of `after` to
    the places it has in `before`.
    """
    for loss, names in ((p.claim, ("claim", "claim")), (p.loss, ("gradient", "value"))):
        moved, still = loss(after), loss(before)
        found = Answer(moved.value, back(moved.gradient))
        in_value, in_gradient = p.gap(found, still, before)
        if in_gradient > 1 or in_value > 1:
            return names[0] if in_gradient > 1 else names[1]
    return ""


def _excess(found: Tensor, expected: Tensor, absolute: Tensor, unit: float) -> float:
    """Largest distance as a fraction of `absolute + unit * |expected|`; NaN counts as infinite."""
    left, right = found.double(), expected.double()
    gap = torch.where(left == right, torch.zeros_like(left), (left - right).abs())
    allowed = absolute + unit * right.abs() + torch.finfo(torch.float64).tiny
    return float((gap / allowed).nan_to_num(nan=torch.inf).max())


def _unit(x: Tensor) -> float:
    """What storing a number in this dtype may cost; nothing where it is wider than float16."""
    return torch.finfo(x.dtype).eps if x.dtype in (torch.bfloat16, torch.float16) else 0.0


def _largest(x: Tensor) -> Tensor:
    finite = x.double()[x.isfinite()].abs()
    return finite.max() if finite.numel() else torch.zeros((), dtype=torch.float64)
