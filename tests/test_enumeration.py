"""Exact sums: batched = chunked = a plain loop, on tables and on the toy transformer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory import enumeration
from dft_theory.enumeration import (
    BLOCK,
    chunks,
    estimator_moments,
    expectation,
    gradient,
    parameters,
    policy_gradient,
    probabilities,
    score_square_norms,
    scores,
)
from dft_theory.policies import (
    AutoregressivePolicy,
    NotEnumerableError,
    Policy,
    TabularPolicy,
    ToyTransformer,
)

POLICIES: dict[str, Policy] = {
    "table": TabularPolicy.random(vocab=3, length=3, seed=0),
    "autoregressive": AutoregressivePolicy.random(vocab=3, length=3, seed=0),
    "rotary tied": ToyTransformer.random(vocab=3, length=2, seed=0),
    "learned untied": ToyTransformer.random(
        vocab=3, length=2, seed=1, positions="learned", tied=False
    ),
}
EVERY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
PROMPT = torch.tensor([1])
TINY = 1  # byte: one response at a time


def reward(responses: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """Of both signs, different for each response, and dependent on its probability."""
    return (responses.double() @ torch.arange(1.0, 1 + responses.shape[1]).double()) - 2 + logp


def table_by_loop(policy: Policy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pi `[N]`, reward `[N]` and score `[N, D]`, one response and one backward pass at a time."""
    held = [p for p in policy.parameters() if p.requires_grad]
    rows = []
    for y in policy.responses():
        logp = policy.log_probs(PROMPT, y.unsqueeze(0)).sum()
        grads = torch.autograd.grad(logp, held, allow_unused=True)
        score = [
            np.zeros(p.numel()) if g is None else g.flatten().numpy()
            for g, p in zip(grads, held, strict=True)
        ]
        c = reward(y.unsqueeze(0), logp.detach().unsqueeze(0)).item()
        rows.append((math.exp(logp.item()), c, np.concatenate(score)))
    pi, c, score = zip(*rows, strict=True)
    return np.array(pi), np.array(c), np.stack(score)


def close(found: torch.Tensor | float, expected: np.ndarray | float) -> None:
    if isinstance(found, torch.Tensor):
        found = found.detach().numpy()
    assert_close(np.asarray(found), np.asarray(expected), rtol=1e-10, atol=1e-12)


# --- expectations -------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("budget", [TINY, 2000, enumeration.BUDGET])
def test_expectation_is_the_plain_sum_whatever_the_budget(policy, budget):
    pi, _, _ = table_by_loop(policy)
    values = policy.responses().numpy()
    close(expectation(policy, PROMPT, lambda y: y, budget=budget), pi @ values)
    close(expectation(policy, PROMPT, lambda y: y.sum(-1), budget=budget), pi @ values.sum(-1))


@EVERY
def test_expectation_of_one_is_one_and_of_an_indicator_the_probability(policy):
    close(expectation(policy, PROMPT, lambda y: torch.ones(len(y))), 1.0)
    demo = policy.responses()[4]
    found = expectation(policy, PROMPT, lambda y: (y == demo).all(-1))
    close(found, probabilities(policy, PROMPT).detach().numpy()[4])


@EVERY
def test_the_score_has_expectation_zero(policy):
    found = policy_gradient(policy, PROMPT, lambda y, logp: torch.ones_like(logp))
    close(found, np.zeros(found.numel()))


# --- the policy gradient ------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("budget", [TINY, 2000, enumeration.BUDGET])
def test_policy_gradient_batched_is_chunked_is_the_plain_loop(policy, budget):
    pi, c, score = table_by_loop(policy)
    close(policy_gradient(policy, PROMPT, reward, budget=budget), (pi * c) @ score)


