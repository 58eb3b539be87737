"""The bins of the paper's Figure 2, by probability of the target: four decades, then tenths."""

import itertools

import torch
from torch import Tensor

BINS = (0.0, 1e-4, 1e-3, 0.01, *(k / 10 for k in range(1, 11)))


def bin_index(p: Tensor) -> Tensor:
    """Index 0..12 of the paper's bin of each probability."""
    edges = torch.tensor(BINS[1:-1], dtype=p.dtype)
    return torch.bucketize(p, edges, right=True)


def bin_labels() -> list[str]:
    """The bins as the paper writes them."""
    return [f"{a:g}-{b:g}" for a, b in itertools.pairwise(BINS)]


def share_by_bin(mass: Tensor, p: Tensor) -> Tensor:
    """Share of the mass `[N] >= 0` on targets of probability `p` in each bin, `[13]`.

    All 0 where there is no mass.
    """
    total = torch.zeros(len(BINS) - 1, dtype=mass.dtype).index_add(0, bin_index(p), mass)
    whole = total.sum()
    return total / whole if bool(whole > 0) else total


def distance(first: Tensor, second: Tensor) -> float:
    """Part of a gradient mass `[N]` that would have to move to turn one into the other.

    Total variation of the two shares, in [0, 1]; 1 where one of them is all 0.
    """
    if not (bool(first.sum() > 0) and bool(second.sum() > 0)):
        return 1.0
    return float((first / first.sum() - second / second.sum()).abs().sum() / 2)
