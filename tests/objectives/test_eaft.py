"""EAFT: entropy of the likeliest tokens, however few there are, and its three constants."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dft_theory.objectives import eaft


@pytest.mark.parametrize(("alpha", "nats"), [(1.0, 3.0), (1.0, 1.0), (2.0, math.log(40))])
def test_the_gradient_is_that_of_the_gated_cross_entropy(alpha, nats, large):
    def loss(pi, y, _):
        top = pi.detach().sort(descending=True).values[:, :20]
        top = top / top.sum(-1, keepdim=True)
        gate = (-(top * top.log()).sum(-1) / nats) ** alpha
        return gate * F.nll_loss(pi.log(), y, reduction="none")

    found = large.surrogate(eaft(alpha, 20, nats))
    assert_close(found, large.published(loss), rtol=1e-12, atol=1e-13)


def test_with_fewer_than_k_tokens_it_is_the_entropy_itself(small):
    stats = small.stats()
    assert_close(eaft().weight(stats)[stats.mask], stats.entropy[stats.mask] / 3)


def test_the_largest_weight_is_just_below_one_because_3_is_log_20_rounded(large):
    even = large.stats(torch.zeros_like(large.logits))
    assert_close(eaft().weight(even), torch.full_like(even.logp, math.log(20) / 3))
    assert 0.998 < math.log(20) / 3 < 1


def test_the_weight_ignores_the_target_and_a_certain_state_has_none(small):
    certain = torch.zeros_like(small.logits)
    certain[..., 1:] = -torch.inf
    assert_close(eaft().weight(small.stats(certain))[small.stats().mask].sum().item(), 0.0)
    data = torch.tensor([0.7, 0.3])
    assert eaft().optimum(data) is data


def test_two_tokens_are_enough_for_an_entropy(small):
    even = small.stats(torch.zeros_like(small.logits))
    assert_close(eaft(1.0, 2, math.log(2)).weight(even), torch.ones_like(even.logp))


@pytest.mark.parametrize(("alpha", "k", "nats"), [(0.0, 20, 3.0), (1.0, 1, 3.0), (1.0, 20, 0.0)])
def test_bad_parameters_are_refused(alpha, k, nats):
    with pytest.raises(ValueError, match="needs alpha > 0, k >= 2 and nats > 0"):
        eaft(alpha, k, nats)
