"""What return costs in distance from the initial policy, and in variety of correct answers."""

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

# Method of the record: label, colour, line, marker. RFT trains on the prior's accepted samples.
LOOKS = {
    "rft-sft": ("RFT-SFT", style.PALETTE["blue"], "-", "o"),
    "rl": ("RL", style.PALETTE["green"], "-", "D"),
    "rft-iw-sft": ("RFT-iw-SFT", style.PALETTE["black"], (0, (2, 2.5)), "x"),
    "rft-dft": ("RFT-DFT", style.PALETTE["vermilion"], "-", "s"),
    "dft": ("expert, DFT", style.PALETTE["orange"], ":", "s"),
    "sft": ("expert, SFT", style.PALETTE["sky"], ":", "o"),
}
SHOWN = 9  # the prior whose orbits are drawn: its favourite answer is not the expert's
SHARE = 8  # place in the record's grid of returns: 9/10 of the way from J0 to 1
COLUMNS = ("row", "method", "prior", "J", "kl", "number", "least")


def least(j: float, j0: float) -> float:
    """Smallest KL(pi||pi0) in nats at return J; -log J0 at J = 1."""
    rest = (1 - j) * np.log((1 - j) / (1 - j0)) if j < 1 else 0.0
    return float(j * np.log(j / j0) + rest)


def compute() -> FigureData:
    """Rows: each method's `orbit` from one prior; the `share` of 9/10 and the `end` from all."""
    run = record("bandit-orbits")
    start = {r["seed"]: r for r in run.metrics() if r["method"] == "prior"}
    rows: list[tuple[Cell, ...]] = []
    for r in run.metrics():
        if r["method"] == "prior":
            continue
        who, j0 = (r["method"], r["seed"]), start[r["seed"]]["J0"]
        grid = zip(r["J"], r["kl"], r["number"], strict=True)
        points = [(j, kl, number, least(j, j0)) for j, kl, number in grid]
        end = (r["end_J"], r["end_kl"], r["end_number"], least(r["end_J"], j0))
        rows += [("share", *who, *points[SHARE]), ("end", *who, *end)]
        if r["seed"] == SHOWN:
            first = (j0, 0.0, start[SHOWN]["posterior_number"], 0.0)
            rows += [("orbit", *who, *point) for point in (first, *points, end)]
    return FigureData(COLUMNS, tuple(rows), source(run))


def spread(data: FigureData, row: str, method: str) -> NDArray[np.float64]:
    """J, KL, number and least KL over the priors, `[4, priors]`."""
    t = data.where(row=row, method=method)
    return np.stack([t.column(c) for c in COLUMNS[3:]])


