"""The published lead of DFT beside its trainer, its sweep and its scoring, switched on and off."""

import matplotlib.figure

from dft_theory.experiment import values
from dft_theory.figures import style
from dft_theory.figures.base import Cell, Figure, FigureData, require
from dft_theory.toys.gaps import gap
from paper_figures._gaps import COLUMNS, LOOKS, dots, entry, label, require_intervals
from paper_figures._records import record, source

CELLS = {
    "clean": "$p_0 = 0.6$, clean",
    "noisy": "$p_0 = 0.6$, 30 % noise",
    "middle": "$p_0 = 0.1$, 30 % noise",
}
SWITCHES = {
    "T = 1": "T = 1, not greedy",
    "x8": "gradient x 8",
    "clip": "clipped",
    "x8, clip": "gradient x 8, clipped",
    "bfloat16": "bfloat16, no master copy",
    "rates x3": "rates from 3 x SFT's best",
    "rates x10": "rates from 10 x SFT's best",
    "published": "all in training",
}
CLIPPED = ("clip", "x8, clip")


def compute() -> FigureData:
    """Rows: `effect` of each switch, the `gap` with none and all, how often the clip `bites`."""
    run = record("confounds")
    found = run.metrics()
    rows: list[tuple[Cell, ...]] = []
    for cell in CELLS:
        off = {metric: gap(found, cell, "off", metric) for metric in LOOKS}
        scoring = off["sampled"] - off["greedy"]
        rows.append(entry("effect", cell, "T = 1", "sampled", scoring))
        for change in SWITCHES:
            if change != "T = 1":
                for metric in LOOKS:
                    effect = gap(found, cell, change, metric) - off[metric]
                    rows.append(entry("effect", cell, change, metric, effect))
        for change in ("off", "published"):
            each = {metric: gap(found, cell, change, metric) for metric in LOOKS}
            rows += [entry("gap", cell, change, m, value) for m, value in each.items()]
        for change in CLIPPED:
            for name in ("sft", "dft"):
                share = values(found, "bites", cell=cell, change=change, objective=name)
                rows.append(entry("bites", cell, change, name, share))
    return FigureData(COLUMNS, tuple(rows), source(run))


