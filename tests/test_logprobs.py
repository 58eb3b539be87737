"""One shift, one mask, one upcast: values and gradients against numpy, token by token."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, align, target_stats, token_stats, upcast
from dft_theory.objectives import OBJECTIVES, Objective, SumOver, TokenMean, dft, sft

NAN, INF = math.nan, math.inf
IDS = [o.name for o in OBJECTIVES]


@dataclass(frozen=True)
class Batch:
    """Logits `[B, T, V]` and unshifted labels `[B, T]`, as numpy."""

    logits: np.ndarray
    labels: np.ndarray
    ignore: int = IGNORE_INDEX

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.logits, requires_grad=True), torch.tensor(self.labels)

    def rows(self, objective: Objective) -> "Batch":
        """Every sequence twelve times over where the objective compares rows in blocks of 2-4."""
        copies = 12 if objective.level == "group" else 1
        return Batch(self.logits.repeat(copies, 0), self.labels.repeat(copies, 0), self.ignore)

    def targets(self) -> list[tuple[int, int, int]]:
        """(sequence, position of the logits, target token): the label one step later."""
        count, time = self.labels.shape
        return [
            (b, t - 1, int(self.labels[b, t]))
            for b in range(count)
            for t in range(1, time)
            if self.labels[b, t] != self.ignore
        ]


@st.composite
def batches(draw: st.DrawFn, *, impossible: bool = True) -> Batch:
    """Ragged batches with extreme logits, ties and, if `impossible`, entries of -inf."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 5)))
    special = [0.0, 1.0, 1.0, -700.0, 700.0] + ([-INF] if impossible else [])
    elements = st.one_of(st.floats(-30, 30), st.sampled_from(special))
    logits = draw(arrays(np.float64, shape, elements=elements))
    logits[np.isneginf(logits).all(-1)] = 0.0  # a distribution needs one possible token
    ignore = draw(st.sampled_from([IGNORE_INDEX, -1, 99]))
    label = st.one_of(st.integers(0, shape[-1] - 1), st.just(ignore))
    return Batch(logits, draw(arrays(np.int64, shape[:2], elements=label)), ignore)


def log_softmax(row: np.ndarray) -> np.ndarray:
    """Row minus its log-sum-exp, in numpy."""
    top = row.max()
    with np.errstate(divide="ignore"):
        return row - top - np.log(np.exp(row - top).sum())


def stats_of(batch: Batch, *, needs: tuple[str, ...] = ()) -> tuple[torch.Tensor, TokenStats]:
    logits, labels = batch.tensors()
    return logits, token_stats(logits, labels, ignore_index=batch.ignore, needs=needs)


def everything(batch: Batch) -> tuple[torch.Tensor, TokenStats]:
    """All that any objective may need; the reference and the past are twice as unsure."""
    logits, labels = batch.tensors()
    other = logits.detach() / 2
    stats = token_stats(
        logits,
        labels,
        ignore_index=batch.ignore,
        needs=("entropy", "log_probs", "ref_logp", "ref_log_probs", "old_logp"),
        ref_logits=other,
        old_logits=other,
    )
    drawn = torch.zeros_like(stats.targets).unsqueeze(-1)
    return logits, replace(stats, advantage=torch.full_like(stats.logp, 0.5), sampled=drawn)


# --- shift and mask -----------------------------------------------------------------------------


