"""Several responses at once: preferences, implicit rewards, sampled negatives, policy gradients."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Claim, Mutant
from dft_theory.claims.logit_gradient import one, token_cases
from dft_theory.claims.policy_gradient import (
    DIFFERENCE,
    along,
    one_demo_each,
    policy_cases,
    project,
    reward,
    value,
)
from dft_theory.claims.scope import PolicyCase, Scope, TokenCase
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import (
    Objective,
    SumOver,
    discriminative_ft,
    dpo,
    filtered_sft,
    grpo,
    one_token_rollout,
    reinforce,
    sft,
)

BETA = 0.5
TAU = 0.7
MISS = -0.3  # One-Token Rollout's reward of a token that was not demonstrated

# ---- preferences and implicit rewards --------------------------------------------------------


def reference_probs(case: PolicyCase) -> Tensor:
    """pi_ref(y|x) of all responses by the generative route, `[N]`."""
    return enumeration.probabilities(case.reference, case.prompt).detach()


def implicit_reward(case: PolicyCase) -> Tensor:
    """The reward beta log (pi / pi_ref) of all responses, `[N]`."""
    return BETA * (case.held_probs / reference_probs(case)).log()


def pair(case: PolicyCase) -> Tensor:
    """Indices of a chosen and a rejected response, `[2]`."""
    return torch.tensor([case.index, (case.index + case.terms // 2) % case.terms])


def preferred(case: PolicyCase, r: Tensor, scale: float = BETA) -> Tensor:
    """-scale sigma(r_l - r_w) (grad log pi(y_w) - grad log pi(y_l)), `[D]`."""
    chosen, rejected = pair(case).tolist()
    weight = torch.sigmoid(r[rejected] - r[chosen])
    return -scale * weight * (case.scores[chosen] - case.scores[rejected])


def divergence_gradient(case: PolicyCase, *, forward: bool = True) -> Tensor:
    """Gradient of beta KL(pi || pi_ref), or the other way round, over all responses, `[D]`."""
    ref = reference_probs(case)
    log = (case.probs / ref).log()
    return BETA * case.gradient((case.probs * log if forward else -ref * log).sum())


def soft_value(case: PolicyCase, beta: float = BETA, prior: Tensor | None = None) -> Tensor:
    """The value beta log sum_y pi_ref(y) exp(R(y) / beta)."""
    law = reference_probs(case) if prior is None else prior
    return beta * (law.log() + reward(case) / beta).logsumexp(0)


def regularised(case: PolicyCase) -> Tensor:
    """E_pi[R] - beta KL(pi || pi_ref) at the policy and at the tilted reference, `[2]`."""
    ref = reference_probs(case)
    tilted = torch.softmax(ref.log() + reward(case) / BETA, 0)
    return torch.stack(
        [(p * (reward(case) - BETA * (p / ref).log())).sum() for p in (case.held_probs, tilted)]
    )


def irl(case: PolicyCase, soft_optimal: Tensor) -> Tensor:
    """-(grad r(y*) - E_{y~law}[grad r(y)]) of the implicit reward, law of all responses, `[D]`."""
    return -BETA * (case.scores[case.index] - soft_optimal @ case.scores)


def tilted_by_reward(case: PolicyCase) -> Tensor:
    """The soft-optimal policy of the implicit reward: pi_ref exp(r / beta), normalised, `[N]`."""
    return torch.softmax(reference_probs(case).log() + implicit_reward(case) / BETA, 0)


# ---- sampled tokens --------------------------------------------------------------------------


def mean_rollout(case: TokenCase) -> Tensor:
    """Logit gradient of One-Token Rollout, averaged over the token that is sampled, `[V]`."""
    objective = one_token_rollout(MISS)
    total = torch.zeros_like(case.logits)
    for v, p in enumerate(case.probs):
        z = case.logits.clone().requires_grad_(True)
        t = replace(case.stats(z), sampled=torch.tensor([[[v]]]))
        total += p * torch.autograd.grad(objective.surrogate(t, reduction=SumOver()), z)[0]
    return total


def probability_gradient(case: TokenCase, scale: float) -> Tensor:
    """-scale grad p, by autograd of the softmax, `[V]`."""
    z = case.logits.clone().requires_grad_(True)
    return -scale * torch.autograd.grad(torch.softmax(z, -1)[case.target], z)[0]


# ---- negatives -------------------------------------------------------------------------------


def against_all(case: PolicyCase, tau: float, *, without_demo: bool = False) -> Tensor:
    """Discriminative FT with every response as a negative, drawn uniformly, `[D]`."""
    everything = torch.arange(case.terms)
    negatives = everything[everything != case.index] if without_demo else everything
    index = torch.cat([torch.tensor([case.index]), negatives])
    t = case.policy.stats(case.prompt, case.responses[index])
    uniform = replace(t, ref_logp=torch.zeros_like(t.logp))
    objective = discriminative_ft(tau, negatives=negatives.shape[0])
    return case.gradient(objective.surrogate(uniform, reduction=SumOver()))


def tempered(case: PolicyCase, exponent: float) -> Tensor:
    """pi^exponent over all responses, normalised, `[N]`."""
    law: Tensor = case.held_probs**exponent
    return law / law.sum()


def pushed(case: PolicyCase, law: Tensor) -> Tensor:
    """-(grad log pi(y*) - E_{y~law}[grad log pi(y)]), `[D]`."""
    return law @ case.scores - case.scores[case.index]


def normaliser(case: PolicyCase, *, claimed: str = "reference") -> Tensor:
    """E_{y ~ pi_ref}[exp(s / tau) / claimed law], the law that the estimator divides by."""

    def estimate(responses: Tensor) -> Tensor:
        s = case.policy.log_probs(case.prompt, responses).sum(-1)
        drawn = case.reference.log_probs(case.prompt, responses).sum(-1)
        log_u = {
            "reference": s / TAU - drawn,
            "policy": s / TAU - s,
            "cooled": s / TAU - drawn / TAU,
        }[claimed]
        return log_u.exp()

    return enumeration.expectation(case.reference, case.prompt, estimate)


# ---- rewards ---------------------------------------------------------------------------------


def everything(case: PolicyCase, coefficient: Tensor) -> TokenStats:
    """All responses, each token with its response's coefficient `[N]` as advantage, `[N, T]`."""
    t = case.policy.stats(case.prompt, case.responses)
    held = coefficient.detach().unsqueeze(-1).expand_as(t.logp)
    return replace(t, old_logp=t.logp.detach(), advantage=held)


