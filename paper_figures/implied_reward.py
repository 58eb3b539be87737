"""Every weight w(p) of the catalogue, the reward w/p that it implies, and the time it takes."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

import matplotlib.figure
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import cumulative_simpson

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import OBJECTIVES, Objective, objectives

Column = NDArray[np.float64]
P = np.geomspace(1e-4, 1, 81)
GROUPS = ("vanishes with $p$", "rare tokens keep a weight", "smaller for sure tokens")


def time_to_half(objective: Objective) -> Column:
    """Time from each p to 1/2 between two tokens, `[81]`; NaN from 1/2 on, or if never reached."""
    x = np.linspace(np.log(P[0] / (1 - P[0])), 0, 4001)  # log-odds
    p = 1 / (1 + np.exp(-x))
    with np.errstate(divide="ignore", invalid="ignore"):
        slowness = 1 / (2 * (1 - p) * objective.weight_at(torch.from_numpy(p)).numpy())
        passed = cumulative_simpson(slowness[::-1], dx=x[1] - x[0], initial=0)[::-1]
    passed[~np.isfinite(passed)] = np.nan
    return np.where(P < 0.49, np.interp(P, p, passed), np.nan)


def compute() -> FigureData:
    """Weight, implied reward and time on a logarithmic grid, for every objective of p alone."""
    p = torch.from_numpy(P)
    rows: list[tuple[str | float | None, ...]] = []
    for o in OBJECTIVES:
        if o.is_function_of_p:
            numbers = torch.stack([p, o.weight_at(p), o.implied_reward(p)], 1).tolist()
            times = [None if np.isnan(t) else float(t) for t in time_to_half(o)]
            rows += [(o.name, *row, t) for row, t in zip(numbers, times, strict=True)]
    return FigureData(("objective", "p", "weight", "reward", "time"), tuple(rows))


def expect(data: FigureData) -> None:
    """SFT's reward is 1/p, DFT's is 1, p^a lies between; times are those of the closed forms."""
    names = data.unique("objective")
    table = {n: [data.where(objective=n).column(c) for c in data.columns[1:]] for n in names}
    for name, (p, weight, reward, time) in table.items():
        require(np.allclose(reward * p, weight, rtol=1e-12), f"{name}: reward times p is w")
        require((np.diff(time[~np.isnan(time)]) < 0).all(), f"{name}: a rarer token takes longer")
    p, _, sft, log_time = table["sft"]
    dft, half, square = (table[n][2] for n in ("dft", "power-0.5", "power-2"))
    require(np.allclose(sft * p, 1, rtol=1e-12), "SFT rewards a token by 1/p")
    require(np.allclose(dft, 1, rtol=1e-12), "DFT rewards every demonstrated token by 1")
    ordered = (square < dft) & (dft < half) & (half < sft)
    require(ordered[p < 1].all(), "p^2 < DFT < p^1/2 < SFT in the reward of an unsure token")
    u = p / (1 - p + 1e-300)
    inner = p < 0.4
    closed = {"sft": 1 - np.log(u) - u, "dft": 1 / p - 1 - 2 * np.log(u) - u}
    for name, expected in closed.items():
        near = np.allclose(table[name][3][inner], expected[inner] / 2, rtol=1e-4)
        require(near, f"{name}: the closed form of the time to one half")
    require((table["dft"][3] > log_time)[inner].all(), "DFT is slower than SFT on every rare token")


def group(weight: Column) -> int:
    """Which column of panels a weight belongs to, from its shape."""
    if weight[-2] < 0.6 * weight.max():
        return 2
    return int(weight[0] >= 0.05)


def _label(titles: Iterable[str]) -> str:
    return re.sub(r"p\^(-?[\d.]+)", r"$p^{\1}$", "\n= ".join(titles))


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Weights, rewards and times by the shape of the weight; equal weights share a line."""
    figure, axes = style.panels(3, 3, width=style.TEXT, height=7.4, share=(True, False))
    shared: dict[bytes, list[str]] = {}
    for name in map(str, data.unique("objective")):
        weight = data.where(objective=name).column("weight")
        shared.setdefault(np.round(weight, 12).tobytes(), []).append(name)
    looks = Counter[tuple[str, int]]()
    for i, names in enumerate(shared.values()):
        column: Callable[[str], Column] = data.where(objective=names[0]).column
        where, look = group(column("weight")), objectives[names[0]].style
        dashes = ("-", "--", ":", "-.")[looks[look.color, where] % 4]  # a look of its own
        looks[look.color, where] += 1
        for row, what in enumerate(("weight", "reward", "time")):
            (line,) = axes[row, where].plot(column("p"), column(what), lw=1.1, ms=3.2)
            line.set(color=look.color, ls=dashes, marker=look.marker, markevery=(3 * i % 20, 20))
            line.set_label(_label(objectives[n].title for n in names))
    labels = ("weight $w(p)$", "implied reward $w(p)/p$", "time to $p = 1/2$")
    for row, (label, ylim) in enumerate(
        zip(labels, ((1e-4, 20), (1e-4, 2e4), (0.3, 2e5)), strict=True)
    ):
        axes[row, 0].set_ylabel(label)
        for axis in axes[row]:
            axis.set(xscale="log", xlim=(1e-4, 1))
            axis.set_yscale("log", nonpositive="mask")  # a line ends where its weight falls to 0
            axis.set_ylim(ylim)
    for where, title in enumerate(GROUPS):
        axes[0, where].set_title(title, loc="left")
        axes[2, where].set_xlabel("probability $p$ of the token")
        handles, names = axes[0, where].get_legend_handles_labels()
        axes[2, where].legend(
            handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.28), handlelength=3.2,
            fontsize=7, frameon=False,
        )  # fmt: skip
    style.letter(axes)
    return figure


FIGURE = Figure(
    "implied_reward",
    title="Weight, implied reward and learning time of every weight w(p)",
    paper_ref="equations (5), (6), (9)",
    claims=("weight-is-reward-times-probability", "escape-time-of-any-weight"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Every objective of the catalogue whose weight is a function of the probability p of "
    "the target alone, in three columns by the shape of the weight. Top: the weight. Middle: the "
    "reward w(p)/p for which the same update is an on-policy policy gradient, 1/p for SFT and 1 "
    "for DFT whatever p is. Bottom: the time (learning rate times steps) in which gradient flow "
    "lifts one demonstrated token of two from p to 1/2; where a weight vanishes like p^a, it grows "
    "like 1/p^a. With a single token the three levels of DFT coincide. A line ends where its "
    "weight falls to 0, and times are missing where a token is never learned.",
)
