"""Backward induction against the softmax over whole responses."""

import pytest
import torch

from dft_theory.claims.implicit_reward import SoftValues
from dft_theory.claims.scope import PolicyCase
from dft_theory.policies import AutoregressivePolicy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_backward_induction_is_the_softmax_of_the_summed_rewards(temperature: float) -> None:
    policy = AutoregressivePolicy.random(vocab=3, length=3, seed=1)
    case = SoftValues(PolicyCase(policy, "table", torch.tensor([1]), 4))
    g = torch.Generator().manual_seed(0)
    # One reward for each prefix: responses that share it get the same.
    rewards = [torch.randn(3**t, generator=g).double().repeat_interleave(3 ** (3 - t)) for t in
               (1, 2, 3)]  # fmt: skip
    reward = torch.stack(rewards, 1)
    expected = torch.softmax(reward.sum(1) / temperature, 0)
    torch.testing.assert_close(case.soft_optimal(reward, temperature), expected)