def averaged(case: PolicyCase, objective: Objective, advantage: Tensor) -> Tensor:
    """E_{y~pi} of the objective's gradient, for weights linear in the advantage `[N]`, `[D]`."""
    t = everything(case, case.held_probs * advantage)
    return case.gradient(objective.surrogate(t, reduction=SumOver()))


def second_step(case: PolicyCase, advantage: Tensor) -> Tensor:
    """As `averaged` under GRPO, the samples drawn and weighted by an earlier policy, `[D]`."""
    t = everything(case, reference_probs(case) * advantage)
    old = case.reference.stats(case.prompt, case.responses).logp.detach()
    return case.gradient(grpo().surrogate(replace(t, old_logp=old), reduction=SumOver()))


def centred(case: PolicyCase) -> Tensor:
    """The reward minus its mean over responses, `[N]`."""
    return reward(case) - reward(case).mean()


def accepted(case: PolicyCase, law: Tensor) -> Tensor:
    """E_{y~law} of filtered SFT's gradient, for the reward above its mean, `[D]`."""
    t = everything(case, centred(case))
    weight = law.detach().unsqueeze(-1) * filtered_sft.weight(t.detach())
    return case.gradient(-(weight * t.logp).sum())


def summed(case: PolicyCase) -> float:
    """Size of what cancels in a sum over responses, where scores nearly average out."""
    return float((case.held_probs @ case.scores.abs()).max())


def one_case_each(scope: Scope) -> Sequence[PolicyCase]:
    """One demonstration for each policy and prompt, where y* does not matter."""
    found = {(id(c.policy), int(c.prompt[0])): c for c in reversed(scope.policy_cases)}
    return sorted(found.values(), key=lambda c: c.terms)


