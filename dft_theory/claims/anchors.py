"""Second targets: a reference, a sharpened copy of the model, and gates that read the state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.logit_gradient import one, token_cases
from dft_theory.claims.scope import Scope, TokenCase
from dft_theory.logprobs import token_stats
from dft_theory.objectives import (
    Objective,
    asft,
    asft_fixed_point,
    asft_reverse,
    deft_renyi,
    dft,
    eaft,
    gem,
    idft,
    sft,
    sft_kl,
    srft_weight,
)
from dft_theory.seeding import generator

STATE_ONLY = (sft, eaft(), srft_weight("paper"), srft_weight("code"))


@dataclass(frozen=True)
class Population:
    """Demonstrations of frequencies r at one state, with a reference of probabilities b."""

    r: tuple[float, ...]
    b: tuple[float, ...]
    lam: float = 0.0

    def __str__(self) -> str:
        show = [tuple(round(x, 3) for x in v) for v in (self.r, self.b)]
        return f"r = {show[0]}, b = {show[1]}, lam = {self.lam:g}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return len(self.r)

    @property
    def demos(self) -> Tensor:
        """r, `[V]`."""
        return torch.tensor(self.r, dtype=torch.float64)

    @property
    def reference(self) -> Tensor:
        """b, `[V]`."""
        return torch.tensor(self.b, dtype=torch.float64)

    def gradient(self, objective: Objective, policy: Tensor) -> Tensor:
        """Gradient of the population surrogate in the logits, at `policy` `[V]`; `[V]`."""
        z = policy.log().requires_grad_(True)
        vocab = self.terms
        # One row for each token as the target, behind a position that predicts it.
        logits = torch.stack([z, torch.zeros_like(z)]).expand(vocab, 2, vocab)
        labels = torch.stack([torch.full((vocab,), -100), torch.arange(vocab)], 1)
        needs = {"entropy", "log_probs", "ref_log_probs"}
        stats = token_stats(
            logits,
            labels,
            needs=needs,
            ref_logits=self.reference.log().expand(vocab, 2, vocab),
        )
        loss = objective.surrogate(
            stats, reduction=lambda terms, _: (self.demos.unsqueeze(-1) * terms).sum()
        )
        return torch.autograd.grad(loss, z)[0]

    def anchored(self, p: float) -> Tensor:
        """P on token 0 and the rest shared out as by the reference, `[V]`."""
        rest = self.reference[1:] / self.reference[1:].sum()
        return torch.cat([torch.tensor([p], dtype=torch.float64), (1 - p) * rest])


def zeros(case: Population) -> Tensor:
    """Nothing moves, `[V]`."""
    return torch.zeros(case.terms, dtype=torch.float64)


@lru_cache(maxsize=2)
def _populations(thorough: bool) -> tuple[Population, ...]:
    cases = [Population((0.6, 0.4), (0.2, 0.8), 0.5)]
    for vocab in (3, 4, 8):
        for seed in range(12 if thorough else 2):
            g = generator(seed, "anchors", vocab)
            r, b = torch.randn(2, vocab, dtype=torch.float64, generator=g).softmax(-1)
            cases.append(Population(tuple(r.tolist()), tuple(b.tolist()), (0.05, 0.5)[seed % 2]))
    return tuple(cases)


def populations(scope: Scope) -> Sequence[Population]:
    """Data that disagree, none of it even."""
    return _populations(scope.thorough)


def single(scope: Scope) -> Sequence[Population]:
    """One demonstration, token 0, under references that find it likely or not."""
    strengths = (0.01, 0.05, 0.5, 1.0, 3.0) if scope.thorough else (0.05, 0.5, 2.0)
    return [
        Population((1.0,) + (0.0,) * (len(rest)), (b, *((1 - b) * x for x in rest)), lam)
        for rest in ((1.0,), (0.7, 0.3), (0.5, 0.25, 0.25))
        for b in (0.05, 0.4)
        for lam in strengths
    ]


def difference(case: TokenCase, anchored: Objective, plain: Objective) -> Tensor:
    """What an anchor adds to the logit gradient, `[V]`."""
    return case.logit_gradient(anchored) - case.logit_gradient(plain)


def reference(case: TokenCase) -> Tensor:
    """The reference's probabilities, `[V]`."""
    return case.ref_logits.softmax(-1)


