"""How far a loss is from what it claims: nothing that is not a number is near."""

import torch

import dft_theory as dt
from dft_theory.testing import check_loss_function
from dft_theory.testing.probe import _excess


def test_a_nan_is_infinitely_far_from_anything():
    zero, nan = torch.zeros(2), torch.tensor([0.0, torch.nan])
    assert _excess(nan, zero, zero, 1.0) == torch.inf
    assert _excess(zero, nan, zero, 1.0) == torch.inf
    assert _excess(zero, zero, zero, 1.0) == 0.0


def test_a_distance_counts_on_either_side():
    one, allowed = torch.ones(1), torch.full((1,), 0.5)
    assert _excess(one, 2 * one, allowed, 0.0) == _excess(2 * one, one, allowed, 0.0) == 2.0


def test_a_right_loss_is_told_from_the_one_without_detach_and_says_how_it_was_called(losses):
    report = check_loss_function(losses.build(), claims_to_be=dt.dft)
    assert report.finding("stop-gradient").status == "ok"
    assert str(report).splitlines()[1].startswith("called as f(logits, labels")
