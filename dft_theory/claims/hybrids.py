"""Imitation and reinforcement together: mixtures, the demonstrator as a reward, conflicts."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.policy_gradient import (
    cross_entropy_gradient,
    data,
    one_demo_each,
    policy_cases,
    reward,
)
from dft_theory.claims.rectification import steps, token_sum
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.claims.tolerance import Estimate, FiniteDifference
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, group_advantages, sft
from dft_theory.objectives.mixture_rules import meta_slope, without_conflict
from dft_theory.objectives.mixtures import Mixture, amft, cgl, chord_mu, hpt, srft
from dft_theory.policies import Policy

DIFFERENCE = FiniteDifference()
SUM = SumOver()


def shifted(policy: Policy, by: Tensor) -> Policy:
    """A copy whose parameters are moved by a flat vector `[D]`."""
    moved = copy.deepcopy(policy)
    held = enumeration.parameters(moved)
    with torch.no_grad():
        for p, d in zip(held, by.split([p.numel() for p in held]), strict=True):
            p += d.reshape(p.shape)
    return moved


def rewarded(t: TokenStats, advantage: Tensor) -> TokenStats:
    """The statistics with an advantage for each response, `[B]`."""
    return replace(t, advantage=advantage.unsqueeze(-1).expand_as(t.logp))


# ---- mixtures of demonstrations and rollouts ---------------------------------------------------


@dataclass(frozen=True)
class Mixed:
    """A mixture on one demonstration and four rollouts; its shares as its authors print them."""

    mixture: Mixture
    imitation: float
    reinforcement: float
    at: PolicyCase

    def __str__(self) -> str:
        return f"{self.mixture.name} on {self.at}"

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the mixture's surrogate, `[D]`."""
        sources = {"demonstrations": demonstration(self.at), "rollouts": rollouts(self.at)}
        return self.at.gradient(self.mixture.surrogate(sources, reduction=SUM))

    def by_hand(self, imitation: float, reinforcement: float) -> Tensor:
        """The loss gradient from generated probabilities and scores, `[D]`."""
        at = self.at
        imitated = token_sum(at, torch.ones(at.policy.length, dtype=torch.float64))
        reinforced = ADVANTAGES @ at.scores[drawn(at)]
        return -imitation * imitated - reinforcement * reinforced


# Group-normalised rewards (1, 0, 0, 0) of four rollouts.
FREE = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
ADVANTAGES = group_advantages(FREE, 4).squeeze(-1)


