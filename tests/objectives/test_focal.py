"""Focal loss: the gradient of the whole loss, its factor included."""

import math

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import focal, sft

P = torch.tensor([0.0, 1e-9, 1e-3, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_the_gradient_is_that_of_the_focal_loss(gamma, small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -((1 - p) ** gamma) * p.log()

    assert_close(small.surrogate(focal(gamma)), small.published(loss), rtol=1e-11, atol=1e-12)


def test_exponent_zero_is_sft_and_any_other_weight_falls_from_one_to_zero():
    assert_close(focal(0.0).weight_at(P), sft.weight_at(P))
    for gamma in (0.5, 2.0):
        weight = focal(gamma).weight_at(P)
        assert weight[0] == 1
        assert weight[-1] == 0


def test_with_the_factor_held_constant_it_would_be_another_objective(small):
    def held(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -((1 - p.detach()) ** 2) * p.log()

    assert (small.surrogate(focal(2.0)) - small.published(held)).abs().max() > 0.05


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_the_potential_of_a_certain_token_has_the_weight_as_slope_and_no_nan(gamma):
    logp = torch.tensor([[0.0, -1e-12, -0.5]], dtype=torch.float64, requires_grad=True)
    t = TokenStats(logp=logp, mask=torch.ones(1, 3, dtype=torch.bool))
    (slope,) = torch.autograd.grad(focal(gamma).potential(t).sum(), logp)
    assert_close(-slope, focal(gamma).weight(t.detach()))


@pytest.mark.parametrize("gamma", [-0.1, math.nan])
def test_a_negative_exponent_is_refused(gamma):
    with pytest.raises(ValueError, match="exponent of the focal loss is at least 0"):
        focal(gamma)
