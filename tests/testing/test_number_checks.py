"""Losses whose numbers are wrong where nobody looks: constants, narrow types, infinities."""

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_loss_function


def test_a_value_with_a_constant_is_not_the_surrogates(losses):
    right = losses.build()
    report = check_loss_function(lambda z, y, n=None: right(z, y, n) + 0.1, claims_to_be=dt.dft)
    assert report.finding("value").status == "NO"
    assert report.finding("gradient").status == "ok"


def test_the_potential_is_as_good_a_value(losses):
    found = check_loss_function(losses.right["probability"], claims_to_be=dt.dft)
    assert "potential" in found.finding("value").message

    def one_minus_p(z, y, n=None):
        count = (y[:, 1:] != -100).sum()
        share = count / (count.clamp_min(1) if n is None else n)
        return share + losses.right["probability"](z, y, n)

    found = check_loss_function(one_minus_p, claims_to_be=dt.dft)
    assert found.conforms, str(found)


def raw_weight(right):
    """A weight from the logit itself, which no softmax has normalised."""

    def loss(z, y, n=None):
        keep = y[:, 1:] != -100
        at = y[:, 1:].clamp_min(0).unsqueeze(-1)
        lp = z[:, :-1].log_softmax(-1).gather(-1, at).squeeze(-1)
        raw = z[:, :-1].gather(-1, at).squeeze(-1).detach().sigmoid()
        return -(raw * lp * keep).sum() / (keep.sum().clamp_min(1) if n is None else n)

    return loss


def halves(z):
    return z.half() if z.dtype == torch.float32 else z


def clipped(z):
    return z.clamp(-20, 20)


@pytest.mark.parametrize(
    ("before", "check", "diagnosis"),
    [
        (halves, "float32", "computes below float32"),
        (clipped, "extreme-logits", "wrong on extreme logits"),
    ],
)
def test_a_loss_that_spoils_its_logits_is_caught(losses, before, check, diagnosis):
    report = check_loss_function(losses.build(before=before), claims_to_be=dt.dft)
    assert [f.check for f in report.deviations] == [check]
    assert report.diagnosis == (diagnosis,)


def test_an_unnormalised_weight_is_caught(losses):
    report = check_loss_function(raw_weight(losses.build()), claims_to_be=dt.dft)
    assert report.finding("shift-invariance").status == "NO"


def test_exponentials_that_overflow_are_caught():
    def naive(z, y, n=None):
        keep = y[:, 1:] != -100
        z = z[:, :-1] if z.dtype == torch.float64 else z[:, :-1].float()
        p = z.exp() / z.exp().sum(-1, keepdim=True)
        p = p.gather(-1, y[:, 1:].clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return -(p.detach() * p.log() * keep).sum() / (keep.sum().clamp_min(1) if n is None else n)

    report = check_loss_function(naive, claims_to_be=dt.dft)
    assert report.finding("extreme-logits").status == "NO"
    assert "not finite" in report.finding("extreme-logits").message


def test_an_entropy_that_meets_minus_infinity_is_caught(losses):
    right = losses.build()

    def loss(z, y, n=None):
        lp = z.log_softmax(-1)
        return right(z, y, n) + 0 * (lp.exp() * lp).detach().sum() + 0 * (lp.exp() * lp).sum()

    report = check_loss_function(loss, claims_to_be=dt.dft)
    assert report.finding("masked-vocabulary").status == "NO"


def test_a_token_at_minus_infinity_must_not_count(losses):
    right = losses.build()

    def loss(z, y, n=None):
        return right(z, y, n) * (1 + 0.01 * z.isneginf().any())

    report = check_loss_function(loss, claims_to_be=dt.dft)
    assert "changes the" in report.finding("masked-vocabulary").message


def test_an_impossible_target_is_a_remark_or_a_deviation(losses):
    selected = check_loss_function(losses.right["selected-rows"], claims_to_be=dt.dft)
    assert selected.finding("impossible-target").status == "remark"
    assert selected.conforms
    attached = check_loss_function(losses.build(weight=torch.exp), claims_to_be=dt.dft)
    assert attached.finding("impossible-target").status == "NO"


def test_a_loss_in_float32_conforms_with_a_remark(losses):
    report = check_loss_function(losses.right["cross-entropy"], claims_to_be=dt.dft)
    assert report.finding("float64").status == "remark"
    assert report.conforms


def test_a_constant_weight_has_nothing_to_detach(losses):
    report = check_loss_function(losses.build(weight=torch.ones_like), claims_to_be=dt.sft)
    assert report.finding("stop-gradient").status == "n.a."
    assert report.finding("gradient").status == "ok"
