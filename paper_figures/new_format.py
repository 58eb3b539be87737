"""A token that no base has seen: who learns it at which rate, and what is left of the task."""

import itertools
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dft_theory.dynamics import escape_time
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from paper_figures._records import record, source

# Method of the record: label, colour, line, marker.
LOOKS = {
    "sft": ("SFT", style.PALETTE["blue"], "-", "o"),
    "power-0.5": ("$p^{1/2}$", style.PALETTE["green"], "-", "D"),
    "dft": ("DFT", style.PALETTE["vermilion"], "-", "s"),
    "floor": ("floor, all tokens", style.PALETTE["orange"], "--", "P"),
    "named-floor": ("floor, new token", style.PALETTE["purple"], "--", "^"),
    "warm-up": ("SFT, then DFT", style.PALETTE["black"], ":", "v"),
}
CURVES = (("adamw", 1), ("adamw", 3), ("sgd", 3))
ALPHAS = {"sft": 0.0, "power-0.5": 0.5, "dft": 1.0}
SHOWN = 6e-3  # the highest rate in the trade-off: beyond it every accuracy falls
VOCAB = 22  # of the task: the closed form needs it
COLUMNS = (
    "row",
    "optimizer",
    "slots",
    "source",
    "method",
    "rate",
    "new",
    "least",
    "most",
    "sampled",
    "greedy",
    "S",
    "closed",
)
Column = NDArray[np.float64]


def compute() -> FigureData:
    """Rows: the `base`; a `point` for each trial, method and rate; the `escape` times of SGD."""
    run = record("new-format")
    found = run.metrics()
    rows: list[tuple[Cell, ...]] = []
    for r in found:
        key = (r.get("optimizer"), r["slots"], str(r["source"]) if "source" in r else None)
        ends = (min(r["new"]), max(r["new"]))
        means = [float(np.mean(r[m])) for m in ("new", "sampled", "greedy")]
        what = "base" if r["method"] == "base" else "point"
        cells = (*key, r["method"], r.get("rate"), means[0], *ends, *means[1:])
        rows.append((what, *cells, None, None))
    (start,) = (r["new"] for r in found if (r["method"], r["slots"]) == ("base", 3))
    for method, alpha in ALPHAS.items():
        tried = [
            r["half"]
            for r in found
            if (r.get("optimizer"), r["slots"], r["method"]) == ("sgd", 3, method)
        ]
        for p0, halves in zip(start, zip(*tried, strict=True), strict=True):
            s = min((h for h in halves if h is not None), default=None)
            closed = escape_time(p0, 0.5, alpha=alpha, vocab=VOCAB)
            cells = ("sgd", 3, "0.0", method, None, None, None, None, None, None)
            rows.append(("escape", *cells, s, closed))
    return FigureData(COLUMNS, tuple(rows), source(run))


def curve(data: FigureData, optimizer: str, slots: int, origin: str, method: str) -> FigureData:
    """The points of one method, by rate."""
    trial = data.where(row="point", optimizer=optimizer, slots=slots, source=origin)
    return trial.where(method=method)