def drift(case: TokenCase) -> Tensor:
    """Log pi / b, `[V]`."""
    return case.logits.log_softmax(-1) - case.ref_logits.log_softmax(-1)


def divergences(case: TokenCase, reverse: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Gradients of both KLs as written down: pi - b, and `reverse(pi, log pi / b)`; `[2, V]`."""
    return torch.stack([case.probs - reference(case), reverse(case.probs, drift(case))])


def sharpened(case: TokenCase, beta: float) -> Tensor:
    """softmax(z / beta), `[V]`."""
    return (case.logits / beta).softmax(-1)


def residuals(case: TokenCase) -> Tensor:
    """The raw targets pi minus the logit gradient, of SFT + KL/2 and of GEM, `[2, V]`."""
    moved = [case.logit_gradient(o) for o in (sft_kl(0.5), gem(0.7))]
    return case.probs - torch.stack(moved)


def written(case: TokenCase, strength: float, beta: float) -> Tensor:
    """The same targets in closed form, `[2, V]`."""
    pulled = case.onehot + strength * (reference(case) - case.probs)
    return torch.stack([pulled, case.onehot + case.probs - sharpened(case, beta)])


def at_data(case: Population, *objectives: Objective) -> Tensor:
    """Population gradients where the policy is the data, `[objectives, V]`."""
    return torch.stack([case.gradient(o, case.demos) for o in objectives])


ONE_HOT = Assumption(
    "one demonstration at this state", "from data that disagree the end is not of this form"
)

CLAIMS = (
    Claim(
        name="asft-rests-below-one",
        title="Where ASFT leaves a demonstration",
        kind="identity",
        statement=r"p^\star = \frac{(1 - \lambda) + \sqrt{(1 - \lambda)^2 + 4\lambda b}}{2}: "
        r"\qquad p^\star (e_y - \pi) + \lambda\,(b - \pi) = 0",
        note="DFT's pull falls with p and the anchor's does not: at lambda = 1/2 and b = 0.05 the "
        "end is p = 0.55, where SFT with the same anchor reaches 0.68.",
        cites=("zhu2025asft",),
        cases=single,
        assumptions=(ONE_HOT,),
        lhs=lambda c: c.gradient(asft(c.lam), c.anchored(asft_fixed_point(c.lam, c.b[0]))),
        rhs=zeros,
        scale=one,
        mutants=(
            Mutant(
                "where SFT + KL rests",
                lambda c: c.gradient(asft(c.lam), c.anchored((1 + c.lam * c.b[0]) / (1 + c.lam))),
                of="lhs",
            ),
            Mutant(
                "the reference",
                lambda c: c.gradient(asft(c.lam), c.reference),
                of="lhs",
            ),
            Mutant(
                "1 - lambda (1 - b), to first order",
                lambda c: c.gradient(asft(c.lam), c.anchored(max(0.01, 1 - c.lam * (1 - c.b[0])))),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="anchored-sft-rests-between-data-and-reference",
        title="SFT with a KL anchor learns a mixture of data and reference",
        kind="identity",
        statement=r"\pi = \frac{r + \lambda b}{1 + \lambda}: \qquad \mathbb{E}_{y\sim r}"
        r"\left[\nabla_z \mathcal{L}\right] = 0",
        note="Forward KL is cross-entropy on the reference's own tokens: the anchor is more data.",
        cites=("zhu2025asft",),
        cases=populations,
        lhs=lambda c: c.gradient(
            sft_kl(c.lam),
            sft_kl(c.lam).optimum(c.demos, c.reference),  # type: ignore[misc]
        ),
        rhs=zeros,
        scale=one,
        mutants=(
            Mutant("the data", lambda c: c.gradient(sft_kl(c.lam), c.demos), of="lhs"),
            Mutant(
                "weights the other way round",
                lambda c: c.gradient(sft_kl(c.lam), (c.lam * c.demos + c.reference) / (1 + c.lam)),
                of="lhs",
            ),
            Mutant(
                "geometric mixture",
                lambda c: c.gradient(
                    sft_kl(c.lam),
                    ((c.demos.log() + c.lam * c.reference.log()) / (1 + c.lam)).softmax(0),
                ),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="gradients-of-the-two-divergences",
        title="The two KL anchors pull differently",
        kind="identity",
        statement=r"\nabla_z \mathrm{KL}(b\,\Vert\,\pi) = \pi - b, \qquad "
        r"\nabla_z \mathrm{KL}(\pi\,\Vert\,b) = \pi \left(\log \frac{\pi}{b} - "
        r"\mathrm{KL}(\pi\,\Vert\,b)\right)",
        note="Forward KL pulls on every token that the reference knows; reverse KL only on tokens "
        "that the policy still holds. Both as what the anchor adds to the objective's gradient.",
        cites=("zhu2025asft",),
        cases=token_cases,
        lhs=lambda c: torch.stack(
            [difference(c, sft_kl(1.0), sft), difference(c, asft_reverse(1.0), dft)]
        ),
        rhs=lambda c: divergences(c, lambda p, x: p * (x - p @ x)),
        scale=one,
        mutants=(
            Mutant("mean forgotten", lambda c: divergences(c, lambda p, x: p * x)),
            Mutant("ratio upside down", lambda c: divergences(c, lambda p, x: p * (p @ x - x))),
            Mutant(
                "forward for both",
                lambda c: divergences(c, lambda p, x: p - p * (-x).exp()),
            ),
        ),
    ),
    Claim(
        name="raw-targets-leave-the-simplex",
        title="Not every loss has a target distribution",
        kind="refutation",
        statement=r"Q = \pi - \nabla_z \mathcal{L}: \qquad e_y + \lambda\,(b - \pi), \qquad "
        r"e_y + \pi - \mathrm{softmax}(z/\beta)",
        note="The residual target of SFT + KL and of GEM sums to 1, but has entries below 0: read "
        "as a distribution it must first be normalised, and then it belongs to another loss.",
        cites=("xie2026target", "zhu2025asft", "li2024gem"),
        cases=token_cases,
        lhs=residuals,
        rhs=lambda c: written(c, 0.5, 0.7),
        scale=one,
        published=Published(
            statement=r"0 \leq Q_v \quad \mathrm{for\ all}\ v",
            lhs=lambda c: torch.zeros(2, c.terms, dtype=torch.float64),
            side=residuals,
            cite="xie2026target",
            relation="<=",
            why="every method read as a target distribution over the next token",
            second_hand=True,
        ),
        mutants=(
            Mutant("anchor doubled", lambda c: written(c, 1.0, 0.7)),
            Mutant("temperature turned", lambda c: written(c, 0.5, 1 / 0.7)),
        ),
    ),
    Claim(
        name="state-weights-keep-the-data",
        title="A weight that ignores the target does not change what is learned",
        kind="identity",
        statement=r"\pi = r \;\Longrightarrow\; \mathbb{E}_{y\sim r}\left[w(\pi)\, "
        r"\nabla_z \log \pi_y\right] = 0",
        note="EAFT and both of SRFT's weights leave SFT's end where it is: a gate on uncertain "
        "states decides when they are learned, not what. Weights that read p of the target move "
        "it. The exception is a state of entropy 0, where EAFT's weight vanishes.",
        cites=("diao2026eaft", "fu2025srft"),
        cases=populations,
        assumptions=(
            Assumption(
                "logits of this state alone",
                "shared parameters trade states off, and then the weights of states matter",
            ),
        ),
        lhs=lambda c: at_data(c, *STATE_ONLY),
        rhs=lambda c: torch.zeros(len(STATE_ONLY), c.terms, dtype=torch.float64),
        scale=one,
        mutants=(
            Mutant("weights of the target: DFT", lambda c: at_data(c, *[dft] * 4), of="lhs"),
            Mutant("both at once: IDFT", lambda c: at_data(c, *[idft()] * 4), of="lhs"),
            Mutant("both at once: DEFT", lambda c: at_data(c, *[deft_renyi] * 4), of="lhs"),
        ),
    ),
)
