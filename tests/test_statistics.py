"""Estimates against enumeration, intervals against their definition, tests that can reject."""

import itertools

import numpy as np
import pytest

from dft_theory.statistics import bootstrap, paired, pass_at_k


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 2), (5, 5), (6, 3)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n, k):
    for right in range(n + 1):
        subsets = list(itertools.combinations([1] * right + [0] * (n - right), k))
        assert pass_at_k(n, right, k) == pytest.approx(np.mean([any(s) for s in subsets]))


def test_pass_at_k_of_one_sample_is_the_share_of_right_ones():
    assert pass_at_k([4, 4, 8], [0, 1, 8], 1).tolist() == pytest.approx([0, 0.25, 1])


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [(3, 1, 4, "at least 4 samples"), (3, 4, 1, "more right"), (3, 1, 0, "at least 1")],
)
def test_what_cannot_be_estimated_is_refused(n, c, k, message):
    with pytest.raises(ValueError, match=message):
        pass_at_k(n, c, k)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        found = bootstrap(rng.random(60) < 0.3, seed=seed, draws=500)
        hits += found.low <= 0.3 <= found.high
    assert 88 <= hits <= 99


def test_an_interval_is_of_problems_and_of_at_least_two():
    found = bootstrap([0.0, 1.0, 1.0, 0.0])
    assert found.mean == 0.5
    assert 0 <= found.low < 0.5 < found.high <= 1
    assert bootstrap([0.5, 0.5]) == bootstrap([0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="two problems"):
        bootstrap([1.0])


def test_pairs_see_what_means_do_not():
    rng = np.random.default_rng(1)
    hard = rng.random(80)
    better, same = hard + 0.02 + 0.01 * rng.standard_normal(80), rng.permutation(hard)
    found = paired(better, hard)
    assert found.difference.low > 0.015
    assert found.p_value < 0.01
    assert paired(same, hard).p_value > 0.05
    assert paired(hard, hard).p_value == 1.0
    with pytest.raises(ValueError, match="same problems"):
        paired(hard, hard[1:])
