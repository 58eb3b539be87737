"""1 / pi: its overflow, the effective sample size of such weights, and what sampling would cost."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory.importance_weight import (
    effective_sample_size,
    importance_weight,
    log10_samples_needed,
)

WEIGHTS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30)


@given(st.lists(st.floats(1e-300, 1.0), min_size=1, max_size=10))
def test_importance_weight_times_probability_is_one(p):
    probability = torch.tensor(p, dtype=torch.float64)
    assert_close(importance_weight(probability.log()) * probability, torch.ones_like(probability),
                 rtol=1e-12, atol=0.0)  # fmt: skip


def test_importance_weight_overflows_to_infinity_and_is_infinite_at_probability_zero():
    found = importance_weight(torch.tensor([0.0, -1e4, -math.inf], dtype=torch.float64))
    assert found.tolist() == [1.0, math.inf, math.inf]


@given(WEIGHTS)
def test_effective_sample_size_is_square_of_the_sum_over_sum_of_squares(weights):
    w = np.array(weights)
    found = effective_sample_size(torch.tensor(w).log())
    assert_close(found, float(w.sum() ** 2 / (w**2).sum()), rtol=1e-10, atol=0.0)
    assert 1 - 1e-9 <= found <= len(w) * (1 + 1e-9)


@given(WEIGHTS, st.floats(-5000, 5000))
def test_effective_sample_size_does_not_depend_on_the_scale_of_the_weights(weights, shift):
    log_weight = torch.tensor(weights, dtype=torch.float64).log()
    assert_close(effective_sample_size(log_weight + shift), effective_sample_size(log_weight),
                 rtol=1e-8, atol=0.0)  # fmt: skip


def test_equal_weights_count_in_full_and_one_dominant_weight_counts_alone():
    assert_close(effective_sample_size(torch.full((17,), 3.0)), 17.0)
    assert_close(effective_sample_size(torch.tensor([4000.0, 0.0, 1.0])), 1.0)


@pytest.mark.parametrize("log_weight", [[], [-math.inf], [-math.inf, -math.inf]])
def test_no_weight_has_effective_sample_size_zero(log_weight):
    assert effective_sample_size(torch.tensor(log_weight)) == 0.0


def test_weights_of_zero_are_as_good_as_absent():
    some = torch.tensor([0.3, -1.0, 0.0], dtype=torch.float64)
    padded = torch.cat([some, torch.full((5,), -math.inf, dtype=torch.float64)])
    assert_close(effective_sample_size(padded), effective_sample_size(some))


@given(st.floats(1e-12, 0.999), st.floats(1e-3, 1.0))
def test_samples_needed_bring_the_relative_variance_to_the_square_of_the_error(p, error):
    n = 10 ** log10_samples_needed(math.log(p), relative_error=error)
    # One sample of 1[y = y*] / p has mean 1 and variance 1/p - 1.
    assert_close((1 / p - 1) / n, error**2, rtol=1e-6, atol=0.0)


def test_samples_needed_for_a_real_solution_stay_finite_where_one_over_pi_overflows():
    assert_close(log10_samples_needed(-2000.0), 2000 / math.log(10) + 2)
    assert log10_samples_needed(0.0) == -math.inf
