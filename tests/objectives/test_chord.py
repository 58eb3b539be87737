"""CHORD's weight p (1 - p), and the sparse optimum that it leads to."""

import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from dft_theory.objectives import chord_phi


def doubles(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_the_gradient_is_that_of_the_weight_as_released(small):
    def loss(pi, y, _):
        p = pi.gather(1, y[:, None])
        return -(p * (1 - p)).detach() * p.log()

    assert_close(small.surrogate(chord_phi), small.published(loss), rtol=1e-12, atol=1e-13)


def test_and_that_of_half_the_squared_distance_from_one(small):
    def loss(pi, y, _):
        return (1 - pi.gather(1, y[:, None])) ** 2 / 2

    assert_close(small.surrogate(chord_phi), small.published(loss), rtol=1e-12, atol=1e-13)


def test_the_optimum_of_four_tokens_by_hand_is_sparse():
    # nu = 1 / (1/0.5 + 1/0.3) = 3/16, above 0.15: two tokens stay dry.
    found = chord_phi.optimum(doubles(0.5, 0.3, 0.15, 0.05))
    assert_close(found, doubles(0.625, 0.375, 0.0, 0.0))


@pytest.mark.parametrize("r", [(0.4, 0.35, 0.25), (0.3, 0.3, 0.2, 0.1, 0.1), (0.9, 0.06, 0.04)])
def test_the_optimum_is_the_minimum_that_a_solver_finds(r):
    demos = doubles(*r)
    found = minimize(
        lambda p: float((demos * (1 - torch.tensor(p)) ** 2).sum() / 2),
        [1 / len(r)] * len(r),
        bounds=[(0, 1)] * len(r),
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        tol=1e-12,
    )
    assert_close(chord_phi.optimum(demos), torch.tensor(found.x), rtol=0.0, atol=1e-5)


def test_the_order_of_the_tokens_does_not_matter_and_one_demonstration_is_learned():
    assert_close(chord_phi.optimum(doubles(0.05, 0.5, 0.3, 0.15)), doubles(0, 0.625, 0.375, 0))
    assert chord_phi.optimum(doubles(0.0, 1.0, 0.0)).tolist() == [0.0, 1.0, 0.0]


def test_the_optimum_is_found_on_the_device_of_the_data():
    # Meta tensors have a device and no numbers: mixing them with others raises, as on a GPU.
    assert chord_phi.optimum(doubles(0.5, 0.5).to("meta")).device.type == "meta"