@given(batches())
def test_logits_at_t_predict_the_label_at_t_plus_one_and_nothing_else(batch):
    _, stats = stats_of(batch)
    expected = np.zeros(stats.logp.shape)
    for b, t, y in batch.targets():
        expected[b, t] = log_softmax(batch.logits[b, t])[y]
    assert_close(stats.logp.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    where = np.zeros(expected.shape, dtype=bool)
    for b, t, _ in batch.targets():
        where[b, t] = True
    assert np.array_equal(stats.mask.numpy(), where)


@given(batches(), st.data())
def test_gradient_of_a_weighted_sum_of_logp_is_weight_times_onehot_minus_pi(batch, data):
    logits, stats = stats_of(batch)
    weight = data.draw(arrays(np.float64, tuple(stats.logp.shape), elements=st.floats(-3, 3)))
    # An impossible target has logp = -inf, whose gradient is nevertheless finite.
    (found,) = torch.autograd.grad(stats.logp, logits, torch.tensor(weight))
    expected = np.zeros_like(batch.logits)
    for b, t, y in batch.targets():
        pi = np.exp(log_softmax(batch.logits[b, t]))
        expected[b, t] = weight[b, t] * (np.eye(len(pi))[y] - pi)
    assert_close(found.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_align_drops_the_last_logits_and_the_first_label():
    logits, labels = torch.arange(24.0).reshape(1, 4, 6), torch.tensor([[5, 4, 3, 2]])
    shifted, targets = align(logits, labels)
    assert torch.equal(shifted, logits[:, :3])
    assert targets.tolist() == [[4, 3, 2]]


@given(batches())
def test_token_stats_is_target_stats_of_the_aligned_pair(batch):
    logits, labels = batch.tensors()
    whole = token_stats(logits, labels, ignore_index=batch.ignore)
    parts = target_stats(*align(logits, labels), ignore_index=batch.ignore)
    assert torch.equal(whole.logp, parts.logp)
    assert torch.equal(whole.mask, parts.mask)


@given(batches())
def test_the_value_of_ignore_index_does_not_matter(batch):
    relabelled = np.where(batch.labels == batch.ignore, -7, batch.labels)
    logits, stats = stats_of(batch)
    other_logits, other = stats_of(Batch(batch.logits, relabelled, -7))
    assert torch.equal(stats.logp, other.logp)
    assert torch.equal(
        *(torch.autograd.grad(s.logp.sum(), z)[0] for z, s in ((logits, stats),
                                                              (other_logits, other)))
    )  # fmt: skip


@given(
    st.sampled_from(OBJECTIVES),
    batches(impossible=False),  # at p = 0 some weights have no bound
    st.sampled_from([NAN, INF, -INF, 1e300]),
)
def test_masked_rows_reach_neither_value_nor_gradient(objective, batch, poison):
    poisoned = batch.logits.copy()
    used = {(b, t) for b, t, _ in batch.targets()}
    for b, t in np.ndindex(batch.labels.shape):
        if (b, t) not in used:
            poisoned[b, t] = poison
    values, gradients = [], []
    for array in (batch.logits, poisoned):
        logits, stats = everything(Batch(array, batch.labels, batch.ignore).rows(objective))
        loss = objective.surrogate(stats, reduction=TokenMean())
        values.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, logits)[0])
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert bool(gradients[1].isfinite().all())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=IDS)
@pytest.mark.parametrize("time", [1, 3])
def test_a_batch_without_targets_has_loss_zero_gradient_zero_and_an_intact_graph(objective, time):
    labels = np.full((2, time), IGNORE_INDEX)
    logits, stats = everything(Batch(np.full((2, time, 4), NAN), labels).rows(objective))
    loss = objective.surrogate(stats, reduction=TokenMean())
    assert loss.item() == 0
    assert loss.requires_grad
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_weight_without_bound_at_probability_one_does_not_reach_masked_rows():
    # Masked tokens stand at logp = 0, that is p = 1, where such weights and potentials are
    # infinite: p / (1 - p) is the gradient of log(1 - p), unlikelihood with the sign turned.
    odds = Objective(
        name="odds",
        title="p / (1 - p)",
        weight=lambda t: t.logp.exp() / -torch.expm1(t.logp),
        potential=lambda t: torch.log(-torch.expm1(t.logp)),
    )
    logits = torch.tensor([[[0.3, -1.0, 2.0], [1.0, 0.0, -2.0], [0.0, 0.0, 0.0]]]).double()
    whole = torch.tensor([[0, IGNORE_INDEX, 2]])
    for value in (odds.surrogate, odds.potential_value):
        found, alone = logits.clone().requires_grad_(), logits[:, 1:].clone().requires_grad_()
        loss = value(token_stats(found, whole), reduction=SumOver())
        loss.backward()
        expected = value(token_stats(alone, whole[:, 1:]), reduction=SumOver())
        expected.backward()
        assert_close(loss, expected)
        assert_close(found.grad[:, 1:], alone.grad)
        assert torch.equal(found.grad[:, 0], torch.zeros(1, 3, dtype=torch.float64))


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("objective", [sft, dft], ids=["sft", "dft"])
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 20.0]))
def test_half_precision_is_upcast_once_and_gives_float32_of_the_same_numbers(
    objective, dtype, seed, scale
):
    g = torch.Generator().manual_seed(seed)
    half = (scale * torch.randn(2, 4, 7, generator=g)).to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    labels = torch.randint(0, 7, (2, 4), generator=g)
    low, high = token_stats(half, labels), token_stats(single, labels)
    assert low.logp.dtype == torch.float32
    assert torch.equal(low.logp, high.logp)
    objective.surrogate(low, reduction=SumOver()).backward()
    objective.surrogate(high, reduction=SumOver()).backward()
    # Rounded once, on the way back into the half-precision leaf, and nowhere before.
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, single.grad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_logits_keep_their_dtype_and_storage(dtype):
    logits = torch.randn(1, 3, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert upcast(logits) is logits
    assert token_stats(logits, torch.tensor([[0, 1, 2]])).logp.dtype == dtype


def test_a_probability_that_half_precision_rounds_to_zero_survives_the_upcast():
    logits = torch.tensor([[[0.0, -40.0], [0.0, 0.0]]], dtype=torch.bfloat16)
    stats = token_stats(logits, torch.tensor([[IGNORE_INDEX, 1]]))
    assert_close(stats.logp.item(), -40.0, rtol=1e-6, atol=0.0)


# --- impossible targets, undefined targets ------------------------------------------------------

IMPOSSIBLE = [[[0.5, -INF, 1.5], [0.0, 0.0, 0.0]]]


def test_an_impossible_target_has_dft_loss_zero_and_gradient_zero():
    logits = torch.tensor(IMPOSSIBLE, dtype=torch.float64, requires_grad=True)
    stats = token_stats(logits, torch.tensor([[IGNORE_INDEX, 1]]))
    assert stats.logp.item() == -INF
    for loss in (
        dft.surrogate(stats, reduction=SumOver()),
        dft.potential_value(stats, reduction=SumOver()),
    ):
        assert loss.item() == 0
        (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.equal(grad, torch.zeros_like(logits))


def test_an_impossible_target_has_sft_loss_plus_infinity_and_gradient_pi_minus_onehot():
    logits = torch.tensor(IMPOSSIBLE, dtype=torch.float64, requires_grad=True)
    stats = token_stats(logits, torch.tensor([[IGNORE_INDEX, 1]]))
    loss = sft.surrogate(stats, reduction=SumOver())
    assert loss.item() == INF
    (grad,) = torch.autograd.grad(loss, logits)
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert_close(grad[0, 0], torch.tensor([1 - sigmoid, -1.0, sigmoid], dtype=torch.float64))


def test_an_impossible_target_does_not_spoil_its_neighbours():
    logits = torch.zeros(1, 3, 2, dtype=torch.float64)
    logits[0, 0, 1] = -INF
    logits.requires_grad_()
    loss = dft.surrogate(token_stats(logits, torch.tensor([[0, 1, 1]])), reduction=SumOver())
    (grad,) = torch.autograd.grad(loss, logits)
    assert_close(loss.item(), 0.5 * math.log(2))
    assert_close(grad[0], torch.tensor([[0.0, 0.0], [0.25, -0.25], [0.0, 0.0]]).double())


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("at", [0, 1], ids=["the target", "another token"])
def test_nan_or_inf_at_a_target_is_an_error_that_names_the_place(bad, at):
    logits = torch.zeros(2, 3, 2)
    logits[1, 1, at] = bad
    labels = torch.tensor([[IGNORE_INDEX, 0, 0], [IGNORE_INDEX, IGNORE_INDEX, 0]])
    with pytest.raises(ValueError, match=r"target token 1 of sequence 1 .* NaN or \+inf.*forward"):
        token_stats(logits, labels)


def test_a_row_without_a_possible_token_is_named_as_what_it_is():
    logits = torch.zeros(1, 3, 4)
    logits[0, 1] = -INF
    with pytest.raises(ValueError, match=r"the logits of target token 1 .* are all -inf: no token"):
        token_stats(logits, torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize(
    ("need", "which"), [("ref_logp", "ref_logits"), ("old_logp", "old_logits")]
)
def test_a_bad_reference_is_named(need, which):
    labels, good = torch.tensor([[0, 1]]), torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=f"the {which} of target token 0 of sequence 0 hold NaN"):
        token_stats(good, labels, needs=(need,), **{which: torch.full((1, 2, 3), NAN)})
    with pytest.raises(ValueError, match=f"the {which} of target token 0 .* are all -inf"):
        token_stats(good, labels, needs=(need,), **{which: torch.full((1, 2, 3), -INF)})
    with pytest.raises(ValueError, match=rf"expected {which} \[B, T, V\]"):
        token_stats(good, labels, needs=(need,), **{which: torch.zeros(1, 3, 3)})


# --- wrong input --------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [4, 1000, -1, -99])
def test_a_label_outside_the_vocabulary_is_named_with_its_place_and_the_usual_cause(label):
    labels = torch.tensor([[0, 1, 2], [3, label, 0]])
    with pytest.raises(
        ValueError, match=rf"label {label} at sequence 1, position 1 is outside \[0, 4\).*okenizer"
    ):
        token_stats(torch.zeros(2, 3, 4), labels)


def test_the_default_ignore_index_is_out_of_range_when_another_one_is_in_force():
    with pytest.raises(ValueError, match="ignore_index is -1"):
        token_stats(torch.zeros(1, 2, 4), torch.tensor([[-100, 1]]), ignore_index=-1)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [((2, 3, 4), (2, 2)), ((2, 3, 4), (6,)), ((6, 4), (6,)), ((2, 3), (2, 3)), ((1, 3, 4), (2, 3))],
)
def test_shapes_that_do_not_fit_are_named_beside_the_expected_ones(logits, labels):
    with pytest.raises(ValueError, match=r"expected logits \[B, T, V\] and labels \[B, T\], got"):
        token_stats(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


def test_integer_logits_and_floating_labels_are_type_errors():
    with pytest.raises(TypeError, match="logits must be floating point, got torch.int64"):
        token_stats(torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="labels must be integers, got torch.float32"):
        token_stats(torch.zeros(1, 2, 3), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("need", "way"),
    [
        ("ref_logp", "pass ref_logits="),
        ("old_logp", "pass old_logits="),
        ("advantage", r"add it with dataclasses.replace\(stats, advantage=...\)"),
        ("tepmerature", "known are advantage, entropy, log_probs"),
    ],
)
def test_a_need_that_logits_do_not_contain_is_named_with_the_way_to_provide_it(need, way):
    with pytest.raises(ValueError, match=f"do not contain {need}: {way}"):
        token_stats(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]), needs=(need,))


