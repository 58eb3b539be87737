"""Accuracies over problems with k samples each: estimates, intervals and paired tests.

Resampling is scipy's. Problems are the unit: samples of one problem share its difficulty, so an
interval over all samples would be too narrow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from dft_theory.seeding import numpy_generator


@dataclass(frozen=True)
class Interval:
    """A mean over problems and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def pass_at_k(samples: ArrayLike, right: ArrayLike, k: int) -> NDArray[np.float64]:
    """Chance that k of a problem's n samples, drawn without return, hold a right one.

    1 - C(n - c, k) / C(n, k) with c right ones: unbiased for pass@k (Chen et al., arXiv
    2107.03374). Arrays of any one shape. Raises: ValueError where k > n or c > n.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, float), np.asarray(right, float))
    if k < 1 or (n < k).any():
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of every problem")
    if (c < 0).any() or (c > n).any():
        raise ValueError("a problem has more right samples than samples")
    rest = n - c
    enough = rest >= k  # otherwise any k hold a right one
    kept = np.where(enough, rest, k)
    log_miss = gammaln(kept + 1) - gammaln(kept - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    # Rounding leaves about 1e-16 of nothing: no right sample is exactly no chance.
    return np.where(enough, np.where(c > 0, -np.expm1(log_miss), 0.0), 1.0)


def bootstrap(values: ArrayLike, *, seed: int = 0, draws: int = 10_000) -> Interval:
    """Percentile interval of the mean of one number a problem, `[problems]`.

    Raises: ValueError for fewer than two problems.
    """
    from scipy import stats  # slow to import: half a second

    each = np.asarray(values, float)
    if each.ndim != 1 or len(each) < 2:
        raise ValueError(f"an interval needs at least two problems, got {each.shape}")
    if np.ptp(each) == 0:  # nothing to resample
        return Interval(float(each[0]), float(each[0]), float(each[0]))
    rng = numpy_generator(seed, "bootstrap")
    found = stats.bootstrap(
        (each,), np.mean, n_resamples=draws, method="percentile", rng=rng, vectorized=True
    ).confidence_interval
    return Interval(float(each.mean()), float(found.low), float(found.high))


@dataclass(frozen=True)
class Paired:
    """The mean difference over problems, and the p-value of a sign-flip permutation test."""

    difference: Interval
    p_value: float


def paired(a: ArrayLike, b: ArrayLike, *, seed: int = 0, draws: int = 10_000) -> Paired:
    """Difference a - b on the same problems, `[problems]` each; two-sided p-value.

    Raises: ValueError where they are not the same problems.
    """
    from scipy import stats

    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need the same problems, got {len(first)} and {len(second)}")
    difference = bootstrap(first - second, seed=seed, draws=draws)
    if not (first != second).any():
        return Paired(difference, 1.0)
    test = stats.permutation_test(
        (first, second),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=draws,
        vectorized=True,
        rng=numpy_generator(seed, "permutation"),
    )
    return Paired(difference, float(test.pvalue))