@EVERY
def test_policy_gradient_is_the_gradient_of_the_expected_reward_in_probability_space(policy):
    c = torch.linspace(-1, 2, policy.vocab**policy.length, dtype=torch.float64)
    order = {tuple(y): k for k, y in enumerate(policy.responses().tolist())}

    def lookup(responses: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
        return c[[order[tuple(y)] for y in responses.tolist()]]

    walked = gradient((c * probabilities(policy, PROMPT)).sum(), policy)
    close(policy_gradient(policy, PROMPT, lookup, budget=1500), walked.numpy())


@EVERY
def test_an_indicator_over_its_probability_gives_the_score_of_the_demonstration(policy):
    demo = policy.responses()[5:6]
    found = policy_gradient(
        policy, PROMPT, lambda y, logp: (y == demo).all(-1) * torch.exp(-logp)
    )  # fmt: skip
    close(found, scores(policy, PROMPT, demo)[0].numpy())


def test_the_coefficient_is_held_constant():
    policy = POLICIES["autoregressive"]
    seen = []

    def watch(responses: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
        seen.append(logp.requires_grad)
        return logp

    policy_gradient(policy, PROMPT, watch)
    estimator_moments(policy, PROMPT, watch)
    assert seen
    assert not any(seen)


def test_a_response_of_probability_zero_adds_nothing():
    theta = torch.randn(1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cut = theta.clone()
    cut[0, :, 2] = -torch.inf
    whole = TabularPolicy(theta[..., :2].clone(), 2)
    found = policy_gradient(TabularPolicy(cut, 2), torch.tensor([0]), lambda y, logp: y[:, 0] + 1.0)
    expected = policy_gradient(whole, torch.tensor([0]), lambda y, logp: y[:, 0] + 1.0)
    close(found.reshape(2, 3)[:, :2], expected.reshape(2, 2).numpy())
    close(found.reshape(2, 3)[:, 2], np.zeros(2))


def test_sums_keep_float32_policies_in_float32():
    policy = AutoregressivePolicy.random(vocab=3, length=2, seed=0).float()
    double = AutoregressivePolicy.random(vocab=3, length=2, seed=0)
    single = policy_gradient(policy, PROMPT, lambda y, logp: y[:, 0].to(logp.dtype))
    assert single.dtype == probabilities(policy, PROMPT).dtype == torch.float32
    wide = policy_gradient(double, PROMPT, lambda y, logp: y[:, 0].to(logp.dtype))
    assert_close(single.double(), wide, rtol=1e-4, atol=1e-6)


# --- chunks and gradients -----------------------------------------------------------------------


@given(st.integers(1, 200_000))
def test_chunks_are_all_responses_once_in_order_within_the_budget(budget):
    policy = POLICIES["table"]
    parts = list(chunks(policy, PROMPT, budget=budget))
    assert torch.equal(torch.cat(parts), policy.responses())
    row = 8 * (1 + policy.length) * policy.vocab  # one response's logits, float64
    assert all(len(part) == 1 or len(part) * row <= budget for part in parts)


def test_what_cannot_be_enumerated_is_refused_by_every_sum():
    policy = TabularPolicy(torch.zeros(1, 30, 4), 30)
    x = torch.tensor([0])
    for sum_ in (
        lambda: probabilities(policy, x),
        lambda: expectation(policy, x, lambda y: y),
        lambda: policy_gradient(policy, x, reward),
        lambda: estimator_moments(policy, x, reward),
    ):
        with pytest.raises(NotEnumerableError, match=r"4\^30"):
            sum_()


def test_the_gradient_is_zero_where_the_value_does_not_depend_and_skips_what_is_frozen():
    policy = ToyTransformer.random(vocab=3, length=2, seed=0, positions="learned", tied=False)
    size = sum(p.numel() for p in policy.parameters())
    value = policy.embed.weight.square().sum()
    whole = gradient(value, policy)
    assert whole.shape == (size,)
    assert_close(whole[: 3 * 8], 2 * policy.embed.weight.detach().flatten())
    assert not bool(whole[3 * 8 :].any())
    policy.head.weight.requires_grad_(False)
    assert len(parameters(policy)) == len(list(policy.parameters())) - 1
    found = policy_gradient(policy, PROMPT, reward)
    assert found.shape == (size - 3 * 8,)
    assert scores(policy, PROMPT, policy.responses()).shape == (9, size - 3 * 8)


# --- scores and moments -------------------------------------------------------------------------


@EVERY
def test_scores_are_those_of_one_backward_pass_for_each_response(policy):
    _, _, expected = table_by_loop(policy)
    close(scores(policy, PROMPT, policy.responses()), expected)


def test_scores_of_more_responses_than_a_block_are_those_of_its_parts():
    policy = AutoregressivePolicy.random(vocab=7, length=3, seed=2)
    responses = policy.responses()
    assert len(responses) > BLOCK
    found = scores(policy, PROMPT, responses)
    close(found, torch.cat([scores(policy, PROMPT, y) for y in responses.split(7)]).numpy())
    close(found.square().sum(-1), score_square_norms(policy, PROMPT, responses).numpy())


@EVERY
def test_square_norms_of_scores_by_the_shortcut_are_those_of_the_scores(policy):
    _, _, score = table_by_loop(policy)
    found = score_square_norms(policy, PROMPT, policy.responses())
    close(found, (score**2).sum(-1))
    assert not found.requires_grad


@EVERY
@pytest.mark.parametrize("budget", [50_000_000, enumeration.BUDGET])
def test_moments_are_those_of_the_plain_table(policy, budget):
    pi, c, score = table_by_loop(policy)
    sample = c[:, None] * score
    mean = pi @ sample
    covariance = (sample - mean).T @ (pi[:, None] * (sample - mean))
    found = estimator_moments(policy, PROMPT, reward, covariance=True, budget=budget)
    close(found.mean, mean)
    close(found.covariance, covariance)
    close(found.variance, np.trace(covariance))
    close(found.covariance.trace(), found.variance)


def test_moments_do_not_depend_on_the_budget():
    policy = POLICIES["table"]
    size = 8 * sum(p.numel() for p in parameters(policy)) ** 2
    small = estimator_moments(policy, PROMPT, reward, covariance=True, budget=size)
    large = estimator_moments(policy, PROMPT, reward, covariance=True)
    close(small.mean, large.mean.numpy())
    close(small.variance, large.variance)
    close(small.covariance, large.covariance.numpy())
    close(estimator_moments(policy, PROMPT, reward, budget=TINY).variance, large.variance)


def test_the_covariance_is_symmetric_and_has_no_negative_direction():
    found = estimator_moments(POLICIES["autoregressive"], PROMPT, reward, covariance=True)
    assert_close(found.covariance, found.covariance.T)
    assert float(torch.linalg.eigvalsh(found.covariance).min()) > -1e-9 * found.variance


def test_the_covariance_is_absent_unless_asked_for():
    assert estimator_moments(POLICIES["table"], PROMPT, reward).covariance is None


def test_a_covariance_beyond_the_budget_is_refused_with_its_size_and_two_ways_out():
    policy = AutoregressivePolicy.random(vocab=10, length=5, seed=0, contexts=1)
    with pytest.raises(
        ValueError,
        match=r"covariance of 111110 parameters takes 92\.0 GiB: raise `budget`.*variance",
    ):
        estimator_moments(policy, torch.tensor([0]), reward, covariance=True)
