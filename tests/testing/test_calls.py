"""The forms of call that are tried, and what is said where none works."""

import sys

import pytest
import torch

import dft_theory as dt
from dft_theory.testing import check_loss_function
from dft_theory.testing.calls import CallError, identical, recognised


def test_the_form_that_works_is_found(losses):
    assert recognised(losses.right["log-softmax"]).form.text == "f(logits, labels, N)"
    assert recognised(losses.right["cross-entropy"]).form.text == "f(outputs, labels, N)"


def test_a_count_as_an_int_is_tried_where_a_tensor_fails(losses):
    right = losses.build()

    def typed(logits, labels, n=None):
        assert n is None or isinstance(n, int)
        return right(logits, labels, n)

    assert recognised(typed).form.text == "f(logits, labels, N as int)"


def test_a_loss_without_the_count_is_called_without_it(losses):
    right = losses.build()
    two = lambda logits, labels: right(logits, labels)  # noqa: E731
    assert recognised(two).form.text == "f(logits, labels)"
    report = check_loss_function(two, claims_to_be=dt.dft)
    assert report.diagnosis == ("micro-batch mean",)


def test_a_loss_that_refuses_float64_is_called_in_float32(losses):
    right = losses.build()

    def narrow(logits, labels, n=None):
        if logits.dtype == torch.float64:
            raise TypeError("float64 is not supported")
        return right(logits, labels, n)

    report = check_loss_function(narrow, claims_to_be=dt.dft)
    assert report.conforms, str(report)
    assert "float32" in report.called
    assert report.finding("float64").status == "remark"


def test_a_loss_that_fails_without_a_count_is_checked_with_one(losses):
    right = losses.build()

    def counted(logits, labels, n=None):
        return right(logits, labels, n.clamp(min=1))

    report = check_loss_function(counted, claims_to_be=dt.dft)
    assert report.verdict == "deviates"
    assert "NoneType" in report.finding("global-count").message
    assert report.finding("accumulation").status == "ok"


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda z, y, n=None: z.mean(-1), "returns shape"),
        (lambda z, y, n=None: 1.0, "returns float"),
        (lambda z, y, n=None: (z.sum(), y), "returns tuple"),
        (lambda z, y, n=None: torch.zeros(()), "no graph"),
        (lambda z, y, n=None: torch.zeros((), requires_grad=True), "does not depend"),
        (lambda z, y, n=None: z.argmax(), "not a floating-point"),
        (lambda z, y, n=None: z.sum().to("meta"), "on meta"),
        (lambda z, y, n=None: z["loss"], "raises"),
        (lambda z, y: sys.exit(3), "raises SystemExit: 3"),
        (lambda z, y, n, attention_mask: z.sum(), "fit neither"),
        (lambda z, y: z[:, 1:].sum(-1), "returns shape [4, 7], not a scalar"),
        (lambda z, y: z[:, :-1, 0], "not a scalar"),
        (lambda z, y: (z * torch.ones(3)).sum(), "raises RuntimeError"),
        (torch.dot, "raises"),  # its signature cannot be read
        (torch.nn.CrossEntropyLoss, "is a class: name an instance of it"),
    ],
)
def test_a_loss_that_cannot_be_called_says_why(loss, message):
    report = check_loss_function(loss, claims_to_be=dt.dft)
    assert report.verdict == "could not be checked"
    assert message in report.failure
    assert "returns" not in message or "raises" not in report.failure
    assert not report.conforms
    with pytest.raises(CallError):
        recognised(loss)


def test_the_logits_are_the_first_item_of_the_outputs(losses):
    right = losses.build()
    loss = recognised(lambda outputs, labels, n=None: right(outputs[0], labels, n))
    assert loss.form.text == "f(outputs, labels, N)"


def test_a_wrong_guess_of_the_form_raises_no_warnings(losses, recwarn):
    recognised(losses.right["cross-entropy"])
    assert not recwarn.list


def test_identical_tells_numbers_apart_and_nan_alike():
    nan = torch.tensor([1.0, torch.nan])
    assert identical(nan, nan.clone())
    assert not identical(nan, torch.tensor([1.0, 2.0]))
    assert not identical(nan, nan[:1])
