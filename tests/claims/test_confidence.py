"""The confidence claims: quoted ratios, the declared rates of the laws, tables and transformers."""

import math

import pytest
import torch

from dft_theory.claims import Scope
from dft_theory.claims import confidence as cf
from dft_theory.policies import TablePolicy


def test_quoted_ratios_of_weights() -> None:
    conflict, diffuse = cf.ConflictAndDiffuse(1e-3, 1000).weights.T
    ratio = diffuse / conflict
    torch.testing.assert_close(ratio[:2], torch.ones(2, dtype=torch.float64))
    assert float(ratio[2]) == pytest.approx(379, abs=0.5)
    assert float(ratio[3]) == pytest.approx(980, abs=1)


@pytest.mark.parametrize("p0", [1e-2, 1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.parametrize("objective", [cf.EAFT, cf.IDFT], ids=lambda o: o.name)
def test_declared_rates_of_the_laws_hold_far_out(objective, p0: float) -> None:
    case = cf.Gated(objective, p0)
    scaled = float(case.area(case.weight).value / case.law())
    assert abs(scaled - 1) <= float(case.one().error)


def test_eaft_takes_nearly_as_long_as_dft() -> None:
    case = cf.Gated(cf.EAFT, 1e-4)
    t = float(case.time.value)
    assert 0.2 < t / (1 / (2 * 1e-4)) < 0.5
    assert t > 100 * math.log(1e4) / 2


def test_kink_is_where_the_exponent_reaches_two() -> None:
    assert math.exp(-cf.binary_entropy(cf.KINK)) / cf.KINK == pytest.approx(2.0)


def test_a_single_rival_attains_the_largest_ratio() -> None:
    case = cf.Pair(0.3, 5, 0)
    assert float(case.ratio[0]) == pytest.approx(math.sqrt(2 * 4 / 5), rel=1e-3)


def test_a_transformer_moves_where_it_was_not_trained() -> None:
    seen = set()
    for case in cf.one_demo_each(Scope.standard()):
        moved = float(cf.displacement(case, cf.elsewhere(case)).abs().max())
        table = isinstance(case.policy, TablePolicy)
        assert moved == 0 if table else moved > 1e-4
        seen.add(table)
    assert seen == {True, False}
