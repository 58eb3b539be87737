"""Losses that are no functions: they remember, draw, or write into what they are given."""

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_loss_function


def overwrites_logits(right):
    def loss(logits, labels, n=None):
        value = right(logits, labels, n)
        logits.data.mul_(0.5)
        return value

    return loss


def overwrites_in_backward(right):
    class Late(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, logits):
            ctx.logits = logits
            return value.clone()

        @staticmethod
        def backward(ctx, g):
            ctx.logits.data.zero_()
            return g, None

    return lambda logits, labels, n=None: Late.apply(right(logits, labels, n), logits)


def overwrites_labels(right):
    def loss(logits, labels, n=None):
        value = right(logits, labels, n)
        labels[labels == -100] = 0
        return value

    return loss


def remembers(right):
    calls = []

    def loss(logits, labels, n=None):
        calls.append(1)
        return right(logits, labels, n) * (1 + 1e-10 * len(calls))

    return loss


def draws(right):
    return lambda logits, labels, n=None: right(logits, labels, n) + 0 * torch.rand(())


def depends_on_the_seed(right):
    def loss(logits, labels, n=None):
        state = torch.get_rng_state()
        jitter = 1 + 1e-6 * torch.rand(())
        torch.set_rng_state(state)
        return right(logits, labels, n) * jitter

    return loss


@pytest.mark.parametrize(
    ("wrong", "check", "diagnosis", "message"),
    [
        (overwrites_logits, "mutation", "mutates its inputs", "logits"),
        (overwrites_in_backward, "mutation", "mutates its inputs", "logits"),
        (overwrites_labels, "mutation", "mutates its inputs", "labels"),
        (remembers, "determinism", "not deterministic", "differ"),
        (draws, "random-state", "uses the global random state", "generator"),
        (depends_on_the_seed, "random-state", "depends on the seed", "seed"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_is_no_function_is_caught(losses, wrong, check, diagnosis, message):
    report = check_loss_function(wrong(losses.build()), claims_to_be=dt.dft)
    assert report.finding(check).status == "NO"
    assert message in report.finding(check).message
    assert diagnosis in report.diagnosis
    assert {f.check for f in report.deviations} <= {"mutation", "determinism", "random-state"}


def test_where_calls_differ_nothing_else_is_diagnosed(losses):
    right, calls = losses.build(), []

    def drifts(logits, labels, n=None):
        calls.append(1)
        return right(logits, labels, n) * (1 + 0.1 * len(calls))

    report = check_loss_function(drifts, claims_to_be=dt.dft)
    assert report.finding("gradient").status == "NO"
    assert report.finding("random-state").status == "n.a."
    assert report.diagnosis == ("not deterministic",)


def test_the_global_random_state_is_left_as_it_was(losses):
    before = torch.get_rng_state()
    check_loss_function(draws(losses.build()), claims_to_be=dt.dft)
    assert torch.equal(before, torch.get_rng_state())
