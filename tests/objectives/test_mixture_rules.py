"""The rules of the hybrids: prefixes, hints, shares that adapt, and conflicts."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import (
    SumOver,
    amft_step,
    hint_survival,
    meta_slope,
    prefix_advantages,
    sft,
    top_entropy,
    without_conflict,
)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens(seed: int, logits: torch.Tensor) -> TokenStats:
    """Two responses of three tokens under `logits` [2, 4, 5]."""
    labels = torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(seed))
    return token_stats(logits, labels, needs=("entropy",))


@pytest.fixture
def logits() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 5, dtype=torch.float64, generator=g, requires_grad=True)


# --- prefixes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_single_continuation_keeps_its_raw_reward(reward):
    continued, prefix = prefix_advantages(numbers(reward), numbers(1, 0, 0, 0))
    assert_close(continued, numbers(reward))
    assert_close(prefix, numbers(reward - 0.25))
    assert float(continued.min()) >= 0


def test_several_continuations_are_normalised_by_hand():
    continued, prefix = prefix_advantages(numbers(1, 0), numbers(1, 0, 0, 0))
    expected = numbers(0.5, -0.5) / (math.sqrt(0.5) + 1e-6)
    assert_close(continued, expected)
    assert_close(prefix, (expected - 0.25) / 2)


def test_integer_rewards_are_taken_as_real_ones():
    for rewards in ([1, 0], [1]):
        counted = prefix_advantages(torch.tensor(rewards), torch.tensor([1, 0, 0, 0]))
        assert_close(
            counted, prefix_advantages(torch.tensor(rewards).float(), torch.tensor([1.0, 0, 0, 0]))
        )


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8))
def test_what_several_continuations_earn_cancels_in_the_prefix(rewards):
    _, prefix = prefix_advantages(numbers(*rewards), numbers(1, 1, 0, 0))
    assert_close(prefix.sum(), numbers(-0.5)[0])


def test_only_the_most_uncertain_tokens_of_a_prefix_are_kept(logits):
    stats = tokens(0, logits)
    kept = top_entropy(stats, 0.5)
    assert int(kept.mask.sum()) == 3
    entropy = stats.entropy.detach()
    assert float(entropy[kept.mask].min()) >= float(entropy[~kept.mask].max())
    assert bool((kept.logp[~kept.mask] == 0).all())
    loss = sft.surrogate(kept, reduction=SumOver())
    expected = -(stats.logp * kept.mask).sum()
    assert_close(
        torch.autograd.grad(loss, logits, retain_graph=True)[0],
        torch.autograd.grad(expected, logits)[0],
    )


def test_masked_tokens_are_never_kept():
    labels = torch.tensor([[0, 1, -100, -100]])
    # The masked rows are uniform, the target's is peaked: they would have the larger entropy.
    logits = torch.zeros(1, 4, 5, dtype=torch.float64)
    logits[0, 0, 1] = 9.0
    kept = top_entropy(token_stats(logits, labels, needs=("entropy",)), 1.0)
    assert kept.mask.tolist() == [[True, False, False]]


def test_top_entropy_refuses_what_it_cannot_rank(logits):
    stats = tokens(0, logits)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match="share is a part of the tokens"):
            top_entropy(stats, share)
    with pytest.raises(ValueError, match="top_entropy needs entropy"):
        top_entropy(replace(stats, entropy=None), 0.5)


# --- hints --------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(0, 1))
def test_hint_survival_is_scipys_and_falls_along_the_solution(length, p):
    found = hint_survival(length, p)
    expected = torch.from_numpy(binom.sf(range(length), length, p))
    assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert all(later <= sooner + 1e-15 for sooner, later in pairwise(found.tolist()))


def test_without_hints_nothing_is_imitated_and_with_all_everything():
    assert hint_survival(4, 0.0).tolist() == [0, 0, 0, 0]
    assert hint_survival(4, 1.0).tolist() == [1, 1, 1, 1]


# --- coefficients and conflicts -----------------------------------------------------------------


def test_the_meta_slope_on_a_quadratic_is_the_derivative():
    # L_SFT = (x - 1)^2 / 2, L_RL = (x + 1)^2 / 2 and U = -x^2 from x = 1/2, in one dimension.
    x, rate, mu = 0.5, 0.1, 0.3
    imitation, reinforcement = x - 1, x + 1
    ahead = x - rate * ((1 - mu) * reinforcement + mu * imitation)
    slope = meta_slope(numbers(-2 * ahead), numbers(imitation), numbers(reinforcement), rate)
    # theta' = x - rate (x + 1 - 2 mu), so dU/dmu = -2 theta' * 2 rate.
    assert_close(float(slope), -4 * rate * (x - rate * (x + 1 - 2 * mu)))


@pytest.mark.parametrize(
    ("slope", "excess", "expected"),
    [(0.0, 0.0, 0.5), (1.0, 0.0, 0.6), (0.0, -2.0, 0.1), (9.0, 0.0, 1.0), (-9.0, 0.0, 0.0)],
)
def test_the_share_follows_slope_and_entropy_and_is_clipped(slope, excess, expected):
    found = amft_step(0.5, slope, excess, rate=0.1, entropy_rate=0.2)
    assert found == pytest.approx(expected)


@given(st.integers(0, 10_000))
def test_a_conflict_is_projected_out_and_nothing_else(seed):
    g = torch.Generator().manual_seed(seed)
    imitation, reinforcement = torch.randn(2, 4, dtype=torch.float64, generator=g)
    kept = without_conflict(imitation, reinforcement)
    if float(imitation @ reinforcement) >= 0:
        assert kept is imitation
    else:
        assert abs(float(kept @ reinforcement)) < 1e-12
        assert_close(kept @ imitation, kept @ kept)
        assert float(kept @ imitation) >= -1e-12


def test_opposite_gradients_leave_nothing():
    assert_close(without_conflict(numbers(1, -2), numbers(-2, 4)), numbers(0, 0))
