"""Variance: of an estimator that nobody runs, and of the one that everybody runs (gap G3)."""

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant, Published
from dft_theory.claims.policy_gradient import SUPPORT, data, one_demo_each, policy_cases
from dft_theory.claims.rectification import table_cases
from dft_theory.claims.scope import PolicyCase
from dft_theory.claims.tolerance import Exact

ALPHAS = (0.0, 0.5, 1.0, 2.0)


def moments(case: PolicyCase, alpha: float, *, covariance: bool = False) -> enumeration.Moments:
    """Moments of 1[y = y*] pi^(alpha-1) grad log pi(y), y ~ pi: sampled SFT at 0, DFT at 1."""

    def coefficient(responses: Tensor, logp: Tensor) -> Tensor:
        return (responses == case.demo).all(-1) * torch.exp((alpha - 1) * logp)

    return enumeration.estimator_moments(
        case.policy, case.prompt, coefficient, covariance=covariance
    )


def variance(case: PolicyCase, alpha: float) -> Tensor:
    """Trace of the covariance, by enumeration."""
    return torch.tensor(moments(case, alpha).variance, dtype=torch.float64)


def square_norm(case: PolicyCase) -> Tensor:
    """||grad log pi(y*)||^2 from the gradient of the generated probability."""
    return (case.gradient(case.probs[case.index]) / case.held_probs[case.index]).square().sum()


def odds(case: PolicyCase) -> Tensor:
    """1/pi - 1."""
    return 1 / case.held_probs[case.index] - 1


def relative(case: PolicyCase, alpha: float) -> Tensor:
    """Variance over squared mean of the one-sample estimator."""
    m = moments(case, alpha)
    return m.variance / m.mean.square().sum()


def across_data(case: PolicyCase) -> Tensor:
    """Variance over demonstrations y ~ q of the SFT gradient that is really computed."""
    q = data(case)
    return q @ case.scores.square().sum(-1) - (q @ case.scores).square().sum()


# The mean square is subtracted from the second moment, which is up to 1/pi times larger.
CANCELLING = Exact(c=256.0)

