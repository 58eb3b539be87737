"""Agreement of gradients: against a plain loop, and the statistic that does not grow with N."""

import math

import pytest
import torch

from dft_theory.diagnostics.coherence import (
    coherence,
    expected_cosine,
    jackknife_error,
    shared_part,
    split_half,
)
from dft_theory.seeding import generator


def gradients(n: int, *, shared: float, seed: int = 0, width: int = 400) -> torch.Tensor:
    """N vectors of length 1 on average, of whose square a part `shared` is common to all."""
    g = generator(seed, "gradients", n)
    own, common = (torch.randn(k, width, generator=g, dtype=torch.float64) for k in (n, 1))
    return (math.sqrt(shared) * common + math.sqrt(1 - shared) * own) / math.sqrt(width)


def of(g: torch.Tensor, seed: int = 0):
    return coherence(g @ g.T, of="these", tokens=9, generator=generator(seed, "halves"))


def test_the_shared_part_is_the_mean_over_pairs():
    g = gradients(7, shared=0.3)
    pairs = [float(g[i] @ g[j]) for i in range(7) for j in range(7) if i != j]
    own = [float(v @ v) for v in g]
    assert shared_part(g @ g.T) == pytest.approx((sum(pairs) / 42) / (sum(own) / 7), rel=1e-12)


def test_the_error_is_the_jackknife():
    g = gradients(9, shared=0.3)
    rest = [torch.cat([g[:i], g[i + 1 :]]) for i in range(9)]
    left = torch.tensor([shared_part(r @ r.T) for r in rest], dtype=torch.float64)
    wanted = math.sqrt(8 / 9 * float((left - left.mean()).square().sum()))
    assert jackknife_error(g @ g.T) == pytest.approx(wanted, rel=1e-9)


def test_more_demonstrations_raise_the_cosine_and_not_the_shared_part():
    few, many = (
        of(gradients(16, shared=0.1, width=4000)),
        of(gradients(256, shared=0.1, width=4000)),
    )
    assert few.cosine + 0.3 < many.cosine
    for c in (few, many):
        assert c.shared == pytest.approx(0.1, abs=max(4 * c.error, 0.01))
        assert c.cosine == pytest.approx(c.cosine_at(c.demonstrations), abs=0.04)


@pytest.mark.parametrize(("shared", "cosine"), [(1.0, 1.0), (0.0, 0.0), (-0.1, 0.0)])
def test_the_expected_cosine_at_its_ends(shared, cosine):
    assert expected_cosine(shared, 64) == cosine


def test_equal_and_opposite_gradients():
    same = torch.ones(6, 3, dtype=torch.float64)
    assert (of(same).shared, of(same).cosine, of(same).error) == (1.0, 1.0, 0.0)
    opposite = torch.tensor([[1.0], [-1.0]] * 4, dtype=torch.float64)
    assert shared_part(opposite @ opposite.T) == pytest.approx(-1 / 7)


def test_the_cosines_are_those_of_halves():
    g = gradients(8, shared=0.3)
    found = split_half(g @ g.T, generator(1, "halves"), splits=3)
    chance = generator(1, "halves")
    for cosine in found.tolist():
        order = torch.randperm(8, generator=chance)
        a, b = g[order[:4]].sum(0), g[order[4:]].sum(0)
        assert cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), rel=1e-9)


def test_demonstrations_without_such_tokens_are_left_out():
    g = gradients(8, shared=0.3)
    assert of(torch.cat([g, torch.zeros(5, 400)])).shared == pytest.approx(of(g).shared)
    assert of(torch.cat([g, torch.zeros(5, 400)])).demonstrations == 8


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_are_not_compared(n):
    found = of(torch.ones(n, 3))
    assert (found.demonstrations, found.shared, found.cosine, found.span) == (n, None, None, None)
    assert found.cosine_at(9) is None


def test_bad_input_is_refused():
    g = generator(0, "halves")
    for bad in (torch.zeros(3), torch.zeros(3, 4), torch.full((3, 3), math.nan)):
        with pytest.raises(ValueError, match="inner products"):
            coherence(bad, of="x", tokens=1, generator=g)
    with pytest.raises(ValueError, match="at least two demonstrations"):
        split_half(torch.ones(1, 1), g)
