"""What the strategies draw is valid input, by construction."""

import torch
from hypothesis import find, given, settings

from dft_theory.logprobs import IGNORE_INDEX, token_stats
from dft_theory.testing import strategies


@given(strategies.logits_and_labels(impossible=True))
def test_logits_and_labels_are_always_accepted(batch):
    logits, labels = batch
    t = token_stats(logits, labels, needs=("entropy", "log_probs"))
    assert not bool(t.logp.isnan().any())
    assert torch.equal(t.mask, labels[:, 1:] != IGNORE_INDEX)


@given(strategies.logits_and_labels())
def test_without_being_asked_no_logit_is_impossible(batch):
    assert bool(batch[0].isfinite().all())


def test_single_tokens_become_impossible_where_asked_and_other_logits_stay():
    batches = strategies.logits_and_labels(impossible=True)
    assert bool(find(batches, lambda batch: bool(batch[0].isneginf().any()))[0].isneginf().any())
    assert bool(find(batches, lambda batch: bool((batch[0] != 0).all()))[0].all())


@given(strategies.distributions(max_vocab=4, least=0.01))
def test_distributions_are_distributions(r):
    assert 2 <= r.shape[0] <= 4
    assert abs(float(r.sum()) - 1) < 1e-12
    assert bool((r > 0).all())


@settings(max_examples=20)
@given(strategies.states(groups=2))
def test_states_come_in_groups_of_four(s):
    assert s.logits.shape[0] in (4, 8)
    assert bool(s.stats().mask.any())
