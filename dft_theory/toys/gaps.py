"""DFT against SFT where one thing is changed: rows of accuracies, and the gap between the two."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dft_theory.experiment import Rows, interval, values
from dft_theory.toys import chain
from dft_theory.toys.worlds import Best, World, listed, mean, sampled_accuracy

# Accuracies on unseen prompts: sampled at T = 1, greedy, and greedy at each run's best state on
# validation, at the learning rate whose best states are best.
METRICS = ("sampled", "greedy", "early_greedy")


def scores(best: Best, worlds: Sequence[World]) -> dict[str, Any]:
    """A row of JSON values: each metric of each world, the rates chosen, what chose them."""
    test = torch.stack([w.test for w in worlds])
    told = {
        "sampled": mean(best.last, test, sampled_accuracy),
        "greedy": mean(best.last, test, chain.greedy),
        "early_greedy": mean(best.early, test, chain.greedy),
    }
    rates = {"rate": best.rate, "early_rate": best.early_rate}
    by_rate = [float(f"{x:.3g}") for x in best.validation]
    return {"objective": best.objective.name, **rates, "validation": by_rate, **listed(told)}


def gap(rows: Rows, cell: str, change: str, metric: str, objective: str = "dft") -> Tensor:
    """Objective minus SFT of each seed, `[seeds]`. Raises: ValueError without such rows."""
    ours, sft = (
        values(rows, metric, cell=cell, change=change, objective=name)
        for name in (objective, "sft")
    )
    return ours - sft


def told(**each: Tensor) -> dict[str, float]:
    """The mean of each gap `[seeds]` and its paired 95 % interval."""
    found = dict[str, float]()
    for name, value in each.items():
        low, high = interval(value)
        found |= {name: value.mean().item(), f"{name} low": low, f"{name} high": high}
    return found
