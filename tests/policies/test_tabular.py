"""Tables: which row is read, and the score that follows from it."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from dft_theory import enumeration
from dft_theory.policies import AutoregressivePolicy, TabularPolicy

TABLES = {
    "tabular": TabularPolicy.random(vocab=3, length=3, seed=4),
    "autoregressive": AutoregressivePolicy.random(vocab=3, length=3, seed=4),
}
PROMPTS = pytest.mark.parametrize("context", [0, 1])
EVERY = pytest.mark.parametrize("policy", TABLES.values(), ids=TABLES)


def rows_visited(policy, word: tuple[int, ...]) -> list[int]:
    """Rows on the way along `word`, by listing all prefixes in order."""
    if isinstance(policy, TabularPolicy):
        return list(range(len(word)))
    prefixes = [p for t in range(len(word)) for p in itertools.product(range(3), repeat=t)]
    return [prefixes.index(word[:t]) for t in range(len(word))]


@EVERY
@PROMPTS
def test_log_probabilities_are_read_off_the_rows_of_the_prompts_table(policy, context):
    table = torch.log_softmax(policy.theta.detach()[context], dim=-1)
    words = list(itertools.product(range(3), repeat=3))
    expected = [
        [float(table[row, y]) for row, y in zip(rows_visited(policy, w), w, strict=True)]
        for w in words
    ]
    found = policy.log_probs(torch.tensor([context]), torch.tensor(words))
    assert_close(found.detach(), torch.tensor(expected, dtype=torch.float64))


@EVERY
@PROMPTS
def test_the_score_is_onehot_minus_pi_on_the_visited_rows_and_zero_elsewhere(policy, context):
    words = list(itertools.product(range(3), repeat=3))
    found = enumeration.scores(policy, torch.tensor([context]), torch.tensor(words))
    probs = torch.softmax(policy.theta.detach(), dim=-1)
    for word, score in zip(words, found, strict=True):
        expected = torch.zeros_like(probs)
        for row, y in zip(rows_visited(policy, word), word, strict=True):
            expected[context, row] = torch.eye(3, dtype=torch.float64)[y] - probs[context, row]
        assert_close(score, expected.flatten())


def test_prefixes_of_all_lengths_have_rows_of_their_own():
    policy = TABLES["autoregressive"]
    seen = [
        int(policy.row_index(torch.tensor([p], dtype=torch.long).reshape(1, t)))
        for t in range(3)
        for p in itertools.product(range(3), repeat=t)
    ]
    assert seen == list(range(policy.theta.shape[1])) == list(range(1 + 3 + 9))


def test_a_table_has_a_parameter_for_every_context_row_and_token():
    assert TabularPolicy.random(vocab=4, length=3, seed=0, contexts=5).theta.shape == (5, 3, 4)
    assert AutoregressivePolicy.random(vocab=4, length=3, seed=0).theta.shape == (2, 21, 4)


@pytest.mark.parametrize("kind", [TabularPolicy, AutoregressivePolicy])
def test_scale_multiplies_the_logits_and_zero_is_the_uniform_policy(kind):
    one, three = (kind.random(vocab=3, length=2, seed=0, scale=s) for s in (1.0, 3.0))
    assert_close(three.theta, 3 * one.theta)
    flat = kind.random(vocab=3, length=2, seed=0, scale=0.0)
    probs = enumeration.probabilities(flat, torch.tensor([0]))
    assert_close(probs.detach(), torch.full((9,), 1 / 9, dtype=torch.float64))
