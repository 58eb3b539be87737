"""Blends, floors and schedules: gradients between their ends, steps at their edges, bad input."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import (
    OBJECTIVES,
    Objective,
    SumOver,
    anneal,
    blend,
    chord_phi,
    dft,
    dft_sequence,
    dpo,
    eaft,
    floored,
    gem,
    mixed,
    power,
    sed_masked,
    sft,
    sft_kl,
    switch,
    talr,
    warm_up,
    with_floor,
)

NEEDS = ("entropy", "log_probs", "ref_logp", "ref_log_probs", "old_logp")


def case(seed: int = 0, *, impossible: bool = False) -> tuple[torch.Tensor, TokenStats]:
    """Logits `[2, 4, 5]` and the statistics of six target tokens in their graph."""
    g = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=g)
    if impossible:
        logits[0, 0, 3] = -torch.inf
    labels = torch.tensor([[0, 3, 1, 4], [2, -100, 3, 0]])
    logits.requires_grad_(True)
    stats = token_stats(logits, labels, needs=NEEDS, ref_logits=other, old_logits=logits.detach())
    return logits, replace(stats, advantage=torch.ones_like(stats.logp))


def gradient(objective: Objective, *, potential: bool = False, impossible: bool = False):
    logits, stats = case(impossible=impossible)
    value = objective.potential_value if potential else objective.surrogate
    return torch.autograd.grad(value(stats, reduction=SumOver()), logits)[0]


# --- blends -------------------------------------------------------------------------------------

PAIRS = [(sft, dft), (dft, gem(0.7)), (sft_kl(0.1), gem(0.7)), (dft_sequence, eaft())]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda o: o.name)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_gradient_of_a_blend_is_the_blend_of_gradients(first, second, share):
    expected = (1 - share) * gradient(first) + share * gradient(second)
    assert_close(gradient(blend(first, second, share)), expected)
    assert not torch.allclose(gradient(first), gradient(second))


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_blend_of_sft_and_dft_is_the_published_mixture(share):
    half = blend(sft, dft, share)
    p = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    assert_close(half.weight_at(p), mixed(share).weight_at(p))
    assert_close(gradient(half, potential=True), gradient(mixed(share), potential=True))
    assert half.is_function_of_p


@pytest.mark.parametrize(
    ("first", "second"),
    [(sft, dft), (dft, dft_sequence), (power(0.5), chord_phi), (sft, sft_kl(0.1))],
    ids=lambda o: o.name,
)
def test_the_potential_of_a_blend_has_the_gradient_of_its_surrogate(first, second):
    both = blend(first, second, 0.3)
    assert_close(gradient(both, potential=True), gradient(both))


def test_a_blend_with_a_field_that_is_not_conservative_has_no_potential():
    assert eaft().potential is None
    assert blend(sft, eaft(), 0.5).potential is None
    assert blend(eaft(), sft, 0.5).potential is None


def test_a_blend_needs_what_its_parts_need_and_is_of_the_wider_level():
    both = blend(eaft(), sft_kl(0.1), 0.5)
    assert set(both.needs) == {*eaft().needs, *sft_kl(0.1).needs}
    assert len(both.needs) == len(set(both.needs))
    assert both.family == "anchored"
    assert blend(dft_sequence, sft, 0.5).level == "sequence"
    assert blend(sft, talr, 0.5).level == talr.level == "batch"


def test_at_its_ends_a_blend_asks_nothing_of_the_other_part():
    assert blend(sft, eaft(), 0.0) is sft
    assert blend(sft, eaft(), 1.0).needs == eaft().needs
    assert bool(gradient(blend(sft, dft, 1.0), impossible=True).isfinite().all())


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_a_part_of_one(share):
    with pytest.raises(ValueError, match=r"share is the part of dft, in \[0, 1\]"):
        blend(sft, dft, share)


def test_a_batch_and_a_group_are_not_weighted_together():
    assert dpo(0.1).level == "group"
    for parts in ((sed_masked(), dpo(0.1)), (dpo(0.1), sed_masked())):
        with pytest.raises(ValueError, match="read different sets of responses"):
            blend(*parts, 0.5)
        with pytest.raises(ValueError, match="read different sets of responses"):
            anneal(*parts, 10)
        assert switch((0, parts[0]), (5, parts[1])).at(7) is parts[1]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_a_blend_has_a_potential_and_a_target_where_its_parts_allow(objective):
    quarter = blend(sft, objective, 0.25)
    assert (quarter.potential is None) == (objective.potential is None)
    assert (quarter.target is None) == (objective.target is None)
    assert set(quarter.needs) == set(objective.needs)


# --- floors -------------------------------------------------------------------------------------


def test_a_floor_raises_named_tokens_and_no_others():
    _, stats = case()
    weight, raised = dft.weight(stats), with_floor(dft, [3, 4], 0.4).weight(stats)
    named = stats.mask & ((stats.targets == 3) | (stats.targets == 4))
    assert_close(raised[~named], weight[~named], rtol=0.0, atol=0.0)
    assert_close(raised[named], weight[named].clamp_min(0.4), rtol=0.0, atol=0.0)
    assert bool((raised[named] > weight[named]).any())


@given(st.floats(0.01, 1.0))
def test_a_floor_for_every_token_is_the_floored_objective(c):
    _, stats = case()
    assert_close(with_floor(dft, range(5), c).weight(stats), floored(c).weight(stats))


def test_a_floor_keeps_the_target_over_the_vocabulary():
    _, stats = case()
    anchored = with_floor(sft_kl(0.1), [3], 2.0)
    extra = torch.where(stats.targets == 3, 1.0, 0.0).to(stats.logp)
    only_three = Objective(name="three", title="three", weight=lambda t: extra)
    assert_close(gradient(anchored), gradient(sft_kl(0.1)) + gradient(only_three))


def test_a_floor_needs_the_targets_and_has_no_potential():
    raised = with_floor(dft, [0], 0.1)
    assert raised.needs == ("targets",)
    assert raised.potential is None
    assert not raised.is_function_of_p
    bare = TokenStats(logp=torch.zeros(1, 1), mask=torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="needs targets"):
        raised.surrogate(bare, reduction=SumOver())


@pytest.mark.parametrize(
    ("ids", "floor", "complaint"),
    [
        ([], 0.1, "name at least one token"),
        ([-1, 2], 0.1, "name at least one token"),
        ([1], 0.0, "positive and finite"),
        ([1], math.inf, "positive and finite"),
        ([1], math.nan, "positive and finite"),
    ],
)
def test_a_floor_without_tokens_or_height_is_refused(ids, floor, complaint):
    with pytest.raises(ValueError, match=complaint):
        with_floor(dft, ids, floor)


# --- schedules ----------------------------------------------------------------------------------


def share_of_dft(objective: Objective) -> float:
    """The share s of DFT in (1 - s) SFT + s DFT, from its weight at p = 1/2."""
    return 2 * (1 - float(objective.weight_at(torch.tensor(0.5, dtype=torch.float64))))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        ("cosine", [0.0, 0.1464466, 0.5, 0.8535534, 1.0, 1.0]),
    ],
)
def test_an_anneal_goes_from_end_to_end_and_stays(shape, expected):
    schedule = anneal(sft, dft, 4, shape)
    found = [share_of_dft(schedule.at(step)) for step in (0, 1, 2, 3, 4, 400)]
    assert found == pytest.approx(expected, abs=1e-7)
    assert schedule.at(0) is sft
    assert schedule.at(4) is dft


@given(st.integers(1, 50), st.sampled_from(["linear", "cosine"]))
def test_an_anneal_never_turns_back(steps, shape):
    schedule = anneal(sft, dft, steps, shape)
    shares = [share_of_dft(schedule.at(step)) for step in range(steps + 2)]
    assert shares == sorted(shares)


def test_stages_change_at_their_step():
    schedule = switch((0, sft), (2, dft), (5, eaft()))
    names = [schedule.at(step).name for step in range(7)]
    assert names == ["sft", "sft", "dft", "dft", "dft", eaft().name, eaft().name]
    assert schedule.needs == eaft().needs
    assert schedule.parts[:2] == (sft, dft)
    assert schedule.name == "sft-then-dft-from-2-then-eaft-from-5"
    assert schedule.title == f"{sft.title} → {dft.title} from 2 → {eaft().title} from 5"


def test_a_warm_up_is_sft_before_the_objective():
    schedule = warm_up(dft, 3)
    assert [schedule.at(step) for step in (0, 2, 3, 9)] == [sft, sft, dft, dft]
    assert schedule.name == "sft-then-dft-from-3"


@pytest.mark.parametrize("schedule", [anneal(sft, dft, 3), warm_up(dft, 3), switch((0, sft))])
def test_there_is_no_step_before_the_first(schedule):
    with pytest.raises(ValueError, match="steps are counted from 0, got -1"):
        schedule.at(-1)


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 5, 3], [2, 0], [-1, 0]])
def test_stages_out_of_order_are_refused(starts):
    with pytest.raises(ValueError, match="stages begin at step 0 and in increasing order"):
        switch(*((start, sft) for start in starts))


@pytest.mark.parametrize("steps", [0, -3])
def test_a_schedule_takes_at_least_one_step(steps):
    for make in (lambda: anneal(sft, dft, steps), lambda: warm_up(dft, steps)):
        with pytest.raises(ValueError, match="at least 1"):
            make()


def test_a_misspelt_shape_is_refused():
    with pytest.raises(ValueError, match=r"anneal\(shape=\) knows linear, cosine, not 'cos'"):
        anneal(sft, dft, 3, "cos")
