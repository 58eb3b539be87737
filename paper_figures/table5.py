"""Why tokens are weighted and not responses: Table 5, a small task, and what weights are left."""

import itertools

import matplotlib.figure
import numpy as np
import torch

from dft_theory.experiment import interval, values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from dft_theory.importance_weight import effective_sample_size
from dft_theory.objectives import objectives
from dft_theory.paper import table
from paper_figures import _real_model
from paper_figures._records import record, source

# Objective of the record: the paper's row, our label. Top to bottom.
ROWS = {
    "base": "base",
    "sft": "SFT",
    "dft-long": "sequence,\n150 tokens",
    "dft-sequence": "sequence,\n6 tokens",
    "dft-geometric": "geometric\nmean",
    "dft": "token",
}
MODEL = "Qwen2.5-Math-1.5B"
# The paper's rows, and the table of each.
PAPER = {"base": "5", "sft": "1", "dft-sequence": "5", "dft-geometric": "5", "dft": "5"}
METRICS = ("sampled", "greedy")
LEVELS = ("dft", "dft-geometric", "dft-sequence")
PRIORS, NOISE, SHOWN = (0.1, 0.3, 0.6), 0.3, 0.6
COLUMNS = ("row", "objective", "optimizer", "p0", "x", "metric", "mean", "low", "high")


def compute() -> FigureData:
    """Rows: `cell` of an accuracy, `own` where the base's samples were taught; effective shares.

    Those are of uniform probabilities against length (`share`, x is the length), of the
    demonstrations (`demos`, x is the noise), and of real solutions (`real`).
    """
    run = record("granularity")
    found = run.metrics()
    rows: list[tuple[Cell, ...]] = []
    for p0 in PRIORS:
        for optimizer in ("adamw", "sgd"):
            for name in ROWS:
                if optimizer == "sgd" and name in ("base", "dft-long"):
                    continue  # one base; weights of exactly 0 need no run
                for metric in ("sampled", "greedy"):
                    key: dict[str, object] = {"objective": name, "p0": p0}
                    if name != "base":
                        key |= {"optimizer": optimizer, "source": NOISE}
                    seen = values(found, metric, **key)
                    mean = (seen.mean().item(), *interval(seen))
                    rows.append(("cell", name, optimizer, p0, None, metric, *mean))
    for name in list(ROWS)[1:]:
        for metric in ("sampled", "greedy"):
            key = {"objective": name, "p0": SHOWN, "optimizer": "adamw", "source": "self"}
            seen = values(found, metric, **key)
            mean = (seen.mean().item(), *interval(seen))
            rows.append(("own", name, "adamw", SHOWN, None, metric, *mean))
    for r in found:
        if "length" in r:
            ends = (float(np.mean(r["share"])), min(r["share"]), max(r["share"]))
            rows.append(("share", r["level"], None, None, r["length"], "share", *ends))
        elif "level" in r and r["source"] != "self":
            ends = (float(np.mean(r["share"])), min(r["share"]), max(r["share"]))
            rows.append(("demos", r["level"], None, r["p0"], r["source"], "share", *ends))
    return FigureData(COLUMNS, tuple(rows + real() + published()), source(run))


def published() -> list[tuple[Cell, ...]]:
    """The paper's averages in percent: Table 5, and Table 1 for the methods that it leaves out."""
    rows: list[tuple[Cell, ...]] = []
    for name, number in PAPER.items():
        average = table(number).row(MODEL, name).average
        rows.append(("paper", name, None, None, None, "average", average, average, average))
    return rows


def real() -> list[tuple[Cell, ...]]:
    """Effective shares of the weights of 64 solutions under a language model, at their length."""
    lines = _real_model.record().metrics()
    length = float(np.mean([line["tokens"] for line in lines]))
    logp = torch.tensor([line["log_prob"] for line in lines], dtype=torch.float64)
    tokens = torch.tensor([line["tokens"] for line in lines], dtype=torch.float64)
    rows: list[tuple[Cell, ...]] = []
    for level, weight in (("dft-geometric", logp / tokens), ("dft-sequence", logp)):
        share = effective_sample_size(weight) / len(lines)
        rows.append(("real", level, None, None, length, "share", share, share, share))
    return rows


