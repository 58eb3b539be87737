"""SFT as a policy gradient: equations (1) to (6), and what 1/pi does and does not mean."""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.claims.tolerance import Estimate, FiniteDifference, MonteCarlo
from dft_theory.importance_weight import importance_weight
from dft_theory.objectives import SumOver, sft
from dft_theory.policies import Policy
from dft_theory.seeding import generator

DIFFERENCE = FiniteDifference()
SAMPLING = MonteCarlo()
SUPPORT = Assumption(
    "pi(y*|x) > 0", "the weight 1/pi is infinite: eq. (5) says nothing about that demonstration"
)


def policy_cases(scope: Scope) -> Sequence[PolicyCase]:
    """All of them: the claims below hold for any policy."""
    return scope.policy_cases


def one_demo_each(scope: Scope) -> Sequence[PolicyCase]:
    """One demonstration per policy, where a case is expensive."""
    return list({id(c.policy): c for c in scope.policy_cases}.values())


def directions(size: int) -> Tensor:
    """Three fixed random unit directions in parameter space, `[3, D]`."""
    g = generator(0, "direction", size)
    return F.normalize(torch.randn(3, size, dtype=torch.float64, generator=g), dim=-1)


def along(case: PolicyCase, f: Callable[[Policy], Tensor]) -> Estimate:
    """Directional derivatives of f by finite differences, on a copy of the policy, `[3]`."""
    size = sum(p.numel() for p in enumeration.parameters(case.policy))
    parts = []
    for u in directions(size):

        def shifted(step: float, u: Tensor = u) -> Tensor:
            moved = copy.deepcopy(case.policy)
            with torch.no_grad():
                held = enumeration.parameters(moved)
                for p, d in zip(held, u.split([p.numel() for p in held]), strict=True):
                    p += step * d.reshape(p.shape)
                return f(moved)

        parts.append(DIFFERENCE.derivative(shifted))
    return Estimate(torch.stack([p.value for p in parts]), torch.stack([p.error for p in parts]))


def project(grad: Tensor) -> Tensor:
    """A gradient `[D]` on the three directions, `[3]`."""
    return directions(grad.shape[0]) @ grad


def reward(case: PolicyCase) -> Tensor:
    """A random reward in [0, 1] for every response, `[N]`."""
    g = generator(case.index, "reward", case.terms)
    return torch.rand(case.terms, dtype=torch.float64, generator=g)


def data(case: PolicyCase) -> Tensor:
    """A full-support demonstrator q(y|x) over all responses, `[N]`."""
    g = generator(case.index, "demonstrator", case.terms)
    return torch.softmax(2 * torch.randn(case.terms, dtype=torch.float64, generator=g), -1)


def value(case: PolicyCase, policy: Policy) -> Tensor:
    """J = E_{y~pi}[r(y)] by the generative route."""
    return (enumeration.probabilities(policy, case.prompt) * reward(case)).sum()


def cross_entropy_gradient(case: PolicyCase, q: Tensor) -> Tensor:
    """Gradient of E_{y~q}[-log pi(y|x)], teacher-forced over all responses, `[D]`."""
    logp = case.policy.log_probs(case.prompt, case.responses).sum(-1)
    return case.gradient(-(q * logp).sum())


def sampled_reward(case: PolicyCase) -> Estimate:
    """Mean reward of samples, with Bernstein's bar from the exact variance."""
    g = generator(case.index, "sampling")
    drawn = case.policy.sample(SAMPLING.n, prompt=case.prompt, generator=g)
    powers = torch.tensor([case.policy.vocab**k for k in range(case.policy.length)][::-1])
    r, p = reward(case), case.held_probs
    variance = (p * r**2).sum() - (p * r).sum() ** 2
    return SAMPLING.mean(r[(drawn * powers).sum(-1)], variance=variance, reach=torch.ones(()))


def hits(case: PolicyCase) -> Estimate:
    """How often y* is among n = 20 samples, over 1,000 trials."""
    g = generator(case.index, "hits")
    drawn = case.policy.sample(20_000, prompt=case.prompt, generator=g)
    found = (drawn == case.demo).all(-1).reshape(-1, 20).any(-1).double()
    rate = hit_rate(case)
    return SAMPLING.mean(found, variance=rate * (1 - rate), reach=torch.ones(()))


