"""Each check of the batch has a wrong loss of its own that only it, or it first, can see."""

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_loss_function


def leaks_across_rows(right):
    """The first row's loss is counted once more."""
    return lambda z, y, n=None: right(z, y, n) + right(z[:1], y[:1], n)


def crashes_without_targets(right):
    def loss(z, y, n=None):
        if not bool((y[:, 1:] != -100).any()):
            return torch.tensor(0.0)
        return right(z, y, n)

    return loss


def nan_gradient_without_targets(right):
    def loss(z, y, n=None):
        kept = (y[:, 1:] != -100).sum()
        return right(z, y, n) + 0 * (z.sum() * 0).div(kept)

    return loss


def forgets_to_end_documents(right):
    """A boundary is bridged: -100 between two targets counts as the label before it."""

    def loss(z, y, n=None):
        filled = y.clone()
        inside = (y[:, 1:-1] == -100) & (y[:, :-2] != -100) & (y[:, 2:] != -100)
        filled[:, 1:-1][inside] = y[:, :-2][inside]
        return right(z, filled, n)

    return loss


def reads_masked_logits(right):
    def loss(z, y, n=None):
        return right(z, y, n) * (1 + 1e-3 * z.detach().abs().mean())

    return loss


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (leaks_across_rows, "permutation"),
        (crashes_without_targets, "all-masked"),
        (nan_gradient_without_targets, "all-masked"),
        (forgets_to_end_documents, "packing"),
        (reads_masked_logits, "ignore-index"),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_what_is_wrong_with_a_batch_is_caught(losses, wrong, check):
    report = check_loss_function(wrong(losses.build()), claims_to_be=dt.dft)
    assert report.finding(check).status == "NO", str(report)


def test_a_crash_without_targets_says_how_to_keep_the_graph(losses):
    report = check_loss_function(crashes_without_targets(losses.build()), claims_to_be=dt.dft)
    assert report.diagnosis == ("all-masked batch fails",)
    assert "requires_grad" in report.finding("all-masked").message
    assert [f.check for f in report.deviations] == ["all-masked"]
    assert report.finding("all-masked").case.endswith("N=40")  # it crashes with N as without


def test_an_empty_batch_that_fails_without_n_only_is_shown_without_n(losses):
    finding = check_loss_function(losses.build(divide="unclamped"), claims_to_be=dt.dft).finding(
        "all-masked"
    )
    assert finding.diagnosis == "all-masked batch fails where no N is given"
    assert finding.case.endswith("N=None")


def test_a_poisoned_gradient_is_told_from_a_poisoned_value(losses):
    poisoned = check_loss_function(
        nan_gradient_without_targets(losses.build()), claims_to_be=dt.dft
    )
    assert "and the gradient NaN" in poisoned.finding("all-masked").message
    shifted = check_loss_function(
        lambda z, y, n=None: losses.build()(z, y, n) + 1, claims_to_be=dt.dft
    )
    assert "the value is 1:" in shifted.finding("all-masked").message


def test_another_ignore_index_is_tried_where_there_is_a_parameter(losses):
    found = check_loss_function(losses.right["selected-rows"], claims_to_be=dt.dft)
    assert found.finding("other-ignore-index").status == "ok"
    found = check_loss_function(losses.right["log-softmax"], claims_to_be=dt.dft)
    assert found.finding("other-ignore-index").status == "n.a."

    def deaf(z, y, n=None, ignore_index=-100):
        return losses.build()(z, y.where(y != -1, 0), n)

    found = check_loss_function(deaf, claims_to_be=dt.dft)
    assert found.finding("other-ignore-index").status == "NO"


def test_a_count_that_is_multiplied_is_caught(losses):
    right = losses.build()

    def loss(z, y, n=None):
        return right(z, y, n if n is None else n * 2)

    found = check_loss_function(loss, claims_to_be=dt.dft).finding("global-count")
    assert found.status == "NO"
    assert "expected" in found.message
