"""The three levels of DFT on responses of different lengths."""

import math

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, dft, dft_geometric, dft_sequence

NAN = math.nan


def ragged() -> TokenStats:
    """Target probabilities (1/2, 1/4, 1/8), (1/3) and none at all."""
    p = torch.tensor([[1 / 2, 1 / 4, 1 / 8], [1.0, 1 / 3, 1.0], [1.0, 1.0, 1.0]]).double()
    mask = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()
    return TokenStats(logp=p.log().requires_grad_(), mask=mask)


WEIGHTS = {
    "dft": (dft, [[1 / 2, 1 / 4, 1 / 8], [0, 1 / 3, 0], [0, 0, 0]]),
    "dft-sequence": (dft_sequence, [[1 / 64] * 3, [0, 1 / 3, 0], [0, 0, 0]]),
    "dft-geometric": (dft_geometric, [[1 / 4] * 3, [0, 1 / 3, 0], [0, 0, 0]]),
}
POTENTIALS = {
    "dft": (dft, -1 / 2 - 1 / 4 - 1 / 8 - 1 / 3),
    "dft-sequence": (dft_sequence, -1 / 64 - 1 / 3),
    "dft-geometric": (dft_geometric, -3 / 4 - 1 / 3),
}


@pytest.mark.parametrize(("objective", "expected"), WEIGHTS.values(), ids=WEIGHTS)
def test_gradient_in_logp_is_minus_the_weight_and_zero_off_the_mask(objective, expected):
    t = ragged()
    objective.surrogate(t, reduction=SumOver()).backward()
    assert_close(t.logp.grad, -torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("objective", "expected"), POTENTIALS.values(), ids=POTENTIALS)
def test_potential_of_a_ragged_batch_at_hand_computed_probabilities(objective, expected):
    t = ragged()
    found = objective.potential_value(t, reduction=SumOver())
    assert_close(found.item(), expected)


def test_the_three_levels_agree_on_responses_of_one_token():
    logp = torch.tensor([[-0.1], [-2.0]], dtype=torch.float64)
    t = TokenStats(logp=logp, mask=torch.ones(2, 1, dtype=torch.bool))
    assert_close(dft_sequence.weight(t), dft.weight(t))
    assert_close(dft_geometric.weight(t), dft.weight(t))


def test_the_sequence_weight_of_a_long_response_vanishes_where_the_geometric_one_does_not():
    logp = torch.full((1, 2000), -1.0)
    t = TokenStats(logp=logp, mask=torch.ones(1, 2000, dtype=torch.bool))
    assert dft_sequence.weight(t).item() == 0
    assert_close(dft_geometric.weight(t).item(), math.exp(-1))


def test_the_optimum_is_the_mode():
    r = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for objective in (dft, dft_sequence):
        assert objective.optimum(r).tolist() == [0.0, 1.0, 0.0]


def test_the_geometric_mean_ends_at_the_mode_for_one_token_and_not_for_two():
    # Two responses of two tokens that differ in the first: the second has probability 1.
    r = torch.tensor([0.6, 0.4], dtype=torch.float64)
    p = torch.linspace(0, 1, 1001, dtype=torch.float64)

    def mean_potential(tokens: int) -> torch.Tensor:
        def potential(first: torch.Tensor) -> torch.Tensor:
            logp = torch.zeros(len(first), tokens, dtype=torch.float64)
            logp[:, 0] = first.log()
            t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
            return dft_geometric.potential(t).sum(-1)

        return r[0] * potential(p) + r[1] * potential(1 - p)

    assert p[mean_potential(1).argmin()] == 1
    assert_close(p[mean_potential(2).argmin()], 0.36 / (0.36 + 0.16) + 0 * r[0], rtol=0, atol=1e-3)
    assert dft_geometric.optimum is None
