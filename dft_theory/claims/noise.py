"""Clean labels and wrong ones: when the weight p lowers the risk faster.

One context with a true token y* and a label that may be wrong. The risk is 1 - p(y*), what greedy
or sampled answers lose; training follows gradient flow on the label in the logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from scipy.optimize import brentq
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.gradient_flow import scalars
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.claims.tolerance import Estimate, Exact, Numerical
from dft_theory.dynamics import symmetric_start
from dft_theory.objectives import Objective, dft, floored, power, sft
from dft_theory.seeding import generator


@dataclass(frozen=True)
class Labelled:
    """A softmax whose true token is `at.target`, trained on `label`."""

    objective: Objective
    at: TokenCase
    label: int

    def __str__(self) -> str:
        kind = "clean" if self.label == self.at.target else f"labelled {self.label}"
        return f"{self.objective.name}, {kind}, {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms

    @cached_property
    def rate(self) -> Tensor:
        """How fast the risk falls: <grad p(y*), -grad loss>, both by autograd."""
        return self.falls(self.objective)

    def falls(self, objective: Objective) -> Tensor:
        """The same under another objective."""
        z = self.at.logits.clone().requires_grad_(True)
        truth = torch.autograd.grad(torch.softmax(z, -1)[self.at.target], z)[0]
        trained = TokenCase(self.at.logits, self.label, self.at.label)
        return -truth @ trained.logit_gradient(objective)

    @cached_property
    def weight(self) -> Tensor:
        """Weight at the probability of the label."""
        return self.objective.weight_at(self.at.probs[self.label].reshape(1))[0]

    @cached_property
    def alignment(self) -> Tensor:
        """<e_{y*} - pi, e_label - pi>."""
        eye = torch.eye(self.terms, dtype=torch.float64)
        return (self.at.onehot - self.at.probs) @ (eye[self.label] - self.at.probs)

    @property
    def size(self) -> float:
        """Size of what cancels in the alignment, times the other factors."""
        return float(self.at.p * self.weight)


@lru_cache(maxsize=4)
def _labelled(cases: tuple[TokenCase, ...]) -> tuple[Labelled, ...]:
    chosen = [c for c in cases if c.p > 1e-12]
    ways = (sft, dft, power(0.5), floored(0.1))
    wrong = {c: (c.target + 1) % c.terms for c in chosen}
    return tuple(Labelled(o, c, y) for c in chosen for o in ways for y in (c.target, wrong[c]))


def labelled(scope: Scope) -> Sequence[Labelled]:
    """Every softmax with its true label and with a wrong one, under four objectives."""
    return _labelled(scope.token_cases)


SMALLEST = TokenCase(scalars(0.4, 0.2, 0.2, 0.2).log(), 0, "pi = (.4, .2, .2, .2)")


@lru_cache(maxsize=4)
def _clean(cases: tuple[TokenCase, ...]) -> tuple[Labelled, ...]:
    chosen = [SMALLEST, *(c for c in cases if c.p > 1e-12 and float(c.rest) > 1e-9)]
    return tuple(Labelled(o, c, c.target) for c in chosen for o in (dft, power(2.0), power(10.0)))


def clean(scope: Scope) -> Sequence[Labelled]:
    """Every softmax with its true label, under the prior-leaning p, p^2 and p^10."""
    return _clean(scope.token_cases)


def true_token_leads(case: Labelled) -> bool:
    """Whether the model already prefers the true token: a strong model."""
    others = torch.cat([case.at.probs[: case.at.target], case.at.probs[case.at.target + 1 :]])
    return bool(case.at.p > others.max())


# ---- a noise rate for a whole ensemble -------------------------------------------------------


def loss_and_gain(probs: Tensor) -> Tensor:
    """What DFT loses on clean labels and gains on wrong ones against SFT, in closed form, `[2]`.

    Shapes: next-token distributions `probs [contexts, V]`, the true token 0.
    """
    truth, wrong, square = probs[:, :1], probs[:, 1:], probs.square().sum(-1, keepdim=True)
    lost = (1 - truth) * truth * (1 - 2 * truth + square)
    gained = (1 - wrong) * truth * (truth + wrong - square)
    return torch.stack([lost.mean(), gained.mean()])


@dataclass(frozen=True)
class Ensemble:
    """Contexts whose labels are wrong at rate E, uniformly over the other tokens."""

    lead: float
    vocab: int
    contexts: int

    def __str__(self) -> str:
        return f"{self.contexts} contexts, V = {self.vocab}, true logit raised by {self.lead:g}"

    @property
    def terms(self) -> int:
        """Number of terms in a mean over contexts and labels."""
        return self.contexts * self.vocab

    @cached_property
    def logits(self) -> Tensor:
        """Standard-normal logits, the true token 0 raised, `[contexts, V]`."""
        g = generator(0, "ensemble", self.vocab, self.contexts)
        z = torch.randn(self.contexts, self.vocab, dtype=torch.float64, generator=g)
        z[:, 0] += self.lead
        return z

    def rates(self, objective: Objective) -> Tensor:
        """Mean rate at which the risk falls for each label, by autograd, `[V]`."""
        states = [TokenCase(z, 0, "ensemble") for z in self.logits]
        each = [[Labelled(objective, c, y).rate for y in range(self.vocab)] for c in states]
        return torch.tensor(each, dtype=torch.float64).mean(0)

    @cached_property
    def overtaking(self) -> Estimate:
        """The noise rate at which DFT and SFT lower the risk equally fast, by Brent's method."""
        advantage = self.rates(dft) - self.rates(sft)

        def lead_of_dft(noise: float) -> float:
            labels = torch.full((self.vocab,), noise / (self.vocab - 1), dtype=torch.float64)
            labels[0] = 1 - noise
            return float(labels @ advantage)

        return Estimate(scalars(brentq(lead_of_dft, 0.0, 1.0, xtol=1e-14)), scalars(1e-12))

    @cached_property
    def loss_and_gain(self) -> Tensor:
        """A and B of this ensemble, `[2]`."""
        return loss_and_gain(torch.softmax(self.logits, -1))

    def threshold(self, gain: float = 1.0) -> Tensor:
        """A / (A + B) from the loss A and `gain` times the gain B, `[1]`."""
        lost, gained = self.loss_and_gain[:1], self.loss_and_gain[1:]
        return lost / (lost + gain * gained)


