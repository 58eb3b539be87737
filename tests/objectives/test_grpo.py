"""GRPO: PPO's published minimum, its first step, and advantages within a group."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, group_advantages, grpo, reinforce


@pytest.mark.parametrize("sign", [1, -1])
def test_the_gradient_is_that_of_the_clipped_minimum(batch, sign):
    a = sign * batch.advantage

    def ppo(logp):
        rho = (logp - batch.old).exp()
        return -(torch.minimum(rho * a, rho.clamp(0.8, 1.2) * a) * (logp != 0)).sum()

    rho = (batch.logp(batch.logits) - batch.old).exp()
    acts = torch.where(a > 0, rho > 1.2, rho < 0.8)
    assert acts.any()
    assert not acts.all()
    found = replace(batch, advantage=a).gradient(grpo())
    assert_close(found, batch.published(ppo))


def test_the_first_inner_step_is_reinforce(batch):
    z = batch.logits.clone().requires_grad_(True)
    t = batch.stats(z)
    fresh = replace(t, old_logp=t.logp.detach())
    found = torch.autograd.grad(grpo().surrogate(fresh, reduction=SumOver()), z)[0]
    assert_close(found, batch.gradient(reinforce))


def test_advantages_are_standardised_within_each_group():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 5.0, 7.0, 9.0, 9.0], dtype=torch.float64)
    found = group_advantages(rewards, 4)
    assert found.shape == (8, 1)
    for part, group in zip(found.reshape(2, 4).numpy(), rewards.reshape(2, 4).numpy(), strict=True):
        assert_close(part, (group - group.mean()) / group.std(ddof=1), rtol=1e-5, atol=0.0)


def test_without_a_scale_only_the_mean_is_taken():
    rewards = torch.tensor([3.0, 1.0, 10.0, 10.5])
    assert group_advantages(rewards, 2, "none").flatten().tolist() == [1.0, -1.0, -0.25, 0.25]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_group_of_equal_rewards_teaches_nothing(size):
    # 0.1 three times does not average to 0.1 in binary: rounding must not be blown up.
    found = group_advantages(torch.full((size,), 0.1, dtype=torch.float64), size)
    assert np.abs(found.numpy()).max() < 1e-9


def test_an_advantage_of_zero_teaches_nothing_at_any_ratio():
    t = TokenStats(
        logp=torch.tensor([[-1.0, -1.0, -torch.inf]]),
        mask=torch.ones(1, 3, dtype=torch.bool),
        old_logp=torch.tensor([[-torch.inf, -200.0, -1.0]]),
        advantage=torch.zeros(1, 3),
    )
    assert grpo().weight(t).tolist() == [[0.0, 0.0, 0.0]]
    assert grpo().potential(t).abs().tolist() == [[0.0, 0.0, 0.0]]


def test_counted_rewards_are_those_of_the_same_real_numbers():
    for rewards in (torch.tensor([3, 1, 10, 12]), torch.tensor([True, False, True, True])):
        assert_close(group_advantages(rewards, 2), group_advantages(rewards.float(), 2))


def test_a_misspelt_scale_is_refused():
    with pytest.raises(ValueError, match=r"scale=\) knows deviation, none, not 'std'"):
        group_advantages(torch.zeros(4), 2, "std")


@pytest.mark.parametrize(("shape", "size"), [((5,), 2), ((4, 1), 2), ((4,), 1)])
def test_rewards_that_are_no_groups_are_refused(shape, size):
    with pytest.raises(ValueError, match="groups of size >= 2"):
        group_advantages(torch.zeros(shape), size)


@pytest.mark.parametrize("bad", [(1.0, 0.2), (-0.1, 0.2), (0.2, -0.1)])
def test_a_clip_that_is_no_interval_around_one_is_refused(bad):
    with pytest.raises(ValueError, match=r"grpo clips to \[1 - eps_low, 1 \+ eps_high\]"):
        grpo(*bad)
