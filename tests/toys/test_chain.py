"""The chain task: its laws, its prompts, and its exact metrics against enumeration."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from dft_theory.enumeration import probabilities
from dft_theory.logprobs import target_stats
from dft_theory.policies import ToyTransformer
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.chain import Chain, Split
from dft_theory.toys.stacked import Stack

WORLD = Chain.random(3)
EVERY = chain.prompts()


def written(law: torch.Tensor, n: int = 1, seed: int = 0) -> torch.Tensor:
    g = generator(seed, "test")
    return chain.write(EVERY.repeat(n, 1), law, chain.TEACHER_STYLE, g)


def test_rules_are_permutations_that_never_agree():
    for rule in (WORLD.right, WORLD.aligned, WORLD.systematic):
        assert torch.equal(rule.sort(1).values, torch.arange(10).expand(4, 10))
    for a, b in itertools.combinations((WORLD.right, WORLD.aligned, WORLD.systematic), 2):
        assert not (a == b).any()
    assert not torch.equal(WORLD.right, Chain.random(4).right)


@pytest.mark.parametrize("error", ["uniform", "systematic", "aligned"])
def test_a_law_errs_at_its_rate_and_in_its_manner(error):
    law = WORLD.law(error, 0.3)
    assert_close(law.sum(-1), torch.ones(4, 10))
    right = law.gather(-1, WORLD.right.unsqueeze(-1)).squeeze(-1)
    assert_close(right, torch.full((4, 10), 0.73 if error == "uniform" else 0.7))
    wrong = {"uniform": 0.03, "systematic": 0.3 if error == "systematic" else 0.0, "aligned": 0.0}
    systematic = law.gather(-1, WORLD.systematic.unsqueeze(-1)).squeeze(-1)
    assert_close(systematic, torch.full((4, 10), wrong[error]))
    assert torch.equal(WORLD.law(error, 0.0), WORLD.law())


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        WORLD.law("uniform", rate)


def test_an_unknown_error_is_refused():
    with pytest.raises(ValueError, match="uniform, systematic, aligned"):
        WORLD.law("odd", 0.1)


def test_right_responses_apply_the_rule_state_by_state():
    tokens = written(WORLD.law())
    for row in tokens[:: 640 // 20].tolist():
        state = row[1]
        for t in range(3):
            state = WORLD.right[row[2 + t] - chain.OPERATOR, state].item()
            assert row[chain.PROMPT + 2 * t + 1] == state
            assert chain.STYLE <= row[chain.PROMPT + 2 * t] < chain.STYLE + chain.STYLES
    assert bool(WORLD.follows(tokens, WORLD.right).all())
    assert not WORLD.follows(tokens, WORLD.aligned).any()


def test_wrong_states_stay_in_the_chain_and_come_at_their_rate():
    tokens = written(WORLD.law("aligned", 0.4), 30)
    right, wrong = (WORLD.follows(tokens, rule) for rule in (WORLD.right, WORLD.aligned))
    assert bool((right ^ wrong).all())
    # Each step is wrong with its own chance, whatever came before: 57,600 draws, sd 0.002.
    assert right.float().mean().item() == pytest.approx(0.6, abs=0.012)
    assert right.all(-1).float().mean().item() == pytest.approx(0.6**3, abs=0.02)


def test_nothing_follows_from_a_token_that_is_no_state():
    tokens = written(WORLD.law())[:1].repeat(2, 1)
    tokens[1, chain.PROMPT + 1] = chain.EQUALS
    assert WORLD.follows(tokens, WORLD.right).tolist() == [[True] * 3, [False, False, True]]


def test_styles_follow_their_law():
    manner = written(WORLD.law(), 10)[:, chain.PROMPT :][:, chain.STYLED] - chain.STYLE
    share = torch.bincount(manner.flatten(), minlength=4) / manner.numel()
    assert_close(share, torch.tensor(chain.TEACHER_STYLE), atol=0.02, rtol=0.0)


def test_prompts_are_all_there_and_splits_are_disjoint():
    assert EVERY.shape == (640, chain.PROMPT)
    assert len(EVERY.unique(dim=0)) == 640
    split = Split.random(5, train=142)
    parts = [split.train, split.validation, split.test, split.unseen]
    rows = torch.cat(parts)
    assert len(rows.unique(dim=0)) == len(rows) == 142 + 3 * 64
    new = chain.OPERATOR + chain.UNSEEN
    assert [bool((p == new).any(-1).any()) for p in parts] == [False] * 3 + [True]
    assert bool((split.unseen == new).any(-1).all())
    assert len(Split.random(5, train=400).train.unique(dim=0)) == 142


@pytest.mark.parametrize("held_out", [0, 91])
def test_a_split_that_leaves_nothing_is_refused(held_out):
    with pytest.raises(ValueError, match="held_out lies in"):
        Split.random(0, held_out=held_out)


def test_copies_are_reversed():
    for row in chain.copies(20, chain.BASE_STYLE, generator(0, "test")).tolist():
        assert (row[0], row[5]) == (chain.COPY, chain.EQUALS)
        assert row[chain.PROMPT :][chain.CONTENT] == row[4:1:-1]
        assert all(14 <= f < 18 for f in row[chain.PROMPT :][chain.STYLED])


# --- metrics ------------------------------------------------------------------------------------


def test_summary_is_what_enumeration_gives():
    """A response of two tokens over 4: style given, state right, against all 16 responses."""
    policy = ToyTransformer.random(vocab=4, length=2, seed=1, scale=0.8)
    base = ToyTransformer.random(vocab=4, length=2, seed=2, scale=0.8)
    prompt, style, state = torch.tensor([1]), 2, 3
    joint, other = (probabilities(p, prompt).view(4, 4) for p in (policy, base))
    tokens = torch.tensor([[[1, style, state]]])
    t, b = (Stack.of([p]).stats(tokens, needs=("entropy", "log_probs")) for p in (policy, base))
    found = {key: value.item() for key, value in chain.summary(t, b).items()}
    states, rival = joint[style] / joint[style].sum(), other[style] / other[style].sum()
    styles, manner = joint.sum(1), other.sum(1)
    assert found["sampled"] == found["content_p"] == pytest.approx(states[state].item())
    assert found["greedy"] == float(states.argmax() == state)
    assert found["content_kl"] == pytest.approx((states * (states / rival).log()).sum().item())
    assert found["style_kl"] == pytest.approx((styles * (styles / manner).log()).sum().item())
    assert found["content_entropy"] == pytest.approx(-(states * states.log()).sum().item())
    assert found["style_entropy"] == pytest.approx(-(styles * styles.log()).sum().item())


def certain(tokens: torch.Tensor, p: float) -> torch.Tensor:
    """Logits of a policy that gives every token of the responses `[N, T]` probability p."""
    rest = torch.full((*tokens.shape, chain.VOCAB), (1 - p) / (chain.VOCAB - 1))
    return rest.scatter(-1, tokens.unsqueeze(-1), p).log()


def test_accuracy_is_the_product_over_states_and_greedy_the_argmax():
    responses = written(WORLD.law())[:5, chain.PROMPT :]
    for p in (0.03, 0.2, 0.9):
        t = target_stats(certain(responses, p), responses, needs=("log_probs",))
        assert_close(chain.content_logp(t).exp(), torch.full((5,), p**3))
        assert chain.greedy(t).tolist() == [float(p > 1 / chain.VOCAB)] * 5
    wrong = responses.clone()
    wrong[0, 1] = (wrong[0, 1] + 1) % 10  # one state of one response
    wrong[1, 0] = chain.STYLE + (wrong[1, 0] - chain.STYLE + 1) % 4  # a style: not asked for
    t = target_stats(certain(responses, 0.9), wrong, needs=("log_probs",))
    assert chain.greedy(t).tolist() == [0, 1, 1, 1, 1]


def test_pass_at_k_is_the_chance_that_not_all_fail():
    p = torch.tensor([0.0, 1e-6, 0.3, 1.0], dtype=torch.float64)
    for k in (1, 2, 16):
        assert_close(chain.pass_at_k(p.log(), k), 1 - (1 - p) ** k, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="at least one sample"):
        chain.pass_at_k(p.log(), 0)


def test_a_divergence_from_oneself_is_zero():
    stack = Stack.fresh(blank(8), (0,))
    t = stack.stats(written(WORLD.law())[None, :6], needs=("log_probs",))
    assert_close(chain.divergence(t, t), torch.zeros(6, chain.LENGTH))
