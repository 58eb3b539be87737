"""RL from the base and from what fine-tuning made of it: before and after, and what predicts it."""

import itertools

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import spearmanr

from dft_theory.experiment import values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

PRIORS = (0.1, 0.6)
STARTS = {
    "base": "base",
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
METRICS = ("sampled", "greedy", "pass8", "content_entropy")
COLUMNS = ("p0", "start", "phase", *METRICS)
PHASES = ("before", "after")
HOW = {"sampled": ("T = 1", style.PALETTE["black"]), "greedy": ("greedy", style.PALETTE["purple"])}
NAMED = {"sft": "SFT", "dft": "DFT", "base": "base"}


def compute() -> FigureData:
    """A row for each prior, start and phase: means over seeds."""
    run = record("room-for-rl")
    found, rows = run.metrics(), list[tuple[Cell, ...]]()
    for p0 in PRIORS:
        for start in STARTS:
            for phase in PHASES:
                key = {"p0": p0, "start": start, "phase": phase}
                means = [values(found, m, **key).mean().item() for m in METRICS]
                rows.append((p0, start, phase, *means))
    return FigureData(COLUMNS, tuple(rows), source(run))


def every(data: FigureData, p0: float, phase: str, metric: str) -> NDArray[np.float64]:
    """A metric of all starts in order."""
    found: NDArray[np.float64] = data.where(p0=p0, phase=phase).column(metric)
    return found


def at(data: FigureData, p0: float, start: str, phase: str, metric: str = "sampled") -> float:
    """One mean."""
    t = data.where(p0=p0, start=start, phase=phase)
    require(len(t.rows) == 1, "one row for each")
    return float(t.column(metric)[0])


def expect(data: FigureData) -> None:
    """RL takes away most of what fine-tuning decided; DFT gains least, and not from its lead."""
    keys = [row[:3] for row in data.rows]
    require(keys == list(itertools.product(PRIORS, STARTS, PHASES)), "each start before and after")
    require((data.column("pass8") > data.column("sampled")).all(), "eight samples beat one")
    require((data.column("greedy") > data.column("sampled") - 0.01).all(), "and so does the mode")
    for p0 in PRIORS:
        lead = [at(data, p0, "dft", phase) - at(data, p0, "sft", phase) for phase in PHASES]
        require(lead[0] > 0.2 and abs(lead[1]) < 0.05, f"{p0}: RL takes DFT's lead over SFT")
        found = {m: [every(data, p0, phase, m) for phase in PHASES] for m in METRICS}
        for metric in ("sampled", "greedy", "pass8"):
            before, after = found[metric]
            require((after > before - 0.02).all(), f"{p0}: RL does no harm by {metric}")
        before, after = found["content_entropy"]
        sure = before < after - 0.05
        require(not sure.any(), f"{p0}: states are no less certain after RL")
        gain = found["sampled"][1] - found["sampled"][0]
        tuned = [i for i, s in enumerate(STARTS) if s not in ("base", "threshold")]
        rank = spearmanr(before[tuned], gain[tuned]).statistic
        require(rank > 0.7, f"{p0}: the gain follows the entropy of states")
        require(
            min(gain[tuned]) == at(data, p0, "dft", "after") - at(data, p0, "dft", "before"),
            f"{p0}: the DFT policy gains least",
        )
        for other in ("power", "floor", "talr", "asft"):
            ahead = at(data, p0, other, "after") - at(data, p0, "dft", "after")
            require(ahead > 0, f"{p0}: RL from {other} ends above RL from DFT")
    require(at(data, 0.1, "base", "after") < 0.1, "without any success RL learns nothing")
    require(at(data, 0.1, "threshold", "after") < 0.1, "nor from a policy that learned nothing")
    ends = every(data, 0.6, "after", "sampled")
    require(ends.min() > 0.75 and ends.max() < 0.95, "a strong prior: all ends are alike")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left, middle: from before to after, for each start. Right: what was seen before, the gain."""
    figure, axes = style.panels(2, 3, width=style.TEXT, height=5.8)
    for (row, p0), of in zip(enumerate(PRIORS), ("pass8", "content_entropy"), strict=True):
        for axis, (metric, (name, color)) in zip(axes[row, :2], HOW.items(), strict=True):
            arrows(axis, data, p0, metric, color)
            axis.set_title(f"$p_0 = {p0}$, {name}", loc="left")
            axis.set_xlabel("accuracy")
        axes[row, 0].set_yticks(range(len(STARTS)), list(STARTS.values()))
        axes[row, 1].set_yticks(range(len(STARTS)), [""] * len(STARTS))
        predictor(axes[row, 2], data, of)
    axes[0, 2].set(xlabel="pass@8 before RL", ylabel="accuracy at T = 1 after RL")
    axes[0, 2].set_title("what is left to find", loc="left")
    axes[1, 2].set(xlabel="entropy of states before RL (nats)", ylabel="gain at T = 1")
    axes[1, 2].set_title("what is undecided", loc="left")
    axes[1, 2].legend(loc="upper left", handlelength=1)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, handlelength=1.5)
    style.letter(axes)
    return figure


def arrows(axis: Axes, data: FigureData, p0: float, metric: str, color: str) -> None:
    """From an open circle before to a filled one after."""
    before, after = (every(data, p0, phase, metric) for phase in PHASES)
    y = range(len(STARTS))
    axis.hlines(y, before, after, color=color, lw=1)
    axis.plot(before, y, "o", ms=4, color=color, mfc="white", label="before RL")
    axis.plot(after, y, "o", ms=4, color=color, label="after")
    for i in range(1, len(STARTS), 2):
        axis.axhspan(i - 0.5, i + 0.5, color="#f3f3f3", lw=0, zorder=-1)
    axis.set(xlim=(-0.04, 1.04), ylim=(len(STARTS) - 0.5, -0.5))
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)


def predictor(axis: Axes, data: FigureData, metric: str) -> None:
    """Before against after, or against the gain; a point for each start and prior."""
    looks = {0.1: ("s", style.PALETTE["orange"]), 0.6: ("o", style.PALETTE["blue"])}
    for p0, (marker, color) in looks.items():
        x, y = every(data, p0, "before", metric), every(data, p0, "after", "sampled")
        if metric != "pass8":
            y = y - every(data, p0, "before", "sampled")
        axis.plot(x, y, marker, ms=4, color=color, label=f"$p_0 = {p0}$")
        for i, start in enumerate(STARTS):
            if start in NAMED and (p0 == 0.1 or metric != "pass8"):  # no room for names up there
                axis.annotate(
                    NAMED[start],
                    (x[i], y[i]),
                    xytext=(4, -8 if p0 == 0.1 else -3),
                    textcoords="offset points",
                    fontsize=7,
                    color=color,
                )


FIGURE = Figure(
    "room_for_rl",
    title="RL takes away most of what fine-tuning decided",
    paper_ref="none: DFT as the start of RL",
    claims=(
        "ppo-first-step-is-the-policy-gradient",
        "power-sharpens-the-data",
        "entropy-change-of-one-step",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="GRPO for the right last state from the base and from thirteen policies that were "
    "fine-tuned on demonstrations with 30 % random states, one learning rate and budget for all. "
    "Accuracy on unseen prompts before RL (open) and after it (filled), means of five seeds, "
    "sampled at T = 1 and greedy, from priors 0.1 (a, b) and 0.6 (d, e). (c) pass@8 before against "
    "accuracy after. (f) Entropy of states before against the gain. The less a policy has decided, "
    "the more it gains; where all end alike that is so by itself, and accuracy before says it as "
    "well. The lead of DFT over SFT is gone in the mean after RL, at both priors and by both "
    "metrics. Policies that stopped short of it (the root of p, a floor, TALR, the anchor of "
    "ASFT) end above it in the mean, though only from ASFT at 0.1 by more than seeds vary. From "
    "a prior of 0.1 the base is too rarely right to start: there fine-tuning is what makes RL "
    "possible, and SFT on likely tokens, which taught nothing, does not.",
)
