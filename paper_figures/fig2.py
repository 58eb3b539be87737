"""Token probabilities after training: the paper's Figure 2 by class, in old and fresh text."""

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from dft_theory.diagnostics.bins import BINS
from dft_theory.experiment import interval, values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

METHODS = {
    "base": "base",
    "sft": "SFT",
    "dft": "DFT",
    "dpo": "DPO",
    "ppo": "PPO",
    "grpo": "GRPO",
}
TEXTS = {"train": "training text", "fresh": "fresh text"}
# Class of token: words, colour, marker.
CLASSES = {
    "right": ("right states", style.PALETTE["green"], "o"),
    "style": ("styles", style.PALETTE["sky"], "s"),
    "wrong": ("wrong states", style.PALETTE["vermilion"], "^"),
}
ENDS = {"low": "share below 0.05", "high": "share above 0.95"}
SHOWN = 0.6
COLUMNS = ("row", "method", "text", "tokens", "p0", "bin", "share", "least", "most")


def compute() -> FigureData:
    """Rows: `bin` of all tokens, by class; `low` and `high` of a class's own, with intervals."""
    run = record("token-histogram")
    found, rows = run.metrics(), list[tuple[Cell, ...]]()
    for method in METHODS:
        for text in TEXTS:
            of = {"method": method, "text": text}
            counts = {c: values(found, "count", tokens=c, p0=SHOWN, **of) for c in CLASSES}
            whole = sum(count.sum().item() for count in counts.values())
            for tokens, count in counts.items():
                bins = values(found, "bins", tokens=tokens, p0=SHOWN, **of)
                shares = (bins * count.unsqueeze(1)).sum(0) / whole
                key = (method, text, tokens, SHOWN)
                rows += [("bin", *key, b, s, None, None) for b, s in enumerate(shares.tolist())]
            for p0, which in [(SHOWN, c) for c in CLASSES] + [(p, "all") for p in (0.3, SHOWN)]:
                for end in ENDS:
                    seen = values(found, end, tokens=which, p0=p0, **of)
                    ends = (seen.mean().item(), *interval(seen))
                    rows.append((end, method, text, which, p0, None, *ends))
    return FigureData(COLUMNS, tuple(rows), source(run))


def bins(data: FigureData, method: str, text: str) -> NDArray[np.float64]:
    """Shares of all tokens, `[classes, 13]`."""
    found = []
    for tokens in CLASSES:
        t = data.where(row="bin", method=method, text=text, tokens=tokens, p0=SHOWN)
        found.append(t.column("share")[np.argsort(t.column("bin"))])
    return np.stack(found)


def at(data: FigureData, end: str, method: str, text: str, tokens: str, p0: float) -> list[float]:
    """Mean, least and most of one share."""
    t = data.where(row=end, method=method, text=text, tokens=tokens, p0=p0)
    return [float(t.column(c)[0]) for c in ("share", "least", "most")]


def expect(data: FigureData) -> None:
    """Every share is there once, and what they say."""
    keys = [row[: COLUMNS.index("share")] for row in data.rows]
    every: set[tuple[Cell, ...]] = set()
    for method in METHODS:
        for text in TEXTS:
            for tokens in CLASSES:
                of = (method, text, tokens, SHOWN)
                every |= {("bin", *of, b) for b in range(len(BINS) - 1)}
                every |= {(end, *of, None) for end in ENDS}
            every |= {(end, method, text, "all", p, None) for end in ENDS for p in (0.3, SHOWN)}
    require(set(keys) == every and len(keys) == len(every), "every share once")
    shares(data)


