"""A tree small enough to read, and the quadrature against another one."""

import pytest
import torch
from scipy.integrate import quad

from dft_theory.claims.critical_tokens import NoisyInput, Tree
from dft_theory.policies import AutoregressivePolicy


def tree(correct: list[int]) -> Tree:
    """Two tokens, two steps: 00, 01, 10, 11, with 0 the likelier one everywhere."""
    made = Tree(vocab=2, length=2, seed=0, share=0.0)
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(1, 3, 1)
    made.__dict__["policy"] = AutoregressivePolicy(theta, 2)
    made.__dict__["correct"] = torch.zeros(4).bool().index_fill(0, torch.tensor(correct), True)
    return made


def test_an_alternative_that_greedy_decoding_misses_makes_a_token_critical() -> None:
    # 00 is demonstrated and 11 is correct too, but 1 is continued to 10.
    case = tree([0, 3])
    assert case.demo == (0, 0)
    assert case.greedy((1,)) == (1, 0)
    assert case.critical.tolist() == [1.0, 1.0]
    assert case.necessary.tolist() == [0.0, 1.0]


def test_an_alternative_that_greedy_decoding_finds_does_not() -> None:
    case = tree([0, 2])
    assert case.critical.tolist() == [0.0, 1.0]
    assert case.necessary.tolist() == [0.0, 1.0]


def test_quadrature_of_the_noise_agrees_with_an_adaptive_one() -> None:
    case = NoisyInput(vocab=3, size=1, seed=0)
    alpha = 0.7

    def rise(u: float) -> float:
        x = case.parts[1]
        return float(case.loss((x + alpha * u).unsqueeze(0)) - case.loss(x.unsqueeze(0)))

    area, error = quad(rise, -1, 1, epsabs=1e-13)
    assert float(case.excess(alpha)) == pytest.approx(area / 2 / alpha**2, abs=1e-11 + error)
