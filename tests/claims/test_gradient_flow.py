"""The gradient-flow claims: what they rest on, and that their error bars are honest."""

import pytest
import torch

from dft_theory.claims import Scope
from dft_theory.claims import gradient_flow as gf
from dft_theory.claims import population_optima as po
from dft_theory.dynamics import escape_time
from dft_theory.objectives import dft, power, sft

NAMED = {claim.name: claim for claim in (*gf.CLAIMS, *po.CLAIMS)}


@pytest.fixture(scope="module")
def scope() -> Scope:
    return Scope.standard()


def test_weights_of_the_claims_are_the_catalogues() -> None:
    assert gf.weighted_by(0.0) is sft
    assert gf.weighted_by(1.0) is dft
    p = torch.tensor([0.1, 0.7], dtype=torch.float64)
    torch.testing.assert_close(gf.weighted_by(0.3).weight_at(p), p**0.3)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_error_bar_covers_the_error_and_stays_small(alpha: float) -> None:
    case = gf.Escape(alpha, 5, 0.01, 0.9)
    error = abs(float(case.time.value) - escape_time(0.01, 0.9, alpha=alpha, vocab=5))
    bar = float(case.time.error)
    assert error <= bar
    assert bar < 1e-5 * float(case.time.value)


def test_escape_starts_at_p0_whatever_the_rivals() -> None:
    for uneven in (False, True):
        start = gf.Escape(1.0, 20, 0.03, uneven=uneven).start
        assert float(torch.softmax(start, -1)[0]) == pytest.approx(0.03, rel=1e-12)


def test_uneven_rivals_are_strictly_between_the_bounds() -> None:
    case = gf.Escape(1.0, 5, 0.01, 0.7, uneven=True)
    low, high = case.closed(vocab=2), case.closed()
    assert float(low) * 1.01 < float(case.time.value) < float(high) * 0.99


@pytest.mark.parametrize("p0", [1e-2, 1e-4, 1e-6])
def test_bars_of_the_laws_hold_and_shrink(p0: float) -> None:
    one = gf.Escape(0.0, 2, p0)
    law = gf.sft_law(one)
    assert abs(2 * one.closed() - law.value) <= law.error
    assert float(law.error) == 4 * p0
    for alpha in (0.3, 1.0, 2.0):
        case = gf.Escape(alpha, 2, p0)
        law = gf.power_law(case)
        assert abs(2 * alpha * p0**alpha * case.closed() - 1) <= law.error
        assert law.error < gf.power_law(gf.Escape(alpha, 2, 10 * p0)).error


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rest_bar_covers_the_distance_to_the_end(alpha: float) -> None:
    case = po.Data(alpha, (0.2, 0.5, 0.3), (0.6, 0.1, 0.3))
    predicted = gf.weighted_by(alpha).optimum(case.demos)
    assert (case.end.value - predicted).abs().max() <= case.end.error
    assert case.end.error < 1e-4


def test_published_reading_is_refuted_by_every_data_set(scope: Scope) -> None:
    cases = NAMED["dft-learns-the-mode"].cases(scope)
    assert len(cases) >= 3
    for case in cases:
        assert (case.end.value - case.demos).abs().max() > 1000 * case.end.error


def test_data_with_two_modes_are_excluded() -> None:
    tie = po.Data(1.0, (0.4, 0.4, 0.2), (0.5, 0.3, 0.2))
    assert not po.ONE_MODE.holds(tie)
    path = tie.path(torch.tensor([1e6], dtype=torch.float64))
    assert 0.5 < float(path[0, 0]) < 0.999  # a mixture: the tie is not broken


def test_update_at_the_data_vanishes_for_sft_alone() -> None:
    r = (0.5, 0.3, 0.2)
    assert po.Data(0.0, r, r).gradient_at_data().abs().max() < 1e-15
    expected = torch.tensor([0.5 * 0.12, 0.3 * -0.08, 0.2 * -0.18], dtype=torch.float64)
    torch.testing.assert_close(po.Data(1.0, r, r).gradient_at_data(), expected)


def test_starts_close_to_the_separatrix_part() -> None:
    low, high = (po.Locked(power_of, (0.7, 0.3), f) for power_of, f in ((2.0, 0.99), (2.0, 1.01)))
    assert float(low.end.value) < 1e-4
    assert float(high.end.value) > 1 - 1e-4
    assert power(2.0).optimum is None