def shares(data: FigureData) -> None:
    """SFT lifts its own text only; DFT polarises both, styles included; RL polarises states."""
    low, high = (
        {
            (m, t, c, p): at(data, end, m, t, c, p)
            for m in METHODS
            for t in TEXTS
            for p in (0.3, SHOWN)
            for c in (*CLASSES, "all")
            if c == "all" or p == SHOWN
        }
        for end in ENDS
    )
    for share, least, most in (*low.values(), *high.values()):
        require(abs((least + most) / 2 - share) < 1e-6, "a mean in the middle of its interval")
    for method in METHODS:
        for text in TEXTS:
            every = bins(data, method, text)
            require(abs(every.sum() - 1) < 2e-3, "bins hold all tokens")
            require(abs(every[1].sum() - 0.5) < 1e-3, "half of them styles")
            require(0.04 < every[2].sum() < 0.1, "and 15 % of states noise, a tenth of it right")
            own = every / every.sum(1, keepdims=True)
            for row, tokens in zip(own, CLASSES, strict=True):
                below = low[method, text, tokens, SHOWN][0]
                above = high[method, text, tokens, SHOWN][0]
                require(row[:3].sum() - 0.05 < below < row[:4].sum() + 0.05, "ends fit the bins")
                require(above < row[12] + 0.05, "at the other end, too")
    for p0 in (0.3, SHOWN):
        for text in TEXTS:
            for end in (low, high):
                dft, base = (end[m, text, "all", p0] for m in ("dft", "base"))
                require(dft[1] > base[2], "DFT polarises both texts, from both priors")
    for ends, name in ((low, "low"), (high, "high")):
        for method in ("dpo", "ppo", "grpo"):
            milder = ends[method, "train", "all", SHOWN][2] < ends["dft", "train", "all", SHOWN][1]
            require(milder, f"{method} is milder than DFT: {name}")
    sft = {t: low["sft", t, "all", SHOWN] for t in TEXTS}
    require(sft["train"][2] < 0.01 < low["base", "train", "all", SHOWN][1], "SFT lifts its text")
    require(sft["fresh"][1] > low["base", "fresh", "all", SHOWN][2], "and lowers the fresh one")
    styles = {m: low[m, "fresh", "style", SHOWN] for m in METHODS}
    require(styles["dft"][1] > 0.4, "DFT gives styles up")
    given_up = low["dft", "fresh", "all", SHOWN][0]
    require(styles["dft"][0] / 2 > 0.7 * given_up, "which are most of what it gives up")
    require(max(styles[m][0] for m in ("sft", "dpo", "ppo", "grpo")) < 0.05, "and no other does")
    for method in ("ppo", "grpo"):
        require(high[method, "fresh", "right", SHOWN][1] > 0.9, f"{method}: right states up")
        require(low[method, "fresh", "wrong", SHOWN][1] > 0.9, f"{method}: wrong states down")
    require(low["sft", "train", "wrong", SHOWN][2] < 0.1, "SFT has memorised the wrong ones")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Top: histograms of both texts. Bottom: both ends, by class."""
    figure = matplotlib.figure.Figure(figsize=(style.TEXT, 4.7))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.25, 1))[:, 0]
    axes = above.subplots(2, len(METHODS), sharex=True, sharey=True)
    edges = np.arange(len(BINS))
    for row, (text, words) in zip(axes, TEXTS.items(), strict=True):
        for axis, (method, label) in zip(row, METHODS.items(), strict=True):
            floor = np.zeros(len(BINS) - 1)
            for share, (_, color, _) in zip(
                bins(data, method, text), CLASSES.values(), strict=True
            ):
                axis.bar(edges[:-1], share, 0.9, floor, align="edge", color=color)
                floor = floor + share
            axis.set_xticks([0, 4, 8, 13], ["0", ".1", ".5", "1"])
            axis.grid(visible=False, axis="x")
            if text == "train":
                axis.set_title(label, loc="left")
        row[0].set_ylabel(f"{words}\n(share)")
    above.supxlabel("probability of the token", fontsize=8)
    ends = below.subplots(1, 2, sharey=True)
    for axis, (end, words) in zip(ends, ENDS.items(), strict=True):
        for shift, (tokens, (name, color, marker)) in zip(
            (-0.24, 0.0, 0.24), CLASSES.items(), strict=True
        ):
            for step, text in ((-0.05, "train"), (0.05, "fresh")):
                each = np.array([at(data, end, m, text, tokens, SHOWN) for m in METHODS])
                spread = np.abs(each[:, 1:] - each[:, :1]).T
                look = {"color": color, "marker": marker, "ms": 4, "ls": "", "lw": 1, "capsize": 0}
                look |= {"mfc": color if text == "train" else "white"}
                axis.errorbar(
                    np.arange(len(METHODS)) + shift + step,
                    each[:, 0],
                    yerr=spread,
                    label=name if text == "train" else "",
                    **look,
                )
        axis.set_xticks(range(len(METHODS)), METHODS.values())
        axis.set(ylim=(-0.04, 1.04))
        axis.set_title(words, loc="left")
        axis.grid(visible=False, axis="x")
    ends[0].set_ylabel("share of its class")
    handles, names = ends[0].get_legend_handles_labels()
    below.legend(handles, names, loc="outside lower center", ncols=3)
    style.letter(np.array([axes[0, 0], *ends]))
    return figure


FIGURE = Figure(
    "fig2",
    title="Which tokens training makes likely and unlikely",
    paper_ref="Figure 2",
    claims=(
        "sft-fits-the-data",
        "dft-learns-the-mode",
        "mean-probability-at-the-end",
        "filtered-sft-is-policy-gradient",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="The paper's Figure 2 shows all tokens of one text together: SFT lifts low bins, DFT "
    "fills the lowest and the highest, RL less so. Here are its thirteen bins (four decades up to "
    "0.1, then tenths) for the chain task from a prior of 0.6: (a) shares of all tokens, stacked "
    "by class, of the 48 demonstrations that SFT and DFT train on (top) and of fresh ones of the "
    "same teacher for the same prompts (bottom). 15 % of its states are noise, and its styles are "
    "more uneven than the base's. (b, c) Shares at both ends within each class, filled in the "
    "training text, open in the fresh one; means and 95 % intervals of five seeds. SFT lifts every "
    "token of its own text, memorised wrong states included; in the fresh one some right states "
    "and styles fall below 0.05. DFT "
    "polarises both, and most of what it gives up are styles, which are no mistakes. PPO and GRPO "
    "move states to both ends and leave styles alone. That DFT polarises holds from a prior of 0.3 "
    "as well.",
)
