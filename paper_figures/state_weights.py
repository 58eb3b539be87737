"""Two ways to be unlikely: weights that read the whole next-token distribution tell them apart."""

import math

import matplotlib.figure
import numpy as np
import torch
from torch import Tensor

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.logprobs import target_stats
from dft_theory.objectives import OBJECTIVES, Objective, objectives

VOCAB = 1000
P = np.geomspace(1e-4, 0.9, 33)
STATES = {"conflict": "one rival has the rest", "diffuse": "999 rivals share the rest"}


def logits(p: float, state: str) -> Tensor:
    """Logits `[1, 1, V]` with the target, token 0, at p."""
    z = torch.zeros(1, 1, VOCAB, dtype=torch.float64)
    if state == "conflict":
        z[..., 1:] = -60.0
        z[..., 1] = 0.0
    z[..., 0] = z[..., 1:].logsumexp(-1) + math.log(p / (1 - p))
    return z


def weight(objective: Objective, p: float, state: str) -> float:
    """The objective's weight there."""
    needs = tuple(n for n in ("entropy", "log_probs") if n in objective.needs)
    stats = target_stats(logits(p, state), torch.zeros(1, 1, dtype=torch.long), needs=needs)
    return float(objective.weight(stats).expand(1, 1))


def compute() -> FigureData:
    """Weights in both states, for SFT, DFT and every token-level objective of the family."""
    shown = [o for o in OBJECTIVES if o.family == "state" and o.level == "token"]
    rows = [
        (o.name, state, float(p), weight(o, float(p), state))
        for o in (objectives["sft"], objectives["dft"], *shown)
        for state in STATES
        for p in P
    ]
    return FigureData(("objective", "state", "p", "weight"), tuple(rows))


def expect(data: FigureData) -> None:
    """A function of p cannot tell the states apart; EAFT and DEFT do, a hundredfold."""

    def curve(name: str, state: str) -> np.ndarray:
        return data.where(objective=name, state=state).column("weight")

    grid = data.where(objective="dft", state="conflict").column("p")
    require(np.allclose(curve("dft", "conflict"), grid, rtol=1e-9), "DFT's weight is p")
    for name in ("sft", "dft"):
        same = np.allclose(curve(name, "conflict"), curve(name, "diffuse"), rtol=1e-9)
        require(same, f"{name} sees p alone")
    for name in ("eaft", "deft-renyi"):
        ratio = curve(name, "diffuse") / curve(name, "conflict")
        require(ratio[0] > 100, f"{name} holds back at a confident conflict")
    require((curve("eaft", "diffuse")[:10] > 0.9).all(), "EAFT trains on open tokens as SFT does")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """One panel for each state, one legend."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.7, share=(True, True))
    for i, name in enumerate(map(str, data.unique("objective"))):
        look = objectives[name].style
        for axis, state in zip(axes[0], STATES, strict=True):
            rows = data.where(objective=name, state=state)
            (line,) = axis.plot(rows.column("p"), rows.column("weight"))
            line.set(color=look.color, ls=look.linestyle, marker=look.marker, markevery=(i % 5, 5))
            line.set_label(objectives[name].title)
    for axis, title in zip(axes[0], STATES.values(), strict=True):
        axis.set_title(title, loc="left")
        axis.set(
            xscale="log", yscale="log", ylim=(5e-5, 1e3), xlabel="probability $p$ of the token"
        )
    axes[0, 0].set_ylabel("weight")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside right center", handlelength=3.2
    )
    style.letter(axes)
    return figure


FIGURE = Figure(
    "state_weights",
    title="Unlikely because the model is sure of something else, or of nothing",
    paper_ref="equation (9); the entropy-gated relatives",
    claims=("entropy-tells-conflict-from-diffuse", "srft-trusts-certain-demonstrations"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="The weight of a target of probability p where one rival holds the rest (a, a "
    "confident conflict) and where 999 rivals share it (b, an open choice). SFT and DFT see p "
    "alone and draw the same line twice. EAFT and DEFT, which read the entropy or the "
    "concentration of the whole distribution, hold back in (a) and train as SFT does in (b). The "
    "paper and the released code of SRFT give the entropy opposite signs.",
)
