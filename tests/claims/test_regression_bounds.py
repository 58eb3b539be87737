"""DFT's bound: its sign, its order before training, and the constant policy."""

import pytest
import torch

from dft_theory.claims import Scope
from dft_theory.claims import regression_bounds as rb
from dft_theory.claims.lower_bounds import curated


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope.standard()


def test_surrogate_gap_is_never_negative(scope: Scope) -> None:
    assert all(rb.surrogate_gap(case) >= 0 for case in curated(scope))


def test_dft_bound_never_exceeds_the_reward_nor_sfts_before_training(scope: Scope) -> None:
    for case in rb.untrained(scope):
        assert bool((rb.dft_bounds(case) < case.reward).all())


def test_the_constant_policy_comes_first_and_has_a_gap(scope: Scope) -> None:
    case = rb.uniform_reference(scope)[0]
    assert rb.is_constant(case)
    assert float(rb.gap(case)) == pytest.approx(1 / 3 - 1 + torch.tensor(3.0).log().item())


def test_with_all_mass_on_the_good_responses_the_bound_is_tight_for_any_policy(
    scope: Scope,
) -> None:
    case = rb.uniform_reference(scope)[1]
    assert not rb.is_constant(case)
    assert float(case.reward) == pytest.approx(1)
    assert float(rb.spread_where_tight(case)) > 0.01
    assert all(float(rb.spread_where_tight(c)) == 0 for c in rb.uniform_reference(scope)[2:])
