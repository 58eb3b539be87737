"""Reverse KL to the reference, and the one-token estimate that is not a KL."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import IGNORE_INDEX, token_stats
from dft_theory.objectives import SumOver, asft_k3, asft_reverse, dft


def test_the_gradient_of_dft_with_a_reverse_kl(small):
    def loss(pi, y, b):
        p = pi.gather(1, y[:, None])[:, 0]
        return -p + 0.3 * (pi * (pi.log() - b.log())).sum(-1)

    assert_close(small.surrogate(asft_reverse(0.3)), small.published(loss), rtol=1e-11, atol=1e-12)


def k3(pi, y, b):
    ratio = (b / pi).gather(1, y[:, None])[:, 0]
    return ratio - 1 - ratio.log()


def test_the_gradient_of_dft_with_k3_on_the_target(small):
    def loss(pi, y, b):
        return -pi.gather(1, y[:, None])[:, 0] + 0.3 * k3(pi, y, b)

    assert_close(small.surrogate(asft_k3(0.3)), small.published(loss), rtol=1e-11, atol=1e-12)


def test_k3_has_the_mean_of_the_reverse_kl_and_not_its_gradient():
    g = torch.Generator().manual_seed(0)
    z, other = torch.randn(2, 6, dtype=torch.float64, generator=g)
    z.requires_grad_()
    pi, b = z.softmax(0), other.softmax(0)
    every = torch.arange(6)
    estimates = k3(pi.expand(6, 6), every, b.expand(6, 6))
    kl = (pi * (pi / b).log()).sum()
    assert_close(pi @ estimates, kl)
    mean_slope = torch.autograd.grad(pi.detach() @ estimates, z, retain_graph=True)[0]
    slope = torch.autograd.grad(kl, z)[0]
    # With the sampling law held, what remains is pi - b: the slope of the *forward* KL.
    assert_close(mean_slope, (pi - b).detach())
    assert (mean_slope - slope).abs().max() > 0.1


def test_a_token_that_neither_policy_nor_reference_have_costs_nothing():
    z = torch.tensor([[[0.3, -0.2, -torch.inf], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    ref = torch.tensor([[[0.0, 0.5, -torch.inf], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    labels = torch.tensor([[IGNORE_INDEX, 1]])

    def slopes(z: torch.Tensor, ref: torch.Tensor) -> list[torch.Tensor]:
        z = z.clone().requires_grad_()
        needs = ("log_probs", "ref_log_probs")
        t = token_stats(z, labels, needs=needs, ref_logits=ref)
        o = asft_reverse(0.3)
        ways = (o.surrogate(t, reduction=SumOver()), o.potential_value(t, reduction=SumOver()))
        return [torch.autograd.grad(way, z, retain_graph=True)[0] for way in ways]

    for found, without in zip(slopes(z, ref), slopes(z[..., :2], ref[..., :2]), strict=True):
        assert_close(found[..., :2], without)
        assert not found[..., 2].any()


def test_no_anchor_is_dft_and_k3_may_push_a_demonstration_down(small):
    for family in (asft_reverse, asft_k3):
        assert_close(small.surrogate(family(0.0)), small.surrogate(dft), rtol=1e-12, atol=1e-14)
    assert bool((asft_k3(1.0).weight(small.stats()) < 0).any())


@pytest.mark.parametrize("family", [asft_reverse, asft_k3])
def test_a_negative_strength_is_refused(family):
    with pytest.raises(ValueError, match="strength lam of an anchor is at least 0"):
        family(-0.1)