def test_frozen_models_go_through_the_same_shift_and_mask_and_carry_no_gradient():
    g = torch.Generator().manual_seed(4)
    now, ref, old = (torch.randn(2, 3, 5, generator=g, requires_grad=True) for _ in range(3))
    labels = torch.tensor([[0, 1, 2], [3, IGNORE_INDEX, 0]])
    needs = ("ref_logp", "ref_log_probs", "old_logp")
    stats = token_stats(now, labels, needs=needs, ref_logits=ref, old_logits=old)
    assert_close(stats.ref_logp, token_stats(ref, labels).logp)
    assert_close(stats.old_logp, token_stats(old, labels).logp)
    picked = stats.ref_log_probs.gather(-1, stats.targets.unsqueeze(-1)).squeeze(-1)
    assert_close(picked.masked_fill(~stats.mask, 0.0), stats.ref_logp)
    assert not any(x.requires_grad for x in (stats.ref_logp, stats.ref_log_probs, stats.old_logp))


def test_targets_are_the_shifted_labels_and_0_where_masked():
    stats = token_stats(torch.zeros(1, 4, 5), torch.tensor([[4, 3, IGNORE_INDEX, 2]]))
    assert stats.targets.tolist() == [[3, 0, 2]]


def test_int32_labels_give_what_int64_labels_give():
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, 1, 2], [3, IGNORE_INDEX, 0]])
    assert torch.equal(token_stats(logits, labels.int()).logp, token_stats(logits, labels).logp)


