"""The batch builder of the objective checks: complete, reproducible, and ragged."""

from dataclasses import fields

import torch

from dft_theory.logprobs import TokenStats
from dft_theory.testing.states import state, states, token


def test_a_state_holds_every_statistic_there_is():
    t = state(0).stats()
    assert all(getattr(t, f.name) is not None for f in fields(TokenStats))
    assert t.sampled.shape[:2] == t.logp.shape
    assert bool((t.advantage > 0).any())
    assert bool((t.advantage < 0).any())
    assert bool((~t.mask).any())


def test_only_asks_for_some_of_them():
    t = state(0).stats(only=("entropy",))
    assert t.entropy is not None
    assert t.log_probs is None
    assert t.targets is None


def test_states_are_reproducible_and_differ():
    assert torch.equal(state(3).logits, state(3).logits)
    assert not torch.equal(state(3).logits, state(4).logits)
    assert len({s.name for s in states()}) == len(states())


def test_rows_padding_and_changes_touch_what_they_say():
    s = state(0)
    assert torch.equal(s.rows(torch.tensor([1, 0])).labels, s.labels[[1, 0]])
    wider = s.padded(2)
    t, w = s.stats(), wider.stats()
    for name in ("logp", "entropy", "ref_logp", "old_logp", "advantage", "mask"):
        assert torch.equal(getattr(w, name)[:, :-2], getattr(t, name))
    assert not bool(w.mask[:, -2:].any())
    moved = s.elsewhere(1, 1).stats()
    for name in ("logp", "ref_logp", "old_logp", "advantage", "entropy"):
        different = (getattr(moved, name) != getattr(t, name)).nonzero().tolist()
        assert different == [[1, 1]], name


def test_a_token_is_one_softmax():
    t = token(0, vocab=6).stats()
    assert t.log_probs.shape == (1, 1, 6)
