"""The wrong forms differ from the claim and from one another, so a diagnosis means something."""

import torch

import dft_theory as dt
from dft_theory.testing import cases, forms


def gradient(loss, case):
    z = case.logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(z, case.labels, case.count), z)[0]


def same(a, b):
    return torch.allclose(a, b, rtol=1e-6, atol=1e-12)


def batches():
    ragged = cases.ragged()
    labels = ragged.labels.clone()
    labels[:, 0] = 1
    whole = cases.Case(name="whole", logits=ragged.logits, labels=labels)
    return tuple(c.with_count(n) for c in (cases.one_token(), ragged, whole) for n in (None, 40))


def test_the_claimed_form_comes_first_and_is_the_objective():
    first = next(forms.forms(dt.dft, dt.TokenMean()))
    assert first.faults == ()
    case = cases.ragged()
    t = dt.token_stats(case.logits, case.labels, needs=("log_probs",))
    expected = -dt.dft.field(t) / case.targets
    assert same(gradient(first.loss, case)[:, :-1], expected)


def test_every_single_fault_is_told_from_the_claim_and_diagnosed_as_itself():
    singles = [f for f in forms.forms(dt.dft, dt.TokenMean()) if len(f.faults) == 1]
    seen = set()
    for form in singles:
        found = forms.diagnose(
            lambda c, loss=form.loss: gradient(loss, c), dt.dft, dt.TokenMean(), batches(), same
        )
        equal = ("divided by N", "weight averaged over kept tokens")
        if form.faults[0] in equal and found in ((), ("micro-batch mean",)):
            continue  # no DFT weight is 0, and a token mean is divided by N already
        if found == ():
            twin = form.faults[0].removeprefix("computes ")  # another name for the same objective
            assert twin in {o.name for o in dt.OBJECTIVES}
            continue
        assert found is not None
        assert len(found) == 1
        seen.add(found[0])
    assert {
        "missing detach",
        "plain SFT",
        "weight applied twice (p^2)",
        "sign reversed",
        "label roll wraps",
        "labels not shifted",
        "labels shifted twice",
        "trains on masked tokens",
        "micro-batch mean",
        "counts masked tokens",
        "counts the first label",
        "not divided by the count",
        "mean of sequence means",
        "divided by the number of sequences",
    } <= seen


def test_the_attached_form_differentiates_the_weight():
    z = torch.tensor([[[0.3, -0.2, 0.1], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    z.requires_grad_(True)
    t = dt.token_stats(z, torch.tensor([[-100, 1]]))
    loss = forms.attached(dt.dft).potential_value(t, reduction=dt.TokenMean())
    p = z[0, 0].softmax(-1)
    entropy_like = torch.autograd.grad(-p[1] * p[1].log(), z)[0]
    assert same(torch.autograd.grad(loss, z)[0], entropy_like)


def test_a_constant_multiple_is_recognised():
    claim = forms.claimed(dt.dft, dt.TokenMean())
    found = forms.diagnose(
        lambda c: 3 * gradient(claim, c), dt.dft, dt.TokenMean(), batches(), same
    )
    assert found == ("scaled by 3",)
    nothing = lambda c: 0 * gradient(claim, c)  # noqa: E731
    assert forms.diagnose(nothing, dt.dft, dt.TokenMean(), batches(), same) == (
        "no gradient at all",
    )


def test_size_and_weight_at_targets_count_the_target_too():
    smooth = dt.Objective(
        name="s", title="s", needs=("log_probs",),
        weight=lambda t: 0.5 * torch.ones_like(t.logp),
        target=lambda t: -0.1 * torch.ones_like(t.log_probs),
    )  # fmt: skip
    case = cases.one_token()
    t = dt.token_stats(case.logits, case.labels, needs=("log_probs",))
    assert float(forms.size(smooth, t)) == 0.5 + 3 * 0.1
    assert float(forms.at_targets(smooth, t)) == 0.4
