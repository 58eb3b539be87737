"""The batches on which losses are checked have the probabilities that they promise."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import token_stats
from dft_theory.testing import cases
from dft_theory.testing.cases import PROBABILITIES, case


def test_the_targets_have_the_given_probabilities():
    found = cases.ragged()
    t = token_stats(found.logits, found.labels)
    p = t.logp[t.mask].exp()
    expected = torch.tensor([PROBABILITIES[i % 8] for i in range(15)], dtype=torch.float64)
    assert_close(p, expected)
    assert found.targets == 15


def test_a_case_is_the_same_every_time_and_names_itself():
    assert torch.equal(cases.ragged().logits, cases.ragged().logits)
    assert str(cases.one_token().with_count(40)) == "one token: B=1 T=2 V=3 N=40"


def test_confident_tokens_stay_confident_in_bfloat16():
    found = cases.confident()
    logits = found.logits.bfloat16().double()
    p = token_stats(logits, found.labels).logp.exp()
    assert int((p > 0.99).sum()) >= 12


def test_ordinary_cases_come_smallest_first():
    sizes = [c.logits.numel() for c in cases.ordinary() if c.count is None]
    assert sizes == sorted(sizes)
    assert {c.count for c in cases.ordinary()} == {None, 40}


@pytest.mark.parametrize("labels", [[[-100, -100]], [[-100, 1, -100]]])
def test_only_shifted_labels_are_targets(labels):
    assert case("x", labels, vocab=3).targets == sum(y >= 0 for y in labels[0])


def test_no_registered_gate_sits_on_a_case():
    edges = [0.1, 0.2, 0.5, 0.25]
    assert all(abs(p - edge) > 1e-3 for p in PROBABILITIES for edge in edges)
