"""Weights given from outside: REINFORCE, filtered SFT, critical tokens, Dense-Path REINFORCE."""

import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import (
    SumOver,
    TokenMean,
    critical_tokens,
    dense_path,
    filtered_sft,
    reinforce,
    sft,
)


def test_reinforce_multiplies_the_score_by_the_advantage(batch):
    expected = batch.published(lambda logp: -(batch.advantage * logp).sum())
    assert_close(batch.gradient(reinforce), expected)


@pytest.mark.parametrize("objective", [filtered_sft, critical_tokens], ids=lambda o: o.name)
def test_only_tokens_of_positive_advantage_are_learned(batch, objective):
    kept = batch.advantage > 0
    assert kept.any()
    assert not kept.all()
    assert_close(batch.gradient(objective), batch.published(lambda logp: -logp[kept].sum()))


def test_a_mean_over_all_tokens_is_smaller_by_the_share_of_the_kept_ones(batch):
    z = batch.logits.clone().requires_grad_(True)
    t = batch.stats(z)
    kept = (batch.advantage > 0) & t.mask
    over_all = torch.autograd.grad(critical_tokens.surrogate(t, reduction=TokenMean()), z)[0]
    over_kept = batch.published(lambda logp: -logp[kept].mean())
    assert_close(over_all, over_kept * kept.sum() / t.mask.sum())


def test_dense_path_gives_each_token_the_log_ratio_of_what_follows(batch):
    reward = batch.old - batch.ref
    coefficient = torch.zeros_like(reward)
    for t in range(reward.shape[1]):
        coefficient[:, t] = reward[:, t:].sum(1)
    expected = batch.published(lambda logp: -(coefficient * logp).sum())
    assert_close(batch.gradient(dense_path), expected)


def test_the_first_token_of_dense_path_carries_the_ratio_of_the_response(batch):
    t = batch.stats(batch.logits)
    assert_close(dense_path.weight(t)[:, 0], (batch.old - batch.ref).sum(1))


def test_where_the_checkpoints_agree_dense_path_stands_still(batch):
    t = batch.stats(batch.ref_logits)
    still = dense_path.weight(type(t)(logp=t.logp, mask=t.mask, old_logp=t.logp, ref_logp=t.logp))
    assert not still.any()


@pytest.mark.parametrize(
    "objective", [reinforce, filtered_sft, critical_tokens, dense_path], ids=lambda o: o.name
)
def test_the_surrogate_of_constant_weights_is_its_own_potential(batch, objective):
    t = batch.stats(batch.logits)
    assert_close(
        objective.potential_value(t, reduction=SumOver()),
        objective.surrogate(t, reduction=SumOver()),
    )


def test_with_every_response_accepted_filtered_sft_is_sft(batch):
    accepted = type(batch)(**(vars(batch) | {"advantage": torch.ones_like(batch.advantage)}))
    assert_close(accepted.gradient(filtered_sft), batch.gradient(sft))
