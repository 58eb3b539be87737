"""Beyond enumeration: what samples can show, and an honest 'cannot tell'."""

import math

import pytest
import torch

from dft_theory.claims import sampled
from dft_theory.claims.sampled import verify_by_sampling
from dft_theory.claims.tolerance import MonteCarlo
from dft_theory.policies import AutoregressivePolicy, NotEnumerableError, TabularPolicy
from dft_theory.seeding import generator

PROMPT = torch.tensor([0])


def peaked(length: int) -> TabularPolicy:
    """A policy over 50 tokens that emits token 0 with probability 0.9 at each step."""
    theta = torch.zeros(1, length, 50, dtype=torch.float64)
    theta[..., 0] = math.log(0.9 / 0.1 * 49)
    return TabularPolicy(theta, length)


def test_identity_holds_where_the_support_is_too_large_to_enumerate() -> None:
    policy = peaked(5)
    with pytest.raises(NotEnumerableError, match="token by token"):
        policy.responses()
    demo = torch.zeros(1, 5, dtype=torch.long)
    verdict = verify_by_sampling(policy, PROMPT, demo, generator=generator(0, "sampled"))
    assert verdict.holds is True
    assert verdict.bar < 0.1


def test_the_bar_is_that_of_the_exact_variance_of_reward_times_weight() -> None:
    demo = torch.zeros(1, 5, dtype=torch.long)
    found = verify_by_sampling(peaked(5), PROMPT, demo, generator=generator(0, "sampled")).bar
    weight = torch.tensor(0.9**-5, dtype=torch.float64)
    mean = MonteCarlo().mean(torch.ones(MonteCarlo().n), variance=weight - 1, reach=weight)
    assert found == pytest.approx(float(mean.error))


def test_dropping_the_weight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "importance_weight", lambda logp: torch.ones_like(logp))
    demo = torch.zeros(1, 5, dtype=torch.long)
    verdict = verify_by_sampling(peaked(5), PROMPT, demo, generator=generator(0, "sampled"))
    assert verdict.holds is False


def test_a_hopeless_demonstration_gets_a_way_out() -> None:
    policy = AutoregressivePolicy.random(vocab=3, length=2, seed=0, scale=12.0)
    logp = policy.log_probs(PROMPT, policy.responses()).sum(-1)
    demo = policy.responses()[logp.argmin()][None]
    verdict = verify_by_sampling(policy, PROMPT, demo, generator=generator(0, "sampled"))
    assert verdict.holds is None
    assert "cannot tell" in str(verdict)
    assert "token by token" in str(verdict)
