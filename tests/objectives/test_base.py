"""Every objective: the gradient that its surrogate, and its potential, really have."""

import math
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import xlogy
from torch.testing import assert_close

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, token_stats
from dft_theory.objectives import (
    OBJECTIVES,
    MicrobatchTokenMean,
    Objective,
    SequenceMean,
    SumOver,
    TokenMean,
    asft,
    asft_k3,
    asft_reverse,
    dft,
    discriminative_ft,
    dpo,
    eaft,
    entropy_regularised,
    f_divergence,
    floored,
    gem,
    grpo,
    idft,
    iw_sft,
    label_smoothing,
    minor_sft,
    mixed,
    objectives,
    one_token_rollout,
    power,
    psft,
    sed,
    sed_masked,
    sft,
    sft_kl,
    srft_weight,
    talr_fixed,
    thresholded,
)

ALL = (*OBJECTIVES, power(0.0), power(1.5), mixed(0.0), mixed(1.0), floored(1.0), thresholded(1.0))
SELF_CONTAINED = tuple(o for o in OBJECTIVES if o.is_function_of_p)
WITH_POTENTIAL = tuple(o for o in SELF_CONTAINED if o.potential is not None)
BOUNDED = tuple(o for o in WITH_POTENTIAL if o.weight_at(torch.zeros(1)).isfinite())
LIMITS = [(o, limit) for o in SELF_CONTAINED for limit in o.limits if math.isfinite(limit.at)]
# Weights without a bound as p -> 0: their gradient is infinite there, and no value is a mistake.
UNBOUNDED = {"power--0.5", "asft-k3-0.05"}
REDUCTIONS = (SumOver(), TokenMean(), SequenceMean(), MicrobatchTokenMean(2))

# The weight of each target token from the probabilities p of one response's target tokens,
# written down again from the papers, in numpy.
WEIGHTS = {
    "sft": np.ones_like,
    "dft": lambda p: p,
    "dft-sequence": lambda p: np.full_like(p, p.prod()),
    "dft-geometric": lambda p: np.full_like(p, p.prod() ** (1 / max(p.size, 1))),
    "power-0.5": np.sqrt,
    "power-2": lambda p: p * p,
    "floored-0.1": lambda p: np.maximum(p, 0.1),
    "thresholded-above-0.2": lambda p: np.where(p >= 0.2, 1.0, 0.0),
    "thresholded-below-0.2": lambda p: np.where(p <= 0.2, 1.0, 0.0),
    "mixed-0.5": lambda p: (p + 1) / 2,
    "mixce-0.25": lambda p: 0.25 + 0.75 * p,
    "taylor-2": lambda p: 2 * p - p * p,
    "taylor-4": lambda p: p * (2 - p) * (1 + (1 - p) ** 2),
    "focal-2": lambda p: (1 - p) ** 2 - 2 * (1 - p) * xlogy(p, p),
    "chord-phi": lambda p: p * (1 - p),
    "sed-1": lambda p: 1 - p * (2 * p - 1),
    "talr-fixed-0.8": lambda p: np.maximum(p**1.25, 0.01),
    "deft-cayley-fixed-0.25": lambda p: p ** (0.25 + 0.75 * p / (2 - p)),
}


