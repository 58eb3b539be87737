"""Demonstrations, accepted samples, pairs and online RL: the paper's Table 2, and a small task."""

import matplotlib.figure

from dft_theory.experiment import interval, values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from dft_theory.paper import table
from paper_figures._records import record, source

BLUE, RED, GREEN, GREY = (style.PALETTE[c] for c in ("blue", "vermilion", "green", "grey"))
# Method of the record: place from the top, label, colour. Gaps part the sources of text.
ROWS = {
    "base": (0, "base", style.PALETTE["black"]),
    "sft": (1.4, "demonstrations: SFT", BLUE),
    "iw-sft": (2.4, "iw-SFT", BLUE),
    "dft": (3.4, "DFT", RED),
    "rft-sft": (4.8, "accepted: SFT", BLUE),
    "rft-iw-sft": (5.8, "iw-SFT", BLUE),
    "rft-dft": (6.8, "DFT", RED),
    "dpo": (8.2, "pairs: DPO", GREEN),
    "ppo": (9.6, "online: PPO", GREEN),
    "grpo": (10.6, "GRPO", GREEN),
    "own-sft": (12.0, "all own samples: SFT", GREY),
    "own-dft": (13.0, "DFT", GREY),
}
MODEL = "Qwen2.5-Math-1.5B"
# The paper's table and row; of version 1 where version 3 has none.
PAPER = {
    "base": ("1", "base"),
    "sft": ("1", "sft"),
    "iw-sft": ("2-v1", "iw-sft on demonstrations"),
    "dft": ("2", "dft on demonstrations"),
    "rft-sft": ("2", "rft"),
    "rft-iw-sft": ("2-v1", "iw-sft on accepted samples"),
    "rft-dft": ("2", "dft on accepted samples"),
    "dpo": ("2", "dpo"),
    "ppo": ("2", "ppo"),
    "grpo": ("2", "grpo"),
}
METRICS = ("sampled", "greedy", "content_kl", "style_kl")
PRIORS = (0.3, 0.6)
COLUMNS = ("row", "method", "p0", "metric", "mean", "low", "high")


def compute() -> FigureData:
    """Rows: `ours`, mean and interval of each method, prior and metric; `paper`, its averages."""
    run = record("offline-rl")
    found, rows = run.metrics(), list[tuple[Cell, ...]]()
    for method in ROWS:
        for p0 in PRIORS:
            for metric in METRICS:
                seen = values(found, metric, method=method, p0=p0, best=True)
                rows.append(("ours", method, p0, metric, seen.mean().item(), *interval(seen)))
    for method, (name, row) in PAPER.items():
        average = table(name).row(MODEL, row).average
        rows.append(("paper", method, None, "average", average, average, average))
    return FigureData(COLUMNS, tuple(rows), source(run))


def at(data: FigureData, method: str, p0: float, metric: str) -> tuple[float, float, float]:
    """Mean, low and high of one cell."""
    t = data.where(row="ours", method=method, p0=p0, metric=metric)
    mean, low, high = (float(t.column(c)[0]) for c in ("mean", "low", "high"))
    return mean, low, high