def drawn(case: PolicyCase) -> Tensor:
    """Four responses that stand for rollouts, `[4]`."""
    return (case.index + torch.tensor([1, 2, case.terms // 2, case.terms - 1])) % case.terms


def demonstration(case: PolicyCase) -> TokenStats:
    """The demonstration with its entropies and advantage 1, `[1, T]`."""
    stats = case.policy.stats(case.prompt, case.demo, needs=("entropy",))
    return rewarded(stats, torch.ones(1, dtype=torch.float64))


def rollouts(case: PolicyCase) -> TokenStats:
    """The rollouts with their entropies and advantages, `[4, T]`."""
    responses = case.responses[drawn(case)]
    return rewarded(case.policy.stats(case.prompt, responses, needs=("entropy",)), ADVANTAGES)


def mixed(scope: Scope) -> Sequence[Mixed]:
    """The mixtures whose terms are SFT and a policy gradient, on each policy."""
    published = [
        (chord_mu(0.3), 0.3, 0.7),
        (amft(0.6), 0.6, 0.4),
        (hpt(0.0), 1.0, 0.0),
        (hpt(0.5), 0.0, 1.0),
        (cgl(0.2), 0.2, 1.0),
    ]
    return [Mixed(*m, at) for at in one_demo_each(scope) for m in published]


def srft_gradient(case: PolicyCase) -> Tensor:
    """Gradient of the SRFT surrogate, `[D]`."""
    sources = {"demonstrations": demonstration(case), "rollouts": rollouts(case)}
    return case.gradient(srft().surrogate(sources, reduction=SUM))


def srft_by_hand(case: PolicyCase, *, sign: float = -1.0, bonus: float = 1.0) -> Tensor:
    """The same from generated probabilities: exp(sign H) / 2 and, for A > 0, exp(bonus H) / 10."""
    total = token_sum(case, 0.5 * (sign * entropies(case)).exp() + 1.0)
    for index, advantage in zip(drawn(case).tolist(), ADVANTAGES.tolist(), strict=True):
        other = replace(case, index=index)
        factor = (
            0.1 * (bonus * entropies(other)).exp()
            if advantage > 0
            else torch.ones((), dtype=torch.float64)
        )
        total = total + token_sum(other, advantage * factor.expand(case.policy.length))
    return -total


def entropies(case: PolicyCase) -> Tensor:
    """Entropy of the next token along the demonstration, in nats, `[T]`."""
    return torch.stack([torch.special.entr(p).sum() for p in steps(case)]).detach()


# ---- a demonstrator beside the reward ----------------------------------------------------------

PULL = 0.3  # HPT's coefficient of the demonstrator


def joint_gradient(case: PolicyCase) -> Tensor:
    """Gradient of E_pi[r] - mu KL(pi_beta || pi), `[D]`."""
    q = data(case)
    kl = (q * (q.log() - case.probs.log())).sum()
    return case.gradient((reward(case) * case.probs).sum() - PULL * kl)


def forward_kl_gradient(case: PolicyCase) -> Tensor:
    """Gradient of KL(pi_beta || pi), `[D]`."""
    q = data(case)
    return case.gradient((q * (q / case.probs).log()).sum())


def reverse_kl_gradient(case: PolicyCase) -> Tensor:
    """Gradient of KL(pi || pi_beta), `[D]`."""
    return case.gradient((case.probs * (case.probs / data(case)).log()).sum())


def weighted_scores(case: PolicyCase, advantage: Tensor) -> Tensor:
    """E_pi[A grad log pi] over all responses, `[D]`."""
    return (case.held_probs * advantage) @ case.scores


@dataclass(frozen=True)
class Pair:
    """SFT on a demonstration that the reward does not want, beside RL on everything else."""

    at: PolicyCase

    def __str__(self) -> str:
        return str(self.at)

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def rewards(self) -> Tensor:
        """Random rewards, none for the demonstration, `[N]`."""
        return reward(self.at) * (1 - self.at.reward)

    @cached_property
    def imitation(self) -> Tensor:
        """Gradient of the SFT loss, `[D]`."""
        return self.at.surrogate_gradient(sft)

    @cached_property
    def reinforcement(self) -> Tensor:
        """Gradient of the RL loss -E[r], `[D]`."""
        return -self.at.on_policy(self.rewards)

    def losses(self, policy: Policy) -> Tensor:
        """RL loss and SFT loss of a policy, `[2]`, by the generative route."""
        probs = enumeration.probabilities(policy, self.at.prompt)
        return torch.stack([-(probs * self.rewards).sum(), -probs[self.at.index].log()])

    def slopes(self, direction: Tensor) -> Estimate:
        """How fast the two losses change on leaving along -direction, `[2]`."""
        policy = self.at.policy
        return DIFFERENCE.derivative(
            lambda step: self.losses(shifted(policy, -step * direction)).detach()
        )

    def utility(self, policy: Policy) -> Tensor:
        """What the meta-gradient ascends: the expectation of a reward of its own."""
        held_out = reward(replace(self.at, index=(self.at.index + 1) % self.terms))
        return (enumeration.probabilities(policy, self.at.prompt) * held_out).sum()

    def step(self, mu: float) -> Policy:
        """The policy after one step of gradient descent on (1 - mu) L_RL + mu L_SFT."""
        mixed = (1 - mu) * self.reinforcement + mu * self.imitation
        return shifted(self.at.policy, -RATE * mixed)

    def slope(self, policy: Policy, rate: float) -> Tensor:
        """The meta-gradient with the utility's gradient taken at `policy`."""
        ahead = enumeration.gradient(self.utility(policy), policy)
        return meta_slope(ahead, self.imitation, self.reinforcement, rate)


RATE, SHARE = 0.5, 0.3


def pairs(scope: Scope) -> Sequence[Pair]:
    """One demonstration for each policy."""
    return [Pair(case) for case in one_demo_each(scope)]


def by_difference(case: Pair) -> Estimate:
    """dU/dmu by finite differences in mu: one training step for each."""
    return DIFFERENCE.derivative(lambda step: case.utility(case.step(SHARE + step)).detach())


CONFLICT = Assumption(
    "the two gradients have a negative cosine",
    "the SFT gradient is left as it is",
    holds=lambda c: float(c.imitation @ c.reinforcement) < 0,
)

CLAIMS = (
    Claim(
        name="mixture-gradient-is-the-sum-of-its-parts",
        title="CHORD, AMFT, HPT and CGL are weighted sums of two gradients",
        kind="identity",
        statement=r"g = \lambda_{\mathrm{RL}} \sum_i \hat{A}_i\, \nabla \log \pi(y_i \mid x) + "
        r"\lambda_{\mathrm{SFT}}\, \nabla \log \pi(y^\star \mid x)",
        note="(1 - mu, mu) for CHORD-mu and AMFT, (0, 1) or (1, 0) for HPT, (1, lambda) for CGL "
        "before its projection: they differ in the rule for the two shares and in nothing else.",
        cites=("zhang2025chord", "he2025amft", "lv2025unified", "yao2026cgl"),
        cases=mixed,
        lhs=lambda c: c.gradient,
        rhs=lambda c: c.by_hand(c.imitation, c.reinforcement),
        mutants=(
            Mutant("shares exchanged", lambda c: c.by_hand(c.reinforcement, c.imitation)),
            Mutant("RL in full", lambda c: c.by_hand(c.imitation, 1.0)),
            Mutant("SFT in full", lambda c: c.by_hand(1.0, c.reinforcement)),
        ),
    ),
    Claim(
        name="srft-trusts-certain-demonstrations",
        title="SRFT: the paper's weight falls with the entropy, the released code's rises",
        kind="refutation",
        statement=r"w_{\mathrm{SFT}} = \frac{1}{2}\, \mathrm{sg}\left(e^{-H_t}\right), \qquad "
        r"w_{\mathrm{RL}} = \frac{1}{10}\, \mathrm{sg}\left(e^{H_t}\right) \text{ where } A > 0",
        note="The gradient of the whole mixture, with the signs as printed. The two forms give "
        "opposite answers to the question which demonstrated tokens are learned, and agree only "
        "where the policy is certain.",
        cites=("fu2025srft",),
        cases=one_demo_each,
        lhs=srft_gradient,
        rhs=srft_by_hand,
        published=Published(
            statement=r"w_{\mathrm{SFT}} = \frac{1}{2}\, \mathrm{sg}\left(e^{+H_t}\right)",
            side=lambda c: srft_by_hand(c, sign=1.0),
            cite="fu2025srft",
            why="the released code, against equation (8) of its paper",
        ),
        mutants=(
            Mutant("entropy ignored", lambda c: srft_by_hand(c, sign=0.0)),
            Mutant("bonus for certain successes", lambda c: srft_by_hand(c, bonus=-1.0)),
        ),
    ),
    Claim(
        name="sft-descends-the-forward-divergence",
        title="SFT descends the divergence from the demonstrator",
        kind="identity",
        statement=r"\nabla_\theta\, \mathbb{E}_{y \sim \pi_\beta}[-\log \pi_\theta(y \mid x)] = "
        r"\nabla_\theta\, \mathrm{KL}(\pi_\beta \,\Vert\, \pi_\theta)",
        note="The two differ by the demonstrator's entropy, which does not move. It is the forward "
        "divergence, which spreads over everything demonstrated.",
        cites=("lv2025unified",),
        cases=policy_cases,
        lhs=lambda c: cross_entropy_gradient(c, data(c)),
        rhs=forward_kl_gradient,
        mutants=(
            Mutant("reverse divergence", reverse_kl_gradient),
            Mutant("opposite sign", lambda c: -forward_kl_gradient(c)),
        ),
    ),
    Claim(
        name="demonstrator-is-an-advantage",
        title="Reward and demonstrator in one advantage",
        kind="identity",
        statement=r"\nabla_\theta \left(\mathbb{E}_{\pi}[r] - \mu\, \mathrm{KL}(\pi_\beta \,\Vert\,"
        r"\pi)\right) = \mathbb{E}_{\pi}[\hat{A}\, \nabla_\theta \log \pi], \qquad "
        r"\hat{A} = r + \mu\, \frac{\pi_\beta}{\pi}",
        note="SFT enters the advantage through the same 1/pi that DFT removes: with DFT's weight "
        "in its place, the demonstrator would count as the bounded reward mu pi_beta.",
        cites=("lv2025unified",),
        cases=one_demo_each,
        lhs=joint_gradient,
        rhs=lambda c: weighted_scores(c, reward(c) + PULL * data(c) / c.held_probs),
        mutants=(
            Mutant("1/pi dropped", lambda c: weighted_scores(c, reward(c) + PULL * data(c))),
            Mutant(
                "demonstrator pushes away",
                lambda c: weighted_scores(c, reward(c) - PULL * data(c) / c.held_probs),
            ),
            Mutant(
                "log-ratio of the reverse divergence",
                lambda c: weighted_scores(c, reward(c) + PULL * (data(c) / c.held_probs).log()),
            ),
        ),
    ),
    Claim(
        name="meta-gradient-of-the-share",
        title="How the share of SFT moves the utility after one step",
        kind="identity",
        statement=r"\frac{d}{d\mu}\, U(\theta') = -\alpha \left\langle \nabla U(\theta'), "
        r"\nabla \mathcal{L}_{\mathrm{SFT}} - \nabla \mathcal{L}_{\mathrm{RL}} \right\rangle, "
        r"\qquad \theta' = \theta - \alpha \nabla \left[(1-\mu) \mathcal{L}_{\mathrm{RL}} + "
        r"\mu \mathcal{L}_{\mathrm{SFT}}\right]",
        note="AMFT's rule for mu, against training one step for each mu. Exact for one plain step "
        "of gradient descent; Adam, momentum or a second step make it an approximation. (The "
        "authors asked to withdraw the paper: this checks the calculus, not the results.)",
        cites=("he2025amft",),
        cases=pairs,
        tolerance=DIFFERENCE,
        lhs=by_difference,
        rhs=lambda c: c.slope(c.step(SHARE), RATE),
        mutants=(
            Mutant("utility's gradient before the step", lambda c: c.slope(c.at.policy, RATE)),
            Mutant("learning rate forgotten", lambda c: c.slope(c.step(SHARE), 1.0)),
            Mutant("RL minus SFT", lambda c: -c.slope(c.step(SHARE), RATE)),
        ),
    ),
    Claim(
        name="projected-sft-spares-the-reward",
        title="The projected SFT step leaves the reward alone and still learns",
        kind="identity",
        statement=r"g^{\perp} = g_{\mathrm{SFT}} - \frac{\langle g_{\mathrm{SFT}}, "
        r"g_{\mathrm{RL}}\rangle}{\Vert g_{\mathrm{RL}} \Vert^2}\, g_{\mathrm{RL}}: \quad "
        r"\frac{d \mathcal{L}_{\mathrm{RL}}}{ds} = 0, \quad \frac{d \mathcal{L}_{\mathrm{SFT}}}{ds}"
        r" = -\Vert g_{\mathrm{SFT}} \Vert^2 \sin^2 \angle(g_{\mathrm{SFT}}, g_{\mathrm{RL}})"
        r" \le 0",
        note="To first order along the negative of the projected gradient, by finite differences "
        "of both losses. CGL's rule for conflicting gradients; it would serve SFT and an anchor.",
        cites=("yao2026cgl",),
        cases=pairs,
        assumptions=(CONFLICT,),
        tolerance=DIFFERENCE,
        lhs=lambda c: c.slopes(without_conflict(c.imitation, c.reinforcement)),
        rhs=lambda c: torch.stack(
            [
                torch.zeros((), dtype=torch.float64),
                (c.imitation @ c.reinforcement / c.reinforcement.norm()) ** 2
                - c.imitation @ c.imitation,
            ]
        ),
        mutants=(
            Mutant("not projected", lambda c: c.slopes(c.imitation), of="lhs"),
            Mutant(
                "reflected",
                lambda c: c.slopes(
                    2 * without_conflict(c.imitation, c.reinforcement) - c.imitation
                ),
                of="lhs",
            ),
            Mutant(
                "the reward's gradient projected instead",
                lambda c: c.slopes(without_conflict(c.reinforcement, c.imitation)),
                of="lhs",
            ),
        ),
    ),
)