def expect(data: FigureData) -> None:
    """The order of Table 5 in both; short sequences escape it; shares as in closed form."""
    mean, low, high = (data.column(c) for c in ("mean", "low", "high"))
    require(((low <= mean) & (mean <= high)).all(), "a mean inside its interval")
    cells = data.where(row="cell")
    key = [cells.column(c).tolist() for c in ("objective", "optimizer", "p0", "metric")]
    wanted = {
        (name, o, p0, m)
        for name, o, p0, m in itertools.product(ROWS, ("adamw", "sgd"), PRIORS, METRICS)
        if o == "adamw" or name not in ("base", "dft-long")
    }
    require(len(key[0]) == len(wanted) and set(zip(*key, strict=True)) == wanted, "every cell once")
    for level in LEVELS:
        t = data.where(row="demos", objective=level)
        require(t.column("p0").tolist() == [0.1, 0.1, 0.3, 0.3, 0.6, 0.6], "three priors")
    ours = {(name, m): at(data, name, "adamw", SHOWN, m) for name in ROWS for m in METRICS}
    base, sft, long, short, geometric, token = (ours[name, "sampled"] for name in ROWS)
    require(abs(long[0] - base[0]) < 0.01, "weights of 150 tokens: the base")
    require(abs(ours["dft-long", "greedy"][0] - ours["base", "greedy"][0]) < 0.02, "greedily too")
    require(base[0] < sft[0] < geometric[0] < token[0], "base < SFT < geometric mean < token")
    require(geometric[0] - sft[0] < token[0] - geometric[0], "the geometric mean is near SFT")
    require(sft[0] + 0.1 < short[0] < token[0] - 0.1, "six tokens: between SFT and token")
    require(
        all(ours[n, "greedy"][0] < ours["base", "greedy"][0] for n in LEVELS), "greedy: no gain"
    )
    require(ours["dft", "greedy"][0] > max(ours[n, "greedy"][0] for n in ("sft", *LEVELS[1:])), "")
    own = {m: data.where(row="own", objective="dft", metric=m).column("mean")[0] for m in METRICS}
    require(own["sampled"] < base[0] + 0.15, "own samples: less than half of that gain")
    require(own["greedy"] < 0.5, "and greedily a loss")
    for p0 in PRIORS:
        by = {o: at(data, "dft-sequence", o, p0, "sampled")[0] for o in ("adamw", "sgd")}
        start = at(data, "base", "adamw", p0, "sampled")[0]
        require(start <= by["sgd"] < by["adamw"], "sequence weights: SGD learns less than AdamW")
        for o in ("adamw", "sgd"):
            names = ("sft", "dft-geometric", "dft")
            a, b, c = (at(data, n, o, p0, "sampled")[0] for n in names)
            require(a < b < c, "the order holds from every prior, for both optimisers")
    weak = at(data, "dft-sequence", "sgd", 0.1, "sampled")[0]
    require(weak - at(data, "base", "adamw", 0.1, "sampled")[0] < 0.002, "weak: SGD none at all")
    for level in LEVELS:
        t = data.where(row="share", objective=level)
        length, share = t.column("x"), t.column("mean")
        require((np.diff(length) > 0).all() and len(length) == 9, "nine lengths")
        exact = np.array([expected(level, x) for x in length])
        floor = 1 / 64
        require((share > 0.7 * np.maximum(exact, floor)).all(), f"{level}: as in closed form")
        require((share < 1.3 * exact + 4 * floor).all(), f"{level}: until one weight is left")
    for p0 in PRIORS:
        t = data.where(row="demos", objective="dft-sequence", p0=p0)
        require(t.column("x").tolist() == [0.0, NOISE], "clean and noisy demonstrations")
        clean, noisy = t.column("mean")
        require(clean > 0.65 > 0.45 > noisy, "six tokens: most weights count, unless states err")
        for level in LEVELS[:2]:
            t = data.where(row="demos", objective=level, p0=p0)
            require((t.column("mean") > 0.6).all(), "token weights and means count")
    paper = data.where(row="paper").column("mean")
    require(paper[2] < paper[0] < paper[3] < paper[1] < paper[4] / 1.5, "the order of Table 5")
    t = data.where(row="real")
    require(t.column("objective").tolist() == list(LEVELS[1:]), "two levels of real solutions")
    require(t.column("mean")[0] > 0.9 and t.column("mean")[1] < 1.2 / 64, "one of 64 is left")
    require((t.column("x") > 90).all() and (t.column("x") < 100).all(), "of 97 tokens")


