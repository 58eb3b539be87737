"""PSFT and minorSFT against their published losses; the clip that never acts."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from dft_theory.objectives import minor_sft, psft, sft


def clipped(logp, old, low, high):
    rho = (logp - old).exp()
    return -torch.minimum(rho, rho.clamp(1 - low, 1 + high))


def test_psft_has_the_gradient_of_the_published_minimum(batch):
    rho = (batch.logp(batch.logits) - batch.old).exp()
    assert rho.min() < 0.8  # both clips would act
    assert rho.max() > 1.28
    expected = batch.published(
        lambda logp: (clipped(logp, batch.old, 0.2, 0.28) * (logp != 0)).sum()
    )
    assert_close(batch.gradient(psft()), expected)


@pytest.mark.parametrize("low", [0.0, 0.05, 0.9])
def test_the_lower_clip_of_psft_changes_nothing(batch, low):
    assert_close(batch.gradient(psft(low)), batch.gradient(psft()), rtol=0.0, atol=0.0)


def test_the_upper_clip_of_psft_changes_something(batch):
    assert not torch.allclose(batch.gradient(psft(eps_high=0.1)), batch.gradient(psft()))


def test_minor_sft_has_the_gradient_of_the_published_loss(batch):
    expected = batch.published(lambda logp: -F.logsigmoid(0.3 * (logp - batch.ref).sum(1)).sum())
    assert_close(batch.gradient(minor_sft(0.3)), expected)


def test_minor_sft_begins_as_a_multiple_of_sft_and_fades(batch):
    t = batch.stats(batch.logits)
    start = batch.stats(batch.ref_logits)
    assert_close(minor_sft(0.3).weight(start), torch.full((4, 1), 0.15, dtype=torch.float64))
    outgrown = (t.logp - t.ref_logp).sum(1, keepdim=True) > 0
    assert bool(((minor_sft(0.3).weight(t) < 0.15) == outgrown).all())
    assert_close(sft.weight(start), torch.ones_like(start.logp))


@pytest.mark.parametrize("bad", [(1.0, 0.2), (-0.1, 0.2), (0.2, -0.1)])
def test_a_clip_that_is_no_interval_around_one_is_refused(bad):
    with pytest.raises(ValueError, match=r"psft clips to \[1 - eps_low, 1 \+ eps_high\]"):
        psft(*bad)


def test_a_clip_may_be_one_sided_or_closed():
    assert psft(0.0, 0.0).name == "psft-0-0"


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(ValueError, match="beta above 0"):
        minor_sft(beta)
