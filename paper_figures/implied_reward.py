"""Every objective of the catalogue as a weight w(p) and as the reward w/p that it implies."""

import re
from collections import Counter

import matplotlib.figure
import numpy as np
import torch

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import OBJECTIVES, Style, objectives


def compute() -> FigureData:
    """Weight and implied reward on a logarithmic grid, for every objective that needs only p."""
    p = torch.tensor(np.geomspace(1e-4, 1, 161))
    rows: list[tuple[str | float, ...]] = []
    for o in OBJECTIVES:
        if not o.needs:
            numbers = torch.stack([p, o.weight_at(p), o.implied_reward(p)], 1)
            rows += [(o.name, *row) for row in numbers.tolist()]
    return FigureData(("objective", "p", "weight", "reward"), tuple(rows))


def expect(data: FigureData) -> None:
    """SFT's reward is 1/p, DFT's is 1, p^a lies between; the reward is w/p for all."""
    names = data.unique("objective")
    table = {n: [data.where(objective=n).column(c) for c in data.columns[1:]] for n in names}
    for name, (p, weight, reward) in table.items():
        require(np.allclose(reward * p, weight, rtol=1e-12), f"{name}: reward times p is w")
    p, _, sft = table["sft"]
    dft, half, square = (table[n][2] for n in ("dft", "power-0.5", "power-2"))
    require(np.allclose(sft * p, 1, rtol=1e-12), "SFT rewards a token by 1/p")
    require(np.allclose(dft, 1, rtol=1e-12), "DFT rewards every demonstrated token by 1")
    ordered = (square < dft) & (dft < half) & (half < sft)
    require(ordered[p < 1].all(), "p^2 < DFT < p^1/2 < SFT in the reward of an unsure token")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Weights, rewards and one legend; objectives that coincide at one token share a line."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.8, share=(True, False))
    shared: dict[bytes, list[str]] = {}
    for name in map(str, data.unique("objective")):
        weight = data.where(objective=name).column("weight")
        shared.setdefault(np.round(weight, 12).tobytes(), []).append(name)
    looks = Counter[Style]()
    for i, names in enumerate(shared.values()):
        look, titles = objectives[names[0]].style, [objectives[n].title for n in names]
        dashes = (look.linestyle, "--", ":", "-.")[looks[look] % 4]  # a look of its own
        looks[look] += 1
        for axis, column in zip(axes[0], ("weight", "reward"), strict=True):
            (line,) = axis.plot(*map(data.where(objective=names[0]).column, ("p", column)))
            line.set(color=look.color, ls=dashes, marker=look.marker, markevery=(2 * i, 20))
            line.set_label(re.sub(r"p\^([\d.]+)", r"$p^{\1}$", "\n= ".join(titles)))
    labels = ("weight $w(p)$", 2), ("implied reward $w(p)/p$", 2e4)
    for axis, (label, top) in zip(axes[0], labels, strict=True):
        axis.set(xscale="log", xlabel="probability $p$ of the token", ylabel=label)
        axis.set_yscale("log", nonpositive="mask")  # a line ends where its weight falls to 0
        axis.set(ylim=(1e-4, top))
    legend = axes[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside right center", handlelength=3.2)
    style.letter(axes)
    return figure


FIGURE = Figure(
    "implied_reward",
    title="Weight and implied reward of every objective",
    paper_ref="equations (5), (6), (9)",
    claims=("weight-is-reward-times-probability",),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="The weight w(p) of every objective in the catalogue at a token of probability p (a), "
    "and the reward w(p)/p for which the same update is an on-policy policy gradient (b): 1/p for "
    "SFT, 1 for DFT whatever p is. With a single token the three levels of DFT coincide. "
    "A line ends where its weight falls to 0.",
)
