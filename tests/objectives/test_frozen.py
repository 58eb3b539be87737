"""Log-ratios at impossible tokens, weights that do not move, and a response's share."""

import math

import torch

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.frozen import held, log_ratio, shared

INF = math.inf


def test_a_ratio_with_zero_above_is_zero_and_below_is_large_never_nan():
    pi = torch.tensor([-1.0, -INF, -INF, -1.0])
    frozen = torch.tensor([-2.0, -2.0, -INF, -INF])
    found = log_ratio(pi, frozen)
    assert found[:3].tolist() == [1.0, -INF, -INF]
    assert found[3].item() > 1e29
    assert found[3].isfinite()


def test_a_weight_of_zero_costs_nothing_where_the_token_is_impossible():
    t = TokenStats(logp=torch.tensor([[-INF, -INF, -0.5]]), mask=torch.ones(1, 3, dtype=torch.bool))
    assert held(torch.tensor([[0.0, 2.0, 3.0]]), t).tolist() == [[0.0, INF, 1.5]]


def test_a_response_shares_its_value_over_its_own_tokens():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    t = TokenStats(logp=torch.zeros(2, 3), mask=mask)
    assert shared(torch.tensor([[6.0], [INF]]), t).tolist() == [[3.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
