"""f-divergence SFT: the derivative of phi written down again, the poles, the KL optimum."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, f_divergence

KINDS = ("kl", "hellinger", "js", "chi2")
SLOPES = {
    "kl": lambda x: np.exp(-x - 1),
    "hellinger": lambda x: 1 / (1 + x) ** 2,
    "js": lambda x: np.exp(-x) / (2 - np.exp(-x)),
    "chi2": lambda x: 1 - x,
}
POLES = {"kl": -np.inf, "hellinger": -1.0, "js": -math.log(2), "chi2": -np.inf}


def ratios(x: torch.Tensor) -> TokenStats:
    """Statistics whose log-ratio to the reference is x `[n]`."""
    logp = x.unsqueeze(0) - 40.0
    mask = torch.ones_like(logp, dtype=torch.bool)
    return TokenStats(logp=logp, mask=mask, ref_logp=torch.full_like(logp, -40.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_is_the_slope_where_the_cap_is_not_reached_and_the_cap_below(kind):
    x = torch.linspace(-22, 3, 501, dtype=torch.float64)
    expected = np.full(501, 10.0)
    valid = 0.5 * x.numpy() > POLES[kind]
    expected[valid] = np.minimum(SLOPES[kind](0.5 * x.numpy()[valid]), 10.0)
    found = f_divergence(kind, 0.5).weight(ratios(x))[0].numpy()
    assert_close(found, 0.5 * expected)
    assert np.isclose(found, 5.0).any()  # the cap acts somewhere


@pytest.mark.parametrize("kind", KINDS)
def test_weights_fall_as_the_ratio_rises(kind):
    x = torch.linspace(-30, 30, 400, dtype=torch.float64)
    w = f_divergence(kind).weight(ratios(x))[0]
    assert bool((w.diff() <= 0).all())
    assert bool((w.diff() < 0).any())


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_of_the_potential_passes_on_both_sides_of_the_cap(kind):
    x = torch.tensor([-7.0, -3.1, -0.2, 0.0, 0.4], dtype=torch.float64, requires_grad=True)
    objective = f_divergence(kind)
    value = lambda x: objective.potential_value(ratios(x), reduction=SumOver())  # noqa: E731
    assert torch.autograd.gradcheck(value, (x,))
    assert_close(torch.autograd.grad(value(x), x)[0], -objective.weight(ratios(x.detach()))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_surrogate_of_a_batch_has_these_weights(batch, kind):
    def loss(logp):
        x = (logp - batch.ref).detach().numpy()
        # Beyond its pole the slope means nothing; the cap stands there.
        with np.errstate(all="ignore"):
            w = np.where(x > POLES[kind], np.minimum(SLOPES[kind](x), 10.0), 10.0)
        return -(torch.from_numpy(w) * logp).sum()

    assert_close(batch.gradient(f_divergence(kind)), batch.published(loss))


@pytest.mark.parametrize("kind", KINDS)
def test_an_impossible_token_has_the_capped_weight_and_no_nan(kind):
    t = ratios(torch.tensor([-math.inf, 0.0], dtype=torch.float64))
    objective = f_divergence(kind, 0.5)
    assert_close(objective.weight(t)[0, 0].item(), 5.0)
    assert objective.potential(t)[0, 0] == math.inf


def test_the_optimum_under_kl_lies_between_data_and_reference():
    r = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    b = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    for beta in (0.5, 1.0):
        geometric = (r * b**beta) ** (1 / (1 + beta))
        found = f_divergence("kl", beta).optimum(r, b)
        assert_close(found, geometric / geometric.sum())
    assert f_divergence("js").optimum is None


def test_parameters_without_meaning_are_refused():
    with pytest.raises(ValueError, match="kl, hellinger, js, chi2, not 'tv'"):
        f_divergence("tv")
    with pytest.raises(ValueError, match="beta > 0 and cap > 1"):
        f_divergence("kl", 0.0)
    with pytest.raises(ValueError, match="beta > 0 and cap > 1"):
        f_divergence("kl", cap=1.0)
