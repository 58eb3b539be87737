"""What return costs in distance from the initial policy, and in variety of correct answers."""

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

# Method of the record: label, colour, line, marker. Own samples are solid, expert's are dotted.
LOOKS = {
    "rft-sft": ("SFT, own accepted", style.PALETTE["blue"], "-", "o"),
    "rft-dft": ("DFT, own accepted", style.PALETTE["vermilion"], "-", "s"),
    "rl": ("RL", style.PALETTE["green"], "-", "D"),
    "rft-iw-sft": ("iw-SFT, own accepted", style.PALETTE["black"], (0, (2, 2.5)), "x"),
    "sft": ("SFT, expert's", style.PALETTE["sky"], ":", "o"),
    "dft": ("DFT, expert's", style.PALETTE["orange"], ":", "s"),
}
SHOWN = 0  # the prior whose orbits are drawn
COLUMNS = ("row", "method", "prior", "J", "kl", "number", "least")


def least(j: float, j0: float) -> float:
    """Smallest KL(pi||pi0) in nats at return J; -log J0 at J = 1."""
    rest = (1 - j) * np.log((1 - j) / (1 - j0)) if j < 1 else 0.0
    return float(j * np.log(j / j0) + rest)


def compute() -> FigureData:
    """Rows: the `orbit` of each method from one prior, and the `end` of each from every prior."""
    run = record("bandit-orbits")
    start = {r["seed"]: r for r in run.metrics() if r["method"] == "prior"}
    rows: list[tuple[Cell, ...]] = []
    for r in run.metrics():
        if r["method"] == "prior":
            continue
        who, j0 = (r["method"], r["seed"]), start[r["seed"]]["J0"]
        end = (r["end_J"], r["end_kl"], r["end_number"], least(r["end_J"], j0))
        rows.append(("end", *who, *end))
        if r["seed"] == SHOWN:
            points = zip(r["J"], r["kl"], r["number"], strict=True)
            rows.append(("orbit", *who, j0, 0.0, start[SHOWN]["posterior_number"], 0.0))
            rows += [("orbit", *who, j, kl, n, least(j, j0)) for j, kl, n in points]
            rows.append(("orbit", *who, *end))
    return FigureData(COLUMNS, tuple(rows), source(run))


def ends(data: FigureData, method: str) -> NDArray[np.float64]:
    """J, KL, number and least KL at the end, `[4, priors]`."""
    t = data.where(row="end", method=method)
    return np.stack([t.column(c) for c in COLUMNS[3:]])


def expect(data: FigureData) -> None:
    """RFT-SFT is nearly the cheapest and keeps the posterior; RL and iw-SFT share an orbit."""
    orbit = {m: data.where(row="orbit", method=m) for m in LOOKS}
    for method, t in orbit.items():
        j, kl, number, bound = (t.column(c) for c in COLUMNS[3:])
        require((np.diff(j) > 0).all() and j[-1] > 0.999, f"{method}: up to return 1")
        require(np.allclose(bound, [least(x, j[0]) for x in j], atol=1e-6), "the least KL")
        require((kl > bound - 1e-6).all(), f"{method}: no policy is nearer than the least KL")
        require((np.diff(kl) > 0).all(), f"{method}: ever farther from the prior")
        require(((number >= 1) & (number <= 4)).all(), "between one and four answers")
    kl, number = ({m: t.column(c) for m, t in orbit.items()} for c in ("kl", "number"))
    require((kl["rft-sft"] - orbit["rft-sft"].column("least")).max() < 0.08, "SFT: nearly least")
    inner = slice(2, -1)
    require((kl["rft-sft"] < kl["rl"])[inner].all(), "SFT costs less than RL at equal return")
    require((kl["rl"] < kl["rft-dft"])[inner].all(), "and RL less than DFT")
    require((number["rft-sft"] > number["rl"])[inner].all(), "SFT keeps more answers than RL")
    require((number["rl"] > number["rft-dft"])[inner].all(), "and RL more than DFT")
    for of in (kl, number):
        require(np.allclose(of["rl"][:-1], of["rft-iw-sft"][:-1], atol=1e-4), "RL = iw-SFT")
    require(number["sft"][-1] > number["sft"][0] + 0.5, "SFT learns the expert's variety")
    require((np.diff(number["dft"])[3:] < 0).all(), "and shrinks under DFT")
    for method in LOOKS:
        j, far, left, bound = ends(data, method)
        priors = data.where(row="end", method=method).column("prior").tolist()
        require(len(j) == 20 and priors == list(range(20)), "twenty priors")
        require((j > 0.999).all() and (far > bound - 1e-6).all(), "all at return 1")
        if method == "rft-sft":
            require((abs(far - bound) < 0.005).all(), "SFT on accepted samples ends at the least")
            require((left > 1.4).all(), "with more than one answer")
        elif method == "sft":
            require((abs(left - left.mean()) < 0.001).all(), "SFT ends at the expert's variety")
            require((far > bound + 0.1).all(), "far from the prior")
        else:
            require((left < 1.05).all(), f"{method} ends at one answer")
            require((far > bound + 0.02).all(), f"{method}: farther than needed")
    require(abs(ends(data, "rl")[1] - ends(data, "rft-iw-sft")[1]).max() < 0.05, "equal ends")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left, middle: one prior. Right: the ends from twenty."""
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.9)
    distance, variety, last = axes[0]
    for method, (label, color, dashes, marker) in LOOKS.items():
        t = data.where(row="orbit", method=method)
        for axis, column in ((distance, "kl"), (variety, "number")):
            axis.plot(t.column("J"), t.column(column), color=color, ls=dashes, label=label)
        _, far, left, bound = ends(data, method)
        last.plot(far - bound, left, color=color, marker=marker, ls="", ms=3.5, label=label)
    t = data.where(row="orbit", method="rl")
    distance.fill_between(t.column("J"), t.column("least"), color="#dddddd", lw=0)
    distance.annotate("no such policy", (0.97, 0.06), xycoords="axes fraction", ha="right")
    distance.set(xlabel="return J", ylabel="KL from the initial policy (nats)", ylim=(0, None))
    distance.set_title("distance, one prior", loc="left")
    variety.set(xlabel="return J", ylabel="effective number", ylim=(0.9, 4))
    variety.set_title("correct answers left", loc="left")
    last.set(xlabel="KL beyond the least (nats)", ylabel="effective number", ylim=(0.9, 4))
    last.set_title("ends from 20 priors", loc="left")
    handles, names = last.get_legend_handles_labels()
    lines, _ = distance.get_legend_handles_labels()
    pairs = list(zip(lines, handles, strict=True))
    figure.legend(pairs, names, loc="outside lower center", ncols=3, handlelength=3)
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
    caption="Exact flows of a bandit with 12 arms, 4 of them correct. (a) KL(pi||pi0) against the "
    "return from one initial policy; grey: returns that no policy reaches so near to it. (b) "
    "Exponential of the entropy among the correct answers. (c) Both at the end, from 20 initial "
    "policies. On the policy's own accepted samples SFT is the policy gradient at the first step, "
    "then stays close to the least KL and ends at the initial policy conditioned on success; "
    "iw-SFT follows RL exactly; DFT counts the policy's probability twice, goes farther than RL "
    "and keeps one answer. On an expert's answers SFT ends at the expert's variety, DFT at its "
    "favourite.",
)
