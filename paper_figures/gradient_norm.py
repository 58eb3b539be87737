"""How large one token's logit gradient is: bounded for SFT, vanishing on rare tokens for DFT."""

import matplotlib.figure
import numpy as np
import torch

from dft_theory.claims.scope import TokenCase
from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import objectives
from dft_theory.seeding import numpy_generator

LABELS = {"sft": "SFT: $w = 1$", "power-0.5": "$w = p^{1/2}$", "dft": "DFT: $w = p$"}
PLACES = ((2e-6, 1e-1), (2e-6, 1.5e-4), (2e-4, 5e-6)), ((0.13, 1.28), (0.2, 0.55), (0.28, 0.12))
COLUMNS = ("objective", "p", "lower", "upper", "over_p", "norm")
ROOT2, VOCAB, SEED = 2**0.5, 50, 0


def compute() -> FigureData:
    """The band on a grid of p (no norm), then norms by autograd on random softmaxes."""
    grid = torch.tensor(np.concatenate([np.geomspace(1e-6, 0.04, 50), np.arange(5, 100) / 100]))
    g = numpy_generator(SEED, "gradient-norm")
    wanted = np.concatenate([10 ** g.uniform(-6, -1, 60), g.uniform(0.02, 0.99, 60)])
    # From even rivals (spread 0) to a single one (spread 8); the first logit then sets p.
    rivals = torch.tensor(g.uniform(0, 8, (120, 1)) * g.standard_normal((120, VOCAB - 1)))
    target = torch.tensor(wanted).logit() + rivals.logsumexp(-1)
    cases = [TokenCase(z, 0, "random") for z in torch.column_stack([target, rivals])]
    p = torch.cat([grid, torch.stack([c.p for c in cases])])
    rest = torch.cat([1 - grid, torch.stack([c.rest for c in cases])])
    rows: list[tuple[str | float | None, ...]] = []
    for o in (objectives[name] for name in LABELS):
        size = o.weight_at(p) * rest
        bounds = torch.stack([p, (VOCAB / (VOCAB - 1)) ** 0.5 * size, ROOT2 * size, rest / p])
        norms = [None] * len(grid) + [c.logit_gradient(o).norm().item() for c in cases]
        rows += zip([o.name] * len(p), *bounds.tolist(), norms, strict=True)
    return FigureData(COLUMNS, tuple(rows), {"seeds": [SEED], "vocabulary": VOCAB})


def expect(data: FigureData) -> None:
    """The measured norms fill the band; SFT is largest on rare tokens, DFT at one half."""
    p, low, high, over_p, norm = (data.column(c) for c in COLUMNS[1:])
    seen, rare = np.isfinite(norm), p < 1e-3
    fill = norm[seen] / high[seen]
    require((norm[seen] > (1 - 1e-9) * low[seen]).all() and fill.max() < 1 + 1e-9, "in the band")
    require(fill.min() < 0.75 and fill.max() > 0.99, "the norms reach both edges of the band")
    require(np.allclose(over_p * p, 1 - p, rtol=0, atol=1e-9), "the 1/p curve is (1 - p) / p")
    sft, _, dft = (data.column("objective") == name for name in LABELS)
    require(np.allclose(norm[dft & seen], (p * norm)[sft & seen], rtol=1e-9), "DFT is p times SFT")
    require(low[sft & rare].min() > high[sft & (p > 0.5)].max(), "SFT is largest on rare tokens")
    require(high[sft].max() < ROOT2 < over_p[rare].min() / 500, "and bounded, where 1/p is not")
    require(high[dft & rare].max() < 2e-3, "DFT vanishes on rare tokens")
    require(p[dft][high[dft].argmax()] == 0.5, "DFT is largest at p = 1/2")
    require(abs(high[dft].max() - ROOT2 / 4) < 1e-9, "where it is sqrt(2) / 4 = 0.354")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left: logarithmic, from p = 1e-6. Right: the same on linear axes."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.7)
    for axis, places in zip(axes[0], PLACES, strict=True):
        for name, at in zip(LABELS, places, strict=True):
            color, marker = objectives[name].style.color, objectives[name].style.marker
            p, low, high, over_p, norm = (data.where(objective=name).column(c) for c in COLUMNS[1:])
            g = np.isnan(norm)
            axis.fill_between(p[g], low[g], high[g], color=color, alpha=0.3, lw=0)
            axis.plot(p[~g], norm[~g], marker, color=color, ms=2, mew=0, label=LABELS[name])
            axis.annotate(LABELS[name], at, color=color, weight="bold")
        axis.plot(p[g], over_p[g], ":", color="black")
        axis.axhline(ROOT2, color="black", lw=0.8, ls="--")
        axis.set_xlabel("probability $p$ of the demonstrated token")
    left, right = axes[0]
    left.set(xscale="log", yscale="log", ylim=(1e-6, 1e6), ylabel="norm of the logit gradient")
    left.annotate(r"$\sqrt{2}$", (1e-6, 2.5))
    left.annotate("hypothetical $(1-p)/p$", (2e-4, 2e4))
    right.set(ylim=(0, 1.7))
    right.annotate(r"bound $\sqrt{2}$", (0.98, 1.44), ha="right")
    right.annotate("hypothetical\n$(1-p)/p$", (0.48, 1.1))
    right.annotate(r"$\sqrt{2}/4 = 0.354$", (0.5, ROOT2 / 4), (0.5, 0.03), ha="center")
    style.letter(axes)
    return figure


FIGURE = Figure(
    "gradient_norm",
    title="Norm of one token's logit gradient",
    paper_ref="section 3.2 (unbounded gradient)",
    claims=("logit-gradient-lower-bound", "sft-gradient-is-bounded", "weighted-logit-gradient")
    + ("dft-gradient-vanishes-on-rare-tokens",),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="",
)
