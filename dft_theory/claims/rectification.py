"""From SFT to DFT: equations (7) to (13), token against sequence, direction against scale."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.policy_gradient import (
    DIFFERENCE,
    along,
    one_demo_each,
    policy_cases,
    project,
)
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.objectives import Objective, SumOver, dft, dft_sequence, sft
from dft_theory.policies import TablePolicy

LONGER = Assumption(
    "at least two response tokens",
    "with one token the token and sequence levels are the same objective",
    holds=lambda c: c.policy.length > 1,
)


def batch(case: PolicyCase) -> Tensor:
    """Indices of three different demonstrations for one prompt, `[3]`."""
    n = case.terms
    return torch.tensor([case.index, (case.index + 1) % n, (case.index + n // 2) % n])


def batch_gradient(case: PolicyCase, objective: Objective) -> Tensor:
    """Mean over the batch of the objective's gradient, teacher-forced, `[D]`."""
    stats = case.policy.stats(case.prompt, case.responses[batch(case)])
    return case.gradient(objective.surrogate(stats, reduction=SumOver(3.0)))


def table_cases(scope: Scope) -> Sequence[PolicyCase]:
    """Policies with a parameter of their own for each visited logit."""
    return [c for c in scope.policy_cases if isinstance(c.policy, TablePolicy)]


def steps(case: PolicyCase) -> list[Tensor]:
    """Next-token distributions `[V]` along the demonstration, in the order of generation."""
    return [
        torch.softmax(case.policy.next_logits(case.prompt, case.demo[:, :t])[0], -1)
        for t in range(case.policy.length)
    ]


def step_probs(case: PolicyCase) -> Tensor:
    """pi(y*_t | y*_<t, x) along the demonstration, `[T]`, by the generative route."""
    return torch.stack([p[y] for p, y in zip(steps(case), case.demo[0], strict=True)])


def token_sum(case: PolicyCase, coefficient: Tensor) -> Tensor:
    """sum_t c_t grad log pi(y*_t | y*_<t, x) for constants c `[T]`, generative route, `[D]`."""
    return case.gradient((coefficient.detach() * step_probs(case).log()).sum())


def bandits(case: PolicyCase, *, weighted: bool) -> Tensor:
    """Sum over expert prefixes of E_{a~pi}[1[a = y*_t] w(a) grad log pi(a)], all V actions."""
    total = torch.zeros((), dtype=torch.float64)
    for probs, y in zip(steps(case), case.demo[0], strict=True):
        hit = F.one_hot(y, probs.shape[0]).double()
        weight = 1 / probs if weighted else torch.ones_like(probs)
        total = total + ((probs * hit * weight).detach() * probs.log()).sum()
    return case.gradient(total)


def unit(x: Tensor) -> Tensor:
    """X / ||x||."""
    return F.normalize(x, dim=0)


def table_cosine(case: PolicyCase) -> Tensor:
    """Cosine of the SFT and DFT gradients of a table: rows are orthogonal, so norms add up."""
    probs = torch.stack([p.detach() for p in steps(case)])
    p = probs.gather(-1, case.demo[0].unsqueeze(-1)).squeeze(-1)
    n2 = probs.square().sum(-1) - 2 * p + 1
    return (p * n2).sum() / (n2.sum() * (p**2 * n2).sum()).sqrt()


