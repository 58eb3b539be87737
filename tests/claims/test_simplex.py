"""The search that several claims rest on finds known minima, within its own bar."""

import pytest
import torch

from dft_theory.claims.entropy import divergence
from dft_theory.claims.simplex import minimiser


@pytest.mark.parametrize("size", [2, 5, 9])
def test_search_ends_at_the_law_that_it_is_told_to_imitate(size: int) -> None:
    law = torch.softmax(torch.arange(size, dtype=torch.float64) / 2, -1)
    found = minimiser(lambda m: divergence(m, law), size)
    assert (found.value - law).abs().max() <= found.error
    assert found.error < 1e-5


def test_search_finds_the_softmax_of_a_linear_cost() -> None:
    cost = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    found = minimiser(lambda m: m @ cost + torch.xlogy(m, m).sum(), 3)
    assert (found.value - torch.softmax(-cost, -1)).abs().max() <= found.error


def test_the_bar_says_so_where_searches_end_apart() -> None:
    # Not convex: each start ends at the vertex nearest to it.
    found = minimiser(lambda m: -m.square().sum(), 3)
    assert found.error > 1
