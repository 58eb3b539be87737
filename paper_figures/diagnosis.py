"""Before training, which statistic tells who will lead; how well, and where it is wrong."""

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from dft_theory.experiment import interval, values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

SCORINGS = {"sampled": "T = 1", "greedy": "greedy"}
STATISTICS = {
    "cosine content": "cosine of halves",
    "shared content": "shared part",
    "shared rare": "shared part, p < 0.1",
    "head shared content": "shared part, head only",
    "mean p": "mean p",
    "rare": "share of p < 0.1",
    "nll": "NLL",
    "ess": "ESS of p",
    "conflict": "confident conflicts",
    "escape": "escape time of DFT",
}
PACKAGED = "shared content"
# Which scenarios are named in the panels, and where the name stands.
NAMED = {
    "aligned": ("errors of the prior", (0.62, -0.66), "right"),
    "own-samples": ("own samples", (0.62, -0.48), "right"),
    "new-format": ("new format", (-0.85, 0.28), "left"),
    "novel-half": ("half new", (-0.35, -0.66), "right"),
    "noisy-half": ("half wrong", (-0.1, 0.68), "right"),
}
SETS = {
    "grid": ("cells left out", style.PALETTE["grey"], "o"),
    "held out": ("other scenarios", style.PALETTE["blue"], "s"),
}
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COLUMNS = ("row", "set", "name", "scoring", "x", "y", "low", "high")


def compute() -> FigureData:
    """Rows: `point`, expected and actual gap; `rho` of a statistic; `chance` and what came."""
    run = record("diagnosis")
    found = run.metrics()
    rows: list[tuple[Cell, ...]] = []
    for scoring in SCORINGS:
        for part in SETS:
            chosen = [r for r in found if r["set"] == part]
            for r in chosen:
                gap = values(found, scoring, scenario=r["scenario"])
                expected = float(np.mean(r[f"expected {scoring}"]))
                ends = (expected, gap.mean().item(), *interval(gap))
                rows.append(("point", part, r["scenario"], scoring, *ends))
            for name in STATISTICS:
                (p,) = (
                    r for r in found if (r.get("statistic"), r.get("scoring")) == (name, scoring)
                )
                ends = (None, *(p[f"{part} {k}"] for k in ("rho", "low", "high")))
                rows.append(("rho", part, name, scoring, *ends))
            chances = np.concatenate([r[f"chance {scoring}"] for r in chosen])
            positive = np.concatenate([r[scoring] for r in chosen]) > 0
            for i in range(len(BINS) - 1):
                inside = (chances >= BINS[i]) & (chances < BINS[i + 1] + (i == len(BINS) - 2))
                n, hits = int(inside.sum()), int(positive[inside].sum())
                if n:
                    x = float(chances[inside].mean())
                    rows.append(("chance", part, str(n), scoring, x, *share(hits, n)))
    return FigureData(COLUMNS, tuple(rows), source(run))


def share(hits: int, n: int) -> tuple[float, float, float]:
    """A share and its 95 % interval, Wilson's; worlds of one scenario count as independent."""
    z, p = 1.96, hits / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return p, float((middle - half) / (1 + z**2 / n)), float((middle + half) / (1 + z**2 / n))


def rho(data: FigureData, part: str, scoring: str) -> dict[str, float]:
    """Rank correlation of each statistic."""
    t = data.where(row="rho", set=part, scoring=scoring)
    return dict(zip(t.unique("name"), t.column("y").tolist(), strict=True))  # type: ignore[arg-type]


def expect(data: FigureData) -> None:
    """Gradients predict, on other scenarios too, probabilities do not; two cases fail."""
    inside = [r for r in data.rows if r[0] != "chance"]
    require(all(r[6] <= r[5] <= r[7] for r in inside), "means lie in their intervals")
    for scoring in SCORINGS:
        t = data.where(row="point", set="held out", scoring=scoring)
        error = dict(zip(t.unique("name"), t.column("x") - t.column("y"), strict=True))
        worst = sorted(error, key=lambda n: -error[n])[:2]
        require(set(worst) == {"aligned", "own-samples"}, "the two greatest hopes that fail")
        require(min(error, key=lambda n: error[n]) == "new-format", "and the greatest fear")
        for part in SETS:
            t = data.where(row="point", set=part, scoring=scoring)
            right = (t.column("x") > 0) == (t.column("y") > 0)
            require(right.mean() > 0.7, f"{part}, {scoring}: most signs are right")
            found = rho(data, part, scoring)
            require(found[PACKAGED] < -0.5, f"{part}, {scoring}: the shared part predicts the gap")
            best = max(abs(found[n]) for n in ("mean p", "rare", "nll", "ess", "conflict"))
            require(best < abs(found[PACKAGED]), "better than any statistic of p")
            t = data.where(row="chance", set=part, scoring=scoring)
            x, y = t.column("x"), t.column("y").astype(float)
            require(y[x > 0.8].min() > 0.7, "what is called likely mostly comes")
            require(y[x < 0.4].max() < 0.5, "and what is called unlikely mostly does not")
            n = np.array([int(k) for k in t.column("name")])
            require(abs(y * n - np.round(y * n)).max() < 1e-6, "shares of that many worlds")
            require(
                n.sum() == 5 * len(data.where(row="point", set=part, scoring=scoring).rows),
                "every world is counted",
            )


