"""Floors, thresholds and mixtures: hand-computed points, kinks, and bounds on the parameter."""

import math

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import dft, floored, mixce, mixed, sft, thresholded

P = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.9, 1.0], dtype=torch.float64)


def potential(objective, p: torch.Tensor) -> torch.Tensor:
    logp = p.log().unsqueeze(0)
    t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    return objective.potential(t).squeeze(0)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (floored(0.25), [0.25, 0.25, 0.25, 0.3, 0.9, 1.0]),
        (thresholded(0.25), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]),
        (thresholded(0.25, "<="), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        (mixce(0.75), [0.7625, 0.775, 0.8, 0.825, 0.975, 1.0]),
        (mixed(0.25), [0.7625, 0.775, 0.8, 0.825, 0.975, 1.0]),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_weights_at_hand_computed_points(objective, expected):
    assert_close(objective.weight_at(P), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_the_potential_of_a_mixture_is_the_mixture_of_the_potentials(alpha):
    assert_close(potential(mixed(alpha), P), -alpha * P - (1 - alpha) * P.log())


def test_a_threshold_prints_the_side_that_it_keeps():
    assert thresholded(0.25).equation == "w = 1[p >= c]"
    assert thresholded(0.25, "<=").equation == "w = 1[p <= c]"


def test_both_thresholds_together_are_sft_off_the_threshold():
    above, below = thresholded(0.25), thresholded(0.25, "<=")
    assert_close(above.weight_at(P) + below.weight_at(P), sft.weight_at(P))


@pytest.mark.parametrize("c", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("family", [floored, thresholded])
def test_the_potential_is_continuous_at_the_kink_and_falls_with_p(family, c):
    at, off = torch.tensor([c * (1 - 1e-9), c * (1 + 1e-9)], dtype=torch.float64), torch.linspace(
        0.001, 1, 500, dtype=torch.float64
    )  # fmt: skip
    left, right = potential(family(c), at).tolist()
    assert_close(left, right, rtol=0.0, atol=1e-8)
    assert bool((potential(family(c), off).diff() <= 1e-15).all())


def test_a_floor_of_one_is_sft_and_the_ends_of_the_mixture_are_sft_and_dft():
    assert_close(floored(1.0).weight_at(P), sft.weight_at(P))
    assert_close(mixed(0.0).weight_at(P), sft.weight_at(P))
    assert_close(mixed(1.0).weight_at(P), dft.weight_at(P))


@pytest.mark.parametrize("c", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize("family", [floored, thresholded])
def test_a_gate_that_is_no_probability_is_refused(family, c):
    with pytest.raises(ValueError, match=r"c is a probability in \(0, 1\]"):
        family(c)


def test_a_comparison_that_is_neither_is_refused():
    with pytest.raises(ValueError, match=r"thresholded\(keep=\) knows >=, <=, not '>'"):
        thresholded(0.2, ">")


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_a_share_of_dft_outside_of_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha is the share of DFT, in \[0, 1\]"):
        mixed(alpha)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_a_mixing_ratio_outside_of_zero_to_one_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta is the share .* in \[0, 1\]"):
        mixce(eta)


def test_mixce_at_its_ends_is_dft_and_sft():
    assert_close(mixce(0.0).weight_at(P), dft.weight_at(P))
    assert_close(mixce(1.0).weight_at(P), sft.weight_at(P))
