"""IDFT: an exponent from the centred log-likelihood, cut on both sides."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import idft, power


@pytest.mark.parametrize(("beta", "low", "high"), [(1.0, 0.1, 2.0), (0.5, 0.3, 1.5)])
def test_the_gradient_is_that_of_the_weighted_cross_entropy(beta, low, high, small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])[:, 0]
        entropy = -(pi * pi.log()).sum(-1)
        exponent = (1 / (p * entropy.exp())) ** (1 / beta)
        return -(p ** exponent.clamp(low, high)).detach() * p.log()

    found = small.surrogate(idft(beta, low, high))
    assert_close(found, small.published(loss), rtol=1e-11, atol=1e-13)


def test_on_even_distributions_it_is_dft_and_for_the_rarest_tokens_p_squared(small):
    even = small.stats(torch.zeros_like(small.logits))
    assert_close(idft().weight(even)[even.mask], torch.full((int(even.mask.sum()),), 0.2).double())
    sharp = small.stats(60 * small.logits)
    rare = sharp.mask & (sharp.logp < -10)
    assert bool(rare.any())
    assert_close(idft().weight(sharp)[rare], power(2.0).weight(sharp)[rare])


@pytest.mark.parametrize(("beta", "low", "high"), [(0.0, 0.1, 2.0), (1.0, 0.0, 2.0), (1.0, 2, 1)])
def test_bad_parameters_are_refused(beta, low, high):
    with pytest.raises(ValueError, match="needs beta > 0 and 0 < low < high"):
        idft(beta, low, high)