CLAIMS = (
    Claim(
        name="rectified-weight-stays-inside",
        title="The correction multiplies each example, not the average",
        kind="refutation",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = \mathbb{E}_{\mathcal{D}}\left["
        r"-\mathrm{sg}(\pi_\theta(y^\star \mid x))\, "
        r"\nabla_\theta \log \pi_\theta(y^\star \mid x)\right]",
        note="Equation (7). The first version of the paper multiplied the averaged gradient; the "
        "second moved the weight inside the expectation, which is what the code does.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: batch_gradient(c, dft_sequence),
        rhs=lambda c: -c.gradient(c.probs[batch(c)].mean()),
        published=Published(
            statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = "
            r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} \cdot \mathrm{sg}(\pi_\theta(y^\star|x))",
            side=lambda c: c.held_probs[batch(c)].mean() * batch_gradient(c, sft),
            cite="wu2025dft",
            why="version 1, equation (7), for more than one example",
        ),
        mutants=(
            Mutant("weight missing", lambda c: batch_gradient(c, sft)),
            Mutant(
                "weights handed to the wrong examples",
                lambda c: -c.held_probs[batch(c)].roll(1) @ c.scores[batch(c)] / 3,
            ),
        ),
    ),
    Claim(
        name="sequence-dft-ascends-probability",
        title="Sequence-level DFT ascends the probability of the response",
        kind="refutation",
        statement=r"\nabla_\theta\left(-\mathrm{sg}(\pi_\theta(y^\star|x)) \log "
        r"\pi_\theta(y^\star|x)\right) = -\nabla_\theta\, \pi_\theta(y^\star \mid x)",
        note="Equations (8) and (13): weight times score is the gradient of the probability "
        "itself. The first version printed (8) without the minus sign.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(dft_sequence),
        rhs=lambda c: -c.gradient(c.probs[c.index]),
        published=Published(
            statement=r"\nabla_\theta\left(\mathrm{sg}(\pi_\theta) \log \pi_\theta\right)"
            r" = -\nabla_\theta\, \pi_\theta(y^\star \mid x)",
            side=lambda c: c.gradient(c.probs[c.index]),
            cite="wu2025dft",
            why="version 1, equation (8): minimising it lowers the probability",
        ),
        mutants=(
            Mutant("gradient of the logarithm", lambda c: -c.gradient(c.probs[c.index].log())),
            Mutant("probability of a neighbour", lambda c: -c.gradient(c.probs.roll(1)[c.index])),
        ),
    ),
    Claim(
        name="token-dft-ascends-expected-hits",
        title="Token-level DFT ascends the sum of next-token probabilities",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\nabla_\theta \sum_t "
        r"\pi_\theta(y^\star_t \mid y^\star_{<t}, x)",
        note="Equation (9), the loss that is used: under teacher forcing it maximises the expected "
        "number of next tokens that sampling would get right.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(dft),
        rhs=lambda c: -c.gradient(step_probs(c).sum()),
        mutants=(
            Mutant(
                "product instead of sum",
                lambda c: -c.gradient(step_probs(c).prod()),
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
            Mutant("no weight", lambda c: -c.gradient(step_probs(c).log().sum())),
            Mutant(
                "no stop-gradient",
                lambda c: -c.gradient((step_probs(c) * step_probs(c).log()).sum()),
            ),
        ),
    ),
    Claim(
        name="sequence-dft-is-weighted-score",
        title="Sequence-level DFT is probability times score",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\mathrm{sg}(\pi_\theta(y^\star|x))"
        r"\, \nabla_\theta \log \pi_\theta(y^\star \mid x)",
        note="Equation (10): the stop-gradient leaves one factor to differentiate.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(dft_sequence),
        rhs=lambda c: -c.held_probs[c.index] * c.scores[c.index],
        mutants=(
            Mutant(
                "no stop-gradient",
                lambda c: (
                    -c.held_probs[c.index] * (1 + c.held_probs[c.index].log()) * c.scores[c.index]
                ),
            ),
            Mutant("weight 1/pi", lambda c: -c.importance[c.index] * c.scores[c.index]),
        ),
    ),
    Claim(
        name="log-derivative",
        title="The log-derivative identity",
        kind="identity",
        statement=r"\nabla_\theta \log \pi_\theta(y \mid x) = "
        r"\frac{\nabla_\theta\, \pi_\theta(y \mid x)}{\pi_\theta(y \mid x)}",
        note="Equation (11), with the two sides from different routes.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.scores[c.index],
        rhs=lambda c: c.gradient(c.probs[c.index]) / c.held_probs[c.index],
        mutants=(
            Mutant("division forgotten", lambda c: c.gradient(c.probs[c.index])),
            Mutant(
                "divided by a neighbour",
                lambda c: c.gradient(c.probs[c.index]) / c.held_probs.roll(1)[c.index],
            ),
        ),
    ),
    Claim(
        name="stop-gradient-ratio",
        title="sg(pi)/pi is one, and yet not constant",
        kind="identity",
        statement=r"\nabla_\theta\, \frac{\mathrm{sg}(\pi_\theta)}{\pi_\theta} = "
        r"-\nabla_\theta \log \pi_\theta(y^\star \mid x)",
        note="Equation (12) cancels the ratio. It may be cancelled as a number, after the "
        "derivative is taken; as a function it is the SFT loss in disguise.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.gradient(c.held_probs[c.index] / c.probs[c.index]),
        rhs=lambda c: -c.scores[c.index],
        mutants=(
            Mutant("cancelled before differentiating", lambda c: torch.zeros_like(c.scores[0])),
            Mutant("opposite sign", lambda c: c.scores[c.index]),
        ),
    ),
    Claim(
        name="sequence-dft-by-finite-differences",
        title="The DFT gradient is the slope of the probability",
        kind="identity",
        statement=r"\langle u, \nabla_\theta \mathcal{L}_{\mathrm{DFT}} \rangle = "
        r"-\frac{d}{ds}\, \pi_{\theta + s u}(y^\star \mid x)\,\Big|_{s = 0}",
        note="Equation (13) without any autograd on the right: three random directions u.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        lhs=lambda c: project(c.surrogate_gradient(dft_sequence)),
        rhs=lambda c: along(c, lambda p: -enumeration.probabilities(p, c.prompt)[c.index]),
        tolerance=DIFFERENCE,
        mutants=(
            Mutant(
                "slope of the logarithm",
                lambda c: along(
                    c, lambda p: -enumeration.probabilities(p, c.prompt)[c.index].log()
                ),
            ),
            Mutant(
                "slope of the surrogate's value",
                lambda c: along(
                    c,
                    lambda p: -torch.special.entr(enumeration.probabilities(p, c.prompt)[c.index]),
                ),
            ),
        ),
    ),
    Claim(
        name="sequence-dft-is-scaled-sft",
        title="For one demonstration, sequence-level DFT is SFT, scaled",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}}^{\mathrm{seq}} = "
        r"\pi_\theta(y^\star \mid x)\, \nabla_\theta \mathcal{L}_{\mathrm{SFT}}",
        note="What the paper's derivation yields keeps SFT's direction and gives every token of "
        "the response the same weight: none of the token re-weighting that helps in Table 5.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(dft_sequence),
        rhs=lambda c: c.held_probs[c.index] * c.surrogate_gradient(sft),
        mutants=(
            Mutant(
                "scaled by the length too",
                lambda c: c.policy.length * c.held_probs[c.index] * c.surrogate_gradient(sft),
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
            Mutant(
                "token weights",
                lambda c: -token_sum(c, step_probs(c)),
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
        ),
    ),
    Claim(
        name="token-dft-is-not-sequence-dft",
        title="The loss that is used is not the loss that is derived",
        kind="refutation",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}}^{\mathrm{tok}} = -\sum_t \pi_t\, s_t,"
        r"\qquad \nabla_\theta \mathcal{L}_{\mathrm{DFT}}^{\mathrm{seq}} = "
        r"-\left(\prod_t \pi_t\right) \sum_t s_t, \qquad s_t = \nabla_\theta \log \pi_t",
        note="Gaps G7 and G8. Equation (9) is presented as the stable form of (8). The two weight "
        "tokens differently, point in different directions, and only the second follows from the "
        "derivation. (In the paper's Table 5 it is the derived one that fails.)",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(LONGER,),
        lhs=lambda c: c.surrogate_gradient(dft),
        rhs=lambda c: -token_sum(c, step_probs(c)),
        published=Published(
            statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}}^{\mathrm{tok}} \propto "
            r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}}^{\mathrm{seq}}",
            lhs=lambda c: unit(c.surrogate_gradient(dft)),
            side=lambda c: unit(c.surrogate_gradient(dft_sequence)),
            cite="wu2025dft",
            why="equation (9) read as equation (8) for tokens",
        ),
        mutants=(
            Mutant("equal weights", lambda c: -token_sum(c, torch.ones(c.policy.length))),
            Mutant(
                "every token with the sequence's weight",
                lambda c: -token_sum(c, step_probs(c).prod().expand(c.policy.length)),
            ),
        ),
    ),
    Claim(
        name="token-dft-is-a-one-step-bandit",
        title="Token-level DFT is a policy gradient one step deep",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\sum_t \mathbb{E}_{a \sim "
        r"\pi_\theta(\cdot \mid y^\star_{<t}, x)}\left[\mathbf{1}[a = y^\star_t]\, "
        r"\nabla_\theta \log \pi_\theta(a \mid y^\star_{<t}, x)\right]",
        note="Exactly REINFORCE with reward 1[a = y*_t] at every prefix of the expert; "
        "not an on-policy gradient of whole responses, because the prefixes are the expert's.",
        cites=("wu2025dft", "williams1992reinforce"),
        cases=policy_cases,
        lhs=lambda c: c.surrogate_gradient(dft),
        rhs=lambda c: -bandits(c, weighted=False),
        mutants=(
            Mutant("importance weight kept", lambda c: -bandits(c, weighted=True)),
            Mutant(
                "on-policy over whole responses",
                lambda c: -c.on_policy(c.reward),
                equivalent_when=lambda c: c.policy.length == 1,
                why="one token",
            ),
        ),
    ),
    Claim(
        name="same-direction-for-one-token-only",
        title="SFT and DFT point the same way for one token, not for a response",
        kind="refutation",
        statement=r"\cos(\nabla \mathcal{L}_{\mathrm{SFT}}, \nabla \mathcal{L}_{\mathrm{DFT}}) = "
        r"\frac{\sum_t p_t n_t^2}{\sqrt{\sum_t n_t^2 \; \sum_t p_t^2 n_t^2}} \leq 1, \qquad "
        r"n_t = \Vert e_{y_t} - \pi_t \Vert",
        note="The appendix concludes that the two losses share a direction and differ in "
        "scale. Summed over tokens the scales differ from token to token and the direction turns; "
        "they agree only where all p_t are equal. Closed form for tables.",
        cites=("wu2025dft",),
        cases=table_cases,
        assumptions=(LONGER,),
        lhs=lambda c: unit(c.surrogate_gradient(sft)) @ unit(c.surrogate_gradient(dft)),
        rhs=table_cosine,
        published=Published(
            statement=r"\nabla \mathcal{L}_{\mathrm{DFT}} = c\, "
            r"\nabla \mathcal{L}_{\mathrm{SFT}}, \quad c > 0",
            side=lambda c: torch.ones((), dtype=torch.float64),
            cite="wu2025dft",
            why="version 3, appendix A.3, for a response of several tokens",
        ),
        mutants=(
            Mutant(
                "norms forgotten",
                lambda c: step_probs(c).mean() / step_probs(c).square().mean().sqrt(),
            ),
            Mutant("orthogonal", lambda c: torch.zeros((), dtype=torch.float64)),
        ),
    ),
    Claim(
        name="likely-demonstrations-dominate",
        title="Uniform reward does not mean uniform weight",
        kind="refutation",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} = -\frac{1}{n} \sum_i "
        r"\pi_\theta(y_i \mid x)\, \nabla_\theta \log \pi_\theta(y_i \mid x)",
        note="The reward is 1 for every demonstration, but what multiplies its score is "
        "its own probability: demonstrations that the model already finds likely dominate.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: batch_gradient(c, dft_sequence),
        rhs=lambda c: -c.held_probs[batch(c)] @ c.scores[batch(c)] / 3,
        published=Published(
            statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DFT}} \propto -\sum_i 1 \cdot "
            r"\nabla_\theta \log \pi_\theta(y_i \mid x)",
            lhs=lambda c: unit(batch_gradient(c, dft_sequence)),
            side=lambda c: -unit(c.scores[batch(c)].sum(0)),
            cite="wu2025dft",
            why="the reward of all expert trajectories is uniformly 1, read as their weight",
        ),
        mutants=(
            Mutant("uniform weights", lambda c: -c.scores[batch(c)].mean(0)),
            Mutant(
                "weights normalised to sum to one",
                lambda c: -F.normalize(c.held_probs[batch(c)], p=1, dim=0) @ c.scores[batch(c)],
            ),
        ),
    ),
)