def expect(data: FigureData) -> None:
    """RL's order as in the paper, but for filtered text; DFT is between SFT and RL in states."""
    keys = [row[1:4] for row in data.rows if row[0] == "ours"]
    every = [(m, p, k) for m in ROWS for p in PRIORS for k in METRICS]
    require(keys == every, "every cell once")
    cells = {(m, p, k): at(data, m, p, k) for m in ROWS for p in PRIORS for k in METRICS}
    for mean, low, high in cells.values():
        require(abs((low + high) / 2 - mean) < 1e-6, "a mean in the middle of its interval")
    strong, weak = ({(m, k): cells[m, p, k][0] for m in ROWS for k in METRICS} for p in (0.6, 0.3))
    paper = data.where(row="paper")
    require(paper.column("method").tolist() == list(PAPER), "the paper's rows")
    theirs = dict(zip(PAPER, paper.column("mean").tolist(), strict=True))
    order = ("base", "sft", "dpo", "rft-sft", "ppo", "iw-sft", "dft", "rft-iw-sft", "grpo")
    averages = [theirs[m] for m in (*order, "rft-dft")]
    require(averages == sorted(averages), "the paper's order")
    ours = [strong[m, "sampled"] for m in ("base", "dpo", "rft-sft", "rft-dft", "grpo")]
    require(ours == sorted(ours), "ours at T = 1, where DFT on accepted text is below GRPO")
    require(abs(strong["dft", "sampled"] - strong["grpo", "sampled"]) < 0.1, "DFT is near GRPO")
    for k in METRICS[:2]:
        require(strong["dft", k] > strong["sft", k] + 0.2, f"DFT above SFT, {k}")
        require(strong["iw-sft", k] < strong["sft", k], f"iw-SFT below, {k}, against the paper")
        for m in ("sft", "dft", "iw-sft"):
            high = max(weak[o, k] for o in ROWS if o not in ("sft", "dft", "iw-sft"))
            require(weak[m, k] > high, f"a weak prior: demonstrations before all else, {k}")
        require(weak["dft", k] > weak["grpo", k] + 0.4, f"DFT far above GRPO, {k}")
    require(strong["own-dft", "sampled"] > strong["base", "sampled"] + 0.2, "a gain from nothing")
    require(strong["own-dft", "greedy"] < strong["base", "greedy"] - 0.1, "that greedy unmasks")
    require(weak["own-dft", "sampled"] < weak["base", "sampled"], "and no gain from a weak prior")
    best = max(strong[m, "greedy"] for m in ROWS)
    require(best - strong["base", "greedy"] < 0.12, "greedily little is left to gain")
    for of in (strong, weak):
        states = [of[m, "content_kl"] for m in ("sft", "dft", "grpo")]
        require(states == sorted(states, reverse=True), "states: SFT, DFT, GRPO")
        styles = {m: of[m, "style_kl"] for m in ROWS}
        require(max(styles, key=lambda m: styles[m]) == "dft", "styles: DFT farthest")
        require(styles["grpo"] < 0.5 and of["base", "content_kl"] < 1e-5, "RL leaves them alone")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """A table of dots: the paper's averages, accuracies from two priors, distances."""
    figure, axes = style.panels(1, 4, width=style.TEXT, height=3.7, share=(False, True))
    theirs, strong, weak, far = axes[0]
    paper = data.where(row="paper")
    for method, average in zip(paper.column("method"), paper.column("mean"), strict=True):
        place, _, color = ROWS[str(method)]
        theirs.plot(average, place, "o", color=color, ms=4.5)
        number(theirs, place, f"{average:.1f}")
    for axis, p0, metrics in (
        (strong, 0.6, METRICS[:2]),
        (weak, 0.3, METRICS[:2]),
        (far, 0.6, METRICS[2:]),
    ):
        for method, (place, _, color) in ROWS.items():
            words = []
            for metric, face, shift in zip(metrics, (color, "white"), (-0.17, 0.17), strict=True):
                mean, low, high = at(data, method, p0, metric)
                look = {"color": color, "mfc": face, "marker": "o", "ms": 4, "lw": 1}
                around = [[abs(mean - low)], [abs(high - mean)]]
                axis.errorbar(mean, place + shift, xerr=around, capsize=0, **look)
                words.append(f"{mean:.2f}".removeprefix("0") if axis is not far else f"{mean:.1f}")
            number(axis, place, "  ".join(words))
    theirs.set_yticks(
        [place for place, *_ in ROWS.values()], [name for _, name, _ in ROWS.values()]
    )
    theirs.set(ylim=(13.7, -0.7), xlim=(10, 40), xlabel="average, %")
    theirs.set_title("paper", loc="left")
    for axis, p0 in ((strong, 0.6), (weak, 0.3)):
        axis.set(xlim=(-0.02, 1.02), xlabel="accuracy")
        axis.set_title(f"ours, prior {p0}", loc="left")
    far.set(xlim=(-0.2, 5.5), xlabel="KL (nats)")
    far.set_title("from the base", loc="left")
    style.letter(axes)
    return figure


def number(axis: matplotlib.axes.Axes, place: float, words: str) -> None:
    """Write numbers right of a panel."""
    axis.annotate(words, (1.03, place), xycoords=("axes fraction", "data"), va="center", fontsize=7)


FIGURE = Figure(
    "table2",
    title="Demonstrations, accepted samples, pairs and online RL",
    paper_ref="Table 2",
    claims=(
        "filtered-sft-is-policy-gradient",
        "own-samples-sharpen-under-dft",
        "ppo-first-step-is-the-policy-gradient",
        "dpo-gradient",
        "baseline-changes-nothing",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="(a) The paper's averages over five benchmarks, 16 samples at T = 1 from "
    "Qwen2.5-Math-1.5B, one run each; base and SFT from its Table 1, iw-SFT from version 1. (b, c) "
    "The chain task from priors of 0.6 and 0.3, demonstrations with 15 % noise, every method at "
    "its own best learning rate: chance that all states are right, filled at T = 1, open greedy; "
    "means (numbers: T = 1, greedy) and 95 % intervals of five seeds. Accepted samples, pairs and "
    "online rewards ask for the last state only. (d) KL from the base at prior 0.6, filled of "
    "states, open of styles. As in the paper DFT on demonstrations is far above SFT and near GRPO, "
    "and GRPO and PPO are above rejection, rejection above DPO. Unlike there, DFT on accepted "
    "samples is not above GRPO in the mean, and iw-SFT on noisy demonstrations is below SFT. "
    "DFT on all of the base's own samples, which teach nothing, gains at T = 1 and loses greedily; "
    "greedily hardly any method gains. From the weak prior the outcome is a bad filter, and "
    "demonstrations lead. "
    "In states DFT stays nearer to the base than SFT, and is hardly farther than GRPO (0.3 nats, "
    "the interval holds 0); in styles it goes farther than both. Distances are at each method's "
    "own rate: 3e-3 for SFT and DFT on demonstrations, 1e-3 online.",
)
