"""Claims about several responses: that they hold on any policy, and what they are made of."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.claims import Scope
from dft_theory.claims.comparisons import (
    BETA,
    CLAIMS,
    centred,
    implicit_reward,
    pair,
    reference_probs,
    tilted_by_reward,
)
from dft_theory.claims.scope import PolicyCase
from dft_theory.policies import AutoregressivePolicy


def case() -> PolicyCase:
    policy = AutoregressivePolicy.random(vocab=3, length=2, seed=5)
    return PolicyCase(policy, "test", torch.tensor([0]), 4)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_holds_on_a_single_policy_with_every_mutant_rejected(claim):
    scope = Scope.of(AutoregressivePolicy.random(vocab=3, length=2, seed=5))
    assert claim.check(scope).reason == ""


def test_the_soft_optimal_policy_of_the_implicit_reward_is_the_policy():
    c = case()
    assert_close(tilted_by_reward(c), c.held_probs)
    assert_close(implicit_reward(c), BETA * (c.held_probs.log() - reference_probs(c).log()))


def test_the_reference_is_near_and_not_the_policy():
    c = case()
    assert_close(reference_probs(c).sum().item(), 1.0)
    assert 1e-3 < float((reference_probs(c) - c.held_probs).abs().max()) < 0.5


def test_a_pair_is_two_different_responses_and_a_baseline_leaves_both_signs():
    assert pair(case()).tolist() == [4, 8]
    assert centred(case()).min() < 0 < centred(case()).max()
