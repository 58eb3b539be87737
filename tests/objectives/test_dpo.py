"""DPO: the published loss, pairs of different lengths, impossible and empty responses."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, dpo


def published(batch, beta):
    def loss(logp):
        x = (logp - batch.ref).sum(1)
        return -F.logsigmoid(beta * (x[0::2] - x[1::2])).sum()

    return loss


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_gradient_is_that_of_the_published_loss(batch, beta):
    assert_close(batch.gradient(dpo(beta)), batch.published(published(batch, beta)))


def test_the_potential_is_the_published_loss(batch):
    t = batch.stats(batch.logits)
    found = dpo(0.5).potential_value(t, reduction=SumOver())
    assert_close(found, published(batch, 0.5)(batch.logp(batch.logits)))


def test_a_pair_with_one_token_in_all_has_its_whole_value():
    logp = torch.tensor([[-1.0], [0.0]])
    mask = torch.tensor([[True], [False]])
    t = TokenStats(logp=logp, mask=mask, ref_logp=torch.zeros(2, 1))
    expected = torch.tensor(math.log(1 + math.e))
    assert_close(dpo(1.0).potential_value(t, reduction=SumOver()), expected)


def test_at_the_reference_both_responses_weigh_half_of_beta(batch):
    w = dpo(0.4).weight(batch.stats(batch.ref_logits))
    assert_close(w.flatten(), torch.tensor([0.2, -0.2, 0.2, -0.2], dtype=torch.float64))


def test_an_odd_number_of_rows_is_refused(batch):
    t = batch.stats(batch.logits)
    three = TokenStats(logp=t.logp[:3], mask=t.mask[:3], ref_logp=t.ref_logp[:3])
    with pytest.raises(ValueError, match="rows alternate chosen, rejected.*got 3 rows"):
        dpo().surrogate(three, reduction=SumOver())
    with pytest.raises(ValueError, match="got 3 rows"):
        dpo().potential_value(three, reduction=SumOver())


@pytest.mark.parametrize("row", [0, 1])
def test_a_pair_with_an_empty_response_still_has_its_whole_gradient(batch, row):
    labels = batch.labels.clone()
    labels[row] = -100
    short = replace(batch, labels=labels)
    z = batch.logits.clone().requires_grad_(True)
    loss = dpo(0.5).potential_value(short.stats(z), reduction=SumOver())
    assert_close(torch.autograd.grad(loss, z)[0], short.gradient(dpo(0.5)))
    assert_close(short.gradient(dpo(0.5)), short.published(published(short, 0.5)))


def test_impossible_responses_give_finite_weights():
    inf = math.inf
    logp = torch.tensor([[-inf], [-1.0], [-1.0], [-inf], [-inf], [-inf]])
    t = TokenStats(
        logp=logp, mask=torch.ones(6, 1, dtype=torch.bool), ref_logp=torch.full((6, 1), -1.0)
    )
    expected = torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    assert_close(dpo(1.0).weight(t).flatten(), expected)


def test_a_beta_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="beta above 0"):
        dpo(0.0)
