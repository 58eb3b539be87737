"""The variance that DFT removes: of an estimator that nobody runs, and only in its units."""

import matplotlib.figure
import numpy as np
import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.scope import PolicyCase
from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import Objective, objectives
from dft_theory.policies import AutoregressivePolicy
from dft_theory.seeding import generator

SAMPLED = {  # alpha of the weight pi^alpha; label and where it stands
    "sft": (0.0, "SFT: $w = 1$", (1e-5, 3e6)),
    "power-0.5": (0.5, "$w = \\pi^{1/2}$", (1e-6, 20)),
    "dft-sequence": (1.0, "DFT: $w = \\pi$", (1e-6, 5e-3)),
    "power-2": (2.0, "$w = \\pi^2$", (1e-2, 1e-8)),
}
COLUMNS = ("pi", "variance", "formula", "relative", "across_data")
VOCAB, LENGTH, SEED = 4, 3, 0


def tilted(shift: float) -> PolicyCase:
    """A random table with the logits along one response y* shifted: y* from rare to likely."""
    policy = AutoregressivePolicy.random(vocab=VOCAB, length=LENGTH, seed=SEED)
    case = PolicyCase(policy, "tilted", torch.tensor([0]), index=27)
    for t in range(LENGTH):
        policy.theta.data[0, policy.row_index(case.demo[:, :t]), case.demo[:, t]] += shift
    return case


def sampled(case: PolicyCase, objective: Objective) -> enumeration.Moments:
    """Moments over y ~ pi of 1[y = y*] w(pi)/pi grad log pi(y), all responses enumerated."""

    def coefficient(responses: Tensor, logp: Tensor) -> Tensor:
        return (responses == case.demo).all(-1) * objective.implied_reward(logp.exp())

    return enumeration.estimator_moments(case.policy, case.prompt, coefficient)


def compute() -> FigureData:
    """Variances of the sampled estimators, and of the SFT gradient across demonstrations."""
    noise = torch.randn(VOCAB**LENGTH, dtype=torch.float64, generator=generator(SEED, "variance"))
    rows: list[tuple[str | float, ...]] = []
    for c in map(tilted, np.linspace(-4, 5, 17)):
        q = (c.reward + noise.softmax(-1)) / 2  # half of the demonstrations are y*
        square, pi = c.scores.square().sum(-1), c.held_probs[c.index].item()
        across = (q @ square - (q @ c.scores).square().sum()).item()
        for name, (alpha, _, _) in SAMPLED.items():
            m = sampled(c, objectives[name])
            formula = pi ** (2 * alpha) * (1 / pi - 1) * square[c.index].item()
            relative = m.variance / m.mean.square().sum().item()
            rows.append((name, pi, m.variance, formula, relative, across))
    return FigureData(("objective", *COLUMNS), tuple(rows), {"seeds": [SEED]})


def expect(data: FigureData) -> None:
    """The formula is exact; the relative variance is one for all; what is used is bounded."""
    pi, variance, formula, relative, across = map(data.column, COLUMNS)
    sft, dft = (data.column("objective") == name for name in ("sft", "dft-sequence"))
    require(np.allclose(variance, formula, rtol=1e-9, atol=0), "pi^(2 alpha) (1/pi - 1) |s|^2")
    require(np.allclose(relative, 1 / pi - 1, rtol=1e-9), "relative variance 1/pi - 1 for all")
    require(np.allclose(variance[dft], (pi**2 * variance)[sft], rtol=1e-9), "pi^2 between them")
    require(pi.min() < 1e-6 and pi.max() > 0.9, "the demonstration is rare, or likely")
    require(across.max() < 2 * LENGTH < 1e-5 * variance[sft].max(), "2T bounds what is used")
    slopes = np.diff(np.log(across[sft])) / np.diff(np.log(pi[sft]))
    require(abs(slopes).max() < 0.1, "across demonstrations it hardly depends on pi")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Sampled estimators in absolute and relative terms; then the gradient that training uses."""
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.6)
    left, middle, right = axes[0]
    for i, (name, (alpha, label, place)) in enumerate(SAMPLED.items()):
        ink, marker = objectives[name].style.color, objectives[name].style.marker
        look = {"color": ink, "marker": marker, "mfc": "white" if alpha > 1 else ink, "lw": 0.8}
        pi, variance, formula, relative, across = map(data.where(objective=name).column, COLUMNS)
        left.plot(pi, formula, color=ink, lw=0.8)
        left.plot(pi, variance, **look | {"ls": ""})
        left.annotate(label, place, color=ink)
        middle.plot(pi[i::4], relative[i::4], **look | {"ls": ""})
        if alpha == 0:
            right.plot(pi, variance, **look)
            right.annotate("SFT, sampled", (1e-4, 2e5), color=ink)
    middle.plot(pi, 1 / pi - 1, color="black", lw=0.8, zorder=1)
    middle.annotate("all four:\n$1/\\pi - 1$", (1e-3, 1e4))
    right.plot(pi, across, "*", color="black", ms=4)
    right.annotate("SFT, across\ndemonstrations", (1e-6, 0.02))
    right.axhline(2 * LENGTH, color="black", lw=0.8, ls="--")
    right.annotate(f"bound $2T = {2 * LENGTH}$", (1e-6, 12))
    titles = "sampled variance", "relative variance", "variance in training"
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set(xscale="log", yscale="log", xlabel="$\\pi(y^\\star \\mid x)$", title=title)
    left.set(ylim=(1e-9, 1e9))
    right.set(ylim=(1e-4, 1e8))
    style.letter(axes)
    return figure


FIGURE = Figure(
    "estimator_variance",
    title="Variance of the sampled estimators and of the gradient that is used",
    paper_ref="section 3.2 of version 1 (high variance)",
    claims=("relative-variance-does-not-change", "used-sft-variance-is-bounded"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Tables (V = 4, T = 3) on which the demonstration y* goes from rare to likely. (a) "
    "Trace of the covariance of the estimator that draws y from the model and keeps y*: points by "
    "enumeration, lines pi^(2 alpha) (1/pi - 1) times the squared norm of the score. (b) Divided "
    "by the squared mean all four are one curve: the weight changes units, not noise. (c) Training "
    "is given y*, draws nothing and has none of this. Its gradient varies across demonstrations, "
    "half of them y*, by at most 2T.",
)