def expect(data: FigureData) -> None:
    """What switches in training move, what T = 1 adds, and that early stopping leaves nothing."""
    require_intervals(data)
    keys = [tuple(map(str, row[:4])) for row in data.rows]
    mean, low, high = (dict(zip(keys, data.column(c), strict=True)) for c in ("gap", "low", "high"))
    for cell in CELLS:
        off = {m: mean["gap", cell, "off", m] for m in LOOKS}
        scoring = mean["effect", cell, "T = 1", "sampled"]
        require(abs(off["sampled"] - off["greedy"] - scoring) < 1e-9, "scoring: T = 1 - greedy")
        for metric in LOOKS:
            effect = {c: mean["effect", cell, c, metric] for c in SWITCHES if c != "T = 1"}
            both = mean["gap", cell, "published", metric] - off[metric]
            require(abs(both - effect["published"]) < 1e-9, "an effect is a difference of gaps")
            require(abs(effect["x8"]) < 1e-3, "AdamW divides a scale out")
            require(abs(effect["clip"]) < 0.02, "a clip that does not bite does nothing")
            require(abs(effect["x8, clip"]) < 0.06, "and one that bites little")
            if cell != "middle" and metric == "early_greedy":
                require(max(map(abs, effect.values())) < 0.03, "strong prior: nothing")
                require(abs(off[metric]) < 0.03, "strong prior: no gap when stopped early")
        for change in ("x8, clip", "bfloat16"):
            require(
                abs(mean["effect", cell, change, "sampled"]) < 0.02, f"{change}: nothing at T = 1"
            )
        require(mean["bites", cell, "clip", "sft"] < 0.05, "the clip is not for mean gradients")
        require(mean["bites", cell, "clip", "dft"] == 0, "of either objective")
        require(mean["bites", cell, "x8, clip", "sft"] > 0.6, "times eight it bites SFT")
        require(mean["bites", cell, "x8, clip", "dft"] < 0.2, "and DFT seldom")
    clean, noisy, middle = CELLS
    require(low["effect", noisy, "T = 1", "sampled"] > 0.05, "noise: scoring at T = 1 adds a lead")
    require(low["effect", clean, "T = 1", "sampled"] > 0, "and without noise")
    for cell in (noisy, middle):
        require(high["effect", cell, "rates x10", "sampled"] < 0, "rates x10: a smaller lead")
        for change in set(SWITCHES) - {"T = 1"}:
            require(mean["effect", cell, change, "sampled"] < 0.02, "none makes it larger")
    require(mean["effect", noisy, "rates x3", "greedy"] > 0.15, "rates x3: a larger greedy lead")
    require(mean["effect", noisy, "bfloat16", "greedy"] < -0.15, "bfloat16: a smaller one")
    require(high["gap", clean, "off", "greedy"] < 0, "clean, none on: greedily DFT is behind")
    require(low["gap", clean, "published", "sampled"] > 0, "clean, all on, T = 1: it leads")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Above: what each switch does to DFT - SFT. Below: DFT - SFT with none and with all."""
    figure, axes = style.panels(2, 3, width=style.TEXT, height=4.9)
    for (top, bottom), (cell, title) in zip(axes.T, CELLS.items(), strict=True):
        here = data.where(cell=cell)
        dots(top, here.where(row="effect"), tuple(SWITCHES))
        for change in CLIPPED:
            bites = here.where(row="bites", change=change).column("gap")
            text = " / ".join(f"{100 * share:.0f}" for share in bites)
            at = (0.48, tuple(SWITCHES).index(change))
            top.annotate(f"{text} %", at, ha="right", va="center", fontsize=7)
        top.set(xlim=(-0.5, 0.5), xlabel="effect on DFT minus SFT")
        top.set_title(title, loc="left")
        for i, (metric, (_, color, _, filled)) in enumerate(LOOKS.items()):
            bars = here.where(row="gap", metric=metric)
            mean, low, high = (bars.column(c) for c in ("gap", "low", "high"))
            at = [0.27 * (i - 1), 1 + 0.27 * (i - 1)]
            face = color if filled else "white"
            bottom.bar(at, mean, 0.24, color=face, edgecolor=color)
            bottom.vlines(at, low, high, color=style.PALETTE["grey"], lw=1)
        bottom.set_xticks([0, 1], ["no switch on", "all in training"])
        bottom.set_ylim(-0.25, 0.65)
        bottom.axhline(0, color="#444444", lw=0.8)
        bottom.grid(visible=False, axis="x")
    label(axes[0, 0], SWITCHES)
    for axis in axes[0, 1:]:
        axis.set_yticks([])
    axes[1, 0].set_ylabel("DFT minus SFT")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    style.letter(axes)
    return figure


FIGURE = Figure(
    "confounds",
    title="The published lead beside its trainer, sweep and scoring",
    paper_ref="section 4.1, and its released trainer",
    claims=(
        "adam-ignores-gradient-scale",
        "clipping-ignores-gradient-scale",
        "official-accumulation-is-a-sum-of-means",
        "dft-learns-the-mode",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="The chain task with each choice of the published comparison switched on: effects on "
    "DFT - SFT (a, b, c), and DFT - SFT with none and with all choices in training (d, e, f); "
    "means of five seeds with paired 95 % intervals. Black: sampled at T = 1, as published. Open: "
    "greedy. T = 1, not greedy: the black bar without a switch minus the greedy one. The trainer "
    "adds up eight gradients without dividing, then clips; numbers: per cent of steps at which the "
    "clip bites, SFT / DFT. It bites SFT and seldom DFT, and does little: AdamW normalises "
    "already. Rates from above SFT's best cost DFT more at T = 1. At $p_0 = 0.6$ under noise "
    "scoring makes half of the lead. There SFT's T = 1 accuracy is flat in the rate and its greedy "
    "accuracy falls with it, so whatever shifts the rate that is best at T = 1 (bfloat16 down, "
    "truncated grids up) moves the greedy gap; with early stopping, no gap and no effect. Without "
    "noise DFT is behind greedily with none on and ahead at T = 1 with all. For what T = 1 rewards "
    "without any teacher see the control in the capability figure.",
)
