"""The Objective: a weight for each target token, and where known the potential it descends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.parts import given, weighted_nll
from dft_theory.objectives.reductions import Reduction

# What the weight of a token depends on: itself; its response, by a geometric mean or in full; all
# tokens of the batch; the group of responses that stand together (a pair, samples of one prompt).
Level = Literal["token", "geometric-mean", "sequence", "batch", "group"]

# How the catalogue is ordered. What a weight is a function of: the target's probability; the whole
# next-token distribution; a reference policy as a second target; a ratio to another policy; or
# it applies to sampled or compared responses.
Family = Literal["probability", "state", "anchored", "ratio", "sampled"]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How every figure draws the objective."""

    color: str = "#555555"
    marker: str = "o"
    linestyle: str = "-"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """`family(value)` tends to another objective as value -> `at`: a checked statement.

    `rate` bounds the distance of the fields at distance h from `at`, in every logit, by
    rate * h * max(1, |log p|); where `at` is infinite, h is 1/value.
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
    statistics. `weight(t)` returns something that broadcasts to `[B, T]`. Where a weight of the
    target is not enough, `target(t)` `[B, T, V]` adds weights A_t(v) of *any* next tokens v, and
    the gradient becomes -sum_t [w_t grad log pi(y_t) + sum_v A_t(v) grad log pi(v)].

    `potential(t)` returns terms `[B, T]` whose *true* gradient is the same vector; None where no
    such function exists, and then the value of the loss is not a thing being minimised.
    `optimum(r)` maps a data distribution r `[V]` to the one that minimises the population
    objective: the law of the next token in one state, at level "sequence" that of the responses
    to one prompt. An anchored objective takes `optimum(r, b)` with the reference b `[V]`.
    """

    name: str
    title: str
    weight: Callable[[TokenStats], Tensor]
    target: Callable[[TokenStats], Tensor] | None = None
    cite: str = ""
    equation: str = ""
    family: Family = "probability"
    level: Level = "token"
    potential: Callable[[TokenStats], Tensor] | None = None
    optimum: Callable[..., Tensor] | None = None
    needs: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    note: str = ""
    style: Style = Style()

    def __post_init__(self) -> None:
        if self.target is not None and "log_probs" not in self.needs:
            raise ValueError(f"{self.name} has a target over the vocabulary: it needs log_probs")

    def surrogate(self, t: TokenStats, *, reduction: Reduction) -> Tensor:
        """The scalar whose *gradient* is the objective's: -sg(w) log pi, reduced.

        Its value means nothing. The only stop-gradient of the package is the `detach` below.
        A token of weight 0 contributes exactly 0, also where log pi = -inf (0 log 0 = 0).
        The scalar has the dtype of `logp`, whatever that of the weight.

        Raises: ValueError where a statistic named in `needs` is missing.
        """
        self._require(t)
        held = t.detach()
        # Masked positions hold logp = 0, that is p = 1, where a weight may be unbounded.
        weight = self.weight(held).expand_as(t.logp).masked_fill(~t.mask, 0.0)
        terms = weighted_nll(weight, t)
        if self.target is not None:
            mass = self.target(held).to(t.logp.dtype).masked_fill(~t.mask.unsqueeze(-1), 0.0)
            spread = torch.where(mass == 0, torch.zeros_like(mass), mass * given(t.log_probs))
            terms = terms - spread.sum(-1)
        return reduction(terms, t.mask)

    def field(self, t: TokenStats) -> Tensor:
        """The ascent direction in the logits, in closed form, `[B, T, V]`; 0 where masked.

        w (e_y - pi) + A - (sum_v A_v) pi. Differentiable in the statistics: its Jacobian tells
        whether a potential exists. Needs `log_probs` and `targets` in `t`, whatever the objective
        needs. Raises: ValueError where one is missing.
        """
        self._require(t, "log_probs", "targets")
        probs = given(t.log_probs).exp()
        weight = self.weight(t).to(probs.dtype).expand_as(t.logp).unsqueeze(-1)
        pull = weight * torch.zeros_like(probs).scatter(-1, given(t.targets).unsqueeze(-1), 1.0)
        if self.target is not None:
            pull = pull + self.target(t).to(probs.dtype)
        moved = pull - pull.sum(-1, keepdim=True) * probs
        return moved.masked_fill(~t.mask.unsqueeze(-1), 0.0)

    def potential_value(self, t: TokenStats, *, reduction: Reduction) -> Tensor:
        """The potential, reduced: a loss that may be read, compared and differentiated.

        Raises: ValueError where the objective has none.
        """
        if self.potential is None:
            raise ValueError(f"{self.name} is not the gradient of any potential: it has no value")
        self._require(t)
        terms = self.potential(t).to(t.logp.dtype).masked_fill(~t.mask, 0.0)
        return reduction(terms, t.mask)

    @property
    def is_function_of_p(self) -> bool:
        """Whether the gradient at one token is w(p) (e_y - pi) with p of the target alone."""
        return not self.needs and self.target is None and self.level not in ("batch", "group")

    def weight_at(self, p: Tensor) -> Tensor:
        """Weight of a one-token response of probability p, elementwise.

        Raises: ValueError where the gradient depends on more than p.
        """
        if not self.is_function_of_p:
            raise ValueError(
                f"the gradient of {self.name} depends on more than the target's probability: "
                "use `field` with the statistics it needs"
            )
        logp = p.log().reshape(-1, 1)
        t = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
        return self.weight(t).expand_as(logp).reshape(p.shape)

    def implied_reward(self, p: Tensor) -> Tensor:
        """The reward w / pi for which the update is an on-policy policy gradient."""
        return self.weight_at(p) / p

    def _require(self, t: TokenStats, *more: str) -> None:
        missing = [need for need in dict.fromkeys(self.needs + more) if getattr(t, need) is None]
        if missing:
            raise ValueError(f"{self.name} needs {', '.join(missing)}: pass it in TokenStats")
