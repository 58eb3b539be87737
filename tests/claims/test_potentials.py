"""What the turning of a field can and cannot tell."""

import pytest
import torch

from dft_theory.claims.potentials import Joint, held, twist
from dft_theory.objectives import eaft, sed_masked, sft, talr


def test_twist_of_a_rotation_and_of_a_gradient() -> None:
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert float(twist(rotation)) == pytest.approx(2.0)
    assert float(twist(rotation @ rotation)) == 0.0


def test_a_weight_that_reads_the_batch_turns_between_positions_only() -> None:
    case = Joint(talr, 2, 0)
    blocks = case.jacobian.reshape(8, 2, 8, 2)
    same = torch.stack([blocks[i, :, i] for i in range(8)])
    torch.testing.assert_close(same, same.mT)
    assert float(twist(case.jacobian)) > 0.01


def test_a_mask_that_jumps_is_symmetric_wherever_it_does_not() -> None:
    # Why the claim leaves it out: it has no potential, and its Jacobian does not show it.
    assert float(twist(Joint(sed_masked(1.0), 4, 0).jacobian)) < 1e-12


def test_held_objectives_keep_their_field_and_lose_its_slope() -> None:
    case = Joint(eaft(), 4, 0)
    t = case.stats(case.drawn[0])
    torch.testing.assert_close(held(eaft()).field(t), eaft().field(t))
    assert not torch.equal(case.jacobian_of(held(eaft())), case.jacobian)
    assert torch.equal(case.jacobian_of(held(sft)), case.jacobian_of(sft))
