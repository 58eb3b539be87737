"""The claims on symmetric noise: their assumptions, and cases on both sides of the threshold."""

import torch

from dft_theory.claims import Scope
from dft_theory.claims import symmetric_noise as n
from dft_theory.claims.scope import TokenCase


def test_more_noise_than_the_minority_turns_dft_round() -> None:
    case = n.Noisy(TokenCase(torch.zeros(3, dtype=torch.float64), 0, "uniform"), 0.8)
    assert case.slope < 0
    assert not n.MINORITY.holds(case)


def test_flips_on_both_sides_of_the_threshold() -> None:
    cases = n.flips(Scope.standard())
    assert {case.eta > case.threshold for case in cases} == {True, False}
