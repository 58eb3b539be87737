"""Each reduction against plain loops, and what accumulation over micro-batches does to it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from dft_theory.logprobs import IGNORE_INDEX, token_stats
from dft_theory.objectives import (
    MicrobatchTokenMean,
    SequenceMean,
    SumOver,
    TokenMean,
    dft,
    sft,
)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Terms `[B, T]`, 0 off the mask, and a mask that may leave sequences without a target."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 4)))
    mask = draw(arrays(np.bool_, shape))
    return draw(arrays(np.float64, shape, elements=st.floats(-9, 9))) * mask, mask


def token_mean(terms, mask):
    return sum(terms[mask]) / max(mask.sum(), 1)


def sequence_mean(terms, mask):
    means = [sum(x[m]) / m.sum() for x, m in zip(terms, mask, strict=True) if m.any()]
    return sum(means) / max(len(means), 1)


def microbatches(size: int):
    def means(terms, mask):
        return [
            sum(terms[i : i + size][mask[i : i + size]]) / (mask[i : i + size].sum() + 1e-8)
            for i in range(0, len(terms), size)
        ]

    return means


LOOPS = {
    "token mean": (TokenMean(), token_mean),
    "token mean of a given total": (TokenMean(7), lambda x, m: sum(x[m]) / 7),
    "sequence mean": (SequenceMean(), sequence_mean),
    "sum": (SumOver(), lambda x, m: sum(x[m])),
    "sum over a constant": (SumOver(4.0), lambda x, m: sum(x[m]) / 4),
    "micro-batches of 1": (MicrobatchTokenMean(1), lambda x, m: np.mean(microbatches(1)(x, m))),
    "micro-batches of 2": (MicrobatchTokenMean(2), lambda x, m: np.mean(microbatches(2)(x, m))),
    "official trainer": (MicrobatchTokenMean(2, "sum"), lambda x, m: sum(microbatches(2)(x, m))),
}


@pytest.mark.parametrize(("reduction", "loop"), LOOPS.values(), ids=LOOPS)
@given(ragged())
def test_value_and_gradient_are_those_of_a_plain_loop(reduction, loop, batch):
    terms, mask = batch
    x = torch.tensor(terms, requires_grad=True)
    found = reduction(x * torch.tensor(mask), torch.tensor(mask))
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert_close(found.item(), float(loop(terms, mask)), rtol=1e-12, atol=1e-12)
    # Linear, so its gradient is its value on unit vectors.
    (grad,) = torch.autograd.grad(found, x)
    for b, t in np.ndindex(terms.shape):
        unit = np.zeros_like(terms)
        unit[b, t] = mask[b, t]
        assert_close(grad[b, t].item(), float(loop(unit, mask)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("reduction", "loop"), LOOPS.values(), ids=LOOPS)
def test_a_batch_without_targets_reduces_to_zero_with_an_intact_graph(reduction, loop):
    x = torch.zeros(3, 2, requires_grad=True)
    found = reduction(x * 1.0, torch.zeros(3, 2, dtype=torch.bool))
    found.backward()
    assert found.item() == 0
    assert bool(x.grad.isfinite().all())


def training_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of five sequences with 1, 4, 2, 0 and 3 targets."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (5, 5), generator=g)
    for b, count in enumerate((1, 4, 2, 0, 3)):
        labels[b, : 5 - count] = IGNORE_INDEX
    return torch.randn(5, 5, 6, dtype=torch.float64, generator=g), labels


def accumulated(objective, reduction, size: int) -> torch.Tensor:
    """What `.grad` holds after one backward pass for each micro-batch."""
    logits, labels = training_batch()
    logits.requires_grad_()
    for z, y in zip(logits.split(size), labels.split(size), strict=True):
        objective.surrogate(token_stats(z, y), reduction=reduction).backward()
    return logits.grad


def at_once(objective, reduction) -> torch.Tensor:
    return accumulated(objective, reduction, size=5)


@pytest.mark.parametrize("objective", [sft, dft], ids=["sft", "dft"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_accumulation_with_the_global_token_count_is_the_whole_batch(objective, size):
    total = int((training_batch()[1][:, 1:] != IGNORE_INDEX).sum())
    expected = at_once(objective, TokenMean())
    assert_close(accumulated(objective, TokenMean(total), size), expected)
    # Without the count each micro-batch is divided by its own: another vector.
    assert not torch.allclose(accumulated(objective, TokenMean(), size), expected, rtol=0.1)


@pytest.mark.parametrize("objective", [sft, dft], ids=["sft", "dft"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_official_trainer_accumulates_the_sum_of_its_micro_batch_means(objective, size):
    def official(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of one micro-batch as that trainer forms it: mask product, own count + 1e-8."""
        mask = (y[:, 1:] != IGNORE_INDEX).double()
        picked = torch.log_softmax(z[:, :-1], -1).gather(-1, y[:, 1:, None].clamp_min(0))[..., 0]
        weight = picked.detach().exp() if objective is dft else torch.ones_like(picked)
        return (-picked * weight * mask).sum() / (mask.sum() + 1e-8)

    logits, labels = training_batch()
    logits.requires_grad_()
    parts = list(zip(logits.split(size), labels.split(size), strict=True))
    for z, y in parts:
        official(z, y).backward()  # before any division by the number of micro-batches
    assert_close(at_once(objective, MicrobatchTokenMean(size, "sum")), logits.grad)
    assert_close(at_once(objective, MicrobatchTokenMean(size)), logits.grad / len(parts))


def test_one_micro_batch_is_the_token_mean():
    assert_close(at_once(dft, MicrobatchTokenMean(5)), at_once(dft, TokenMean()), rtol=1e-8, atol=0)


def test_the_reductions_weight_sequences_differently():
    found = [
        at_once(sft, r)
        for r in (TokenMean(), SequenceMean(), SumOver(), MicrobatchTokenMean(2))
    ]  # fmt: skip
    directions = [g.flatten() / g.norm() for g in found]
    # The sum points where the token mean does; the others do not, and that is the confusion.
    assert_close(directions[0], directions[2])
    assert float(directions[0] @ directions[1]) < 0.99
    assert float(directions[0] @ directions[3]) < 0.99


def test_a_misspelt_accumulation_is_refused():
    with pytest.raises(ValueError, match=r"accumulate=\) knows mean, sum, not 'add'"):
        MicrobatchTokenMean(2, "add")
