"""How large one token's logit gradient is: bounded for SFT, vanishing on rare tokens for DFT."""

import matplotlib.figure
import numpy as np
import torch

from dft_theory.claims.scope import TokenCase
from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import objectives
from dft_theory.seeding import numpy_generator

LABELS = {  # and where they stand in the two panels
    "sft": ("SFT: $w = 1$", (2e-6, 0.09), (0.13, 1.28)),
    "power-0.5": ("$w = p^{1/2}$", (2e-6, 1e-4), (0.17, 0.56)),
    "dft": ("DFT: $w = p$,\nlargest at $p = 1/2$: 0.354", (1e-3, 4e-6), (0.26, 0.02)),
}
COLUMNS = ("p", "lower", "upper", "norm", "hypothetical")
ROOT2, V, SEED = 2**0.5, 50, 0


def compute() -> FigureData:
    """Random softmaxes with a target of probability p: bounds, and the norm by autograd."""
    wanted = torch.tensor([*np.geomspace(1e-6, 0.04, 60), *(np.arange(3, 50) / 50)])
    g, n = numpy_generator(SEED, "gradient-norm"), len(wanted)
    # From even rivals (spread 0) to a single one (spread 8); the target's logit then sets p.
    rivals = torch.tensor(g.uniform(0, 8, (n, 1)) * g.standard_normal((n, V - 1)))
    logits = torch.column_stack([wanted.logit() + rivals.logsumexp(-1), rivals])
    rows: list[tuple[str | float, ...]] = []
    for o in (objectives[name] for name in LABELS):
        for case in (TokenCase(z, 0, "random") for z in logits):
            size, norm = o.weight_at(case.p) * case.rest, case.logit_gradient(o).norm()
            numbers = case.p, (V / (V - 1)) ** 0.5 * size, ROOT2 * size, norm, case.rest / case.p
            rows.append((o.name, *map(float, numbers)))
    return FigureData(("objective", *COLUMNS), tuple(rows), {"seeds": [SEED], "vocabulary": V})


def expect(data: FigureData) -> None:
    """Norms fill the band; SFT is largest on rare tokens, DFT at one half."""
    p, low, high, norm, over_p = (data.column(c) for c in COLUMNS)
    sft, _, dft = (data.column("objective") == name for name in LABELS)
    rare, top = p < 1e-3, high[dft].argmax()
    require((norm > (1 - 1e-9) * low).all() and (norm < (1 + 1e-9) * high).all(), "in the band")
    require((norm / low).min() < 1.01 and (norm / high).max() > 0.99, "both edges are reached")
    require(np.allclose(norm[dft], (p * norm)[sft], rtol=1e-9), "DFT is p times SFT")
    require(low[sft & rare].min() > high[sft & (p > 0.5)].max(), "SFT is largest on rare tokens")
    require(high[sft].max() < ROOT2 and over_p[rare].min() > 500, "bounded, unlike 1/p")
    require(np.allclose(over_p * p, 1 - p, rtol=0, atol=1e-9), "the 1/p curve is (1 - p)/p")
    require(np.allclose((p[dft][top], high[dft][top]), (0.5, ROOT2 / 4)), "DFT peaks at p = 1/2")
    require(high[dft & rare].max() < 2e-3, "DFT vanishes on rare tokens")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left: logarithmic, from p = 1e-6. Right: the same on linear axes."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.8)
    places = ((3e-4, 2e4), (1.2e-6, 2.5)), ((0.48, 1.15), (0.8, 1.44))
    for side, (axis, (curve, bound)) in enumerate(zip(axes[0], places, strict=True), start=1):
        for name, label in LABELS.items():
            drawn = objectives[name].style
            p, low, high, norm, over_p = map(data.where(objective=name).column, COLUMNS)
            axis.fill_between(p, low, high, color=drawn.color, alpha=0.3, lw=0)
            axis.plot(p, norm, drawn.marker, color=drawn.color, ms=2, mew=0)
            axis.annotate(label[0], label[side], color=drawn.color)
        axis.plot(p, over_p, ":", color="black")
        axis.axhline(ROOT2, color="black", lw=0.8, ls="--")
        axis.annotate("hypothetical $(1-p)/p$", curve)
        axis.annotate("bound $\\sqrt{2}$", bound)
        axis.set(xlabel="probability $p$ of the demonstrated token", ylim=(0, 1.7))
    axes[0, 0].set(xscale="log", yscale="log", ylim=(1e-6, 1e6), ylabel="norm of logit gradient")
    style.letter(axes)
    return figure


FIGURE = Figure(
    "gradient_norm",
    title="Norm of one token's logit gradient",
    paper_ref="section 3.2 (unbounded gradient)",
    claims=("sft-gradient-is-bounded", "dft-gradient-vanishes-on-rare-tokens"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Norm of the gradient in the logits at a token of probability p, on logarithmic (a) "
    "and linear (b) axes. Bands: w(p)(1 - p) times sqrt(V/(V - 1)), when V - 1 rivals share 1 - p "
    "evenly, to sqrt(2), when one has it all. Points: autograd on random softmaxes, V = 50. SFT "
    "is bounded, DFT vanishes on rare tokens. Dotted: a gradient that grew as 1/p.",
)
