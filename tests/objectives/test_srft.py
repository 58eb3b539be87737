"""SRFT's weight with the sign of the paper and the sign of the code."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import srft_weight


@pytest.mark.parametrize(("form", "sign"), [("paper", -1), ("code", 1)])
def test_the_gradient_is_that_of_the_entropy_weighted_cross_entropy(form, sign, small):
    def loss(pi, y, _):
        entropy = torch.special.entr(pi).sum(-1).detach()
        return -0.5 * torch.exp(sign * entropy) * pi.gather(1, y[:, None])[:, 0].log()

    found = small.surrogate(srft_weight(form))
    assert_close(found, small.published(loss), rtol=1e-12, atol=1e-13)


def test_the_two_signs_order_states_oppositely(small):
    stats = small.stats()
    product = srft_weight("paper").weight(stats) * srft_weight("code").weight(stats)
    assert_close(product, torch.full_like(product, 0.25))


def test_there_is_no_third_form():
    with pytest.raises(ValueError, match="knows paper, code, not 'blog'"):
        srft_weight("blog")
