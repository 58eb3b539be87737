"""DFT against SFT on a real model: over learning rates, at each one's best, and its relatives."""

from pathlib import Path

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from dft_theory.objectives import objectives
from dft_theory.results import RunStore
from dft_theory.study import CELLS
from paper_figures._records import source

LABELS = {
    "sft": "SFT",
    "dft": "DFT",
    "p^1/2": "$p^{1/2}$",
    "threshold": "SFT on $p \\geq 0.2$",
    "floored": "$\\max(p, 0.1)$",
    "asft": "ASFT",
    "sft-to-dft": "SFT to DFT",
    "iw-sft": "iw-SFT",
    "eaft": "EAFT",
    "dft-floored-end": "floor under the end",
}
# Label, colour, marker, dashes.
LOOKS = {
    "sampled": ("T = 1", style.PALETTE["black"], "o", "-"),
    "greedy": ("greedy", style.PALETTE["purple"], "s", "--"),
}
COLUMNS = ("row", "task", "source", "method", "metric", "rate", "seed", "mean", "low", "high")
# What is drawn over rates, in the style of which objective.
CURVES = {"sft": "sft", "dft": "dft", "dft-floored-end": "floored-0.1"}
# Task, source, method: what stands below the panel of gaps.
COMPARED = {
    ("strong", "noise", "dft"): "strong,\nnoise",
    ("strong", "clean", "dft"): "strong,\nclean",
    ("weak", "clean", "dft"): "weak,\nclean",
    ("weak", "clean", "dft-floored-end"): "weak,\nfloor",
}
PERCENT = FuncFormatter(lambda y, _: f"{100 * y:.0f}".replace("-", "\N{MINUS SIGN}"))


def compute() -> FigureData:
    """Rows: `curve`, means at each rate; `gap` of two methods with its interval; `seed` of it."""
    root = Path(__file__).resolve().parents[1] / "experiments" / "results"
    run = RunStore(root).run("real-model", "laptop")
    found = run.summary()
    rows: list[tuple[Cell, ...]] = []
    for c in found["curves"]:
        if c["method"] in CURVES and (c["task"], c["source"]) in CELLS:
            curve = ("curve", c["task"], c["source"], c["method"])
            rows += [(*curve, m, c["rate"], None, c[m], None, None) for m in LOOKS]
    for g in found["gaps"]:
        own = g["second"] == "base"
        if g["how"] not in LOOKS or not (own or (g["task"], g["source"]) in CELLS):
            continue
        kind = "own" if own else "gap" if g["rate"] is None else "relative"
        key = (kind, g["task"], g["source"], g["first"], g["how"], g["rate"])
        rows.append((*key, None, g["mean"], g["low"], g["high"]))
        if kind == "gap":
            each = enumerate(g["seeds"])
            rows += [("seed", *key[1:], seed, gap, None, None) for seed, gap in each]
    return FigureData(COLUMNS, tuple(rows), source(run))


def expect(data: FigureData) -> None:
    """Every cell has a curve of three rates and a gap inside its interval."""
    for task, of in CELLS:
        here = data.where(task=task, source=of)
        curve = here.where(row="curve")
        for method in curve.unique("method"):
            for metric in LOOKS:
                rates = curve.where(method=method, metric=metric).column("rate")
                require((np.diff(rates) > 0).all(), "rates in order")
            require(method not in ("sft", "dft") or len(rates) >= 3, "three rates at least")
        gaps = here.where(row="gap", method="dft")
        require(len(gaps.rows) == 2, "a sampled gap and its greedy twin")
    for cell in COMPARED:
        for metric in LOOKS:
            keys = dict(zip(("task", "source", "method"), cell, strict=True))
            seeds = data.where(row="seed", metric=metric, **keys).column("seed")
            require((seeds == np.arange(len(seeds))).all(), "every seed once, in order")
    noise, clean, weak, floored = (
        {m: numbers(gap_of(data, cell, m)) for m in LOOKS} for cell in COMPARED
    )
    require(noise["sampled"][1] > 0.4, "strong prior, noise: DFT is far ahead at T = 1")
    require(noise["greedy"][0] < noise["sampled"][0] / 2, "and by less than half of it greedily")
    require(abs(clean["greedy"][0]) < 0.1, "clean: greedily alike")
    for metric in LOOKS:
        require(weak[metric][2] < 0, "weak prior: DFT is behind")
        require(floored[metric][0] > weak[metric][2], "less so with a floor under the end")
    for method in ("p^1/2", "threshold", "floored", "asft"):
        lead = numbers(data.where(row="relative", method=method, metric="sampled"))
        require(lead[1] > 0.2, f"{method} has DFT's lead at T = 1")
    own = data.where(row="own").column("mean")
    require((abs(own) < 0.1).all(), "own samples teach little")
    for row in ("gap", "relative", "own"):
        t = data.where(row=row)
        mean, low, high = (t.column(c).astype(float) for c in ("mean", "low", "high"))
        require(((low <= mean) & (mean <= high)).all(), "a mean is inside its interval")


def numbers(data: FigureData) -> list[float]:
    """Mean, low and high of the one row."""
    require(len(data.rows) == 1, "one row for each")
    return [float(data.column(c)[0]) for c in ("mean", "low", "high")]


