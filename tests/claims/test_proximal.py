"""Claims about ratios to a frozen policy: the parts they are made of, at hand-computed points."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.claims import Scope, claims
from dft_theory.claims.proximal import CLAIMS, Divergence, Ratio, divergences


@pytest.mark.parametrize(
    ("rho", "value", "slope"), [(0.5, 0.5, 1.0), (1.0, 1.0, 1.0), (1.2, 1.2, 1.0), (2.0, 1.28, 0.0)]
)
def test_psft_holds_a_ratio_from_above_only(rho, value, slope):
    assert_close(Ratio(rho).with_slope(), torch.tensor([value, slope], dtype=torch.float64))
    assert_close(Ratio(rho).capped(), torch.tensor([value, slope], dtype=torch.float64))


def test_the_clip_alone_would_hold_it_from_below_too():
    clip = Ratio(0.5).with_slope(pessimist=False)
    assert_close(clip, torch.tensor([0.8, 0.0], dtype=torch.float64))


def test_the_reading_of_the_lower_clip_fails_below_it():
    verdict = claims["psft-lower-clip-is-inert"].check(Scope.standard())
    assert verdict.holds
    assert float(verdict.counterexample.split("rho = ")[1].split(":")[0]) < 0.8


@pytest.mark.parametrize("kind", ["kl", "hellinger", "js", "chi2"])
def test_secants_tend_to_the_weight(kind):
    at = Divergence(kind, 0.3)
    assert_close(at.secant(1e-6), at.weight, rtol=1e-5, atol=0.0)
    assert_close(at.secant(-1e-6), at.weight, rtol=1e-5, atol=0.0)


def test_no_divergence_is_checked_beyond_its_pole():
    weights = torch.stack([c.weight for c in divergences(Scope.standard())])
    assert bool(weights.isfinite().all())
    assert bool((weights < 5.0 - 1e-9).all())  # the cap of the objective, 10 beta, is not reached


def test_every_claim_holds_on_the_standard_cases():
    for claim in CLAIMS:
        assert claim.check(Scope.standard()).reason == ""