@lru_cache(maxsize=2)
def _ensembles(thorough: bool) -> tuple[Ensemble, ...]:
    sizes = ((2, 6), (5, 8), (9, 20)) if thorough else ((2, 6), (5, 8))
    return tuple(Ensemble(lead, *size) for size in sizes for lead in (0.0, 1.0, 3.0))


def ensembles(scope: Scope) -> Sequence[Ensemble]:
    """From models that know nothing to models that mostly know."""
    return _ensembles(scope.thorough)


@dataclass(frozen=True)
class Known:
    """A single context with p(y*) = p and equally likely rivals."""

    p: float
    vocab: int

    def __str__(self) -> str:
        return f"p = {self.p:g}, V = {self.vocab}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.vocab

    @cached_property
    def overtaking(self) -> Estimate:
        """The noise rate at which DFT overtakes, by Brent's method on the autograd rates."""
        at = TokenCase(symmetric_start(self.p, vocab=self.vocab), 0, "known")
        right, wrong = (
            Labelled(dft, at, y).rate - Labelled(sft, at, y).rate for y in (0, self.vocab - 1)
        )
        root = brentq(lambda e: float((1 - e) * right + e * wrong), 0.0, 1.0, xtol=1e-14)
        return Estimate(scalars(root), scalars(1e-12))

    def threshold(self, power: int = 2, rival: bool = True) -> Tensor:
        """(1-p)^2 / ((1-p)^2 + p (1-q)), q one rival's probability, `[1]`."""
        left = (1 - self.p) ** power
        q = (1 - self.p) / (self.vocab - 1) if rival else 0.0
        return scalars(left / (left + self.p * (1 - q)))


@lru_cache(maxsize=2)
def _known(thorough: bool) -> tuple[Known, ...]:
    ps = (0.02, 0.1, 0.3, 0.5, 0.8, 0.95, 0.99) if thorough else (0.1, 0.5, 0.8, 0.95)
    return tuple(Known(p, v) for v in (2, 5, 40) for p in ps)


def known(scope: Scope) -> Sequence[Known]:
    """Weak to strong models."""
    return _known(scope.thorough)


