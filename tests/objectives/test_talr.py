"""TALR: the batch's temperature, the floor, and the simplex of the derivation."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import power, talr, talr_fixed, talr_normalised


def losses_and_temperature(stats) -> tuple[np.ndarray, float]:
    """Token losses of each response, and the median of their means, in numpy."""
    rows = [-stats.logp[b][stats.mask[b]].numpy() for b in range(len(stats.logp))]
    return np.concatenate(rows), float(np.median([r.mean() for r in rows]))


def test_the_weights_are_those_of_the_batch_temperature_with_a_floor(small):
    stats = small.stats()
    losses, tau = losses_and_temperature(stats)
    found = talr.weight(stats)[stats.mask].numpy()
    assert_close(found, np.maximum(np.exp(-losses / tau), 0.01), rtol=1e-12, atol=0.0)


def test_the_gradient_takes_weights_and_temperature_as_constants(small):
    _, tau = losses_and_temperature(small.stats())

    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p.detach() ** (1 / tau)).clamp(min=0.01) * p.log()

    assert_close(small.surrogate(talr), small.published(loss), rtol=1e-11, atol=1e-13)


def test_the_normalised_weights_minimise_the_entropic_objective_on_the_simplex(small):
    stats = small.stats()
    losses, tau = losses_and_temperature(stats)
    found = talr_normalised.weight(stats)[stats.mask].numpy()
    n = len(losses)

    def objective(w: np.ndarray) -> float:
        return float(w @ losses + tau * (w * np.log(w)).sum())

    best = minimize(
        objective,
        np.full(n, 1 / n),
        bounds=[(1e-9, 1)] * n,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    assert_close(found.sum(), 1.0)
    assert_close(found, best.x, rtol=0.0, atol=1e-4)


def test_a_batch_of_certain_tokens_has_weights_of_one_and_no_nan():
    t = TokenStats(logp=torch.zeros(1, 3), mask=torch.ones(1, 3, dtype=torch.bool))
    assert talr.weight(t).tolist() == [[1.0, 1.0, 1.0]]


def test_the_temperature_skips_empty_responses_and_survives_an_impossible_token():
    logp = torch.tensor([[-1.0, -3.0], [0.0, 0.0], [-torch.inf, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [False, False], [True, True]])
    weight = talr.weight(TokenStats(logp=logp[:2], mask=mask[:2]))
    assert_close(weight[0], (torch.tensor([-1.0, -3.0]).double() / 2).exp())
    for objective in (talr, talr_normalised):
        alone = objective.weight(TokenStats(logp=logp[2:], mask=mask[2:]))
        assert bool(alone.isfinite().all())


def test_at_a_fixed_temperature_it_is_a_power_of_p_with_a_floor(small):
    p = torch.linspace(0.2, 1, 50, dtype=torch.float64)
    assert_close(talr_fixed(0.5).weight_at(p), power(2.0).weight_at(p))

    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p.detach() ** 2).clamp(min=0.3) * p.log()

    found = small.surrogate(talr_fixed(0.5, floor=0.3))
    assert_close(found, small.published(loss), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("tau", "floor"), [(0.0, 0.1), (-1.0, 0.1), (1.0, 0.0), (1.0, 1.0)])
def test_bad_parameters_are_refused(tau, floor):
    with pytest.raises(ValueError, match=r"needs tau > 0 and a floor in \(0, 1\)"):
        talr_fixed(tau, floor)
