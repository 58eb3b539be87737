"""iw-SFT against the released loss and the paper's ratio, at three levels, clamped or not."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, dft_sequence, iw_sft


def test_the_default_is_the_released_loss(batch):
    def released(logp):
        mean = (logp - batch.ref).sum(1) / batch.lengths
        w = mean.exp().clamp(0, 16).detach()[:, None]
        return -(w * logp).sum()

    assert_close(batch.gradient(iw_sft()), batch.published(released))


def test_the_token_branch_clamps_each_ratio(batch):
    def branch(logp):
        return -((logp - batch.ref).exp().clamp(0.2, 1.8).detach() * logp).sum()

    ratios = (batch.logp(batch.logits) - batch.ref).exp()[batch.logp(batch.logits) != 0]
    assert ratios.min() < 0.2  # both ends of the clamp act
    assert ratios.max() > 1.8
    assert_close(batch.gradient(iw_sft("token", clamp=(0.2, 1.8))), batch.published(branch))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_paper_ascends_the_importance_weighted_return(batch, temperature):
    def minus_return(logp):
        return -((logp - batch.ref).sum(1) * temperature).exp().sum() / temperature

    objective = iw_sft("sequence", temperature=temperature, clamp=None)
    assert_close(batch.gradient(objective), batch.published(minus_return))


def test_the_lagged_weight_takes_its_numerator_from_the_earlier_policy(batch):
    def control(logp):
        w = (10 * (batch.old - batch.ref).sum(1) / batch.lengths).exp().clamp(0, 1000)
        return -(w[:, None] * logp).sum()

    objective = iw_sft(temperature=10.0, clamp=(0.0, 1000.0), q="old")
    assert objective.needs == ("ref_logp", "old_logp")
    assert_close(batch.gradient(objective), batch.published(control))


@pytest.mark.parametrize("level", ["token", "geometric-mean", "sequence"])
@pytest.mark.parametrize("clamp", [None, (0.0, 16.0), (0.6, 1.1)])
@pytest.mark.parametrize("q", ["current", "old"])
def test_every_variant_descends_its_potential(batch, level, clamp, q):
    objective = iw_sft(level, temperature=0.7, clamp=clamp, q=q)
    z = batch.logits.clone().requires_grad_(True)
    loss = objective.potential_value(batch.stats(z), reduction=SumOver())
    assert_close(torch.autograd.grad(loss, z)[0], batch.gradient(objective))


def test_the_potential_is_continuous_where_the_clamp_closes():
    objective = iw_sft("token", clamp=(0.2, 1.8))
    u = torch.tensor([0.2, 1.8], dtype=torch.float64)
    logp = torch.cat([(u * (1 - 1e-9)).log(), (u * (1 + 1e-9)).log()]).unsqueeze(0) - 2.0
    t = TokenStats(
        logp=logp, mask=torch.ones_like(logp, dtype=torch.bool), ref_logp=torch.full_like(logp, -2)
    )
    left, right = objective.potential(t).reshape(2, 2)
    assert_close(left, right, rtol=0.0, atol=1e-8)


def test_with_a_reference_that_is_certain_the_sequence_weight_is_that_of_dft(batch):
    stats = batch.stats(batch.logits)
    certain = replace(stats, ref_logp=torch.zeros_like(stats.logp))
    assert_close(iw_sft("sequence", clamp=None).weight(certain), dft_sequence.weight(stats))


def test_the_released_weight_to_the_length_is_the_ratio_of_the_response(batch):
    t = batch.stats(batch.logits)
    mean, full = iw_sft(clamp=None).weight(t), iw_sft("sequence", clamp=None).weight(t)
    assert_close(mean ** batch.lengths.unsqueeze(1), full)


def test_optima_are_declared_where_they_are_known():
    r = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    b = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    assert iw_sft("sequence", clamp=None).optimum(r, b).tolist() == [0.0, 0.0, 1.0]
    half = r**2 / b
    tempered = iw_sft("token", temperature=0.5, clamp=None).optimum(r, b)
    assert_close(tempered, half / half.sum())
    for other in (iw_sft(), iw_sft("token"), iw_sft("token", temperature=2.0, clamp=None)):
        assert other.optimum is None


def test_a_response_that_neither_data_nor_reference_have_gets_no_share():
    r, b = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.2, 0.8, 0.0])
    assert iw_sft("token", clamp=None).optimum(r, b).tolist() == [1.0, 0.0, 0.0]
    found = iw_sft("token", temperature=0.5, clamp=None).optimum(r, b)
    assert_close(found, torch.tensor([0.8, 0.2, 0.0]))


@pytest.mark.parametrize(
    "kwargs", [{"temperature": 0.0}, {"clamp": (2.0, 1.0)}, {"clamp": (-1, 1)}]
)
def test_parameters_without_meaning_are_refused(kwargs):
    with pytest.raises(ValueError, match="temperature above 0 and a clamp"):
        iw_sft(**kwargs)


def test_misspelt_choices_are_refused():
    with pytest.raises(ValueError, match=r"level=\) knows token, geometric-mean, sequence, not"):
        iw_sft("geometric_mean")
    with pytest.raises(ValueError, match=r"q=\) knows current, old, not 'ema'"):
        iw_sft(q="ema")