def expect(data: FigureData) -> None:
    """RFT-SFT is nearly the cheapest and keeps the posterior; RL and iw-SFT share an orbit."""
    orbit = {m: data.where(row="orbit", method=m) for m in LOOKS}
    for method, t in orbit.items():
        j, kl, _, bound = (t.column(c) for c in COLUMNS[3:])
        require((np.diff(j) > 0).all() and j[-1] > 0.999, f"{method}: up to return 1")
        require(np.allclose(bound, [least(x, j[0]) for x in j], atol=1e-6), "the least KL")
        require((kl > bound - 1e-6).all(), f"{method}: no policy is nearer than the least KL")
        require((np.diff(kl) > 0).all(), f"{method}: ever farther from the prior")
    kl, number = ({m: t.column(c) for m, t in orbit.items()} for c in ("kl", "number"))
    inner = slice(2, -1)
    require((kl["rft-sft"] < kl["rl"])[inner].all(), "SFT costs less than RL at equal return")
    require((kl["rl"] < kl["rft-dft"])[inner].all(), "and RL less than DFT")
    require((number["rft-sft"] > number["rl"])[inner].all(), "SFT keeps more answers than RL")
    require((number["rl"] > number["rft-dft"])[inner].all(), "and RL more than DFT")
    for of in (kl, number):
        require(np.allclose(of["rl"][:-1], of["rft-iw-sft"][:-1], atol=1e-4), "RL = iw-SFT")
    for method in LOOKS:
        for row in ("share", "end"):
            priors = data.where(row=row, method=method).column("prior").tolist()
            require(priors == list(range(20)), "twenty priors")
        j, far, left, bound = spread(data, "end", method)
        require((j > 0.999).all() and (far > bound - 1e-6).all(), "all at return 1")
        if method == "rft-sft":
            require((far - bound < 0.005).all(), "SFT on accepted samples ends at the least")
            require((left > 1.8).all(), "with more than one answer")
        elif method == "sft":
            require((abs(left - 3.596) < 0.001).all(), "SFT ends at the expert's variety")
            require((far > bound + 0.1).all(), "far from the prior")
        else:
            require((left < 1.03).all(), f"{method} ends at one answer")
            require((far > bound + 0.1).all(), f"{method}: farther than needed")
    at = {m: spread(data, "share", m) for m in LOOKS}
    excess = {m: far - bound for m, (_, far, _, bound) in at.items()}
    require((excess["rft-sft"] < 0.08).all(), "RFT-SFT: nearly the least KL, in every prior")
    require((excess["rft-sft"] < excess["rl"]).all(), "RFT-SFT is nearer than RL")
    require((excess["rl"] < excess["rft-dft"]).all(), "which is nearer than RFT-DFT")
    require((at["rl"][2] > at["rft-dft"][2]).all(), "and keeps more answers")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left, middle: one prior. Right: twenty priors at 9/10 of the way, and at the end."""
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.7)
    distance, variety, dots = axes[0]
    for i, (method, (label, color, dashes, marker)) in enumerate(LOOKS.items()):
        t = data.where(row="orbit", method=method)
        for axis, column in ((distance, "kl"), (variety, "number")):
            axis.plot(t.column("J"), t.column(column), color=color, ls=dashes, label=label)
        _, far, _, bound = spread(data, "share", method)
        look = {"color": color, "marker": marker, "ls": "", "ms": 3, "alpha": 0.6}
        dots.plot(far - bound, [i] * len(far), **look)
        left = spread(data, "end", method)[2].mean()
        dots.annotate(f"{left:.1f}", (1.03, i), xycoords=("axes fraction", "data"), va="center")
    t = data.where(row="orbit", method="rl")
    distance.fill_between(t.column("J"), t.column("least"), color="#dddddd", lw=0)
    distance.annotate("impossible", (0.97, 0.07), xycoords="axes fraction", ha="right")
    distance.set(xlabel="return J", ylabel="KL from the prior (nats)", ylim=(0, None))
    distance.set_title("distance, one prior", loc="left")
    variety.set(xlabel="return J", ylabel="effective number", ylim=(0.9, 4))
    variety.set_title("correct answers left", loc="left")
    dots.set_yticks(range(len(LOOKS)), [label for label, *_ in LOOKS.values()])
    dots.set(ylim=(len(LOOKS) - 0.5, -0.9), xlabel="KL beyond the least (nats)")
    dots.set_title("20 priors", loc="left")
    dots.annotate("end", (1.03, -0.65), xycoords=("axes fraction", "data"), va="center")
    handles, names = distance.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, handlelength=2.2)
    style.letter(axes)
    return figure


FIGURE = Figure(
    "kl_return_orbits",
    title="Return against distance and variety on a bandit",
    paper_ref="equations (3) to (9), for sampled data",
    claims=(
        "sft-is-policy-gradient",
        "filtered-sft-is-policy-gradient",
        "own-samples-sharpen-under-dft",
        "bound-is-tight-at-the-policy",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Exact flows of a bandit with 12 arms, 4 of them correct. RFT trains on the prior's "
    "own accepted samples; the expert gives four correct answers unequally. (a) KL from one prior "
    "against the return; grey: no policy with that return is so near. (b) Exponential of the "
    "entropy among the correct answers. (c) From 20 priors, the KL beyond the least one at 9/10 "
    "of the way to return 1; right, the mean effective number of answers at the end. RFT-SFT is "
    "the policy gradient at the first step, then stays near the least KL and ends at the prior "
    "conditioned on success. iw-SFT follows RL exactly. RFT-DFT counts the policy's probability "
    "twice: it goes farther than RL, and like RL ends at one answer. On the expert's answers SFT "
    "ends at the expert's variety, DFT at its favourite.",
)
