"""Hypothesis strategies for property tests of objectives. Needs the extra `testing`."""

import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.testing.states import State, state


@st.composite
def logits_and_labels(
    draw: st.DrawFn,
    *,
    max_rows: int = 3,
    max_length: int = 5,
    max_vocab: int = 4,
    impossible: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits `[B, T, V]` float64 and unshifted labels `[B, T]`, -100 anywhere.

    Logits within +-6, with ties and gaps of 60; `impossible` adds -inf, never for a whole row.
    """
    shape = draw(
        st.tuples(st.integers(1, max_rows), st.integers(2, max_length), st.integers(2, max_vocab))
    )
    special = [0.0, 1.0, -60.0, 60.0] + ([-torch.inf] if impossible else [])
    elements = st.one_of(st.floats(-6, 6), st.sampled_from(special))
    logits = torch.from_numpy(draw(arrays("float64", shape, elements=elements)))
    nowhere = logits.isneginf().all(-1, keepdim=True)
    label = st.one_of(st.integers(0, shape[-1] - 1), st.just(IGNORE_INDEX))
    labels = torch.from_numpy(draw(arrays("int64", shape[:2], elements=label)))
    return logits.masked_fill(nowhere, 0.0), labels


@st.composite
def distributions(draw: st.DrawFn, *, max_vocab: int = 5, least: float = 1e-3) -> Tensor:
    """A probability vector `[V]` float64, V >= 2, every entry at least about `least`."""
    size = draw(st.integers(2, max_vocab))
    weights = torch.tensor(
        draw(st.lists(st.floats(least, 1.0), min_size=size, max_size=size)), dtype=torch.float64
    )
    return weights / weights.sum()


@st.composite
def states(draw: st.DrawFn, *, groups: int = 1, max_length: int = 5, max_vocab: int = 6) -> State:
    """A batch with everything an objective may need; 4 rows for each group."""
    return state(
        draw(st.integers(0, 2**16)),
        rows=4 * draw(st.integers(1, groups)),
        length=draw(st.integers(2, max_length)),
        vocab=draw(st.integers(3, max_vocab)),
        scale=draw(st.sampled_from((0.3, 1.5, 4.0))),
    )
