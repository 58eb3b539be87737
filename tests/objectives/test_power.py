"""The family p^alpha: generalised cross-entropy, and the tempered distribution it leads to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import dft, power, sft

P = torch.linspace(0.01, 1, 100, dtype=torch.float64)


def potential(alpha: float, p: torch.Tensor) -> torch.Tensor:
    logp = p.log().unsqueeze(-1)
    t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    return power(alpha).potential(t).squeeze(-1)


@given(st.floats(-3.0, -0.05) | st.floats(0.05, 3.0))
def test_the_potential_is_the_generalised_cross_entropy(alpha):
    assert_close(potential(alpha, P), (1 - P**alpha) / alpha)


@given(st.floats(1e-12, 1e-6))
def test_the_potential_tends_to_the_log_loss_without_cancelling(alpha):
    assert_close(potential(alpha, P), -P.log(), rtol=1e-5, atol=1e-12)


def test_the_ends_of_the_family_are_sft_and_dft():
    assert_close(power(0.0).weight_at(P), sft.weight_at(P))
    assert_close(power(1.0).weight_at(P), dft.weight_at(P))
    assert_close(potential(0.0, P), -P.log())
    assert_close(potential(1.0, P), 1 - P)


@pytest.mark.parametrize("alpha", [-2.0, -0.5, 0.0, 0.3, 0.5, 0.9])
def test_the_optimum_is_the_data_distribution_sharpened_by_one_over_one_minus_alpha(alpha):
    r = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    sharp = r ** (1 / (1 - alpha))
    assert_close(power(alpha).optimum(r), sharp / sharp.sum())


def test_at_one_the_optimum_is_the_mode_and_beyond_it_none_is_declared():
    assert power(1.0).optimum(torch.tensor([0.2, 0.5, 0.3])).tolist() == [0.0, 1.0, 0.0]
    assert power(2.0).optimum is None