def expect(data: FigureData) -> None:
    """Who learns the token, where; what noise leaves; and how far the closed form is off."""
    base = data.where(row="base")
    require(((base.column("least") > 1e-6) & (base.column("most") < 1e-5)).all(), "rare at first")
    require(base.column("slots").tolist() == [1, 3], "a base row for each format")
    require(0.3 < base.column("sampled")[0] < 0.4 < 0.85 < base.column("greedy")[0], "base, task")
    behind = (base.column("sampled")[1], base.column("greedy")[1])
    require(max(behind) < 0.01, "behind the token the base is lost")
    for (optimizer, slots), method in itertools.product(CURVES, LOOKS):
        t = curve(data, optimizer, slots, "0.0", method)
        new, least, most = (t.column(c) for c in ("new", "least", "most"))
        require((np.diff(t.column("rate")) > 0).all(), "points in the order of their rates")
        require(((least <= new) & (new <= most)).all(), f"{method}: a mean between its extremes")
        sampled, greedy = t.column("sampled"), t.column("greedy")
        require((sampled <= greedy + 0.03).all(), f"{method}: greedy is the easier metric")
        if method != "dft":
            require(new.max() > 0.95, f"{optimizer}, {slots}: {method} learns it at some rate")
            require(least[new.argmax()] > 0.85, f"{method}: and does so on every seed")
    one, three, plain = (curve(data, o, s, "0.0", "dft") for o, s in CURVES)
    usable = one.column("rate") <= 3e-3
    require((one.column("most")[usable] < 1e-4).all(), "one slot, AdamW: DFT does not")
    require((one.column("new") < 0.3).all(), "and at high rates only in some")
    require((three.column("most")[1:] > 0.95).all(), "three slots: in one seed it does")
    require((three.column("least") < 0.01).all(), "and in another not, at any rate")
    require((plain.column("most")[:3] < 1e-3).all(), "SGD: not at the rates that suit SFT")
    sft = curve(data, "sgd", 3, "0.0", "sft")
    require((sft.column("least")[1:4] > 0.9).all(), "at which SFT is done")
    noise = {m: curve(data, "adamw", 1, "0.3", m) for m in LOOKS}
    best = {m: learned(t) for m, t in noise.items()}
    require(np.isnan(best.pop("dft")).all(), "with noise, too, DFT has no rate that learns it")
    named, rest = best.pop("named-floor"), np.array(list(best.values()))
    require(np.isfinite(rest).all(), "the others have one")
    require(named[0] > rest[:, 0].max() + 0.05, "where the named floor leads at T = 1")
    require(named[1] > rest[:, 1].max(), "and greedily")
    require(named[1] < base.column("greedy")[0] - 0.1, "greedily all are behind the base")
    rates = {tuple(t.column("rate")) for t in noise.values()}
    require(len(rates) == 1, "one grid of rates")
    own = {m: curve(data, "adamw", 1, "self", m) for m in LOOKS}
    require(all((t.column("sampled") < 0.4).all() for t in own.values()), "own states: no gain")
    require(all((t.column("greedy") < 0.5).all() for t in own.values()), "greedily a loss")
    measured, closed = escapes(data)
    require(len(measured["dft"]) == 5, "five seeds")
    for method in ("sft", "power-0.5"):
        require(np.isfinite(measured[method]).all(), f"{method}: every seed gets there")
    require(np.isnan(measured["dft"]).sum() == 2, "DFT: two of five never do")
    require((abs(np.log(measured["sft"])) < 0.1).all(), "SFT is the unit")
    require((abs(np.log(measured["power-0.5"] / 7)) < 0.7).all(), "p^1/2: some 7 times SFT")
    there = measured["dft"][np.isfinite(measured["dft"])]
    require((there > 20).all() and (there < 60).all(), "DFT, where it gets there: 25 times or more")
    require((abs(np.log(closed["sft"])) < 0.1).all(), "closed form, SFT: 1")
    require((abs(closed["power-0.5"] - 88) < 25).all(), "closed form, p^1/2: some 90")
    require((abs(np.log(closed["dft"] / 26_000)) < 0.6).all(), "closed form, DFT: some 26,000")


def escapes(data: FigureData) -> tuple[dict[str, Column], dict[str, Column]]:
    """Integrated rates at p = 1/2 of each seed, measured and closed, in units of SFT's mean."""
    found: list[dict[str, Column]] = []
    for column in ("S", "closed"):
        times = {m: data.where(row="escape", method=m).column(column) for m in ALPHAS}
        unit = np.exp(np.log(times["sft"]).mean())
        found.append({m: t.astype(np.float64) / unit for m, t in times.items()})
    return found[0], found[1]