def hit_rate(case: PolicyCase, n: int = 20) -> Tensor:
    """1 - (1 - pi)^n."""
    return -torch.expm1(n * torch.log1p(-case.held_probs[case.index]))


CLAIMS = (
    Claim(
        name="sft-loss-is-negative-log-likelihood",
        title="The SFT loss is -log of the sequence probability",
        kind="identity",
        statement=r"\mathcal{L}_{\mathrm{SFT}}(\theta) = -\log \pi_\theta(y^\star \mid x)",
        note="Equation (1). Training reads the whole response through shift, mask and log-softmax; "
        "the right side multiplies probabilities in the order of generation.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: sft.surrogate(c.stats, reduction=SumOver()),
        rhs=lambda c: -c.held_probs[c.index].log(),
        mutants=(
            Mutant("mean over tokens", lambda c: -c.held_probs[c.index].log() / c.policy.length),
            Mutant(
                "last token forgotten",
                lambda c: (
                    -c.held_probs.reshape(-1, c.policy.vocab)
                    .sum(-1)[c.index // c.policy.vocab]
                    .log()
                ),
            ),
        ),
    ),
    Claim(
        name="sft-gradient",
        title="The gradient of the SFT loss",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = "
        r"-\nabla_\theta \log \pi_\theta(y^\star \mid x)",
        note="Equation (2): autograd of the training loss against finite differences of the "
        "generated probability, along three random directions.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        lhs=lambda c: project(c.surrogate_gradient(sft)),
        rhs=lambda c: along(c, lambda p: -enumeration.probabilities(p, c.prompt)[c.index].log()),
        tolerance=DIFFERENCE,
        mutants=(
            Mutant(
                "opposite sign",
                lambda c: along(c, lambda p: enumeration.probabilities(p, c.prompt)[c.index].log()),
            ),
            Mutant(
                "gradient of the probability",
                lambda c: along(c, lambda p: -enumeration.probabilities(p, c.prompt)[c.index]),
            ),
        ),
    ),
    Claim(
        name="rl-objective",
        title="The RL objective is an expectation under the policy",
        kind="identity",
        statement=r"J(\theta) = \mathbb{E}_{y \sim \pi_\theta}[r(x, y)]",
        note="Equation (3): 20,000 samples against the exact sum, with the analytic variance.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        lhs=sampled_reward,
        rhs=lambda c: enumeration.expectation(c.policy, c.prompt, lambda _: reward(c)),
        tolerance=SAMPLING,
        mutants=(
            Mutant("uniform over responses", lambda c: reward(c).mean()),
            Mutant("reward of the likeliest response", lambda c: reward(c)[c.held_probs.argmax()]),
        ),
    ),
    Claim(
        name="policy-gradient-theorem",
        title="The policy gradient",
        kind="identity",
        statement=r"\nabla_\theta J = \mathbb{E}_{y \sim \pi_\theta}"
        r"\left[ r(x, y)\, \nabla_\theta \log \pi_\theta(y \mid x) \right]",
        note="Equation (4): exact enumeration of the right side against finite differences of J.",
        cites=("wu2025dft", "williams1992reinforce"),
        cases=one_demo_each,
        lhs=lambda c: along(c, lambda p: value(c, p)),
        rhs=lambda c: project(
            enumeration.policy_gradient(c.policy, c.prompt, lambda _, __: reward(c))
        ),
        tolerance=DIFFERENCE,
        mutants=(
            Mutant(
                "gradient of pi inside the expectation",
                lambda c: project(c.on_policy(reward(c) * c.held_probs)),
            ),
            Mutant("reward ignored", lambda c: project(c.on_policy(torch.ones(c.terms)))),
        ),
    ),
    Claim(
        name="score-has-zero-mean",
        title="The score has mean zero under its own policy",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_\theta}[\nabla_\theta \log \pi_\theta(y \mid x)] = 0",
        note="Why a constant reward teaches nothing, and SFT on the model's own samples stands "
        "still on average. Probabilities are generated, scores teacher-forced.",
        cites=("williams1992reinforce",),
        cases=policy_cases,
        lhs=lambda c: c.held_probs @ c.scores,
        rhs=lambda c: torch.zeros(c.scores.shape[1], dtype=torch.float64),
        scale=lambda c: float((c.held_probs @ c.scores.abs()).max()),
        mutants=(
            Mutant("uniform instead of on-policy", lambda c: c.scores.mean(0), of="lhs"),
            Mutant("off by one response", lambda c: c.held_probs.roll(1) @ c.scores, of="lhs"),
        ),
    ),
    Claim(
        name="sft-is-policy-gradient",
        title="SFT's gradient is a policy gradient with weight 1/pi",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\mathbb{E}_{y \sim \pi_\theta}"
        r"\left[ \frac{\mathbf{1}[y = y^\star]}{\pi_\theta(y \mid x)}\,"
        r"\nabla_\theta \log \pi_\theta(y \mid x) \right]",
        note="Equations (5) and (6), the identity behind the paper. Left: autograd of the training "
        "loss. Right: the sum over every response, in probability space.",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(SUPPORT,),
        lhs=lambda c: c.surrogate_gradient(sft),
        rhs=lambda c: -c.on_policy(c.reward * c.importance),
        mutants=(
            Mutant("1/pi dropped", lambda c: -c.on_policy(c.reward)),
            Mutant("1/pi squared", lambda c: -c.on_policy(c.reward * c.importance**2)),
            Mutant(
                "reward for another response",
                lambda c: -c.on_policy(c.reward.roll(1) * c.importance),
            ),
        ),
    ),
    Claim(
        name="importance-weights-average-to-one",
        title="Reward times weight has mean one",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_\theta}\left[ \frac{\mathbf{1}[y = y^\star]}"
        r"{\pi_\theta(y \mid x)} \right] = 1",
        note="Equation (6): however small pi(y*) is, the weight makes up for it exactly. The "
        "weight is teacher-forced, the probability generated.",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(SUPPORT,),
        lhs=lambda c: (c.held_probs * c.reward * importance_weight(c.stats.logp.sum())).sum(),
        rhs=lambda c: torch.ones((), dtype=torch.float64),
        mutants=(
            Mutant("weight dropped", lambda c: (c.held_probs * c.reward).sum(), of="lhs"),
            Mutant(
                "weight without its last token",
                lambda c: (
                    (c.held_probs * c.reward).sum()
                    * importance_weight(c.stats.logp[..., :-1].sum())
                ),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="data-average-is-a-sum-over-responses",
        title="The data expectation as a sum over all responses",
        kind="identity",
        statement=r"\frac{1}{n} \sum_{i} f(y_i) = \sum_{y} \hat q(y)\, f(y), \qquad "
        r"f(y) = -\nabla_\theta \log \pi_\theta(y \mid x)",
        note="Appendix A.2: the step that writes data as indicators. Repeated demonstrations add "
        "up. Left: one training batch; right: score by score.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: c.gradient(
            sft.surrogate(
                c.policy.stats(c.prompt, c.responses[_repeated(c)]), reduction=SumOver(4.0)
            )
        ),
        rhs=lambda c: -torch.bincount(_repeated(c), minlength=c.terms).double() @ c.scores / 4,
        mutants=(
            Mutant(
                "repetitions counted once",
                lambda c: (
                    -(torch.bincount(_repeated(c), minlength=c.terms) > 0).double() @ c.scores / 4
                ),
            ),
            Mutant("only the first demonstration", lambda c: -c.scores[c.index]),
        ),
    ),
    Claim(
        name="any-proposal-gives-the-identity",
        title="1/pi is a choice: any proposal gives such an identity",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{SFT}} = -\mathbb{E}_{y \sim q}"
        r"\left[ \frac{\mathbf{1}[y = y^\star]}{q(y)}\, \nabla_\theta \log \pi_\theta(y \mid x)"
        r"\right] \quad \mathrm{for\ every}\ q\ \mathrm{with}\ q(y^\star) > 0",
        note="Sample from q instead of pi and the weight is 1/q, with the same gradient: "
        "the weight belongs to the proposal, not to SFT, and by itself explains nothing.",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(
            Assumption("q(y*) > 0", "the demonstration is never proposed and its term is lost"),
        ),
        lhs=lambda c: c.surrogate_gradient(sft),
        rhs=lambda c: -(data(c) * (c.reward / data(c))) @ c.scores,
        mutants=(
            Mutant(
                "proposal q with weight 1/pi",
                lambda c: -(data(c) * c.reward * c.importance) @ c.scores,
            ),
            Mutant(
                "proposal pi with weight 1/q",
                lambda c: -(c.held_probs * c.reward / data(c)) @ c.scores,
            ),
        ),
    ),
    Claim(
        name="demonstration-hit-rate",
        title="How rarely sampling would find the demonstration",
        kind="identity",
        statement=r"\Pr[\,y^\star \in \{y_1, \ldots, y_n\}\,] = "
        r"1 - (1 - \pi_\theta(y^\star \mid x))^n",
        note="The reward of eq. (6) would be sparse if it had to be found by sampling. "
        "With y* given nothing is sampled, so sparsity is no property of SFT. 1,000 trials of "
        "n = 20 against the exact rate.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        lhs=hits,
        rhs=hit_rate,
        tolerance=SAMPLING,
        mutants=(
            Mutant("always found", lambda c: torch.ones((), dtype=torch.float64)),
            Mutant("a single sample", lambda c: hit_rate(c, 1)),
        ),
    ),
    Claim(
        name="stochastic-expert-needs-a-ratio",
        title="With several right answers the indicator becomes a ratio",
        kind="refutation",
        statement=r"\mathbb{E}_{y \sim q}[-\nabla_\theta \log \pi_\theta(y \mid x)] = "
        r"-\mathbb{E}_{y \sim \pi_\theta}\left[ \frac{q(y \mid x)}{\pi_\theta(y \mid x)}\,"
        r"\nabla_\theta \log \pi_\theta(y \mid x) \right]",
        note="Equation (5) treats y* as a point mass. For a demonstrator q(.|x) the "
        "indicator must be replaced by q/pi; keeping the likeliest answer is another gradient.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: cross_entropy_gradient(c, data(c)),
        rhs=lambda c: -c.on_policy(data(c) * c.importance),
        published=Published(
            statement=r"\mathbb{E}_{(x, y^\star) \sim \mathcal{D}}"
            r"[-\nabla_\theta \log \pi_\theta(y^\star \mid x)] = -\mathbb{E}_{y \sim \pi_\theta}"
            r"\left[ \frac{\mathbf{1}[y = y^\star]}{\pi_\theta(y \mid x)}\, "
            r"\nabla_\theta \log \pi_\theta(y \mid x) \right]",
            side=lambda c: -c.importance[data(c).argmax()] * c.gradient(c.probs[data(c).argmax()]),
            cite="wu2025dft",
            why="read with one y* for a prompt that has several",
        ),
        mutants=(
            Mutant("ratio upside down", lambda c: -c.on_policy(c.held_probs / data(c))),
            Mutant("reward q without 1/pi", lambda c: -c.on_policy(data(c))),
        ),
    ),
    Claim(
        name="own-samples-sharpen-under-dft",
        title="On its own samples SFT stands still and DFT sharpens",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_\theta}[\pi_\theta(y)^\alpha\, \nabla_\theta \log "
        r"\pi_\theta(y)] = \nabla_\theta\, \frac{1}{1 + \alpha} \sum_y \pi_\theta(y)^{1 + \alpha}",
        note="Trained on unfiltered samples of itself, SFT (alpha = 0) has mean gradient zero, "
        "while sequence-level DFT (alpha = 1) climbs sum pi^2: it lowers the Renyi-2 entropy "
        "with nothing to learn. A gain at temperature 1 can be this alone.",
        cites=("wu2025dft",),
        cases=policy_cases,
        lhs=lambda c: torch.stack([(c.held_probs ** (1 + a)) @ c.scores for a in (0.0, 0.5, 1.0)]),
        rhs=lambda c: torch.stack(
            [c.gradient(c.probs.pow(1 + a).sum() / (1 + a)) for a in (0.0, 0.5, 1.0)]
        ),
        mutants=(
            Mutant(
                "factor 1/(1 + alpha) forgotten",
                lambda c: torch.stack(
                    [c.gradient(c.probs.pow(1 + a).sum()) for a in (0.0, 0.5, 1.0)]
                ),
                equivalent_when=lambda c: bool(torch.allclose(c.held_probs, c.held_probs.mean())),
                why="a uniform policy is stationary for every alpha",
            ),
            Mutant(
                "Shannon instead of Renyi-2",
                lambda c: torch.stack(3 * [c.gradient((c.probs * c.probs.log()).sum())]),
            ),
        ),
    ),
)


def _repeated(case: PolicyCase) -> Tensor:
    """Indices of four demonstrations, one of them twice."""
    n = case.terms
    return torch.tensor([case.index, case.index, (case.index + 1) % n, (case.index + 2) % n])
