"""Token probabilities of real solutions, and where each objective spends its gradient."""

import matplotlib.figure
import numpy as np

from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import objectives
from paper_figures._real_model import record, source

SHARES = ("sft", "power-0.5", "dft")


def compute() -> FigureData:
    """One row per bin: share of tokens, and of the gradient mass under each objective."""
    run = record()
    found = run.summary()
    count = np.array(found["token_count"])
    table = {"bin": found["bins"], "tokens": count, "token_share": count / count.sum()}
    table |= {name: found["gradient_share"][name] for name in SHARES}
    return FigureData.from_columns(table, manifest=source(run))


def expect(data: FigureData) -> None:
    """The base model is polarised, and DFT leaves the rare tokens alone."""
    tokens = data.column("token_share")
    require(abs(tokens.sum() - 1) < 1e-9, "token shares sum to one")
    require(tokens[-1] > 0.25, "more than a quarter of the tokens has p > 0.9")
    rare = {name: data.column(name)[:4].sum() for name in SHARES}
    require(rare["sft"] > 0.4, "SFT spends over 40 % of its gradient below p = 0.1")
    require(rare["sft"] > rare["power-0.5"] > rare["dft"], "p^1/2 lies between SFT and DFT")
    require(rare["dft"] < 0.1, "DFT spends less than a tenth of its gradient below p = 0.1")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Histogram on a log scale (as the paper's Figure 2), and three lines of gradient share."""
    figure, axes = style.panels(1, 2, width=style.TEXT, height=2.7)
    left, right = axes[0]
    x = np.arange(len(data.rows))
    left.bar(x, 100 * data.column("token_share"), color=style.PALETTE["grey"], width=0.8)
    left.set(yscale="log", ylabel="tokens (%)", title="base model on real solutions")
    for name in SHARES:
        o = objectives[name]
        right.plot(
            x, 100 * data.column(name), color=o.style.color, marker=o.style.marker, label=o.title
        )
    right.set(ylabel="gradient mass (%)", title="where the gradient is spent", ylim=(0, None))
    right.legend()
    for axis in (left, right):
        axis.set_xticks(x, data.column("bin"), rotation=45, ha="right", rotation_mode="anchor")
        axis.set_xlabel("probability of the demonstrated token")
        axis.grid(visible=False, axis="x")
    left.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
    left.minorticks_off()
    style.letter(axes)
    return figure


FIGURE = Figure(
    "real_model_tokens",
    title="Token probabilities of real solutions and the gradient they get",
    paper_ref="Figure 2 (base model)",
    claims=("weight-is-reward-times-probability", "dft-gradient-vanishes-on-rare-tokens"),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="SmolLM2-135M-Instruct on 64 GSM8K solutions, before any training. (a) Probability of "
    "the demonstrated token, in the paper's 13 bins. (b) Share of the logit-gradient mass, sum of "
    "w(p) times the norm of e_y - pi, that falls in each bin. SFT spends nearly half of it on "
    "tokens below 0.1, DFT about a twentieth.",
)
