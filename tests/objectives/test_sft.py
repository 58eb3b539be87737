"""Supervised fine-tuning is PyTorch's own cross-entropy."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory.logprobs import IGNORE_INDEX, token_stats
from dft_theory.objectives import SumOver, TokenMean, sft


@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
def test_sft_is_cross_entropy_in_value_and_gradient(seed, hidden):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, 7, dtype=torch.float64, generator=g).requires_grad_()
    labels = torch.randint(0, 7, (3, 5), generator=g)
    labels = labels.masked_fill(torch.rand(3, 5, generator=g) < hidden, IGNORE_INDEX)
    labels[0, 1] = 3  # torch's mean over no target is NaN
    flat, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    for reduction, word in ((TokenMean(), "mean"), (SumOver(), "sum")):
        oracle = F.cross_entropy(flat, targets, ignore_index=IGNORE_INDEX, reduction=word)
        (expected,) = torch.autograd.grad(oracle, logits, retain_graph=True)
        for value in (sft.surrogate, sft.potential_value):
            loss = value(token_stats(logits, labels), reduction=reduction)
            assert_close(loss, oracle)
            assert_close(torch.autograd.grad(loss, logits)[0], expected)


def test_the_optimum_is_the_data_distribution_itself():
    r = torch.tensor([0.2, 0.5, 0.3])
    assert torch.equal(sft.optimum(r), r)
