"""DEFT: two exponents of each token's own, one of them with a potential by quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import deft_cayley, deft_cayley_fixed, deft_renyi, dft


def exponent(p, a):
    """Alpha between alpha_0 and 1, along p / (2 - p)."""
    return a + (1 - a) * p / (2 - p)


def at(p: torch.Tensor) -> TokenStats:
    logp = p.log().unsqueeze(0)
    return TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))


@pytest.mark.parametrize("a", [0.05, 0.25, 0.5, 1.0])
def test_the_potential_is_the_integral_of_the_slope(a):
    p = [1e-12, 1e-3, 0.1, 0.5, 0.99, 1.0]
    found = deft_cayley_fixed(a).potential(at(torch.tensor(p, dtype=torch.float64)))[0]
    # Over log u, where the integrand decays like e^(a log u).
    expected = [
        quad(lambda x: math.exp(exponent(math.exp(x), a) * x), math.log(q), 0, epsabs=1e-13,
             epsrel=1e-12, limit=500)[0]
        for q in p
    ]  # fmt: skip
    assert_close(found.numpy(), np.array(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("a", [0.05, 0.25, 0.5, 0.9])
def test_its_slope_is_the_weight_to_rounding(a):
    p = torch.tensor([0.0, 1e-300, 1e-30, 1e-3, 0.2, 0.9, 1.0], dtype=torch.float64)
    logp = p.log().requires_grad_()
    t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    (slope,) = torch.autograd.grad(deft_cayley_fixed(a).potential(t).sum(), logp)
    assert_close(-slope, deft_cayley_fixed(a).weight_at(p), rtol=0.0, atol=1e-14)


def test_the_gradient_of_the_fixed_form_takes_the_exponent_as_constant(small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p ** exponent(p, 0.25)).detach() * p.log()

    found = small.surrogate(deft_cayley_fixed(0.25))
    assert_close(found, small.published(loss), rtol=1e-12, atol=1e-13)
    assert_close(
        small.surrogate(deft_cayley_fixed(1.0)), small.surrogate(dft), rtol=1e-12, atol=1e-14
    )


def test_the_batch_sets_the_exponent_to_half_its_mean_probability(small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p ** exponent(p, p.mean() / 2)).detach() * p.log()

    assert_close(small.surrogate(deft_cayley), small.published(loss), rtol=1e-12, atol=1e-13)


def test_a_batch_without_a_possible_target_has_the_limit_weight_one():
    logp = torch.full((1, 2), -math.inf)
    t = TokenStats(logp=logp, mask=torch.ones(1, 2, dtype=torch.bool))
    assert deft_cayley.weight(t).tolist() == [[1.0, 1.0]]
    assert deft_cayley_fixed(0.25).weight(t).tolist() == [[0.0, 0.0]]


def test_the_renyi_exponent_is_the_collision_probability(small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p ** (pi**2).sum(-1, keepdim=True)).detach() * p.log()

    assert_close(small.surrogate(deft_renyi), small.published(loss), rtol=1e-12, atol=1e-13)
    even = small.stats(torch.zeros_like(small.logits))
    assert_close(deft_renyi.weight(even), torch.full_like(even.logp, 0.2**0.2).masked_fill(
        ~even.mask, 1.0))  # fmt: skip


@pytest.mark.parametrize("a", [0.0, -0.5, 1.1, math.nan])
def test_an_exponent_outside_of_its_range_is_refused(a):
    with pytest.raises(ValueError, match=r"exponent at p = 0 lies in \(0, 1\]"):
        deft_cayley_fixed(a)