def gap_of(data: FigureData, cell: tuple[str, str, str], metric: str) -> FigureData:
    """The gap to SFT of a method at its best rate."""
    task, of, method = cell
    return data.where(row="gap", task=task, source=of, method=method, metric=metric)


def curves(axis: Axes, data: FigureData, task: str, of: str) -> None:
    """Accuracy over the learning rate, sampled and greedy."""
    drawn = data.where(row="curve", task=task, source=of).unique("method")
    for method in (name for name in CURVES if name in drawn):
        look = objectives[CURVES[method]].style
        for metric, (label, _, _, dashes) in LOOKS.items():
            t = data.where(row="curve", task=task, source=of, method=method, metric=metric)
            face = look.color if metric == "sampled" else "white"
            axis.plot(
                t.column("rate"),
                t.column("mean"),
                ls=dashes,
                marker=look.marker,
                color=look.color,
                mfc=face,
                label=f"{LABELS[method]}, {label}",
            )
    axis.set(xscale="log", xlabel="learning rate", ylim=(-0.03, 1.03))
    axis.yaxis.set_major_formatter(PERCENT)
    axis.set_title(COMPARED[task, of, "dft"].replace("\n", " "), loc="left")


def gaps(axis: Axes, data: FigureData) -> None:
    """At each one's best rate; small marks are seeds."""
    for i, (metric, (label, color, marker, _)) in enumerate(LOOKS.items()):
        x = np.arange(len(COMPARED)) + 0.24 * (i - 0.5)
        for place, cell in zip(x, COMPARED, strict=True):
            mean, low, high = numbers(gap_of(data, cell, metric))
            keys = dict(zip(("task", "source", "method"), cell, strict=True))
            seeds = data.where(row="seed", metric=metric, **keys).column("mean")
            face = color if metric == "sampled" else "white"
            axis.vlines(place, low, high, color=color, lw=1)
            axis.plot(place, mean, marker, color=color, mfc=face, ms=4.5)
            axis.plot(np.full(len(seeds), place + 0.1), seeds, "_", color=color, ms=4)
        axis.plot([], [], marker, color=color, mfc=face, label=label)
    axis.axhline(0, color="#444444", lw=0.8)
    axis.set_xticks(range(len(COMPARED)), list(COMPARED.values()), size=7)
    axis.set(ylabel="minus SFT, points", xlim=(-0.5, len(COMPARED) - 0.5))
    axis.yaxis.set_major_formatter(PERCENT)
    axis.grid(visible=False, axis="x")
    axis.set_title("each at its best rate", loc="left")


def lines(axis: Axes, data: FigureData, row: str, names: list[str]) -> None:
    """A line a method: gaps with intervals."""
    for i, (metric, (label, color, marker, _)) in enumerate(LOOKS.items()):
        for y, name in enumerate(names):
            mean, low, high = numbers(data.where(row=row, method=name, metric=metric))
            face = color if metric == "sampled" else "white"
            axis.hlines(y + 0.24 * (i - 0.5), low, high, color=color, lw=0.9)
            axis.plot(mean, y + 0.24 * (i - 0.5), marker, color=color, mfc=face, ms=4)
        axis.plot([], [], marker, color=color, mfc=face, label=label)
    axis.axvline(0, color="#444444", lw=0.8)
    axis.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(PERCENT)


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Top: accuracy over rates. Bottom: gaps at best rates, relatives, and the control."""
    figure, axes = style.panels(2, 3, width=style.TEXT, height=4.7)
    for axis, (task, of) in zip(axes[0], CELLS, strict=True):
        curves(axis, data, task, of)
    axes[0, 0].set_ylabel("right answers, %")
    gaps(axes[1, 0], data)
    names = [n for n in LABELS if n in data.where(row="relative").unique("method")]
    lines(axes[1, 1], data, "relative", names)
    axes[1, 1].set_xlabel("minus SFT, points (one rate and seed)")
    axes[1, 1].set_title("strong, noise", loc="left")
    lines(axes[1, 2], data, "own", ["sft", "dft"])
    axes[1, 2].set_xlabel("minus the base, points")
    axes[1, 2].set_title("own samples", loc="left")
    top, words = axes[0, 2].get_legend_handles_labels()
    low, marks = axes[1, 0].get_legend_handles_labels()
    figure.legend(
        top + low, words + [f"gap, {m}" for m in marks], loc="outside lower center", ncols=4
    )
    style.letter(axes)
    return figure


FIGURE = Figure(
    "real_model",
    title="DFT against SFT on SmolLM2-135M-Instruct",
    paper_ref="Table 1, scaled down to one small model and checkable sums",
    claims=("noise-lets-dft-overtake", "clean-labels-favour-sft", "dft-loss-value-misleads"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="SmolLM2-135M-Instruct, all weights trained for one epoch on 128 worked sums. (a to c) "
    "Right answers over the learning rate, means over seeds; with noise 30 % of the steps that are "
    "taught are wrong. (d) DFT minus SFT, each at its own "
    "best rate (chosen on the other seeds), with 95 % bootstrap intervals over problems; dashes "
    "beside them are the seeds, which spread wider. From the weak prior DFT does not learn to end "
    "its turn; a floor of 0.1 under that one token's weight mends it (c, d). (e) Other methods "
    "minus SFT at one rate and seed: few problems, wide intervals. (f) The control: gains over the "
    "base from the base's own unfiltered samples.",
)