def expected(level: str, length: float) -> float:
    """(E w)^2 / E w^2 for independent token probabilities uniform in (0, 1)."""
    power = 1 / length if level == "dft-geometric" else 1.0
    one = (1 + 2 * power) / (1 + power) ** 2  # E p^a = 1 / (1 + a)
    return float(one if level == "dft" else one**length)


def at(data: FigureData, name: str, optimizer: str, p0: float, metric: str) -> list[float]:
    """Mean, low and high of one cell."""
    t = data.where(row="cell", objective=name, optimizer=optimizer, p0=p0, metric=metric)
    return [float(t.column(c)[0]) for c in ("mean", "low", "high")]


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Top: the paper's averages, our accuracies, weights by length. Bottom: every prior."""
    figure, axes = style.panels(2, 3, width=style.TEXT, height=4.6)
    (theirs, ours, shares), (sampled, greedy, short) = axes
    color = {name: objectives[name].style.color for name in (*LEVELS, "sft")}
    color |= {"base": style.PALETTE["grey"], "dft-long": color["dft-sequence"]}
    order = list(ROWS)
    paper = data.where(row="paper")
    y = [order.index(str(name)) for name in paper.column("objective")]
    theirs.barh(y, paper.column("mean"), 0.6, color=[color[order[i]] for i in y])
    for i, average in zip(y, paper.column("mean"), strict=True):
        theirs.annotate(
            f"{average:g}", (average, i), (3, 0), textcoords="offset points", va="center"
        )
    theirs.set_yticks(y, [ROWS[order[i]].removesuffix(",\n6 tokens") for i in y])
    theirs.set(ylim=(5.6, -0.6), xlim=(0, 38), xlabel="average accuracy, %")
    theirs.set_title("paper, Table 5", loc="left")
    for i, name in enumerate(order):
        for metric, face, shift in (("sampled", color[name], -0.14), ("greedy", "white", 0.14)):
            mean, low, high = at(data, name, "adamw", SHOWN, metric)
            ours.plot([low, high], [i + shift] * 2, color=color[name], lw=1)
            look = {"color": color[name], "mfc": face, "marker": "o", "ms": 4.5}
            ours.plot(mean, i + shift, **look)
            if name != "base":
                t = data.where(row="own", objective=name, metric=metric)
                faded = {
                    "marker": "D",
                    "ms": 3,
                    "mfc": "#aaaaaa" if metric == "sampled" else "white",
                }
                ours.plot(t.column("mean"), i + shift, color="#aaaaaa", zorder=1, **faded)
    ours.set_yticks(range(len(order)), ROWS.values())
    ours.set(ylim=(5.6, -0.6), xlim=(0, 1), xlabel="filled T = 1, open greedy")
    ours.set_title("ours, 30 % noise", loc="left")
    for axis, metric, title in ((sampled, "sampled", "T = 1"), (greedy, "greedy", "greedy")):
        for name in ("sft", *LEVELS):
            look = {"color": color[name], "marker": objectives[name].style.marker, "ms": 4}
            for optimizer, dashes in (("adamw", "-"), ("sgd", ":")):
                means = [at(data, name, optimizer, p0, metric)[0] for p0 in PRIORS]
                axis.plot(PRIORS, means, ls=dashes, **look)
        start = [at(data, "base", "adamw", p0, metric)[0] for p0 in PRIORS]
        axis.plot(PRIORS, start, color=color["base"], marker=".")
        axis.set(ylim=(-0.03, 0.9), xlabel="prior of the base", ylabel="accuracy")
        axis.set_xticks(PRIORS)
        axis.set_title(f"30 % noise, {title}", loc="left")
    for level in LEVELS:
        look = {"color": color[level], "marker": objectives[level].style.marker, "ms": 4}
        for eps, face in ((0.0, color[level]), (NOISE, "white")):
            t = data.where(row="demos", objective=level, x=eps)
            dashes = "-" if eps == 0 else "--"
            short.plot(t.column("p0"), t.column("mean"), mfc=face, ls=dashes, **look)
    short.set(ylim=(0, 1.05), xlabel="prior of the base", ylabel="effective share")
    short.set_xticks(PRIORS)
    short.set_title("demonstrations", loc="left")
    lengths = np.geomspace(1, 256, 60)
    for level in LEVELS:
        t = data.where(row="share", objective=level)
        shares.plot(lengths, [expected(level, x) for x in lengths], color=color[level], lw=1)
        bounds = np.abs(np.stack([t.column("low"), t.column("high")]) - t.column("mean"))
        look = {"color": color[level], "marker": objectives[level].style.marker, "ms": 4}
        shares.errorbar(
            t.column("x"), t.column("mean"), yerr=bounds, ls="", lw=0.8, capsize=0, **look
        )
    t = data.where(row="real")
    colors = [color[str(name)] for name in t.column("objective")]
    shares.scatter(
        t.column("x"), t.column("mean"), 90, colors, marker="*", ec="black", lw=0.5, zorder=5
    )
    shares.axhline(1 / 64, color="#444444", lw=0.8, ls="--")
    shares.annotate("one of 64", (1, 1 / 64), (0, 3), textcoords="offset points", fontsize=7)
    shares.set(xscale="log", yscale="log", ylim=(0.008, 1.5))
    shares.set(xlabel="response tokens", ylabel="effective share")
    shares.set_title("weights that count", loc="left")
    style.letter(axes)
    return figure


