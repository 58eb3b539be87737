"""Discriminative fine-tuning: the released estimator, its normaliser, blocks that do not fit."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, discriminative_ft


def published(batch, tau, size):
    """-s(y) + mean_k sg(exp(s_k / tau - log pi_ref - u)) s_k, u = log mean_k of the same."""

    def loss(logp):
        total = 0.0
        ref = batch.ref.sum(1)
        for start in range(0, 4, size):
            s = logp[start : start + size].sum(1)
            log_u = s[1:] / tau - ref[start + 1 : start + size]
            u = log_u.logsumexp(0) - math.log(size - 1)
            total = total - s[0] + ((log_u - u).exp().detach() * s[1:]).mean()
        return total

    return loss


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("negatives", [1, 3])
def test_the_gradient_is_that_of_the_released_loss_with_its_normaliser_of_the_block(
    batch, tau, negatives
):
    found = batch.gradient(discriminative_ft(tau, negatives))
    assert_close(found, batch.published(published(batch, tau, 1 + negatives)))


@pytest.mark.parametrize("tau", [0.3, 1.0])
@pytest.mark.parametrize("negatives", [1, 3])
def test_the_potential_has_the_same_gradient_and_a_value_to_read(batch, tau, negatives):
    labels = batch.labels.clone()
    labels[1, 3] = -100  # a negative of one token
    batch = replace(batch, labels=labels)
    objective = discriminative_ft(tau, negatives)
    z = batch.logits.clone().requires_grad_(True)
    value = objective.potential_value(batch.stats(z), reduction=SumOver())
    assert_close(torch.autograd.grad(value, z)[0], batch.gradient(objective))
    s, ref = (x.sum(1).view(-1, 1 + negatives) for x in (batch.logp(batch.logits), batch.ref))
    mean = ((s[:, 1:] / tau).exp() / ref[:, 1:].exp()).mean(1)
    assert_close(value.detach(), (-s[:, 0] + tau * mean.log()).sum())


def test_the_weights_of_a_block_sum_to_zero(batch):
    w = discriminative_ft(1.0, 3).weight(batch.stats(batch.logits))
    assert_close(w.sum(), torch.zeros((), dtype=torch.float64), rtol=0.0, atol=1e-12)
    assert w[0] == 1.0
    assert bool((w[1:] < 0).all())


def test_rows_that_are_no_blocks_are_refused(batch):
    t = batch.stats(batch.logits)
    objective = discriminative_ft(1.0, 2)
    with pytest.raises(ValueError, match="2 negatives: their number is a multiple of 3; got 4"):
        objective.surrogate(t, reduction=SumOver())
    with pytest.raises(ValueError, match="got 4 rows"):
        objective.potential_value(t, reduction=SumOver())


def test_an_empty_row_is_no_negative(batch):
    labels = batch.labels.clone()
    labels[2] = -100
    short = replace(batch, labels=labels)
    w = discriminative_ft(1.0, 3).weight(short.stats(batch.logits)).flatten()
    assert w[2] == 0.0
    assert_close(w.sum(), torch.zeros((), dtype=torch.float64), rtol=0.0, atol=1e-12)


def test_without_any_possible_negative_only_the_demonstration_is_learned():
    logp = torch.tensor([[-1.0], [-math.inf], [-math.inf]], dtype=torch.float64, requires_grad=True)
    t = TokenStats(
        logp=logp,
        mask=torch.ones(3, 1, dtype=torch.bool),
        ref_logp=torch.full((3, 1), -1.0, dtype=torch.float64),
    )
    objective = discriminative_ft(1.0, 2)
    for loss in (objective.surrogate, objective.potential_value):
        (found,) = torch.autograd.grad(loss(t, reduction=SumOver()), logp)
        assert found.flatten().tolist() == [-1.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [(0.0, 2), (1.0, 0)])
def test_parameters_without_meaning_are_refused(bad):
    with pytest.raises(ValueError, match="tau is above 0 and negatives at least 1"):
        discriminative_ft(*bad)