CLAIMS = (
    Claim(
        name="sampled-sft-variance",
        title="The variance of sampled SFT",
        kind="identity",
        statement=r"\mathrm{Var}_{y \sim \pi}\left[\frac{\mathbf{1}[y = y^\star]}{\pi(y)} "
        r"\nabla \log \pi(y)\right] = \left(\frac{1}{\pi(y^\star)} - 1\right)"
        r"\Vert \nabla \log \pi(y^\star) \Vert^2",
        note="Trace of the covariance of the estimator that eq. (5) suggests and nobody runs: it "
        "would sample y from the model and wait for y*.",
        cites=("wu2025dft",),
        cases=policy_cases,
        assumptions=(SUPPORT,),
        tolerance=CANCELLING,
        lhs=lambda c: variance(c, 0.0),
        rhs=lambda c: odds(c) * square_norm(c),
        mutants=(
            Mutant("second moment", lambda c: (odds(c) + 1) * square_norm(c)),
            Mutant("1/pi squared", lambda c: odds(c) ** 2 * square_norm(c)),
        ),
    ),
    Claim(
        name="sampled-dft-variance",
        title="The variance of sampled DFT",
        kind="identity",
        statement=r"\mathrm{Var}_{y \sim \pi}\left[\mathbf{1}[y = y^\star] \nabla \log \pi(y)"
        r"\right] = \pi(y^\star)\,(1 - \pi(y^\star))\, \Vert \nabla \log \pi(y^\star) \Vert^2",
        note="Smaller than sampled SFT's by the factor pi^2, and so is its squared mean.",
        cites=("wu2025dft",),
        cases=policy_cases,
        tolerance=CANCELLING,
        lhs=lambda c: variance(c, 1.0),
        rhs=lambda c: odds(c) * c.held_probs[c.index] ** 2 * square_norm(c),
        mutants=(
            Mutant("second moment", lambda c: c.held_probs[c.index] * square_norm(c)),
            Mutant("sampled SFT's", lambda c: odds(c) * square_norm(c)),
        ),
    ),
    Claim(
        name="sampled-covariance-has-rank-one",
        title="The sampled gradient varies along one direction only",
        kind="identity",
        statement=r"\mathrm{Cov}_{y \sim \pi}\left[\frac{\mathbf{1}[y = y^\star]}{\pi(y)} "
        r"\nabla \log \pi(y)\right] = \left(\frac{1}{\pi(y^\star)} - 1\right) s s^\top, \qquad "
        r"s = \nabla \log \pi(y^\star)",
        note="Full covariance by enumeration: the sample is y* or nothing.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        tolerance=CANCELLING,
        lhs=lambda c: _covariance(c),
        rhs=lambda c: odds(c) * c.scores[c.index].outer(c.scores[c.index]),
        mutants=(
            Mutant(
                "second moment",
                lambda c: (odds(c) + 1) * c.scores[c.index].outer(c.scores[c.index]),
            ),
            Mutant(
                "isotropic",
                lambda c: (
                    odds(c)
                    * square_norm(c)
                    / c.scores.shape[1]
                    * torch.eye(c.scores.shape[1], dtype=torch.float64)
                ),
            ),
        ),
    ),
    Claim(
        name="relative-variance-does-not-change",
        title="DFT does not reduce the relative variance",
        kind="refutation",
        statement=r"\frac{\mathrm{Var}[\hat g_\alpha]}{\Vert \mathbb{E}\, \hat g_\alpha \Vert^2} "
        r"= \frac{1}{\pi(y^\star)} - 1 \qquad \mathrm{for\ every}\ \alpha",
        note="Multiplying an estimator by a constant scales its mean and its spread "
        "alike: the signal-to-noise ratio of sampled SFT, DFT and every p^alpha is the same.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        tolerance=CANCELLING,
        lhs=lambda c: torch.stack([relative(c, a) for a in ALPHAS]),
        rhs=lambda c: odds(c).expand(len(ALPHAS)),
        published=Published(
            statement=r"\frac{\mathrm{Var}[\hat g_{\mathrm{DFT}}]}"
            r"{\Vert \mathbb{E}\, \hat g_{\mathrm{DFT}} \Vert^2} = \pi^2 \cdot "
            r"\frac{\mathrm{Var}[\hat g_{\mathrm{SFT}}]}"
            r"{\Vert \mathbb{E}\, \hat g_{\mathrm{SFT}} \Vert^2}",
            side=lambda c: torch.stack(
                [odds(c) * c.held_probs[c.index] ** (2 * a) for a in ALPHAS]
            ),
            cite="wu2025dft",
            why="version 1: removing 1/pi removes the high variance",
        ),
        mutants=(
            Mutant("1/pi", lambda c: (odds(c) + 1).expand(len(ALPHAS))),
            Mutant("1 - pi", lambda c: (1 - c.held_probs[c.index]).expand(len(ALPHAS))),
        ),
    ),
    Claim(
        name="variance-ratio-is-pi-to-the-two-alpha",
        title="Absolute variance scales with pi to the 2 alpha",
        kind="identity",
        statement=r"\frac{\mathrm{Var}[\hat g_\alpha]}{\mathrm{Var}[\hat g_0]} = "
        r"\pi(y^\star)^{2 \alpha}",
        note="The factor pi^2 between DFT and SFT that the variance argument rests on; see the "
        "relative variance for why it is only a change of units.",
        cites=("wu2025dft",),
        cases=one_demo_each,
        tolerance=CANCELLING,
        lhs=lambda c: torch.stack([variance(c, a) for a in ALPHAS]) / variance(c, 0.0),
        rhs=lambda c: torch.stack([c.held_probs[c.index] ** (2 * a) for a in ALPHAS]),
        mutants=(
            Mutant(
                "pi to the alpha",
                lambda c: torch.stack([c.held_probs[c.index] ** a for a in ALPHAS]),
            ),
            Mutant("no change", lambda c: torch.ones(len(ALPHAS), dtype=torch.float64)),
        ),
    ),
    Claim(
        name="used-sft-variance-is-bounded",
        title="The variance of the SFT gradient that is used is bounded",
        kind="inequality",
        relation="<=",
        statement=r"\mathrm{Var}_{y \sim q}\left[\nabla_z \log \pi(y)\right] \leq 2\, T",
        note="Real SFT is given y* and samples nothing from the model: what varies is the "
        "demonstration. In the logits each token adds at most 2, however small pi is.",
        cites=("wu2025dft",),
        cases=table_cases,
        assumptions=(
            Assumption(
                "one parameter per logit",
                "shared parameters multiply by the squared norm of the Jacobian",
            ),
        ),
        lhs=across_data,
        rhs=lambda c: torch.tensor(2.0 * c.policy.length, dtype=torch.float64),
        mutants=(
            Mutant("T / 8", lambda c: torch.tensor(c.policy.length / 8, dtype=torch.float64)),
            Mutant("sampled SFT's variance", lambda c: odds(c) * square_norm(c), of="lhs"),
        ),
    ),
)


def _covariance(case: PolicyCase) -> Tensor:
    found = moments(case, 0.0, covariance=True).covariance
    assert found is not None
    return found
