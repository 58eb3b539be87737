"""The lower-bound claims: their geometry, and the traps that a bad choice of q would hide."""

import pytest
import torch

from dft_theory.claims import Scope
from dft_theory.claims import lower_bounds as lb


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope.standard()


def test_good_responses_are_some_but_not_all(scope: Scope) -> None:
    for case in lb.curated(scope):
        assert 2 <= len(case.good) < case.terms
        assert len(case.good.unique()) == len(case.good)


def test_both_routes_agree_on_both_laws(scope: Scope) -> None:
    for case in lb.curated(scope):
        torch.testing.assert_close(case.pi.log(), case.log_pi)
        torch.testing.assert_close(case.ref.log(), case.log_ref)


def test_a_distant_q_would_hide_a_wrong_constant(scope: Scope) -> None:
    case = lb.curated(scope)[0]
    hidden = lb.Weighted(case, max(lb.NEAR))
    assert lb.bound(hidden.q, case.log_pi, 1.3) < case.reward
    assert lb.bound(case.pi, case.log_pi, 1.001) > case.reward


def test_bound_is_sfts_at_zero_and_the_reward_at_one(scope: Scope) -> None:
    for case in lb.curated(scope):
        ends = lb.on_path(case, 0.0, 1.0)
        torch.testing.assert_close(ends[0], lb.bound(case.ref, case.log_pi))
        torch.testing.assert_close(ends[1], case.reward)


def test_bar_of_the_parabola_shrinks_with_the_distance() -> None:
    bars = [float(lb.Nearby(2.5, e, 0).gain().error) for e in (1e-1, 1e-2, 1e-3)]
    assert bars[0] > 8 * bars[1] > 64 * bars[2]
