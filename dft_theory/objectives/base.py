"""The Objective: a weight for each target token, and where known the potential it descends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.reductions import Reduction

Level = Literal["token", "geometric-mean", "sequence"]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How every figure draws the objective."""

    color: str = "#555555"
    marker: str = "o"
    linestyle: str = "-"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """`family(value)` tends to another objective as value -> `at`: a checked statement.

    `rate` bounds the distance of the weights at distance h from `at` by
    rate * h * max(1, |log p|).
    """

    parameter: str
    at: float
    family: Callable[[float], "Objective"]
    objective: str
    rate: float


@dataclass(frozen=True, kw_only=True)
class Objective:
    r"""A training objective as the weight it gives to each target token.

    The gradient applied is -sum_t w_t grad log pi(y_t | y_<t, x), with w computed from detached
    statistics. `weight(t)` returns something that broadcasts to `[B, T]`. `potential(t)` returns
    terms `[B, T]` whose *true* gradient is the same vector; None where no such function exists,
    and then the value of the loss is not a thing being minimised. `optimum(r)` maps a data
    distribution r `[V]` over the responses to one prompt to the distribution that minimises the
    population objective.
    """

    name: str
    title: str
    weight: Callable[[TokenStats], Tensor]
    cite: str = ""
    equation: str = ""
    level: Level = "token"
    potential: Callable[[TokenStats], Tensor] | None = None
    optimum: Callable[[Tensor], Tensor] | None = None
    needs: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    style: Style = Style()

    def surrogate(self, t: TokenStats, *, reduction: Reduction) -> Tensor:
        """The scalar whose *gradient* is the objective's: -sg(w) log pi, reduced.

        Its value means nothing. The only stop-gradient of the package is the `detach` below.
        A token of weight 0 contributes exactly 0, also where log pi = -inf (0 log 0 = 0).

        Raises: ValueError where a statistic named in `needs` is missing.
        """
        self._require(t)
        weight = self.weight(t.detach()).expand_as(t.logp)
        # Masked positions hold logp = 0, that is p = 1, where a weight may be unbounded.
        weight = weight.masked_fill(~t.mask, 0.0)
        terms = torch.where(weight == 0, torch.zeros_like(t.logp), -weight * t.logp)
        return reduction(terms, t.mask)

    def potential_value(self, t: TokenStats, *, reduction: Reduction) -> Tensor:
        """The potential, reduced: a loss that may be read, compared and differentiated.

        Raises: ValueError where the objective has none.
        """
        if self.potential is None:
            raise ValueError(f"{self.name} is not the gradient of any potential: it has no value")
        self._require(t)
        return reduction(self.potential(t).masked_fill(~t.mask, 0.0), t.mask)

    def weight_at(self, p: Tensor) -> Tensor:
        """Weight of a one-token response of probability p, elementwise."""
        logp = p.log().reshape(-1, 1)
        t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
        return self.weight(t).expand_as(logp).reshape(p.shape)

    def implied_reward(self, p: Tensor) -> Tensor:
        """The reward w / pi for which the update is an on-policy policy gradient."""
        return self.weight_at(p) / p

    def _require(self, t: TokenStats) -> None:
        missing = [need for need in self.needs if getattr(t, need) is None]
        if missing:
            raise ValueError(f"{self.name} needs {', '.join(missing)}: pass it in TokenStats")
