"""The weight as a function of p: its ends and its changes of sign."""

import itertools
import math

import torch
from scipy.optimize import brentq
from torch import Tensor

from dft_theory.xrays.result import Edge
from dft_theory.xrays.seen import TARGET, Seen, logits_at, rivals


def edge(weight: Tensor, h: Tensor, eps: float) -> Edge | None:
    """The leading term at the smallest distances h, by extrapolation; None in half precision."""
    if eps > 1e-3:
        return None
    w, h = weight[[0, 5, 10]], h[[0, 5, 10]]
    if not bool(w.all()):
        return Edge(float(w[0]), None, False)
    first, second = (w.abs().log().diff() / h.log().diff()).tolist()
    if abs(first - second) > 0.01 + float(h[2]):
        return Edge(float(w[0] / h[0] ** first), first, True)
    # A next term in h shifts slope and coefficient in proportion to h: extrapolated to h = 0.
    ratio = float(h[1] / h[0])
    power = (ratio * first - second) / (ratio - 1)
    near = round(power, 2) + 0.0
    power = near if abs(power - near) < (1e-4 if eps < 1e-10 else 5e-3) else power
    low, high = (w[:2] / h[:2] ** power).tolist()
    return Edge((ratio * low - high) / (ratio - 1), power, False)


def sign_changes(seen: Seen) -> tuple[float, ...]:
    """The probabilities at which the weight changes its sign, by bracketing."""
    weight, others = seen.weights[0], rivals()[0]
    clear = (weight.abs() > 2 * seen.rounding).nonzero().flatten().tolist()

    def pull(log_odds: float) -> float:
        z = logits_at(torch.tensor(log_odds, dtype=torch.float64), others)
        return float(seen.pull(z)[TARGET])

    found = []
    for low, high in itertools.pairwise(clear):
        if float(weight[low] * weight[high]) < 0:
            ends = float(seen.log_odds[low]), float(seen.log_odds[high])
            found.append(1 / (1 + math.exp(-brentq(pull, *ends, xtol=1e-9))))
    return tuple(found)
