"""The drawing of X-rays: weight and implied reward against the probability of the target."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from dft_theory import results
from dft_theory.figures import style
from dft_theory.xrays import XRay

COLOURS = [c for name, c in style.PALETTE.items() if name not in ("grey", "black")]
GREY = style.PALETTE["grey"]


def draw(xrays: Sequence[XRay]) -> matplotlib.figure.Figure:
    """Sizes on logarithmic axes: solid where the weight is positive, dashed where negative.

    Dotted verticals mark changes of sign; SFT and DFT are grey. Raises: ValueError for more X-rays
    than there are colours.
    """
    if len(xrays) > len(COLOURS):
        raise ValueError(f"a drawing holds {len(COLOURS)} X-rays at most, got {len(xrays)}")
    height = 2.6 + 0.3 * ((len(xrays) + 2) // 3)
    figure, axes = style.panels(1, 2, width=style.TEXT, height=height)
    ends = np.array([1e-6, 1.0])
    for axis, powers in zip(axes[0], ((0, 1), (-1, 0)), strict=True):
        for name, power in zip(("SFT", "DFT"), powers, strict=True):
            axis.plot(ends, ends**power, color=GREY, lw=0.8, zorder=1)
            side = (5, -8) if power >= 0 else (5, 4)
            place = (1e-4, 1e-4**power)
            axis.annotate(name, place, side, textcoords="offset points", color=GREY)
    handles = []
    for x, colour in zip(xrays, COLOURS, strict=False):
        for axis, values in zip(axes[0], (x.weight, x.reward), strict=True):
            _curve(axis, x, np.array(values), colour)
            for root in x.sign_changes:
                axis.axvline(root, color=colour, lw=0.8, ls=":")
        near = f" is {x.nearest}" if x.nearest.exact else f", nearest {x.nearest}"
        flips = "".join(f", sign flips at p = {root:.3g}" for root in x.sign_changes)
        handles.append(Line2D([], [], color=colour, label=f"{x.name}{near}{flips}"))
    if any(min(x.weight) < 0 for x in xrays):
        handles.append(Line2D([], [], color="#444444", ls="--", label="negative"))
    for axis in axes[0]:
        axis.set(xscale="log", yscale="log", xlim=(1e-6, 1.0))
        axis.set_xlabel("probability $p$ of the target")
    axes[0, 0].set(title="Weight", ylabel="$|w(p)|$", ylim=_limits([x.weight for x in xrays], 1e-6))
    axes[0, 1].set(
        title="Implied reward",
        ylabel="$|w(p)|\\,/\\,p$",
        ylim=_limits([x.reward for x in xrays], 1.0, 1e6),
    )
    style.letter(axes)
    figure.legend(handles=handles, loc="outside lower left", ncols=1)
    return figure


def save(xrays: Sequence[XRay], path: Path) -> Path:
    """Write the drawing as PNG or PDF, by the ending of the path, whole or not at all.

    Raises: ValueError for another ending, OSError.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "pdf"):
        raise ValueError(f"cannot draw to {path}: the file must end in .png or .pdf")
    with style.use():
        content = io.BytesIO()
        draw(xrays).savefig(content, format=kind)
    return results.write_bytes(path, content.getvalue())


def _curve(axis: Axes, x: XRay, value: NDArray[np.float64], colour: str) -> None:
    """The sizes, with points between the grid and each change of sign, where they fall to 0."""
    roots = np.array(x.sign_changes)
    known = np.concatenate([x.p, roots])
    order = known.argsort()
    steps = np.concatenate([s * np.geomspace(1e-8, 0.3, 60) for s in (-1, 1)])
    close = (roots[:, None] * (1 + steps)).ravel()
    p = np.sort(np.concatenate([x.p, close[close < x.p[-1]]]))
    value = np.interp(p, known[order], np.concatenate([value, 0 * roots])[order])
    for sign, stroke in ((1, "-"), (-1, "--")):
        axis.plot(p, np.where(sign * value > 0, np.abs(value), np.nan), stroke, color=colour)


def _limits(
    curves: Sequence[Sequence[float]], low: float, high: float = 1.0
) -> tuple[float, float]:
    """Round limits around the references and the curves, at most two decades beyond the former."""
    sizes = np.abs(np.concatenate([np.asarray(c) for c in curves]))
    sizes = sizes[sizes > 0]
    bottom = max(min(float(sizes.min(initial=low)), low), low * 1e-2)
    top = min(max(float(sizes.max(initial=high)), high), high * 1e2)
    return bottom / 2, top * 2