def points(axis: Axes, data: FigureData, scoring: str) -> None:
    """Expected against actual gaps; failures and the matched pair by name."""
    axis.plot([-0.9, 0.7], [-0.9, 0.7], color="#999999", lw=0.8, zorder=0)
    for line in (axis.axhline, axis.axvline):
        line(0, color="#444444", lw=0.8, zorder=0)
    for part, (text, color, marker) in SETS.items():
        t = data.where(row="point", set=part, scoring=scoring)
        x, y, low, high = (t.column(c).astype(float) for c in COLUMNS[4:])
        look = {"color": color, "marker": marker, "ms": 3.2, "ls": "", "lw": 0.5, "capsize": 0}
        axis.errorbar(x, y, yerr=[y - low, high - y], label=text, **look)
    for name, (text, place, side) in NAMED.items():
        t = data.where(row="point", name=name, scoring=scoring)
        at = (float(t.column("x")[0]), float(t.column("y")[0]))
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#444444", "shrinkA": 0, "shrinkB": 2}
        axis.annotate(text, at, place, ha=side, va="center", arrowprops=line)
    axis.set(xlabel="expected DFT - SFT", ylabel="actual DFT - SFT", xlim=(-0.9, 0.65))
    axis.set_ylim(-0.8, 0.8)
    axis.set_title(f"accuracy, {SCORINGS[scoring]}", loc="left")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Top: expected and actual gaps. Bottom: rank correlations; reliability."""
    figure, axes = style.panels(2, 2, width=style.TEXT, height=5.6)
    for axis, scoring in zip(axes[0], SCORINGS, strict=True):
        points(axis, data, scoring)
    ranks, chances = axes[1]
    for i, (part, (_, color, marker)) in enumerate(SETS.items()):
        for k, scoring in enumerate(SCORINGS):
            t = data.where(row="rho", set=part, scoring=scoring)
            y, low, high = (t.column(c).astype(float) for c in COLUMNS[5:])
            at = np.arange(len(y)) + 0.2 * (2 * i + k - 1.5)
            look = {"color": color, "marker": marker, "ms": 3, "lw": 0.7, "ls": "", "capsize": 0}
            ranks.errorbar(y, at, xerr=[y - low, high - y], mfc="white" if k else color, **look)
            t = data.where(row="chance", set=part, scoring=scoring)
            x, y, low, high = (t.column(c).astype(float) for c in COLUMNS[4:])
            look |= {"ls": "--" if k else "-", "mfc": "white" if k else color}
            chances.errorbar(x, y, yerr=[y - low, high - y], **look)
    ranks.set_yticks(range(len(STATISTICS)), list(STATISTICS.values()))
    ranks.set(ylim=(len(STATISTICS) - 0.5, -0.5), xlim=(-1, 1), xlabel="rank correlation with gap")
    ranks.axvline(0, color="#444444", lw=0.8, zorder=0)
    ranks.grid(visible=False, axis="y")
    ranks.set_title("who tells", loc="left")
    chances.plot([0, 1], [0, 1], color="#999999", lw=0.8, zorder=0)
    chances.set(xlabel="told chance that DFT leads", ylabel="share of worlds in which it did")
    chances.set_title("reliability", loc="left")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    style.letter(axes)
    return figure


FIGURE = Figure(
    "diagnosis",
    title="Agreement of gradients tells who will lead, probabilities do not",
    paper_ref="none: the paper chooses its settings by strength of the base",
    claims=("clean-labels-favour-sft", "noise-lets-dft-overtake", "own-samples-sharpen-under-dft"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Exact accuracy of DFT minus SFT, each at its own best learning rate, means of five "
    "worlds with 95 % intervals. (a, b) Expected before training from one number, the part of "
    "their gradients that two demonstrations share, against what came, sampled at T = 1 and "
    "greedy. Grey: 24 cells of prior and noise, each left out of the fit; blue: 18 scenarios of "
    "other kinds, fixed before the fit. It hopes too much of DFT where errors are those that the "
    "base itself believes, and on its own samples, where nothing is to be learned; it fears too "
    "much for a new format, which lies outside the grid and for which no regime is told. "
    "(c) Rank correlation of statistics with the gap, bootstrap intervals over scenarios; filled "
    "T = 1, open greedy. Statistics of p that rank the grid do not rank other scenarios; that DFT "
    "should lead where it takes long to escape is no law, but these scenarios. "
    "(d) Chance told that DFT leads against how often it did, in five bins.",
)
