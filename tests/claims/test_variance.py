"""What a bound alone would not notice: the variance that it bounds, summed over demonstrations."""

import torch
from torch.testing import assert_close

from dft_theory.claims import Scope
from dft_theory.claims.policy_gradient import data
from dft_theory.claims.variance import across_data
from dft_theory.policies import TabularPolicy


def test_the_variance_of_the_sft_gradient_is_a_mean_squared_distance_from_the_mean():
    case = Scope.of(TabularPolicy.random(vocab=3, length=2, seed=5)).policy_cases[0]
    q = data(case)
    mean = sum(share * score for share, score in zip(q, case.scores, strict=True))
    expected = sum(
        share * (score - mean).square().sum() for share, score in zip(q, case.scores, strict=True)
    )
    assert expected > 0.1
    assert_close(across_data(case), torch.as_tensor(expected))
