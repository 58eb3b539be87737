"""Every objective of the catalogue as a weight w(p) and as the reward w/p that it implies."""

import matplotlib.figure
import numpy as np
import torch

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import OBJECTIVES, objectives

PER_DECADE = 40


def compute() -> FigureData:
    """Weight and implied reward on a logarithmic grid, for every objective that needs only p."""
    grid = np.geomspace(1e-4, 1, 4 * PER_DECADE + 1)
    # Both sides of the catalogue's thresholds, so that a jump is drawn upright.
    p = torch.tensor(np.sort(np.append(grid, [0.2 - 1e-9, 0.2 + 1e-9])))
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
        require((weight >= 0).all() and weight.max() <= 1, f"{name}: weights lie in [0, 1]")
    p, _, sft = table["sft"]
    dft, half, square = (table[n][2] for n in ("dft", "power-0.5", "power-2"))
    require(np.allclose(sft * p, 1, rtol=1e-12), "SFT rewards a token by 1/p")
    require(np.allclose(dft, 1, rtol=1e-12), "DFT rewards every demonstrated token by 1")
    inside = p < 1
    require((dft < half)[inside].all() and (half < sft)[inside].all(), "p^1/2 lies between them")
    require((square < dft)[inside].all(), "p^2 rewards what is already likely")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Weights, rewards, and one legend for both; objectives that coincide share a line."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=3.0)
    groups: dict[bytes, list[str]] = {}
    for name in data.unique("objective"):
        weight = np.round(data.where(objective=name).column("weight"), 12)
        groups.setdefault(weight.tobytes(), []).append(name)
    for names in groups.values():
        rows, first = data.where(objective=names[0]), objectives[names[0]].style
        label = "\n= ".join(objectives[n].title for n in names)
        for axis, column in zip(axes[0], ("weight", "reward"), strict=True):
            axis.plot(
                rows.column("p"),
                rows.column(column),
                first.linestyle,
                color=first.color,
                marker=first.marker,
                markevery=20,
                label=label,
            )
    axes[0, 0].set(ylabel="weight $w(p)$")
    axes[0, 1].set(ylabel="implied reward $w(p)/p$")
    for axis in axes[0]:
        axis.set(
            xscale="log", yscale="log", ylim=(1e-4, 1e4), xlabel="probability $p$ of the token"
        )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
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
    caption="",
)
