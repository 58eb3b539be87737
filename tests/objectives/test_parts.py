"""Log-ratios at impossible tokens, weighted log-likelihoods, shares, and choices by name."""

import math

import pytest
import torch

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.parts import (
    log_ratio,
    one_of,
    real,
    spread_over_tokens,
    weighted_nll,
)

INF = math.inf


def test_a_ratio_with_zero_above_is_zero_and_below_is_large_never_nan():
    pi = torch.tensor([-1.0, -INF, -INF, -1.0])
    base = torch.tensor([-2.0, -2.0, -INF, -INF])
    found = log_ratio(pi, base)
    assert found[:3].tolist() == [1.0, -INF, -INF]
    assert found[3].item() > 1e29
    assert found[3].isfinite()


def test_a_weight_of_zero_costs_nothing_where_the_token_is_impossible():
    t = TokenStats(logp=torch.tensor([[-INF, -INF, -0.5]]), mask=torch.ones(1, 3, dtype=torch.bool))
    assert weighted_nll(torch.tensor([[0.0, 2.0, 3.0]]), t).tolist() == [[0.0, INF, 1.5]]


def test_a_response_shares_its_value_over_its_own_tokens():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    t = TokenStats(logp=torch.zeros(2, 3), mask=mask)
    assert spread_over_tokens(torch.tensor([[6.0], [INF]]), t).tolist() == [
        [3.0, 0.0, 3.0],
        [0.0, 0.0, 0.0],
    ]


def test_an_empty_response_has_a_gradient_of_zero():
    total = torch.tensor([[6.0], [6.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    t = TokenStats(logp=torch.zeros(2, 3), mask=mask)
    (found,) = torch.autograd.grad(spread_over_tokens(total, t).sum(), total)
    assert found.tolist() == [[1.0], [0.0]]


def test_a_weight_counted_in_another_dtype_takes_that_of_the_log_probabilities():
    t = TokenStats(logp=torch.tensor([[-0.5, -2.0]]), mask=torch.ones(1, 2, dtype=torch.bool))
    for dtype in (torch.float64, torch.int64, torch.bool):
        found = weighted_nll(torch.tensor([[1, 0]]).to(dtype), t)
        assert found.dtype == torch.float32
        assert found.tolist() == [[0.5, 0.0]]


def test_counted_rewards_become_real_numbers_and_real_ones_stay():
    assert real(torch.tensor([True, False])).tolist() == [1.0, 0.0]
    assert real(torch.tensor([3, -2])).dtype == torch.float32
    doubles = torch.zeros(2, dtype=torch.float64)
    assert real(doubles) is doubles


def test_a_misspelt_choice_is_refused_with_the_known_ones():
    one_of(("mean", "sum"), "sum", "accumulate")
    with pytest.raises(ValueError, match="accumulate knows mean, sum, not 'Sum'"):
        one_of(("mean", "sum"), "Sum", "accumulate")
