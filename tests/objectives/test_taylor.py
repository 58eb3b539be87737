"""Taylor cross-entropy: the first terms of -log p, DFT at order 1."""

import math

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import dft, taylor

P = torch.tensor([1e-9, 1e-3, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_gradient_is_that_of_the_cut_off_series(order, small):
    def loss(pi, y, _):
        q = 1 - pi.gather(1, y[:, None])
        return sum(q**i / i for i in range(1, order + 1))

    assert_close(small.surrogate(taylor(order)), small.published(loss), rtol=1e-12, atol=1e-13)


def test_order_one_is_dft():
    assert_close(taylor(1).weight_at(P), dft.weight_at(P), rtol=1e-14, atol=0.0)


def test_a_high_order_is_sft_for_tokens_well_above_one_over_t_and_t_times_dft_below():
    weight = taylor(100).weight_at(torch.tensor([1e-9, 0.5], dtype=torch.float64))
    assert_close(weight[1].item(), 1.0, rtol=1e-12, atol=0.0)
    assert_close(weight[0].item(), 100e-9, rtol=1e-6, atol=0.0)


def test_no_multiple_of_one_over_t_bounds_the_distance_to_sft():
    # At p = 1/t the weight stays at 1 - 1/e: why the end t -> infinity is not a declared limit.
    for order in (10, 100):
        p = torch.tensor([1 / order], dtype=torch.float64)
        missing = 1 - taylor(order).weight_at(p).item()
        assert abs(missing - 1 / math.e) < 0.03
        assert missing * order / math.log(order) > order**0.4 / 2
    assert not taylor(3).limits


@pytest.mark.parametrize("order", [0, -1, 1.5])
def test_an_order_that_is_no_natural_number_is_refused(order):
    with pytest.raises(ValueError, match="order of a Taylor series is a whole number >= 1"):
        taylor(order)
