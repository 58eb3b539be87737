"""The sequence-level identity on real solutions: weights underflow, samples run out."""

import math

import matplotlib.figure
import numpy as np

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from paper_figures._real_model import record, source

UNDERFLOW = -150 * math.log(2)


def compute() -> FigureData:
    """One row per solution."""
    run = record()
    columns = ("id", "tokens", "log_prob", "float32_weight", "log10_samples")
    rows = tuple(tuple(line[c] for c in columns) for line in run.metrics())
    return FigureData(columns, rows, source(run))


def expect(data: FigureData) -> None:
    """Exactly the solutions below the threshold have weight 0; sampling is hopeless for all."""
    dead = data.column("float32_weight") == 0
    require(bool((dead == (data.column("log_prob") < UNDERFLOW)).all()), "threshold at -103.97")
    require(dead.mean() > 0.5, "more than half of the solutions underflow in float32")
    require(data.column("log10_samples").min() > 9, "every solution needs over 10^9 samples")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Log pi against length, with the number of samples on the right axis."""
    figure, axes = style.panels(1, 1, width=style.COLUMN, height=2.5)
    axis = axes[0, 0]
    tokens, logp = data.column("tokens"), data.column("log_prob")
    dead = data.column("float32_weight") == 0
    axis.axhspan(1.05 * logp.min(), UNDERFLOW, color="#f3e3dc", lw=0)
    axis.plot(tokens[~dead], logp[~dead], "o", color=style.PALETTE["blue"], label="weight > 0")
    axis.plot(tokens[dead], logp[dead], "x", color=style.PALETTE["vermilion"], label="weight = 0")
    axis.axhline(UNDERFLOW, color="#444444", lw=0.8, ls="--")
    axis.text(tokens.max(), UNDERFLOW + 4, "float32 underflow", ha="right", va="bottom", fontsize=7)
    axis.set(
        xlabel="response tokens",
        ylabel=r"$\log\,\pi(y^\star|x)$ (nats)",
        ylim=(1.05 * logp.min(), 0),
        title="Sequence weights of real solutions",
    )
    axis.legend(loc="lower left")
    samples = axis.secondary_yaxis(
        "right", functions=(lambda x: -x / np.log(10) + 2, lambda n: (2 - n) * np.log(10))
    )
    samples.set_ylabel("samples for a 10 % estimate")
    ticks = np.arange(20, -1.05 * logp.min() / np.log(10), 40)
    samples.set_yticks(ticks, [f"$10^{{{int(t)}}}$" for t in ticks])
    return figure


FIGURE = Figure(
    "real_model_sequences",
    title="Sequence-level weights of real solutions",
    paper_ref="equations (5), (8); Table 5",
    claims=("sequence-weight-underflows", "samples-needed-to-see-the-demonstration"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Log-probability of 64 GSM8K solutions under SmolLM2-135M-Instruct against their "
    "length. Below the dashed line the weight of equation (8) is exactly 0 in float32. Right: how "
    "many on-policy samples would estimate the gradient of equation (5) to 10 %.",
)