# --- statistics ---------------------------------------------------------------------------------


@given(batches())
def test_entropy_is_minus_sum_of_p_log_p_with_zero_log_zero_equal_zero(batch):
    _, stats = stats_of(batch, needs=("entropy", "log_probs"))
    for b, t, _ in batch.targets():
        pi = np.exp(log_softmax(batch.logits[b, t]))
        assert_close(stats.log_probs[b, t].exp().detach().numpy(), pi, rtol=1e-12, atol=1e-15)
        entropy = -sum(q * math.log(q) for q in pi if q > 0)
        assert_close(stats.entropy[b, t].item(), entropy, rtol=1e-10, atol=1e-12)


@given(batches())
def test_gradient_of_the_entropy_is_minus_p_times_log_p_plus_entropy(batch):
    logits, stats = stats_of(batch, needs=("entropy",))
    (found,) = torch.autograd.grad((stats.entropy * stats.mask).sum(), logits)
    expected = np.zeros_like(batch.logits)
    for b, t, _ in batch.targets():
        logpi = log_softmax(batch.logits[b, t])
        pi = np.exp(logpi)
        held = np.where(pi > 0, logpi, 0.0)
        expected[b, t] = -pi * (held - (pi * held).sum())
    assert_close(found.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_statistics_that_nobody_asked_for_are_absent():
    stats = token_stats(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]))
    assert stats.entropy is None
    assert stats.log_probs is None


@given(batches())
def test_detach_keeps_the_numbers_and_drops_the_graph(batch):
    _, stats = stats_of(batch, needs=("entropy", "log_probs"))
    held = stats.detach()
    assert torch.equal(held.logp, stats.logp)
    assert torch.equal(held.log_probs, stats.log_probs)
    assert torch.equal(held.mask, stats.mask)
    assert stats.logp.requires_grad
    assert not any(x.requires_grad for x in (held.logp, held.log_probs, held.entropy))
    assert held.ref_logp is None


@given(batches())
def test_sequence_logp_and_lengths_sum_over_targets_only(batch):
    _, stats = stats_of(batch)
    total = np.zeros((len(batch.labels), 1))
    count = np.zeros_like(total)
    for b, t, y in batch.targets():
        total[b, 0] += log_softmax(batch.logits[b, t])[y]
        count[b, 0] += 1
    assert_close(stats.sequence_logp().detach().numpy(), total, rtol=1e-12, atol=1e-12)
    assert np.array_equal(stats.lengths().numpy(), count)
    assert stats.lengths().dtype == stats.logp.dtype
