"""Relatives of DFT against SFT in three regimes: who gains under noise and loses nothing else."""

import matplotlib.figure
from matplotlib.axes import Axes
from torch import Tensor

from dft_theory.experiment import values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._gaps import COLUMNS, dots, entry, label, require_intervals
from paper_figures._records import record, source

# Cell of the record: prior, source, title.
CELLS = {
    "weak": (0.0, 0.0, "$p_0 = 0$, clean"),
    "middle": (0.1, 0.0, "$p_0 = 0.1$, clean"),
    "strong": (0.6, 0.0, "$p_0 = 0.6$, clean"),
    "weak noise": (0.0, 0.3, "$p_0 = 0$, 30 % noise"),
    "middle noise": (0.1, 0.3, "$p_0 = 0.1$, 30 % noise"),
    "strong noise": (0.6, 0.3, "$p_0 = 0.6$, 30 % noise"),
}
METHODS = {
    "base": "not trained",
    "sft": "SFT",
    "dft": "DFT",
    "power": "$p^{1/2}$",
    "floor": "$\\max(p, 0.1)$",
    "sft-then-dft": "SFT, then DFT",
    "talr": "TALR",
    "chord-phi": "CHORD-$\\phi$",
    "asft": "ASFT",
    "threshold": "SFT on $p \\geq 0.2$",
    "psft": "PSFT",
    "iw-sft": "iw-SFT",
    "eaft": "EAFT",
    "gem": "GEM",
}
TRAINED = [name for name in METHODS if name != "base"]
BOTH = ("power", "floor", "sft-then-dft")
SCORES = ("sampled", "greedy")
# Metric: label and colour.
KEPT = {
    "content_entropy": ("entropy of states", style.PALETTE["vermilion"]),
    "style_entropy": ("entropy of styles", style.PALETTE["green"]),
}


def compute() -> FigureData:
    """Rows: a mean and its paired interval.

    `gap` to SFT in each cell, `edge` where the best rate is an end of its grid; `own`, gain over
    the base from own samples; `entropy` in nats with a strong prior and noise.
    """
    run = record("relatives")
    found, rows = run.metrics(), list[tuple[Cell, ...]]()
    keys = ("p0", "eps", "method")

    def of(cell: tuple[float, object], method: str, metric: str) -> Tensor:
        taught = (cell[0], None if method == "base" else cell[1], method)
        return values(found, metric, **dict(zip(keys, taught, strict=True)))

    rate = {tuple(r[k] for k in keys): r["rate"] for r in found if r["method"] != "base"}
    grid = run.manifest()["size"]["rates"]
    for cell, (p0, eps, _) in CELLS.items():
        ends = {grid[str(p0)][0], grid[str(p0)][-1]}
        for method in METHODS:
            row = "edge" if rate.get((p0, eps, method)) in ends else "gap"
            for metric in SCORES:
                gap = of((p0, eps), method, metric) - of((p0, eps), "sft", metric)
                rows.append(entry(row, cell, method, metric, gap))
    for method in TRAINED:
        for metric in SCORES:
            gain = of((0.6, "own"), method, metric) - of((0.6, None), "base", metric)
            rows.append(entry("own", "own", method, metric, gain))
    for method in METHODS:
        for metric in KEPT:
            each = of((0.6, 0.3), method, metric)
            rows.append(entry("entropy", "entropy", method, metric, each))
    return FigureData(COLUMNS, tuple(rows), source(run))


def at(data: FigureData, cell: str, method: str, metric: str = "sampled") -> list[float]:
    """Mean, low and high of one entry."""
    t = data.where(cell=cell, change=method, metric=metric)
    require(len(t.rows) == 1, "one row for each")
    return [float(t.column(c)[0]) for c in COLUMNS[4:]]


