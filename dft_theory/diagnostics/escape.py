"""How long a rare token takes under an objective: steps of the planned run, before it is run."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from dft_theory.dynamics import spread
from dft_theory.objectives import Objective, sft


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The training run that is planned; the defaults are the paper's.

    `lr` is the peak learning rate, `batch` in demonstrations (only SGD depends on it), `steps` how
    many are planned, None where that is open. Raises: ValueError for a run that cannot be.
    """

    lr: float = 5e-5
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: int = 256
    steps: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"the learning rate must be positive and finite, got {self.lr}")
        if self.batch < 1:
            raise ValueError(f"a batch holds at least one demonstration, got {self.batch}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"a run has at least one step, got {self.steps}")


PAPER = Plan()


def escape_steps(
    objective: Objective, p0: float, *, plan: Plan, vocab: int, pace: float = 1.0, p1: float = 0.5
) -> float | None:
    r"""Steps that lift one token from p0 to p1, if every batch brings it and nothing else pulls.

    A step of SGD moves its V logits by lr pace w (e_y - pi), one of Adam by lr pace along the sign.
    SGD takes T = 1/(lr pace k) \int (1 + e^x) / w(p(x)) dx over the log-odds x, k = V / (V - 1),
    for equally likely rivals in small steps; Adam (x1 - x0) / (2 lr pace) for any weight > 0.
    inf where a weight on the way is <= 0: such a token never gets there. None where the weight
    depends on more than this token's p. 0 where p0 >= p1. `pace` 1: the logits are the parameters.

    Raises: ValueError unless 0 < p0 < 1, 0 < p1 < 1, pace > 0 and V >= 2.
    """
    k = spread(vocab)
    if not (0 < p0 < 1 and 0 < p1 < 1):
        raise ValueError(f"p0 and p1 lie strictly between 0 and 1, got {p0} and {p1}")
    if not 0 < pace < math.inf:
        raise ValueError(f"the pace must be positive, got {pace}")
    if not objective.is_function_of_p or objective.level != "token":
        return None
    if p0 >= p1:
        return 0.0
    start, end = (math.log(p) - math.log1p(-p) for p in (p0, p1))
    x = torch.linspace(start, end, 4001, dtype=torch.float64)
    weight = objective.weight_at(x.sigmoid())
    if not bool((weight > 0).all()):
        return math.inf
    if plan.optimizer == "adam":
        return (end - start) / (2 * plan.lr * pace)
    return float(torch.trapezoid((1 + x.exp()) / weight, x)) / (k * plan.lr * pace)


def ratio_by_sgd(objective: Objective, p0: float, *, vocab: int) -> float | None:
    """How many times SFT's steps a token takes from p0 < 1/2 to 1/2 by SGD; None where unknown."""
    one = Plan(lr=1.0, optimizer="sgd")
    p0 = max(p0, 1e-300)
    mine, theirs = (escape_steps(o, p0, plan=one, vocab=vocab) for o in (objective, sft))
    return None if mine is None or not theirs else mine / theirs
