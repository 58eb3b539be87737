"""Tolerances: what they let through, what they stop, and how often chance would fool them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory.claims.tolerance import (
    Estimate,
    Exact,
    FiniteDifference,
    MonteCarlo,
    Numerical,
    Side,
    Tolerance,
    excess,
)

NAN, INF = math.nan, math.inf
EPS = torch.finfo(torch.float64).eps
TOLERANCES = (Exact(), FiniteDifference(), MonteCarlo(), Numerical())
EVERY = pytest.mark.parametrize("tolerance", TOLERANCES, ids=lambda t: type(t).__name__)


def compare(
    left: Side,
    right: Side,
    *,
    relation: str = "=",
    tolerance: Tolerance = TOLERANCES[0],
    terms: int = 1,
    scale: float | None = None,
) -> float:
    return excess(
        left, right, relation=relation, tolerance=tolerance, terms=terms, scale=scale
    )  # fmt: skip


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- rounding -----------------------------------------------------------------------------------


@given(st.floats(1e-100, 1e100), st.integers(1, 10**6), st.floats(1.0, 1000.0))
def test_excess_is_the_gap_over_c_eps_size_sqrt_terms(size, terms, c):
    left = f64(size, 0.0)
    gap = 10 * c * EPS * size * math.sqrt(terms)
    right = left + f64(0.0, gap)
    top = max(size, gap)
    expected = gap / (c * EPS * top * math.sqrt(terms))
    assert_close(compare(left, right, tolerance=Exact(c), terms=terms), expected)


def test_rounding_passes_and_a_thousand_roundings_do_not():
    one = f64(1.0, -3.0)
    assert compare(one, one * (1 + 4 * EPS)) < 0.1
    assert compare(one, one * (1 + 1000 * EPS)) > 1


def test_rounding_of_the_wider_unit_decides():
    single, double = torch.tensor([1 / 3]), f64(1 / 3)
    assert 0 < compare(single, double) < 1
    assert compare(single.double(), double) > 1


def test_the_sum_of_many_terms_may_round_more():
    x = torch.rand(100_000, dtype=torch.float32, generator=torch.Generator().manual_seed(0))
    forwards = x.double().sum().float().reshape(1)
    one_by_one = torch.tensor([np.cumsum(x.numpy(), dtype=np.float32)[-1]])
    assert compare(forwards, one_by_one, terms=len(x)) < 1
    assert compare(forwards, one_by_one * 1.01, terms=len(x)) > 1


def test_scale_gives_the_size_of_what_cancels():
    left, right = f64(1e-16), f64(0.0)
    assert compare(left, right) > 1
    assert compare(left, right, scale=1.0) < 1
    assert compare(f64(1e-10), right, scale=1.0) > 1


def test_equal_zeros_agree_and_any_other_number_differs_from_zero():
    assert compare(f64(0.0), f64(0.0)) == 0
    assert compare(f64(1e-290), f64(0.0)) > 1


def test_the_worst_element_decides_and_the_largest_element_sets_the_scale():
    left = f64(1.0, 100.0, 1.0)
    assert compare(left, left + f64(0.0, 0.0, 1e-10)) > 1
    assert compare(left, left + f64(0.0, 0.0, 1e-13)) < 1


# --- relations ----------------------------------------------------------------------------------


def test_an_inequality_counts_only_the_wrong_side():
    assert compare(f64(1.0, -INF), f64(2.0, 0.0), relation="<=") == 0
    assert compare(f64(1.0), f64(INF), relation="<=") == 0
    assert compare(f64(2.0), f64(1.0), relation="<=") > 1
    assert compare(f64(1.0 + EPS), f64(1.0), relation="<=") < 1
    assert compare(f64(1.0), f64(2.0), relation="=") > 1


def test_equal_infinities_agree_and_others_do_not():
    for relation in ("=", "<="):
        assert compare(f64(INF, 1.0), f64(INF, 1.0), relation=relation) == 0
        assert compare(f64(INF), f64(1.0), relation=relation) > 1
    assert compare(f64(-INF), f64(INF)) > 1
    assert compare(f64(1.0), f64(-INF)) > 1


# --- what must never pass -----------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("relation", ["=", "<="])
@pytest.mark.parametrize(
    ("left", "right"), [(NAN, 1.0), (1.0, NAN), (NAN, NAN), (NAN, INF), (NAN, 0.0)]
)
def test_nan_sides_never_pass(tolerance, relation, left, right):
    sides = f64(0.0, left), f64(0.0, right)
    assert compare(*sides, relation=relation, tolerance=tolerance) > 1
    barred = Estimate(sides[0], torch.tensor(0.5))
    assert compare(barred, sides[1], relation=relation, tolerance=tolerance) > 1


@EVERY
@pytest.mark.parametrize("relation", ["=", "<="])
def test_nan_error_bars_never_pass(tolerance, relation):
    bar = f64(NAN)
    for left, right in (
        (Estimate(f64(2.0), bar), f64(1.0)),
        (f64(2.0), Estimate(f64(1.0), bar)),
        (Estimate(f64(NAN), bar), f64(1.0)),
    ):
        assert compare(left, right, relation=relation, tolerance=tolerance) > 1


def test_a_nan_scale_never_passes():
    assert compare(f64(1.0), f64(2.0), scale=NAN) > 1


def test_a_derivative_of_a_function_that_is_not_defined_never_passes():
    tolerance = FiniteDifference()
    estimate = tolerance.derivative(lambda s: torch.log(f64(s - 1.0)))
    assert compare(estimate, f64(0.0), tolerance=tolerance) > 1


@pytest.mark.parametrize(
    ("left", "right"), [((2,), (3,)), ((2, 1), (2,)), ((1,), (2,)), ((), (1,))]
)
def test_sides_of_different_shapes_are_an_error_even_where_they_would_broadcast(left, right):
    with pytest.raises(ValueError, match="the sides have shapes"):
        compare(torch.zeros(left), torch.zeros(right))


def test_the_graph_of_a_side_is_left_alone():
    side = f64(1.0).requires_grad_()
    assert compare(side, f64(1.0)) == 0
    assert compare(Estimate(side, (side * 0.1).abs()), f64(1.05)) < 1


# --- error bars ---------------------------------------------------------------------------------


@EVERY
def test_error_bars_of_both_sides_add_and_nothing_more_is_allowed(tolerance):
    left, right = Estimate(f64(1.0), f64(0.1)), Estimate(f64(1.3), f64(0.1))
    assert_close(compare(left, right, tolerance=tolerance), 1.5)
    assert_close(compare(left, f64(1.05), tolerance=tolerance), 0.5)


def test_an_error_bar_is_elementwise_or_one_for_all():
    value, right = f64(1.0, 2.0), f64(1.1, 2.1)
    assert_close(compare(Estimate(value, f64(0.2, 0.05)), right), 2.0)
    assert_close(compare(Estimate(value, torch.tensor(0.2)), right), 0.5)


# --- finite differences -------------------------------------------------------------------------

SMOOTH = {
    "exp": (lambda s: torch.exp(f64(3 * s, -s)), (3.0, -1.0)),
    "sin": (lambda s: torch.sin(f64(5 * s + 1)), (5 * math.cos(1),)),
    "softmax": (lambda s: torch.softmax(f64(s, 1.0, -2.0), 0)[:1], None),
    "polynomial of degree 5": (lambda s: f64(s**5 - 2 * s**2 + 7 * s), (7.0,)),
    "constant": (lambda s: f64(4.0), (0.0,)),
}


@pytest.mark.parametrize(("f", "exact"), SMOOTH.values(), ids=SMOOTH)
@pytest.mark.parametrize("h", [1e-2, 1e-3, 1e-4])
def test_the_error_bar_of_a_derivative_covers_its_error_and_is_narrow(f, exact, h):
    if exact is None:
        p = f(0.0)
        exact = (p * (1 - p)).tolist()
    tolerance = FiniteDifference(h)
    estimate = tolerance.derivative(f)
    truth = f64(*exact)
    assert bool(((estimate.value - truth).abs() <= estimate.error).all())
    assert bool((estimate.error <= 1e-4 * (1 + truth.abs())).all())
    assert compare(estimate, truth, tolerance=tolerance) < 1
    # Power: a derivative that is off by a part in a thousand is found out.
    assert compare(estimate, truth * 1.001 + 1e-3, tolerance=tolerance) > 1


def test_the_stencil_is_of_fourth_order():
    errors = [
        float((FiniteDifference(h).derivative(lambda s: torch.exp(f64(s))).value - 1).abs())
        for h in (0.2, 0.1, 0.05)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert_close(coarse / fine, 16.0, rtol=0.05, atol=0.0)


def test_a_kink_is_paid_for_by_a_wide_bar():
    estimate = FiniteDifference().derivative(lambda s: f64(abs(s - 1e-3)))
    assert float(estimate.error) > 0.05


# --- Monte Carlo --------------------------------------------------------------------------------


@given(st.floats(0.0, 100.0), st.floats(0.01, 100.0), st.integers(1, 10**6), st.floats(1e-12, 0.1))
def test_the_bar_is_the_root_of_bernsteins_inequality(variance, reach, n, alpha):
    samples = torch.zeros(1, dtype=torch.float64).expand(n)
    estimate = MonteCarlo(n=n, alpha=alpha).mean(
        samples, variance=torch.tensor(variance).double(), reach=torch.tensor(reach).double()
    )
    e = float(estimate.error)
    chance = 2 * math.exp(-n * e**2 / (2 * (variance + reach * e / 3)))
    assert_close(chance, alpha, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("p", [0.5, 0.05, 0.002])
def test_false_alarms_of_sample_means_stay_below_alpha(p):
    # 4000 means of 400 coins: with alpha = 0.05 at most 5 percent may fall outside the bar.
    rounds, n, alpha = 4000, 400, 0.05
    g = torch.Generator().manual_seed(int(1 / p))
    coins = (torch.rand(n, rounds, dtype=torch.float64, generator=g) < p).double()
    estimate = MonteCarlo(n=n, alpha=alpha).mean(
        coins, variance=torch.tensor(p * (1 - p)), reach=torch.tensor(1.0)
    )
    alarms = ((estimate.value - p).abs() > estimate.error).double().mean()
    assert float(alarms) <= alpha
    # And not by being absurdly wide: within a factor of four of the normal 95 percent bar,
    # plus what boundedness alone costs.
    normal = 1.96 * math.sqrt(p * (1 - p) / n)
    assert float(estimate.error) < 4 * normal + 2 * math.log(2 / alpha) / n


def test_a_biased_mean_is_found_out():
    n, p = 20_000, 0.3
    g = torch.Generator().manual_seed(5)
    coins = (torch.rand(n, 1, dtype=torch.float64, generator=g) < p).double()
    estimate = MonteCarlo().mean(coins, variance=torch.tensor(p * (1 - p)), reach=torch.tensor(1.0))
    tolerance = MonteCarlo()
    assert compare(estimate, f64(p), tolerance=tolerance) < 1
    assert compare(estimate, f64(p + 0.04), tolerance=tolerance) > 1
    assert compare(estimate, f64(p - 0.04), tolerance=tolerance) > 1


def test_a_rare_event_that_was_never_drawn_does_not_shrink_the_bar():
    # Weight 1/p with probability p, never drawn: the sample variance would be 0 and the mean 1.
    p, n = 1e-6, 1000
    never = torch.zeros(n, 1, dtype=torch.float64)
    estimate = MonteCarlo(n=n).mean(
        never, variance=torch.tensor(1 / p - 1).double(), reach=torch.tensor(1 / p).double()
    )
    assert compare(estimate, f64(1.0), tolerance=MonteCarlo()) < 1
    assert float(estimate.error) > math.sqrt((1 / p - 1) / n)