def learned(t: FigureData) -> tuple[float, float]:
    """Best mean T = 1 accuracy, and its greedy twin, where the mean p(new) exceeds 0.8; or NaN."""
    there = t.column("new") > 0.8
    if not there.any():
        return np.nan, np.nan
    i = int(np.where(there, t.column("sampled"), -1).argmax())
    return float(t.column("sampled")[i]), float(t.column("greedy")[i])


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Top: p(new) against the rate. Bottom: accuracy under noise against p(new); escape times."""
    figure, axes = style.panels(2, 3, width=style.TEXT, height=4.4)
    titles = ("AdamW, one slot in three", "AdamW, all three slots", "SGD, all three slots")
    for axis, (optimizer, slots), title in zip(axes[0], CURVES, titles, strict=True):
        for method, (label, color, dashes, marker) in LOOKS.items():
            t = curve(data, optimizer, slots, "0.0", method)
            look = {"color": color, "ls": dashes, "marker": marker, "ms": 3.5}
            axis.plot(t.column("rate"), t.column("new"), label=label, **look)
            if method == "dft":
                band = (t.column("rate"), t.column("least"), t.column("most"))
                axis.fill_between(*band, color=color, alpha=0.12, lw=0)
        axis.set(xscale="log", ylim=(-0.03, 1.03), xlabel="learning rate")
        axis.set_title(title, loc="left")
    axes[0, 0].set_ylabel("probability of the new token")
    start = data.where(row="base", slots=1)
    for axis, metric, title in zip(
        axes[1], ("sampled", "greedy"), ("30 % noise, T = 1", "30 % noise, greedy"), strict=False
    ):
        tradeoff(axis, data, metric)
        axis.axhline(start.column(metric)[0], color="#444444", lw=0.8, ls=(0, (1, 1)))
        where = {"xy": (0.5, start.column(metric)[0]), "xytext": (0, 2), "ha": "center"}
        axis.annotate("base", **where, textcoords="offset points", va="bottom", fontsize=7)
        axis.set(xlim=(-0.04, 1.04), ylim=(0, 1), xlabel="probability of the new token")
        axis.set_title(title, loc="left")
    axes[1, 0].set_ylabel("accuracy of the states")
    times, (measured, closed) = axes[1, 2], escapes(data)
    for x, method in enumerate(ALPHAS):
        color, marker = LOOKS[method][1], LOOKS[method][3]
        height = np.exp(np.log(closed[method]).mean())
        times.plot([x - 0.3, x + 0.3], [height] * 2, color=color, lw=1.5)
        places = x + np.linspace(-0.2, 0.2, 5)
        times.plot(places, measured[method], ls="", color=color, marker=marker, mec="white", ms=5.5)
    times.set_xticks(range(len(ALPHAS)), [LOOKS[m][0] for m in ALPHAS])
    times.set(yscale="log", xlim=(-0.5, 2.5), ylim=(0.5, 2e5), ylabel="S at $p = 1/2$, SFT = 1")
    times.set_title("SGD, time to 1/2", loc="left")
    words = "markers: measured\nlines: closed form"
    times.annotate(words, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=7)
    times.grid(visible=False, axis="x")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, handlelength=2.2)
    style.letter(axes)
    return figure


def tradeoff(axis: Axes, data: FigureData, metric: str) -> None:
    """Accuracy against p(new), a point a rate; thin grey: the named floor on own states."""
    for method, (_, color, dashes, marker) in LOOKS.items():
        t = curve(data, "adamw", 1, "0.3", method)
        shown = t.column("rate") <= SHOWN
        look: dict[str, Any] = {"color": color, "ls": dashes, "marker": marker, "ms": 3.5}
        axis.plot(t.column("new")[shown], t.column(metric)[shown], lw=0.9, **look)
    t = curve(data, "adamw", 1, "self", "named-floor")
    shown = t.column("rate") <= SHOWN
    look = {"color": "#999999", "marker": ".", "lw": 0.7, "zorder": 1}
    axis.plot(t.column("new")[shown], t.column(metric)[shown], **look)


FIGURE = Figure(
    "new_format",
    title="A format that no base has seen",
    paper_ref="none: equation (9) where p is 1e-5",
    claims=(
        "dft-gradient-vanishes-on-rare-tokens",
        "dft-escape-time",
        "power-escape-time",
        "floors-touch-named-tokens-only",
        "adam-ignores-gradient-scale",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Demonstrations hold a token to which the base gives a probability of about 3e-6, in "
    "one of three style slots or in all. (a to c) Its mean probability after 100 steps, over five "
    "seeds, against the learning rate; shaded: least and most of DFT. Where SFT has learned the "
    "token DFT has not; at higher rates it has in some seeds and not in others. (d, e) 30 % random "
    "states, AdamW, one slot: accuracy of the states in front of the token against its "
    "probability, one marker a rate up to 6e-3, sampled at T = 1 and greedy; grey: the floor on "
    "the new token where the states are the base's own samples; dotted: the base. The upper right "
    "corner is wanted. A floor under the new token's weight alone gets there with most of what DFT "
    "has against "
    "noise at T = 1; greedily none is better than the base. (f) Integrated learning rate of SGD "
    "until p = 1/2, relative to SFT: least of each seed at any rate (DFT: two never got there) and "
    "in closed form for a policy that is a table. Shared parameters help DFT by three orders of "
    "magnitude, and it is still the last.",
)
