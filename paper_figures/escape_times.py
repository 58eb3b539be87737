"""How long one demonstration takes to be learned, against how unlikely it was at the start."""

import matplotlib.figure
import numpy as np

from dft_theory.dynamics import escape_law, escape_time, reach, symmetric_start
from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import objectives

ALPHAS = {"sft": 0.0, "power-0.5": 0.5, "dft": 1.0, "power-2": 2.0}
LABELS = {
    "sft": ("SFT", (1.5e-5, 1.2e1)),
    "power-0.5": ("$\\mathbf{p^{1/2}}$", (1.5e-5, 5e2)),
    "dft": ("DFT", (1.5e-5, 1e5)),
    "power-2": ("$\\mathbf{p^2}$", (1.5e-5, 4e9)),
}
COLUMNS = ("objective", "p0", "closed", "law", "integrated")
VOCAB, GOAL = 2, 0.5


def compute() -> FigureData:
    """Closed form and asymptote on a grid of p0, the integrated flow at every decade."""
    decades = [10.0**-n for n in range(1, 6)]
    grid = sorted({*decades, 1e-3, *np.geomspace(1e-6, 0.4, 60).tolist()})
    rows = []
    for name, alpha in ALPHAS.items():
        for p0 in grid:
            start, measured = symmetric_start(p0, vocab=VOCAB), None
            if p0 in decades:
                measured = reach(objectives[name], start=start, target=0, p1=GOAL)[0]
            closed = escape_time(p0, GOAL, alpha=alpha, vocab=VOCAB)
            law = escape_law(p0, alpha=alpha, vocab=VOCAB)
            rows.append((name, p0, closed, law, measured))
    return FigureData(COLUMNS, tuple(rows), {"vocabulary": VOCAB, "p1": GOAL})


def expect(data: FigureData) -> None:
    """Slopes 0, -1/2, -1, -2; the flow on the closed form; SFT always first."""
    for name, alpha in ALPHAS.items():
        p0, closed, law, measured = (data.where(objective=name).column(c) for c in COLUMNS[1:])
        seen, rare = np.isfinite(measured), p0 < 1e-5
        require(seen.sum() == 5, "five integrated times for each objective")
        require(np.allclose(measured[seen], closed[seen], rtol=1e-8, atol=0), "flow = closed form")
        slope = np.polyfit(np.log(p0[rare]), np.log(closed[rare]), 1)[0]
        require(abs(slope + alpha) < (0.1 if alpha == 0 else 0.01), f"{name}: slope {slope:.3f}")
        if alpha:
            require(np.all(abs(law / closed - 1)[rare] < 0.01), f"{name}: law within 1 %")
        else:  # ln u + u is 1 at p = 1/2: the law lacks the constant 1 / k
            gap = (closed - law)[rare]
            require(np.allclose(gap, 1 / 2, rtol=0, atol=1e-4), "sft: law plus 1/2")
    times = np.stack([data.where(objective=name).column("closed") for name in ALPHAS])
    require((np.diff(times, axis=0) > 0).all(), "the larger alpha, the longer")
    p0 = data.where(objective="sft").column("p0")
    sft, _, dft, _ = times[:, p0 == 1e-3]
    require(abs(sft - 3.95) < 0.01 and abs(dft - 506.4) < 0.1, "3.95 against 506 at p0 = 0.001")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Log-log: lines are closed forms, markers integrated flows, dots leading terms."""
    figure, axes = style.panels(1, 1, width=style.COLUMN, height=2.7)
    axis = axes[0, 0]
    for name, (label, place) in LABELS.items():
        look = objectives[name].style
        p0, closed, law, measured = (data.where(objective=name).column(c) for c in COLUMNS[1:])
        axis.plot(p0, law, ":", color="black", lw=1, zorder=1.5)  # seen where it departs
        axis.plot(p0, closed, color=look.color)
        axis.plot(p0, measured, look.marker, color=look.color, mec="white", mew=0.5, ms=4.5)
        axis.annotate(label, place, color=look.color, weight="bold")
    axis.plot([], [], "-", color="#666666", label="closed form")
    axis.plot([], [], "o", color="#666666", mec="white", mew=0.5, ms=4.5, label="integrated flow")
    axis.plot([], [], ":", color="black", lw=1, label="leading term as $p_0 \\to 0$")
    axis.legend(loc="upper right")
    axis.set(
        xscale="log",
        yscale="log",
        ylim=(0.2, 1e12),
        xlabel="initial probability $p_0$ of the demonstrated token",
        ylabel="time to $p = 1/2$ (learning rate × steps)",
    )
    return figure


FIGURE = Figure(
    "escape_times",
    title="Time to learn one demonstration",
    paper_ref="equation (9), as a gradient flow",
    claims=(
        "sft-escape-time",
        "dft-escape-time",
        "power-escape-time",
        "sft-escape-law",
        "power-escape-law",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Gradient-flow time in which one demonstrated token goes from probability p0 to 1/2 "
    "(two tokens) under the weight p^alpha. SFT pays a constant for each factor of ten in rarity; "
    "DFT pays the factor itself: 4 units of time against 506 at p0 = 0.001. Dotted: "
    "ln(1/p0)/2 and 1/(2 alpha p0^alpha).",
)
