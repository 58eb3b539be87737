"""One-Token Rollout: token by token against REINFORCE, and its mean over samples against DFT."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import SumOver, dft, one_token_rollout


def surrogate_gradient(batch, objective, sampled):
    z = batch.logits.clone().requires_grad_(True)
    t = replace(batch.stats(z), sampled=sampled)
    return torch.autograd.grad(objective.surrogate(t, reduction=SumOver()), z)[0]


@pytest.mark.parametrize("b", [0.0, -0.2])
def test_the_gradient_is_that_of_a_mean_over_sampled_tokens(batch, b):
    g = torch.Generator().manual_seed(0)
    sampled = torch.randint(5, (4, 5, 3), generator=g)
    z = batch.logits.clone().requires_grad_(True)
    log_pi = torch.log_softmax(z, -1)
    loss = 0.0
    for i in range(4):
        for t in range(5):
            y = int(batch.labels[i, t + 1])
            for v in sampled[i, t].tolist() if y >= 0 else ():
                loss = loss - (1.0 if v == y else b) * log_pi[i, t, v] / 3
    found = surrogate_gradient(batch, one_token_rollout(b), sampled)
    assert_close(found, torch.autograd.grad(loss, z)[0])


@pytest.mark.parametrize("b", [0.0, -0.2, 0.5])
def test_over_all_samples_its_mean_is_one_minus_b_times_dft(batch, b):
    pi = torch.softmax(batch.logits, -1)
    mean = torch.zeros_like(pi)
    for v in range(5):
        sampled = torch.full((4, 5, 1), v)
        found = surrogate_gradient(batch, one_token_rollout(b), sampled)
        # Position t of the sampled tokens belongs to row t of the logits.
        mean += pi[..., v : v + 1] * found
    assert_close(mean, (1 - b) * batch.gradient(dft))


def test_nothing_sampled_that_matches_teaches_nothing_at_b_zero(batch):
    other = ((batch.labels[:, 1:].clamp_min(0) + 1) % 5).unsqueeze(-1)
    assert not surrogate_gradient(batch, one_token_rollout(0.0), other).any()
    assert surrogate_gradient(batch, one_token_rollout(-0.1), other).any()


@pytest.mark.parametrize("b", [1.0, 2.0, float("nan"), -float("inf")])
def test_a_reward_that_does_not_prefer_the_demonstration_is_refused(b):
    with pytest.raises(ValueError, match="a number below 1"):
        one_token_rollout(b)
