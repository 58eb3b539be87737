"""Three models of how far two sides may differ, and no naked relative tolerance.

Every side of a claim is a tensor, or an `Estimate`: a value with its own error bar. Rounding is
allowed c * eps * scale * sqrt(terms), where `terms` counts what was summed; everything beyond
that must be paid for by an error bar that the method itself computed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A value and a bound on its error, elementwise or one for all."""

    value: Tensor
    error: Tensor


Side = Tensor | Estimate


class Tolerance(Protocol):
    """How the two sides of a claim are compared."""

    @property
    def c(self) -> float:
        """Units of rounding error allowed."""


@dataclass(frozen=True)
class Exact:
    """Rounding only: c * eps(dtype) * scale * sqrt(terms)."""

    c: float = 64.0


@dataclass(frozen=True)
class FiniteDifference:
    """A derivative by central differences of order 4, with the error bar |D(h) - D(2h)|.

    D(h) has error O(h^4) and D(2h) sixteen times that, so their distance bounds the truncation
    error of D(h) about fifteenfold; rounding adds eps |f| / h.
    """

    h: float = 1e-3
    c: float = 64.0

    def derivative(self, f: Callable[[float], Tensor]) -> Estimate:
        """D f(s) / ds at s = 0, for f from a step to a tensor."""

        def stencil(h: float) -> Tensor:
            return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

        fine, coarse = stencil(self.h), stencil(2 * self.h)
        size = f(0.0).abs().max()
        rounding = 8 * torch.finfo(fine.dtype).eps * size / self.h
        return Estimate(fine, (fine - coarse).abs() + rounding)


@dataclass(frozen=True)
class MonteCarlo:
    """A sample mean with Bernstein's bar from the *analytic* variance, at false-alarm rate alpha.

    The sample variance is useless here: it is 0 whenever the rare y* was never drawn. `reach`
    bounds |f - E f|. Over all comparisons of a full run the chance of one false alarm stays
    below 1e-6 with the default alpha.
    """

    n: int = 20_000
    alpha: float = 1e-10
    c: float = 64.0

    def mean(self, samples: Tensor, *, variance: Tensor, reach: Tensor) -> Estimate:
        """Mean over the first axis of `samples [n, ...]`."""
        n, log = samples.shape[0], math.log(2 / self.alpha)
        edge = reach * log / 3
        return Estimate(samples.mean(0), (edge + (edge**2 + 2 * n * variance * log).sqrt()) / n)


@dataclass(frozen=True)
class Numerical:
    """Both sides bring their own error bars (an integrator run twice, a rate of convergence)."""

    c: float = 64.0


def excess(
    left: Side, right: Side, *, relation: str, tolerance: Tolerance, terms: int, scale: float | None
) -> float:
    """Largest violation as a fraction of what is allowed: at most 1 where the relation holds.

    Raises: ValueError for sides of different shapes. NaN counts as an infinite violation.
    """
    lhs, left_bar = _open(left)
    rhs, right_bar = _open(right)
    if lhs.shape != rhs.shape:
        raise ValueError(f"the sides have shapes {list(lhs.shape)} and {list(rhs.shape)}")
    lhs, rhs = lhs.detach(), rhs.detach()
    size = max(_size(lhs), _size(rhs)) if scale is None else scale
    # Complex and integer sides do not occur; the wider rounding unit of the two decides.
    eps = max(torch.finfo(lhs.dtype).eps, torch.finfo(rhs.dtype).eps)
    allowed = tolerance.c * eps * size * math.sqrt(max(terms, 1)) + left_bar + right_bar
    gap = lhs.double() - rhs.double()
    gap = gap.clamp_min(0) if relation == "<=" else gap.abs()
    # Equal infinities agree; anything else that is not finite does not.
    gap = torch.where(lhs == rhs, torch.zeros_like(gap), gap)
    tiny = torch.finfo(torch.float64).tiny
    # A NaN anywhere, in a side, its error bar or the scale, is an infinite violation; so is an
    # infinite allowance, under which anything would pass.
    allowed = torch.as_tensor(allowed, dtype=torch.float64)
    fraction = torch.where(allowed.isfinite(), gap / (allowed + tiny), torch.inf)
    return float(fraction.nan_to_num(nan=math.inf).max()) if gap.numel() else 0.0


def _open(side: Side) -> tuple[Tensor, Tensor]:
    if isinstance(side, Estimate):
        return side.value, side.error.detach().double()
    return side, torch.zeros((), dtype=torch.float64)


def _size(x: Tensor) -> float:
    finite = x.double().abs()
    finite = finite[finite.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0
