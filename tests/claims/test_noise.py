"""The numbers that the noise claims quote, and that their assumptions are needed."""

import pytest
import torch

from dft_theory.claims import noise as n
from dft_theory.objectives import dft, sft
from dft_theory.seeding import generator


def test_smallest_example_of_clean_labels() -> None:
    case = n.Labelled(dft, n.SMALLEST, 0)
    assert float(case.rate) == pytest.approx(0.0768, rel=1e-12)
    assert float(case.falls(sft)) == pytest.approx(0.192, rel=1e-12)
    assert n.true_token_leads(case)


def test_a_loss_scaled_up_breaks_the_assumption_on_weights() -> None:
    z = torch.tensor([0.9, 0.1], dtype=torch.float64).log()
    p = torch.softmax(z, -1)[0]
    assert 10 * p**10 > 1  # -p^10, not divided by 10, is faster than SFT here
    assert 10 * torch.tensor(0.79).pow(10) < 1


@pytest.mark.parametrize(("p", "expected"), [(0.1, 0.89), (0.5, 1 / 3), (0.8, 0.048)])
def test_noise_that_a_model_needs(p: float, expected: float) -> None:
    assert float(n.Known(p, 100_000).threshold()) == pytest.approx(expected, abs=2e-3)


def test_equal_rivals_are_an_ensemble_of_one() -> None:
    p = torch.tensor([[0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3]], dtype=torch.float64)
    lost, gained = n.loss_and_gain(p)
    expected = n.Known(0.6, 4).threshold().squeeze()
    torch.testing.assert_close(lost / (lost + gained), expected, rtol=1e-12, atol=0)


def test_a_leading_true_token_always_leaves_a_threshold() -> None:
    z = 3 * torch.randn(200, 6, dtype=torch.float64, generator=generator(0, "leading"))
    z[:, 0] = z.max(-1).values + 1e-3
    for p in torch.softmax(z, -1):
        assert bool((n.loss_and_gain(p.unsqueeze(0)) > 0).all())