CLAIMS = (
    Claim(
        name="dpo-gradient",
        title="The gradient of DPO",
        kind="identity",
        statement=r"\nabla_\theta \mathcal{L}_{\mathrm{DPO}} = -\beta\, \sigma(\hat r_l - "
        r"\hat r_w)\left[\nabla_\theta \log \pi_\theta(y_w) - \nabla_\theta \log \pi_\theta(y_l)"
        r"\right], \qquad \hat r = \beta \log \frac{\pi_\theta}{\pi_{\mathrm{ref}}}",
        note="SFT on the chosen response and its opposite on the rejected one, with one weight "
        "for both that fades once the pair is ordered. Training path against enumerated scores.",
        cites=("rafailov2023dpo",),
        cases=policy_cases,
        lhs=lambda c: c.gradient(dpo(BETA).surrogate(c.rows(pair(c)), reduction=SumOver())),
        rhs=lambda c: preferred(c, implicit_reward(c)),
        mutants=(
            Mutant("weight of an ordered pair", lambda c: preferred(c, -implicit_reward(c))),
            Mutant("beta forgotten", lambda c: preferred(c, implicit_reward(c), scale=1.0)),
            Mutant("no reference", lambda c: preferred(c, BETA * c.held_probs.log())),
        ),
    ),
    Claim(
        name="implicit-reward-makes-the-policy-optimal",
        title="Every policy is optimal for its own implicit reward",
        kind="identity",
        statement=r"\nabla_\theta\, \mathbb{E}_{y \sim \pi_\theta}\left[\mathrm{sg}(\hat r(y))"
        r"\right] = \beta\, \nabla_\theta\, \mathrm{KL}(\pi_\theta \,\Vert\, \pi_{\mathrm{ref}}), "
        r"\qquad \hat r = \beta \log \frac{\pi_\theta}{\pi_{\mathrm{ref}}}",
        note="Inverting the KL-regularised optimum gives the reward up to a constant. Read "
        "backwards: whatever SFT has made of a model maximises beta times its own log-ratio. "
        "Sums over all responses.",
        cites=("rafailov2023dpo", "wang2025implicit"),
        cases=one_case_each,
        lhs=lambda c: c.on_policy(implicit_reward(c)),
        rhs=divergence_gradient,
        scale=summed,
        mutants=(
            Mutant("ratio upside down", lambda c: c.on_policy(-implicit_reward(c)), of="lhs"),
            Mutant("beta forgotten", lambda c: c.on_policy(implicit_reward(c) / BETA), of="lhs"),
            Mutant("KL the other way round", lambda c: divergence_gradient(c, forward=False)),
        ),
    ),
    Claim(
        name="kl-regularised-optimum",
        title="What a KL-regularised reward can reach",
        kind="inequality",
        relation="<=",
        statement=r"\mathbb{E}_\pi[R] - \beta\, \mathrm{KL}(\pi \,\Vert\, \pi_{\mathrm{ref}}) \leq "
        r"\beta \log \sum_y \pi_{\mathrm{ref}}(y)\, e^{R(y) / \beta}",
        note="Attained by the reference tilted by exp(R / beta), which is the second case of each "
        "row; at any other policy the gap is beta KL to it.",
        cites=("rafailov2023dpo",),
        cases=one_case_each,
        lhs=regularised,
        rhs=lambda c: soft_value(c).expand(2),
        mutants=(
            Mutant(
                "mean reward of the reference", lambda c: (reference_probs(c) @ reward(c)).expand(2)
            ),
            Mutant("hotter", lambda c: soft_value(c, 2 * BETA).expand(2)),
        ),
    ),
    Claim(
        name="maximum-entropy-irl-is-sft",
        title="Maximum-entropy IRL with the implicit reward is SFT times beta",
        kind="identity",
        statement=r"-\left(\nabla_\theta \hat r(y^\star) - \mathbb{E}_{y \sim \pi^\star_{\hat r}}"
        r"[\nabla_\theta \hat r(y)]\right) = \beta\, \nabla_\theta \mathcal{L}_{\mathrm{SFT}}",
        note="The second term is the gradient of a log-partition function. With r = beta "
        "log (pi / pi_ref) the soft-optimal policy is the model itself and the term vanishes: "
        "nothing holds SFT near its reference.",
        cites=("ziebart2008maxent", "wang2025implicit"),
        cases=policy_cases,
        lhs=lambda c: irl(c, tilted_by_reward(c)),
        rhs=lambda c: BETA * c.surrogate_gradient(sft),
        mutants=(
            Mutant(
                "expectation under the reference", lambda c: irl(c, reference_probs(c)), of="lhs"
            ),
            Mutant("beta forgotten", lambda c: c.surrogate_gradient(sft)),
        ),
    ),
    Claim(
        name="one-token-rollout-is-dft-on-average",
        title="One-Token Rollout is DFT by sampling",
        kind="identity",
        statement=r"\mathbb{E}_{v \sim \pi}\left[-r(v)\, \nabla_z \log \pi(v)\right] = "
        r"-(1 - b)\, \nabla_z\, \pi(y), \qquad r(v) = \mathbf{1}[v = y] + b\, "
        r"\mathbf{1}[v \neq y]",
        note="A reward 1 for sampling the demonstrated token and b for any other: a constant "
        "drops out, and DFT is left, exactly, without the noise. All V samples enumerated.",
        cites=("ming2025otr", "wu2025dft"),
        cases=token_cases,
        lhs=mean_rollout,
        rhs=lambda c: probability_gradient(c, 1 - MISS),
        scale=one,
        mutants=(
            Mutant("1 + b", lambda c: probability_gradient(c, 1 + MISS)),
            Mutant("b ignored", lambda c: probability_gradient(c, 1.0)),
            Mutant("SFT", lambda c: c.probs - c.onehot),
        ),
    ),
    Claim(
        name="discriminative-ft-is-sft-at-temperature-one",
        title="Discriminative fine-tuning at temperature 1 is SFT",
        kind="identity",
        statement=r"\nabla_\theta \left(-s(y^\star) + \log \sum_y e^{s(y)}\right) = "
        r"-\nabla_\theta \log \pi_\theta(y^\star \mid x), \qquad s = \log \pi_\theta",
        note="The probabilities of all responses sum to 1, so the exact normaliser pushes nothing "
        "down. At the script's tau = 1 any difference from SFT comes from the estimate of the "
        "normaliser: few negatives, a moving average, a cut support.",
        cites=("guo2025discriminative",),
        cases=one_demo_each,
        lhs=lambda c: against_all(c, 1.0),
        rhs=lambda c: -c.gradient(c.probs[c.index].log()),
        mutants=(
            Mutant("temperature 1.1", lambda c: against_all(c, 1.1), of="lhs"),
            Mutant(
                "negatives without the demonstration",
                lambda c: against_all(c, 1.0, without_demo=True),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="discriminative-ft-is-sequence-gem",
        title="Discriminative fine-tuning is GEM on whole responses",
        kind="identity",
        statement=r"\nabla_\theta \left(-s(y^\star) + \tau \log \sum_y e^{s(y) / \tau}\right) = "
        r"-\sum_y \left(\mathbf{1}[y = y^\star] - q(y)\right) \nabla_\theta \log \pi_\theta(y), "
        r"\qquad q \propto \pi_\theta^{1 / \tau}",
        note="The game of GEM with beta = tau, over responses instead of tokens. Left: the "
        "objective with every response as a negative; right: enumerated scores.",
        cites=("guo2025discriminative", "li2024gem"),
        cases=one_demo_each,
        lhs=lambda c: against_all(c, TAU),
        rhs=lambda c: pushed(c, tempered(c, 1 / TAU)),
        mutants=(
            Mutant("exponent tau", lambda c: pushed(c, tempered(c, TAU))),
            Mutant("no temperature", lambda c: pushed(c, c.held_probs)),
        ),
    ),
    Claim(
        name="importance-normaliser-needs-the-sampling-law",
        title="The importance-weighted normaliser must divide by the law it was sampled from",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_0}\left[\frac{e^{s(y) / \tau}}{\pi_0(y)}\right] = "
        r"\sum_y e^{s(y) / \tau}",
        note="Unbiased only with the density of the sampler in the denominator. Negatives drawn at "
        "another temperature, or under another prompt than the one they are scored with, bias "
        "it: the released script draws them at temperature 0.7 under a prompt of its own.",
        cites=("guo2025discriminative",),
        cases=one_case_each,
        lhs=normaliser,
        rhs=lambda c: (c.held_probs ** (1 / TAU)).sum(),
        mutants=(
            Mutant("divided by the policy", lambda c: normaliser(c, claimed="policy"), of="lhs"),
            Mutant("divided by a cooler law", lambda c: normaliser(c, claimed="cooled"), of="lhs"),
        ),
    ),
    Claim(
        name="ppo-first-step-is-the-policy-gradient",
        title="The first inner step of PPO and GRPO is the policy gradient",
        kind="identity",
        statement=r"\pi_{\mathrm{old}} = \pi_\theta \;\Longrightarrow\; \mathbb{E}_{y \sim "
        r"\pi_\theta}\left[\nabla_\theta \mathcal{L}_{\mathrm{clip}}(y)\right] = "
        r"-\nabla_\theta\, \mathbb{E}_{y \sim \pi_\theta}[R(y)]",
        note="Ratios start at 1, inside the clip. The advantage is the reward less a baseline, "
        "the token-level ratio included; all responses enumerated. Later inner steps are another "
        "gradient.",
        cites=("schulman2017ppo", "shao2024deepseekmath"),
        cases=one_case_each,
        lhs=lambda c: averaged(c, grpo(), centred(c)),
        rhs=lambda c: -c.on_policy(reward(c)),
        scale=summed,
        mutants=(
            Mutant("a later inner step", lambda c: second_step(c, centred(c)), of="lhs"),
            Mutant("every response counts the same", lambda c: -reward(c) @ c.scores / c.terms),
        ),
    ),
    Claim(
        name="baseline-changes-nothing",
        title="A baseline leaves the policy gradient alone",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_\theta}\left[(R(y) - b)\, \nabla_\theta \log "
        r"\pi_\theta(y)\right] = \nabla_\theta\, \mathbb{E}_{y \sim \pi_\theta}[R(y)]",
        note="REINFORCE with the mean reward as baseline, through the training path, against "
        "finite differences of the expected reward. The baseline may not look at the response.",
        cites=("williams1992reinforce",),
        cases=one_case_each,
        lhs=lambda c: project(-averaged(c, reinforce, centred(c))),
        rhs=lambda c: along(c, lambda p: value(c, p)),
        tolerance=DIFFERENCE,
        mutants=(
            Mutant(
                "a baseline that looks at the response",
                lambda c: project(-averaged(c, reinforce, reward(c) - reward(c) ** 2)),
                of="lhs",
            ),
            Mutant(
                "responses weighed uniformly",
                lambda c: project(centred(c) @ c.scores / c.terms),
                of="lhs",
            ),
        ),
    ),
    Claim(
        name="filtered-sft-is-policy-gradient",
        title="SFT on accepted samples is the policy gradient of acceptance",
        kind="identity",
        statement=r"\mathbb{E}_{y \sim \pi_\theta}\left[-\mathbf{1}[R(y) > b]\, \nabla_\theta \log "
        r"\pi_\theta(y)\right] = -\nabla_\theta\, \Pr_{y \sim \pi_\theta}[R(y) > b]",
        note="Rejection sampling (RFT, RAFT) from the current policy climbs the rate at which it "
        "is accepted. From an older policy, as in practice after the first step, it does not.",
        cites=("dong2023raft", "williams1992reinforce"),
        cases=one_case_each,
        lhs=lambda c: accepted(c, c.held_probs),
        rhs=lambda c: -c.gradient(c.probs[centred(c) > 0].sum()),
        scale=summed,
        mutants=(
            Mutant(
                "samples of an older policy", lambda c: accepted(c, reference_probs(c)), of="lhs"
            ),
            Mutant("rejected responses", lambda c: -c.gradient(c.probs[centred(c) <= 0].sum())),
            Mutant("the reward itself", lambda c: -c.on_policy(centred(c))),
        ),
    ),
)