def name(o: Objective) -> str:
    return o.name


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@st.composite
def batches(draw: st.DrawFn, *, impossible: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[B, T, V]` and ragged unshifted labels `[B, T]`."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(2, 4)))
    special = [0.0, 0.0, 1.0, -60.0, 60.0] + ([-np.inf] if impossible else [])
    elements = st.one_of(st.floats(-6, 6), st.sampled_from(special))
    logits = draw(arrays(np.float64, shape, elements=elements))
    logits[np.isneginf(logits).all(-1)] = 0.0
    label = st.one_of(st.integers(0, shape[-1] - 1), st.just(IGNORE_INDEX))
    labels = draw(arrays(np.int64, shape[:2], elements=label))
    # 0.2 is reached exactly by ties of five: a threshold is decided by rounding there.
    assume(not np.any(np.abs(softmax(logits) - 0.2) < 1e-9))
    return logits, labels


def reference(logits: np.ndarray, labels: np.ndarray, weight) -> np.ndarray:
    """Gradient of -sum_t w_t log pi(y_t) in the logits: -w (e_y - pi), row by row."""
    expected = np.zeros_like(logits)
    pi = softmax(logits)
    for b in range(len(labels)):
        at = [t for t in range(1, labels.shape[1]) if labels[b, t] != IGNORE_INDEX]
        p = np.array([pi[b, t - 1, labels[b, t]] for t in at])
        for t, w in zip(at, weight(p) if at else (), strict=True):
            expected[b, t - 1] = -w * (np.eye(logits.shape[-1])[labels[b, t]] - pi[b, t - 1])
    return expected


def gradient_of(value, logits: np.ndarray, labels: np.ndarray, reduction) -> np.ndarray:
    z = torch.tensor(logits, requires_grad=True)
    loss = value(token_stats(z, torch.tensor(labels)), reduction=reduction)
    return torch.autograd.grad(loss, z)[0].numpy()


def everything(logits: torch.Tensor, labels: torch.Tensor) -> TokenStats:
    """All that any objective may need: references of even logits, advantage 3/4, tokens 0 drawn."""
    even = torch.zeros_like(logits)
    needs = ("entropy", "log_probs", "ref_logp", "ref_log_probs", "old_logp")
    stats = token_stats(logits, labels, needs=needs, ref_logits=even, old_logits=even)
    return replace(
        stats,
        advantage=torch.full_like(stats.logp, 0.75),
        sampled=torch.zeros_like(stats.targets).unsqueeze(-1),
    )


def declared_weight(objective: Objective, p: np.ndarray) -> np.ndarray:
    """The objective's own weight of the target tokens of one response."""
    logp = torch.tensor(p).log().unsqueeze(0)
    t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    return objective.weight(t).expand_as(logp)[0].numpy()


def close(found: np.ndarray, expected: np.ndarray, which: str) -> None:
    assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=lambda text: f"{which}: {text}")


# --- the gradient -------------------------------------------------------------------------------


def test_every_weight_written_here_is_of_a_registered_objective():
    assert set(WEIGHTS) <= set(objectives)


# One batch, all objectives: drawing the batch costs more than differentiating it.


@given(batches(impossible=True))
def test_surrogate_gradient_is_minus_sum_of_weight_times_grad_log_pi(batch):
    for known, weight in WEIGHTS.items():
        found = gradient_of(objectives[known].surrogate, *batch, SumOver())
        close(found, reference(*batch, weight), known)


@given(batches())
def test_surrogate_gradient_uses_the_weight_that_the_objective_declares(batch):
    for objective in SELF_CONTAINED:
        found = gradient_of(objective.surrogate, *batch, SumOver())
        close(found, reference(*batch, partial(declared_weight, objective)), objective.name)


@given(batches(impossible=True), st.sampled_from(REDUCTIONS))
def test_potential_gradient_is_surrogate_gradient_with_ragged_masks_too(batch, reduction):
    for objective in BOUNDED:
        surrogate = gradient_of(objective.surrogate, *batch, reduction)
        potential = gradient_of(objective.potential_value, *batch, reduction)
        close(potential, surrogate, objective.name)


# Of two impossible responses that are compared, no difference is defined: groups are left out.
@pytest.mark.parametrize("objective", [o for o in ALL if o.level != "group"], ids=name)
def test_at_probability_zero_gradients_are_finite_and_equal_and_no_value_is_nan(objective):
    z = torch.tensor([[[0.0, -np.inf, 1.0], [0.3, 0.1, 0.0], [0.0, 0.0, 0.0]]]).double()
    logits, labels = z.requires_grad_(), torch.tensor([[IGNORE_INDEX, 1, 2]])
    stats = everything(logits, labels)
    assert bool(objective.weight(stats).isinf().any()) == (objective.name in UNBOUNDED)
    if objective.name in UNBOUNDED:
        return
    loss = objective.surrogate(stats, reduction=SumOver())
    (surrogate,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert not loss.isnan()
    assert bool(surrogate.isfinite().all())
    if objective.potential is not None:
        value = objective.potential_value(stats, reduction=SumOver())
        assert not value.isnan()
        (potential,) = torch.autograd.grad(value, logits)
        assert_close(potential, surrogate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_no_tensor_is_made_on_another_device_than_the_statistics(objective):
    # Meta tensors have a device and no numbers: mixing them with others raises, as on a GPU.
    stats = everything(torch.zeros(4, 3, 5), torch.zeros(4, 3, dtype=torch.long))
    away = {f.name: getattr(stats, f.name).to("meta") for f in fields(stats)}
    t = TokenStats(**away)
    values = [objective.surrogate(t, reduction=SumOver()), objective.field(t)]
    if objective.potential is not None:
        values.append(objective.potential_value(t, reduction=SumOver()))
    assert {v.device.type for v in values} == {"meta"}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_float32_statistics_stay_float32(objective):
    stats = everything(torch.zeros(4, 3, 5, dtype=torch.bfloat16), torch.zeros(4, 3).long())
    stats = replace(stats, advantage=stats.advantage.double())  # rewards often come from numpy
    values = [objective.surrogate(stats, reduction=SumOver()), objective.field(stats)]
    if objective.potential is not None:
        values.append(objective.potential_value(stats, reduction=SumOver()))
    assert {v.dtype for v in values} == {torch.float32}


def smooth_case() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of about 0.05 to 0.6, away from the kinks of gates at 0.1 and 0.2."""
    g = torch.Generator().manual_seed(3)
    return torch.randn(2, 4, 5, dtype=torch.float64, generator=g), torch.tensor(
        [[IGNORE_INDEX, 1, 0, 4], [IGNORE_INDEX, IGNORE_INDEX, 2, 3]]
    )


def passes_gradcheck(value, logits: torch.Tensor, labels: torch.Tensor) -> bool:
    return torch.autograd.gradcheck(
        lambda z: value(token_stats(z, labels), reduction=TokenMean()),
        (logits.clone().requires_grad_(),),
        raise_exception=False,
    )


@pytest.mark.parametrize("objective", WITH_POTENTIAL, ids=name)
def test_gradcheck_of_the_potential_passes(objective):
    assert passes_gradcheck(objective.potential_value, *smooth_case())


@pytest.mark.parametrize("objective", SELF_CONTAINED, ids=name)
def test_gradcheck_of_the_surrogate_fails_exactly_where_the_weight_varies(objective):
    logits, labels = smooth_case()
    here, there = (objective.weight(token_stats(z, labels)) for z in (logits, 1.001 * logits))
    constant = torch.equal(here, there)
    assert passes_gradcheck(objective.surrogate, logits, labels) == constant


def test_gradcheck_of_the_surrogate_of_dft_fails_and_of_sft_passes():
    assert not passes_gradcheck(dft.surrogate, *smooth_case())
    assert passes_gradcheck(sft.surrogate, *smooth_case())


def test_without_the_stop_gradient_the_surrogate_of_dft_has_another_gradient(monkeypatch):
    logits, labels = (x.numpy() for x in smooth_case())
    held = gradient_of(dft.surrogate, logits, labels, SumOver())
    monkeypatch.setattr(TokenStats, "detach", lambda self: self)
    moving = gradient_of(dft.surrogate, logits, labels, SumOver())
    p = softmax(logits)
    extra = np.zeros_like(held)  # d(-p log p) = -(1 + log p) dp: the term -log p dp too many
    for b, t in zip(*np.nonzero(labels[:, 1:] != IGNORE_INDEX), strict=True):
        y = labels[b, t + 1]
        q = p[b, t, y]
        extra[b, t] = -np.log(q) * q * (np.eye(5)[y] - p[b, t])
    assert_close(moving, held + extra, rtol=1e-10, atol=1e-12)
    assert np.abs(extra).max() > 0.01


# The weight of these depends on nothing that lies outside of one softmax and its reference.
LOCAL = [o for o in OBJECTIVES if o.level == "token" and o.family not in ("ratio", "sampled")]


@pytest.mark.parametrize("objective", LOCAL, ids=name)
def test_a_potential_is_declared_exactly_where_the_fields_jacobian_is_symmetric(objective):
    # Five tokens, p = 0.24: no exponent or gate is cut there.
    z = torch.tensor([0.3, -0.4, 0.9, 0.0, 0.5], dtype=torch.float64)
    labels = torch.tensor([[IGNORE_INDEX, 4]])

    def field(z: torch.Tensor) -> torch.Tensor:
        return objective.field(everything(torch.stack([z, z]).unsqueeze(0), labels))[0, 0]

    jacobian = torch.autograd.functional.jacobian(field, z)
    asymmetry = float((jacobian - jacobian.T).abs().max())
    assert (asymmetry < 1e-12) if objective.potential else (asymmetry > 1e-3)


# --- masks --------------------------------------------------------------------------------------


def test_what_is_masked_has_no_part_in_the_value_of_a_potential():
    logits, labels = smooth_case()
    found = sft.potential_value(token_stats(logits, labels), reduction=SumOver())
    rows, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = F.cross_entropy(rows, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    assert_close(found, expected)


@pytest.mark.parametrize("objective", [sft_kl(0.1), label_smoothing()], ids=name)
def test_statistics_made_by_hand_are_masked_by_their_mask_alone(objective):
    logits, labels = smooth_case()
    log_probs = logits[:, :-1].log_softmax(-1).requires_grad_()
    mask = labels[:, 1:] != IGNORE_INDEX
    targets = labels[:, 1:].clamp_min(0)
    logp = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    stats = TokenStats(
        logp=logp,
        mask=mask,
        targets=targets,
        log_probs=log_probs,
        ref_log_probs=log_probs.detach(),
    )
    loss = objective.surrogate(stats, reduction=SumOver())
    (found,) = torch.autograd.grad(loss, log_probs)
    assert torch.equal((found != 0).any(-1), mask)


# --- weights ------------------------------------------------------------------------------------

GRID = torch.linspace(0.001, 1.0, 400, dtype=torch.float64)


@pytest.mark.parametrize("known", sorted(WEIGHTS))
def test_weight_at_is_the_weight_of_a_one_token_response(known):
    expected = np.concatenate([WEIGHTS[known](GRID[i : i + 1].numpy()) for i in range(len(GRID))])
    found = objectives[known].weight_at(GRID.reshape(20, 20))
    assert found.shape == (20, 20)
    assert_close(found.flatten().numpy(), expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("objective", SELF_CONTAINED, ids=name)
def test_implied_reward_is_weight_over_probability(objective):
    assert_close(objective.implied_reward(GRID) * GRID, objective.weight_at(GRID))


def test_the_implied_reward_of_sft_is_one_over_p_and_of_dft_is_one():
    assert_close(sft.implied_reward(GRID), 1 / GRID)
    assert_close(dft.implied_reward(GRID), torch.ones_like(GRID), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("objective", "limit"), LIMITS, ids=[f"{o.name}-{x.parameter}-to-{x.at:g}" for o, x in LIMITS]
)
def test_families_tend_to_their_limits_at_the_declared_rate(objective, limit):
    goal = objectives[limit.objective].weight_at(GRID)
    room = limit.rate * GRID.log().abs().clamp_min(1)
    inwards = 1 if limit.at == 0 else -1
    gaps = []
    for h in (1e-1, 1e-3, 1e-6):
        # The largest entry of e_y - pi is 1 - p.
        gap = (limit.family(limit.at + inwards * h).weight_at(GRID) - goal).abs() * (1 - GRID)
        assert bool((gap <= h * room * (1 + 1e-6)).all())
        gaps.append(float(gap.max()))
    assert gaps[0] > gaps[1] >= gaps[2]  # nothing was equal from the start


@pytest.mark.parametrize("objective", [o for o in WITH_POTENTIAL if o.optimum], ids=name)
@pytest.mark.parametrize("share", [0.55, 0.7, 0.9])
def test_the_declared_optimum_minimises_the_population_potential(objective, share):
    # Two tokens, data distribution (share, 1 - share): search the whole simplex.
    p = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    mask = torch.ones(p.numel(), 1, dtype=torch.bool)

    def potential(q: torch.Tensor) -> torch.Tensor:
        return objective.potential(TokenStats(logp=q.log().unsqueeze(-1), mask=mask)).squeeze(-1)

    best = p[(share * potential(p) + (1 - share) * potential(1 - p)).argmin()]
    declared = objective.optimum(torch.tensor([share, 1 - share], dtype=torch.float64))
    assert_close(declared.sum().item(), 1.0)
    assert_close(declared[0], best, rtol=0.0, atol=1.1e-4)


# --- the dataclass ------------------------------------------------------------------------------


def test_an_objective_without_potential_has_no_value_and_says_so():
    bare = Objective(name="bare", title="bare", weight=lambda t: torch.ones_like(t.logp))
    stats = token_stats(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="bare is not the gradient of any potential"):
        bare.potential_value(stats, reduction=SumOver())


def test_a_missing_statistic_is_asked_for_by_name():
    greedy = Objective(
        name="greedy",
        title="greedy",
        weight=lambda t: t.entropy + t.ref_logp,
        potential=lambda t: t.entropy,
        needs=("entropy", "ref_logp"),
    )
    logits, labels = torch.zeros(1, 2, 3), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="greedy needs entropy, ref_logp: pass it in TokenStats"):
        greedy.surrogate(token_stats(logits, labels), reduction=SumOver())
    with pytest.raises(ValueError, match="greedy needs ref_logp:"):
        greedy.potential_value(token_stats(logits, labels, needs=["entropy"]), reduction=SumOver())


def test_the_weight_sees_detached_statistics_only():
    seen = []

    def watch(t: TokenStats) -> torch.Tensor:
        seen.append((t.logp.requires_grad, t.entropy.requires_grad))
        return t.entropy

    watcher = Objective(name="watcher", title="watcher", weight=watch, needs=("entropy",))
    logits = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    stats = token_stats(logits, torch.tensor([[0, 1, 2]]), needs=["entropy"])
    watcher.surrogate(stats, reduction=SumOver()).backward()
    assert seen == [(False, False)]
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda **x: eaft(**x), ({"alpha": 2.0}, {"k": 10}, {"nats": 1.0})),
        (lambda **x: f_divergence("kl", **x), ({"beta": 0.5}, {"cap": 5.0})),
        (lambda **x: idft(**x), ({"beta": 2.0}, {"low": 0.2}, {"high": 1.5})),
        (lambda **x: sed_masked(**x), ({"lam": 0.5}, {"k": 10}, {"ratio": 0.5})),
        (lambda **x: talr_fixed(0.8, **x), ({"floor": 0.1},)),
    ],
    ids=["eaft", "f_divergence", "idft", "sed_masked", "talr_fixed"],
)
def test_another_parameter_is_another_name_and_title(make, changes):
    made = [make(), *(make(**change) for change in changes)]
    assert made[0].name in objectives
    assert len({o.name for o in made}) == len({o.title for o in made}) == len(made)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=name)
def test_every_objective_says_its_weight_and_what_to_know_and_fits_a_table(objective):
    assert objective.equation.startswith(("w ", "w_t ", "A "))
    assert objective.note.endswith(".")
    assert "|" not in objective.title + objective.equation


# What each is as released or as its paper recommends it; the name shows every constant.
DEFAULTS = {
    asft: "asft-0.05",
    asft_k3: "asft-k3-0.05",
    asft_reverse: "asft-reverse-0.05",
    discriminative_ft: "discriminative-ft-1-2",
    dpo: "dpo-0.1",
    eaft: "eaft",
    entropy_regularised: "entropy-0.1",
    gem: "gem-0.7",
    grpo: "grpo-0.2-0.2",
    idft: "idft-1",
    iw_sft: "iw-sft-geometric-mean-clamp-0-16",
    label_smoothing: "label-smoothing-0.1",
    minor_sft: "minor-sft-0.1",
    one_token_rollout: "one-token-rollout-0",
    psft: "psft-0.2-0.28",
    sed: "sed-1",
    sed_masked: "sed-masked-1",
    srft_weight: "srft-paper",
}


@pytest.mark.parametrize("make", DEFAULTS, ids=lambda f: f.__name__)
def test_left_at_its_defaults_an_objective_is_the_released_one(make):
    assert make().name == DEFAULTS[make]


def test_names_titles_and_styles_tell_objectives_apart():
    for feature in ("name", "title", "style"):
        values = [getattr(o, feature) for o in OBJECTIVES]
        assert len(set(values)) == len(values), feature
    assert all(o.cite for o in OBJECTIVES)