def expect(data: FigureData) -> None:
    """DFT's two corners; three relatives without its loss; state weights without its gain."""
    require_intervals(data)
    for metric in SCORES:
        require(at(data, "weak", "dft", metric)[2] < -0.2, "weak prior: DFT trails SFT")
        for method in ("chord-phi", "asft", "threshold"):
            require(at(data, "weak", method, metric)[2] < 0, f"and {method} does")
        for method in BOTH:
            require(at(data, "weak", method, metric)[0] > -0.1, f"weak prior: {method} does not")
            require(at(data, "middle noise", method, metric)[1] > 0, f"noise: {method} leads")
    for cell in ("middle noise", "strong noise"):
        for method in ("dft", "talr", "asft", "chord-phi", *BOTH):
            require(at(data, cell, method)[1] > 0.1, f"{cell}: {method} leads at T = 1")
        for method in ("gem", "eaft", "iw-sft", "psft"):
            require(at(data, cell, method)[0] < 0.05, f"{cell}: {method} hardly does")
    base = at(data, "strong noise", "base", "greedy")[0]
    for method in TRAINED:
        require(at(data, "strong noise", method, "greedy")[0] < base, "greedily the base is best")
        require(at(data, "own", method)[0] < 0.1, "own samples give little")
        gap = at(data, "middle", method)[0]
        require(method == "threshold" or abs(gap) < 0.1, "a middling prior, clean: alike")
        kept = at(data, "entropy", method, "style_entropy")[0]
        require(method == "dft" or kept > at(data, "entropy", "dft", "style_entropy")[0], "styles")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Above clean, below noisy; priors from left; right: own samples, and entropies."""
    figure, axes = style.panels(2, 4, width=style.TEXT, height=6.0, share=(False, True))
    for axis, (cell, (*_, title)) in zip(axes[:, :3].flat, CELLS.items(), strict=True):
        here = data.where(cell=cell)
        dots(axis, here, list(METHODS))
        ends = {row[2] for row in here.rows if row[0] == "edge"}
        for y, method in enumerate(METHODS):
            if method in ends:
                axis.text(0.02, y, "*", va="center", transform=axis.get_yaxis_transform())
        axis.set_title(title, loc="left")
        axis.set_xlabel("accuracy minus SFT's")
    own, kept = axes[:, 3]
    dots(own, data.where(cell="own"), list(METHODS))
    own.set_title("0.6, own samples", loc="left")
    own.set_xlabel("accuracy minus base's")
    entropies(kept, data)
    for axis in axes[:, 0]:
        label(axis, METHODS)
    handles, names = axes[0, 0].get_legend_handles_labels()
    handles, names = handles[:2], names[:2]
    more, words = kept.get_legend_handles_labels()
    figure.legend(handles + more, names + words, loc="outside lower center", ncols=4)
    style.letter(axes)
    return figure


def entropies(axis: Axes, data: FigureData) -> None:
    """Mean entropy a token of styles and of states."""
    for metric, (name, color) in KEPT.items():
        means = [at(data, "entropy", m, metric)[0] for m in METHODS]
        axis.plot(means, range(len(means)), "D", ms=3.6, color=color, label=name)
    for y in range(1, len(METHODS), 2):
        axis.axhspan(y - 0.5, y + 0.5, color="#f3f3f3", lw=0, zorder=-1)
    axis.set(xlim=(0, 1.5), xlabel="entropy (nats)")
    axis.set_title("0.6, 30 % noise", loc="left")
    axis.grid(visible=False, axis="y")


FIGURE = Figure(
    "relatives",
    title="DFT's gain under noise without its loss at a weak prior",
    paper_ref="none: relatives of equation (9) in three regimes",
    claims=(
        "clean-labels-favour-sft",
        "noise-lets-dft-overtake",
        "chord-weight-descends-a-square",
        "asft-rests-below-one",
        "state-weights-keep-the-data",
        "gem-flattens-the-data",
        "talr-in-use-is-a-power",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Accuracy on unseen prompts minus SFT's, each relative at its own best learning rate "
    "in each panel, sampled at T = 1 and greedy, with paired 95 % intervals over five seeds; a "
    "star marks a best rate at an end of its grid. (a to c) Clean demonstrations from a base whose "
    "prior on the right rule is 0, 0.1 or 0.6; (e to g) with 30 % of the states random. (d) Gain "
    "over the base from one own sample a prompt, which teaches nothing. (h) Entropy a token of "
    "states and of styles, of which the teacher has four. From a weak prior DFT trails, and so do "
    "CHORD and the anchor at that base; a floor under the weight, the root of p, or SFT for the "
    "first half of training do not, and keep half or more of DFT's lead under noise. SFT on likely "
    "tokens leads most from the strong prior and learns nothing from the others. Weights that "
    "ignore the target's own probability (GEM, EAFT) or compare it with an earlier policy's "
    "(iw-SFT, PSFT) lose little and gain nothing; with 30 % noise the best GEM, EAFT and iw-SFT "
    "have hardly trained (g). There no relative is above the base greedily: the lead is one over "
    "what SFT spoils, and sharpening.",
)
