"""SED-SFT: the penalty, its mask, and the p at which a demonstration rests."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from dft_theory.objectives import sed, sed_masked, sft

GRID = torch.linspace(0.001, 1.0, 20_000, dtype=torch.float64)


@pytest.mark.parametrize("lam", [0.2, 1.0, 1.5])
def test_the_gradient_is_that_of_the_penalised_loss(lam, small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -p.log() + lam * (p - 0.5) ** 2

    assert_close(small.surrogate(sed(lam)), small.published(loss), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_up_to_the_published_penalty_one_demonstration_is_learned_to_the_end(lam):
    assert bool((sed(lam).weight_at(GRID[:-1]) > 0).all())


def test_a_larger_penalty_stops_where_the_note_says():
    for lam in (1.5, 3.0):
        rest = (lam + math.sqrt(lam**2 + 8 * lam)) / (4 * lam)
        weight = sed(lam).weight_at(GRID)
        assert_close(GRID[weight.abs().argmin()].item(), rest, rtol=0.0, atol=1e-4)


def test_the_mask_is_the_share_of_the_unsurest_tokens_of_the_batch(large):
    stats = large.stats()
    top = np.sort(stats.log_probs.exp().numpy(), -1)[..., -3:].sum(-1)[stats.mask.numpy()]
    p = stats.logp.exp()[stats.mask].numpy()
    unsure = top < np.quantile(top, 1 - 0.4)
    expected = np.where(unsure, 1 - 2 * p * (2 * p - 1), 1.0)
    found = sed_masked(2.0, k=3, ratio=0.4).weight(stats)[stats.mask].numpy()
    assert 0 < unsure.sum() < len(p)
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_gradient_takes_the_mask_as_constant(large):
    def loss(pi, y, _):
        p, top = pi.gather(1, y[:, None])[:, 0], pi.topk(2).values.sum(-1).detach()
        return -p.log() + (top < torch.quantile(top, 0.3)) * (p - 0.5) ** 2

    assert_close(large.surrogate(sed_masked(1.0)), large.published(loss), rtol=1e-12, atol=1e-13)


def test_a_vocabulary_smaller_than_k_masks_nothing(small):
    # All tokens have top-k mass 1: none lies below the quantile.
    weight = sed_masked(1.0, k=20).weight(small.stats())
    assert_close(weight, sft.weight(small.stats()), rtol=1e-12, atol=0.0)


def test_bad_parameters_are_refused():
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="penalty lam is at least 0"):
            sed(bad)
    for k, ratio in ((0, 0.5), (2, 1.1)):
        with pytest.raises(ValueError, match=r"k >= 1 and a ratio in \[0, 1\]"):
            sed_masked(1.0, k=k, ratio=ratio)
