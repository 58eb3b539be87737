"""What is learned from demonstrations that disagree: the data, their square, or only their mode."""

import matplotlib.figure
import numpy as np
import torch
from torch import Tensor

from dft_theory.dynamics import fixed_point, flow
from dft_theory.figures import style
from dft_theory.figures.base import Figure, FigureData, require
from dft_theory.objectives import objectives

DATA = torch.tensor([0.30, 0.22, 0.16, 0.11, 0.08, 0.06, 0.04, 0.03], dtype=torch.float64)
# Weight p^alpha: registered name, exponent, label, time after which the flow has come to rest.
ENDS = {
    "sft": (0.0, "SFT", 1e3),
    "power-0.5": (0.5, "$p^{1/2}$", 2e4),
    "dft": (1.0, "DFT", 1e7),
}
COLUMNS = ("row", "alpha", "token", "data", "closed", "integrated", "loss", "entropy")


def nats(weights: Tensor, p: Tensor) -> float:
    """Mean of -log p under `weights`, with 0 log 0 = 0."""
    return float(-(weights * p.clamp_min(1e-300).log()).sum())


def compute() -> FigureData:
    """Token rows: the end of each flow. Alpha rows: mean probability, loss, entropy at the end."""
    rows: list[tuple[str | float | None, ...]] = []
    mean: dict[float, float] = {}
    for name, (alpha, _, long) in ENDS.items():
        start, times = torch.zeros_like(DATA), torch.tensor([long], dtype=torch.float64)
        theta = flow(objectives[name], start=start, demos=DATA, times=times)[0]
        end, closed = torch.softmax(theta, -1), fixed_point(DATA, alpha=alpha)
        mean[alpha] = float(DATA @ end)
        rows += [
            ("token", alpha, i + 1, r, c, e, None, None)
            for i, (r, c, e) in enumerate(
                zip(*(x.tolist() for x in (DATA, closed, end)), strict=True)
            )
        ]
    for alpha in [*np.arange(0, 0.951, 0.025).round(3).tolist(), 1.0]:
        p = fixed_point(DATA, alpha=alpha)
        loss = None if alpha == 1 else nats(DATA, p)  # infinite: the mode has -log 0 elsewhere
        rows.append(
            ("alpha", alpha, None, None, float(DATA @ p), mean.get(alpha), loss, nats(p, p))
        )
    return FigureData(COLUMNS, tuple(rows))


def expect(data: FigureData) -> None:
    """SFT ends at r, p^(1/2) at r^2, DFT at the mode; mean probability and loss both rise."""
    for (alpha, _, _), exponent in zip(ENDS.values(), (1, 2, None), strict=True):
        t = data.where(row="token", alpha=alpha)
        r, end = t.column("data"), t.column("integrated")
        target = (
            (r == r.max()).astype(float) if exponent is None else r**exponent / (r**exponent).sum()
        )
        far = abs(end - target).sum() / 2
        require(far < 1e-5, f"alpha = {alpha}: total variation {far:.1e} from the predicted end")
        require(np.allclose(t.column("closed"), target, rtol=0, atol=1e-12), "closed form")
    a = data.where(row="alpha")
    p, loss, entropy, measured = (a.column(c) for c in ("closed", "loss", "entropy", "integrated"))
    require(abs(p[0] - (r**2).sum()) < 1e-12, "SFT: sum r^2")
    require(abs(p[-1] - r.max()) < 1e-12, "DFT: max r")
    seen = np.isfinite(measured)
    require(seen.sum() == 3 and np.abs(p - measured)[seen].max() < 1e-5, "flows on the curve")
    require((np.diff(p) > 0).all() and (np.diff(entropy) < 0).all(), "ever sharper")
    require((np.diff(loss[:-1]) > 0).all() and loss[-2] > 5 * loss[0], "and the loss diverges")
    require(abs(loss[0] - entropy[0]) < 1e-12, "at SFT the loss is the entropy of the data")


def plot(data: FigureData) -> matplotlib.figure.Figure:
    """Left: policies after training. Middle, right: their means against alpha."""
    figure, axes = style.panels(1, 3, width=style.TEXT, height=2.3)
    tokens, probability, nat = axes[0]
    t = data.where(row="token", alpha=0.0)
    tokens.bar(t.column("token"), t.column("data"), color="#cfcfcf", width=0.8, label="data $r$")
    a = data.where(row="alpha")
    alphas, p = a.column("alpha"), a.column("closed")
    probability.plot(alphas, p, color="#444444")
    for name, (alpha, label, _) in ENDS.items():
        look, t = objectives[name].style, data.where(row="token", alpha=alpha)
        dots = {"color": look.color, "marker": look.marker, "mec": "white", "mew": 0.5, "ms": 5}
        tokens.plot(t.column("token"), t.column("integrated"), lw=1, label=label, **dots)
        at = a.where(alpha=alpha).column("integrated")
        probability.plot([alpha], at, ls="", **dots)
    tokens.set_title("End of training")
    probability.set_title("How likely the data are")
    tokens.set(xlabel="response, by frequency", ylabel="probability after training", ylim=(0, 1.04))
    tokens.set_xticks(range(1, 9))
    tokens.grid(axis="x", visible=False)
    tokens.legend(loc="upper right")
    r = data.where(row="token", alpha=0.0).column("data")
    probability.annotate(r"SFT: $\sum r^2$", (0.04, (r**2).sum() - 0.004), va="top")
    probability.annotate(r"DFT: $\max r$", (0.97, r.max()), (0.6, r.max() + 0.012), ha="center")
    probability.set(
        xlabel=r"exponent $\alpha$ of the weight $p^\alpha$",
        ylabel="mean probability of the data",
        ylim=(0.15, 0.33),
    )
    nat.plot(alphas, a.column("loss"), color=style.PALETTE["purple"])
    nat.plot(alphas, a.column("entropy"), "--", color="black")
    nat.annotate("loss on the data", (0.12, 3.4), color=style.PALETTE["purple"], weight="bold")
    nat.annotate("entropy of the policy", (0.0, 0.45))
    nat.set_title("Loss and entropy")
    nat.set(xlabel=r"exponent $\alpha$", ylabel="nats", ylim=(0, 10))
    style.letter(axes)
    return figure


FIGURE = Figure(
    "fixed_points",
    title="What is learned from demonstrations that disagree",
    paper_ref="appendix A.3, for several demonstrations per prompt",
    claims=(
        "sft-fits-the-data",
        "power-sharpens-the-data",
        "dft-learns-the-mode",
        "mean-probability-at-the-end",
        "likelier-and-yet-lossier",
    ),
    cost="seconds",
    compute=compute,
    expect=expect,
    plot=plot,
    caption="Eight responses to one prompt with frequencies r. (a) Where gradient flow ends: SFT "
    "at r, the weight p^(1/2) at r squared, DFT on the most frequent response alone. (b) Mean "
    "probability of the demonstrations at the end, closed form and integrated flows. (c) The "
    "cross-entropy on the same data rises without bound as alpha tends to 1 while the policy's "
    "entropy falls to 0: likelier on average and yet lossier.",
)