FREE_LOGITS = Assumption(
    "the logits are the parameters",
    "with shared parameters the Gram matrix of their gradients mixes contexts, and a label in one "
    "moves the risk in another",
)
CLEAN = Assumption(
    "the label is the true token",
    "with wrong labels DFT overtakes beyond a noise rate (noise-lets-dft-overtake)",
    holds=lambda c: c.label == c.at.target,
)
BELOW_ONE = Assumption(
    "weights of at most 1",
    "a factor in the loss is a learning rate: -p^10 without its 1/10 has the weight 10 p^10, which "
    "exceeds 1 for p > 0.79",
)
CLAIMS = (
    Claim(
        name="risk-reduction-rate",
        title="How fast training on a label lowers the risk",
        kind="identity",
        statement=r"-\frac{\mathrm{d}}{\mathrm{d}t}(1 - \pi_{y^\star}) = w(\pi_{\tilde y})\, "
        r"\pi_{y^\star} \left\langle e_{y^\star} - \pi,\; e_{\tilde y} - \pi \right\rangle, \qquad "
        r"w(p) = -p f'(p)",
        note="The true token is y*, the label trained on may be another. A wrong label costs its "
        "own weight: SFT pays 1 for it, DFT its probability.",
        cites=("li2025beyond",),
        cases=labelled,
        assumptions=(FREE_LOGITS,),
        lhs=lambda c: c.rate,
        rhs=lambda c: c.weight * c.at.p * c.alignment,
        scale=lambda c: c.size,
        mutants=(
            Mutant("without the probability of the truth", lambda c: c.weight * c.alignment),
            Mutant(
                "weight of the true token",
                lambda c: c.objective.weight_at(c.at.p.reshape(1))[0] * c.at.p * c.alignment,
            ),
            Mutant(
                "one-hot vectors not centred",
                lambda c: c.weight * c.at.p * (c.at.onehot - c.at.probs)[c.label],
            ),
        ),
    ),
    Claim(
        name="clean-labels-favour-sft",
        title="On clean labels SFT lowers the risk faster than any smaller weight",
        kind="refutation",
        statement=r"-\dot R_w = w(p)\,(-\dot R_{\mathrm{SFT}}) \leq -\dot R_{\mathrm{SFT}}, \qquad "
        r"p = \pi_{y^\star} = \pi_{\tilde y}, \quad R = 1 - p",
        note="At every state, however strong the model. The smallest example: pi = (.4, .2, .2, "
        ".2), where the risk falls at 0.0768 under DFT and at 0.192 under SFT. What favours -p in "
        "a strong model is wrong labels.",
        cites=("li2025beyond",),
        cases=clean,
        assumptions=(FREE_LOGITS, CLEAN, BELOW_ONE),
        lhs=lambda c: torch.stack([c.rate, c.rate]),
        rhs=lambda c: torch.stack([c.weight * c.falls(sft), torch.minimum(c.rate, c.falls(sft))]),
        published=Published(
            statement=r"p_{y^\star} > \max_{v \neq y^\star} p_v \;\Longrightarrow\; "
            r"-\dot R_{\mathrm{SFT}} \leq -\dot R_{-p}",
            lhs=lambda c: c.falls(sft) if true_token_leads(c) else torch.zeros_like(c.rate),
            side=lambda c: c.rate if true_token_leads(c) else torch.zeros_like(c.rate),
            relation="<=",
            cite="li2025beyond",
            why="Theorem 6.4, informal: in strong models prior-leaning objectives reduce the risk "
            "faster; the formal version in the appendix assumes label noise",
        ),
        tolerance=Exact(c=512.0),  # p^10 has ten times the rounding of log p
        scale=lambda c: c.size,
        mutants=(
            Mutant(
                "the weight inverted",
                lambda c: torch.stack([c.falls(sft) / c.weight, c.rate]),
            ),
            Mutant(
                "the weight at 1 - p",
                lambda c: torch.stack(
                    [c.objective.weight_at(c.at.rest.reshape(1))[0] * c.falls(sft), c.rate]
                ),
            ),
        ),
    ),
    Claim(
        name="noise-lets-dft-overtake",
        title="With enough wrong labels DFT lowers the risk faster than SFT",
        kind="identity",
        statement=r"-\dot R_{\mathrm{DFT}} > -\dot R_{\mathrm{SFT}} \iff E > \frac{A}{A + B}, "
        r"\qquad "
        r"\begin{aligned} A &= \mathbb{E}\left[(1-p)\,p\,\Vert e_{y^\star} - \pi \Vert^2\right] \\ "
        r"B &= \mathbb{E}\left[(1 - \pi_{\tilde y})\, p\, (p + \pi_{\tilde y} - \Vert \pi \Vert^2)"
        r"\right] \end{aligned}",
        note="Labels are wrong at rate E, p is the true token's probability. Both rates are linear "
        "in E: A is what DFT loses on clean labels, B what it saves on wrong ones. The crossing is "
        "found by Brent's method on autograd rates.",
        cites=("li2025beyond",),
        cases=ensembles,
        assumptions=(
            FREE_LOGITS,
            Assumption(
                "B > 0",
                "where the true token leads in every context B is positive; a model whose mode is "
                "another token may gain from forgetting it, and then SFT leads at any noise",
                holds=lambda c: float(c.loss_and_gain[1]) > 0,
            ),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.overtaking,
        rhs=lambda c: c.threshold(),
        mutants=(
            Mutant("odds instead of a rate", lambda c: c.loss_and_gain[0] / c.loss_and_gain[1:]),
            Mutant("the gain two per cent larger", lambda c: c.threshold(gain=1.02)),
            Mutant("A and B exchanged", lambda c: 1 - c.threshold()),
        ),
    ),
    Claim(
        name="strong-models-need-little-noise",
        title="The stronger the model, the less noise lets DFT overtake",
        kind="identity",
        statement=r"E^\star = \frac{(1-p)^2}{(1-p)^2 + p\,(1-q)}, \qquad q = \frac{1-p}{V-1}",
        note="The model-capability continuum in one formula, for a context with equally likely "
        "rivals: with V large the threshold is 89 per cent at p = 0.1, a third at p = 1/2 and "
        "five per cent at p = 0.8. No threshold is 0: without noise SFT leads.",
        cites=("li2025beyond",),
        cases=known,
        assumptions=(
            FREE_LOGITS,
            Assumption(
                "equally likely rivals",
                "otherwise the thresholds of noise-lets-dft-overtake, which need the whole "
                "distribution",
            ),
        ),
        tolerance=Numerical(),
        lhs=lambda c: c.overtaking,
        rhs=lambda c: c.threshold(),
        mutants=(
            Mutant("1 - p not squared", lambda c: c.threshold(power=1)),
            Mutant("the wrong label's own weight forgotten", lambda c: c.threshold(rival=False)),
        ),
    ),
)