FIGURE = Figure(
    "table5",
    title="Weighting tokens, responses or means",
    paper_ref="Table 5",
    claims=(
        "sequence-weights-degenerate-geometrically",
        "effective-sample-size-of-weights",
        "sequence-weight-underflows",
        "adam-ignores-gradient-scale",
        "geometric-mean-lies-between",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="(a) The paper's averages at T = 1 for Qwen2.5-Math-1.5B, SFT from its Table 1: no "
    "seeds, no greedy twin. (b) The chain task from a prior of 0.6 with 30 % random states, AdamW, "
    "each objective at its own best learning rate; means and 95 % intervals of five seeds. "
    "Diamonds: trained on the base's own samples. With the weight of a response of 150 tokens, 0 "
    "in float32, nothing is learned; the paper's row, too, is at its base. Responses of six tokens "
    "are weighted to some effect: those with a wrong state are dropped. The geometric mean is "
    "nearly SFT. Greedily none is better than this base. (c) Effective share of 64 weights against "
    "the length, for uniform token probabilities: sampled (least and most of five seeds) and in "
    "closed form; stars: 64 solutions under SmolLM2-135M-Instruct. (d, e) Accuracy from three "
    "priors; solid AdamW, dotted SGD, which does not rescale small gradients: sequence weights "
    "then learn little even at six tokens. Grey: the base. (f) Effective share of the weights of "
    "the demonstrations under the base, clean (filled) and with noise (open).",
)
