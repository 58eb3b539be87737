"""Label smoothing and the entropy bonus: two anchors to the uniform distribution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dft_theory.objectives import entropy_regularised, label_smoothing, sft


def test_the_gradient_is_torchs_own_label_smoothing(small):
    def loss(pi, y, _):
        return F.cross_entropy(pi.log(), y, label_smoothing=0.1, reduction="none")

    found = small.surrogate(label_smoothing(0.1))
    assert_close(found, small.published(loss), rtol=1e-12, atol=1e-13)


def test_its_optimum_is_stationary():
    r = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
    z = label_smoothing(0.2).optimum(r).log().requires_grad_()
    loss = F.cross_entropy(z.unsqueeze(0), r.unsqueeze(0), label_smoothing=0.2)
    assert_close(torch.autograd.grad(loss, z)[0], torch.zeros(3).double(), rtol=0.0, atol=1e-15)


def test_the_gradient_of_the_entropy_bonus(small):
    def loss(pi, y, _):
        return -pi.gather(1, y[:, None])[:, 0].log() - 0.3 * torch.special.entr(pi).sum(-1)

    found = small.surrogate(entropy_regularised(0.3))
    assert_close(found, small.published(loss), rtol=1e-11, atol=1e-12)


def test_nothing_of_either_is_sft(small):
    for objective in (label_smoothing(0.0), entropy_regularised(0.0)):
        assert_close(small.surrogate(objective), small.surrogate(sft), rtol=1e-12, atol=1e-14)


def test_bad_parameters_are_refused():
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"eps lies in \[0, 1\)"):
            label_smoothing(bad)
    with pytest.raises(ValueError, match="entropy bonus lam is at least 0"):
        entropy_regularised(-0.1)
