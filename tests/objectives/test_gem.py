"""GEM: the tempered copy, the flatter optimum, and the single continuation that stays one."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import gem, sft


def test_the_gradient_is_that_of_the_released_linear_loss(small):
    def loss(pi, y, _):
        q = (pi.log() / 0.7).softmax(-1).detach()
        gold = pi.gather(1, y[:, None]).log()
        return -(q * (gold - pi.log())).sum(-1)

    assert_close(small.surrogate(gem(0.7)), small.published(loss), rtol=1e-12, atol=1e-13)


def test_beta_one_is_sft(small):
    assert_close(small.surrogate(gem(1.0)), small.surrogate(sft), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta", [0.3, 0.7, 1.5])
def test_the_optimum_is_a_stationary_point_for_every_demonstration_at_once(beta):
    r = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    p = gem(beta).optimum(r)
    assert_close(p, r**beta / (r**beta).sum())
    # The mean of e_y - softmax(log p / beta) over the data.
    assert_close((p.log() / beta).softmax(0), r)
    assert gem(beta).optimum(torch.tensor([1.0, 0.0])).tolist() == [1.0, 0.0]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="beta is a temperature above 0"):
        gem(0.0)
