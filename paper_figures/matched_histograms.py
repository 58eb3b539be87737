"""Facts that are new and labels that are wrong: the same probabilities, opposite winners."""

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from dft_theory.diagnostics.bins import bin_labels
from dft_theory.experiment import values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._gaps import COLUMNS, LOOKS, dots, entry, label, require_intervals
from paper_figures._records import record, source

NOVEL, WRONG = "novel-half", "disguised-half"
LABELS = {
    NOVEL: "half of the\nfacts new",
    WRONG: "half of the\nlabels wrong",
    "own-samples": "own samples\n(control)",
}
COLORS = {
    NOVEL: style.PALETTE["blue"],
    WRONG: style.PALETTE["vermilion"],
    "own-samples": style.PALETTE["grey"],
}
SHARED = "shared content"


def compute() -> FigureData:
    """Rows, means over worlds with intervals: shares of the bins, gaps, and what is shared."""
    run = record("diagnosis")
    found = run.metrics()
    rows: list[tuple[Cell, ...]] = []
    for name in LABELS:
        bins = values(found, "bins", scenario=name).mean(0).tolist()
        rows += [
            ("bin", "chain", name, text, None, None, None, share)
            for text, share in zip(bin_labels(), bins, strict=True)
        ]
        for row, metrics in (("gap", tuple(LOOKS)), ("shared", (SHARED,))):
            for metric in metrics:
                seeds = values(found, metric, scenario=name)
                rows.append((*entry(row, "chain", name, metric, seeds), None))
    return FigureData((*COLUMNS, "share"), tuple(rows), source(run))


def shares(data: FigureData, name: str) -> NDArray[np.float64]:
    """Share of the states in each bin, `[13]`."""
    t = data.where(row="bin", change=name)
    require(t.unique("metric") == tuple(bin_labels()), "the thirteen bins, in order")
    return t.column("share").astype(float)


def expect(data: FigureData) -> None:
    """One histogram, opposite winners both ways of scoring, and less shared where labels err."""
    for row in ("gap", "shared"):
        require_intervals(data.where(row=row))
    for name in LABELS:
        require(abs(shares(data, name).sum() - 1) < 1e-3, "shares of all states")
    apart = abs(shares(data, NOVEL) - shares(data, WRONG)).sum() / 2
    require(apart < 0.15, "the histograms are almost the same")
    for metric in ("sampled", "greedy"):
        low, high = (
            {n: data.where(row="gap", change=n, metric=metric).column(c)[0] for n in LABELS}
            for c in ("low", "high")
        )
        require(high[NOVEL] < 0 < low[WRONG], f"{metric}: SFT leads on new facts, DFT on errors")
    control = data.where(row="gap", change="own-samples")
    sampled, greedy = (control.where(metric=m) for m in ("sampled", "greedy"))
    require(sampled.column("low")[0] > 0, "at T = 1 DFT gains from what teaches nothing")
    require(abs(greedy.column("gap")[0]) < 0.05, "and greedily it does not")
    early = data.where(row="gap", metric="early_greedy", change=WRONG)
    require(abs(early.column("gap")[0]) < 0.05, "stopped early, SFT escapes the errors")
    new, wrong = (data.where(row="shared", change=n) for n in (NOVEL, WRONG))
    require(new.column("low")[0] > wrong.column("high")[0], "new facts share more gradient")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Histograms, gaps, shared parts."""
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.6)
    bars, gaps, shared = axes[0]
    at = np.arange(len(bin_labels()))
    for i, name in enumerate((NOVEL, WRONG)):
        text = LABELS[name].replace("\n", " ")
        bars.bar(at + 0.4 * i - 0.2, shares(data, name), 0.4, color=COLORS[name], label=text)
    ends = {0.5: "$10^{-4}$", 3.5: "0.1", 7.5: "0.5", 12.5: "1"}
    bars.set_xticks(list(ends), list(ends.values()))
    bars.grid(visible=False, axis="x")
    bars.set(xlabel="p of a demonstrated state", ylabel="share of states", ylim=(0, 0.62))
    bars.legend(loc="upper center")
    bars.set_title("before training", loc="left")
    dots(gaps, data.where(row="gap"), list(LABELS))
    label(gaps, LABELS)
    gaps.set(xlabel="accuracy, DFT - SFT")
    gaps.set_title("after training", loc="left")
    for i, name in enumerate(LABELS):
        t = data.where(row="shared", change=name)
        middle, low, high = (float(t.column(c)[0]) for c in ("gap", "low", "high"))
        shared.errorbar(
            [middle],
            [i],
            xerr=[[middle - low], [high - middle]],
            marker="o",
            ms=4,
            color=COLORS[name],
        )
    shared.axvline(0, color="#444444", lw=0.8, zorder=0)
    shared.set(xlabel="part of the gradient shared", ylim=(len(LABELS) - 0.5, -0.5))
    shared.set_yticks(range(len(LABELS)), [])
    shared.grid(visible=False, axis="y")
    shared.set_title("before training", loc="left")
    handles, names = gaps.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    style.letter(axes)
    return figure


FIGURE = Figure(
    "matched_histograms",
    title="Probabilities do not tell what is new from what is wrong",
    paper_ref="Figure 2: what a histogram of token probabilities cannot say",
    claims=("clean-labels-favour-sft", "noise-lets-dft-overtake", "own-samples-sharpen-under-dft"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Two sets of 48 demonstrations of the chain task, each under its own base: half of the "
    "facts are new to the base and all labels right, or the base knows all facts and half of the "
    "labels are wrong, chosen to be as improbable as new facts are. (a) Share of the demonstrated "
    "states by their probability under the base, in the paper's thirteen bins. (b) Exact accuracy "
    "of DFT minus SFT on unseen prompts, each at its own best learning rate. SFT leads on what is "
    "new, DFT on what is wrong; stopped early on clean prompts, SFT escapes the errors greedily. "
    "On the base's own samples, which teach nothing, DFT gains at T = 1 and not greedily: of a "
    "gap at T = 1 that much is sharpening. (c) The part of their SFT gradients that two "
    "demonstrations share, which needs no training, tells the two apart. Means of five worlds with "
    "95 % intervals.",
)
