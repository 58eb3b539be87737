"""The pictures of a diagnosis as inline SVG: they follow the page into dark mode and onto a phone.

Widths are in pixels of a phone's column; a wider page enlarges them.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

import torch

from dft_theory.diagnostics.bins import (
    BINS,
    bin_index,
    share_by_bin,
)
from dft_theory.diagnostics.coherence import Coherence, expected_cosine
from dft_theory.diagnostics.escape import ratio_by_sgd
from dft_theory.diagnostics.measures import (
    CERTAIN,
    RARE,
    Diagnosis,
)

WIDTH, LEFT = 350, 34
_BAR = (WIDTH - LEFT) / (len(BINS) - 1)
# Nats; CERTAIN and RARE are edges, so that confident conflicts are whole cells.
ENTROPY = (0.0, 0.1, 0.25, 0.5, CERTAIN, 1.5, 2.0, 3.0, 4.0, math.inf)


def histogram(d: Diagnosis) -> str:
    """Tokens by probability, and the share of gradient and of weight each objective puts there."""
    t = d.tokens
    all_alike = share_by_bin(torch.ones_like(t.logp), t.p)
    rows = [("tokens", "#7a8591", all_alike, all_alike)]
    for i, o in enumerate(t.objectives):
        weight = share_by_bin(t.weight[i].abs(), t.p)
        rows.append((o.title, o.style.color, share_by_bin(t.pull[i], t.p), weight))
    top = max(float(share.max()) for _, _, share, _ in rows)
    tall, parts = 92, []
    for r, (title, color, share, line) in enumerate(rows):
        base = tall * (r + 1) - 8
        parts.append(_text(0, base - 68, title, "head"))
        parts.append(_line(LEFT, base, WIDTH, base))
        for b, (value, weighed) in enumerate(zip(share.tolist(), line.tolist(), strict=True)):
            x, high = LEFT + b * _BAR, 54 * value / top
            # A line beyond the scale stands at its top, with its value; numbers give way to it.
            thin = 54 * min(weighed / top, 1.1)
            above = max(high, thin) if high <= thin < high + 13 else high
            parts.append(_rect(x + 2, base - high, _BAR - 4, high, color))
            parts.append(_text(x + _BAR / 2, base - above - 3, _short(value), "mid"))
            if r:
                parts.append(_line(x + 0.5, base - thin, x + _BAR - 0.5, base - thin, "weight"))
            if weighed > 1.1 * top:
                parts.append(_text(x + _BAR / 2, base - thin - 3, f"↑{_short(weighed)}", "mid"))
    parts += _bin_axis(tall * len(rows) + 6)
    return _svg(tall * len(rows) + 30, parts, "Tokens and gradient by probability of the target")


def conflict_map(d: Diagnosis) -> str:
    """How many targets have which probability where the model has which entropy."""
    t = d.tokens
    edges = torch.tensor(ENTROPY[1:-1], dtype=torch.float64)
    levels, columns = len(ENTROPY) - 1, len(BINS) - 1
    cell = torch.bucketize(t.entropy, edges, right=True) * columns + bin_index(t.p)
    count = torch.bincount(cell, minlength=levels * columns).reshape(levels, columns)
    tall, top, parts = 22, 18, [_text(0, 10, "entropy, nats", "head")]
    base = top + tall * levels
    for level in range(levels):
        y = base - tall * (level + 1)
        parts.append(_text(LEFT - 5, y + tall + 3, f"{ENTROPY[level]:g}", "end"))
        for b in range(columns):
            n = int(count[level, b])
            x = LEFT + b * _BAR
            strength = 0.08 + 0.62 * math.sqrt(n / int(count.max())) if n else 0.0
            parts.append(_rect(x + 0.5, y + 0.5, _BAR - 1, tall - 1, "", f"{strength:.2f}"))
            if n:
                parts.append(_text(x + _BAR / 2, y + tall / 2 + 4, _count(n), "mid"))
    wide, high = BINS.index(RARE) * _BAR, ENTROPY.index(CERTAIN) * tall
    parts.append(
        f'<rect class="frame" x="{LEFT}" y="{base - high}" width="{wide:.1f}" height="{high}"/>'
    )
    parts += _bin_axis(base + 14)
    return _svg(base + 38, parts, "Targets by probability and entropy; confident conflicts framed")


def escapes(d: Diagnosis) -> str:
    """Steps to p = 1/2 by SGD as a multiple of SFT's, against the probability at the start."""
    starts = [10 ** (-6 + k / 8) for k in range(46) if 10 ** (-6 + k / 8) < 0.45]
    curves = []
    for o in d.tokens.objectives:
        values = [ratio_by_sgd(o, p, vocab=d.vocab) for p in starts]
        known = [
            (p, v) for p, v in zip(starts, values, strict=True) if v is not None and v < math.inf
        ]
        if known:
            curves.append((o.title, o.style.color, known))
    heights = [math.log10(v) for *_, known in curves for _, v in known if v > 0]
    low, high = min(0, math.floor(min(heights))), max(1, math.ceil(max(heights)))
    right, base, tall = WIDTH - 8, 200, 176

    def x_of(p: float) -> float:
        return LEFT + (right - LEFT) * (math.log10(p) + 6) / 6

    def y_of(v: float) -> float:
        return base - tall * (math.log10(v) - low) / (high - low)

    parts = [_text(0, 10, "times SFT's steps", "head")]
    step = max(1, (high - low) // 6)
    for power in range(low, high + 1, step):
        y = y_of(10.0**power)
        parts += [_line(LEFT, y, right, y, "grid"), _text(LEFT - 5, y + 4, _power(power), "end")]
    parts += [_text(x_of(10.0**k), base + 15, _power(k), "mid") for k in range(-6, 1)]
    parts.append(_text((LEFT + right) / 2, base + 31, "probability at the start", "mid"))
    for name, p in d.starts().items():
        if 1e-6 < p < 0.5:
            parts.append(_line(x_of(p), y_of(10.0**high), x_of(p), base, "mark"))
            parts.append(_text(x_of(p) + 3, base - tall + 10, name.removeprefix("rarest "), ""))
    for k, (title, color, known) in enumerate(curves):
        parts.append(_path([(x_of(p), y_of(v)) for p, v in known], color))
        parts.append(_key(k, base + 48, title, color))
    return _svg(base + 56 + 15 * ((len(curves) - 1) // 2), parts, "Steps to p = 1/2 by SGD")


def agreements(found: Sequence[Coherence]) -> str:
    """Cosine between halves to expect of any number of demonstrations, and the one measured."""
    colors = ("#0072B2", "#D55E00")
    right, base, tall = WIDTH - 14, 180, 156

    def x_of(n: float) -> float:
        return LEFT + (right - LEFT) * (math.log2(n) - 2) / 8

    def y_of(cosine: float) -> float:
        return base - tall * max(0.0, cosine)

    parts = [_text(0, 10, "cosine between halves", "head")]
    for value in (0.0, 0.5, 1.0):
        parts.append(_line(LEFT, y_of(value), right, y_of(value), "grid"))
        parts.append(_text(LEFT - 5, y_of(value) + 4, f"{value:g}", "end"))
    parts += [_text(x_of(n), base + 15, f"{n}", "mid") for n in (4, 16, 64, 256, 1024)]
    parts.append(_text((LEFT + right) / 2, base + 31, "demonstrations", "mid"))
    sizes = [2 ** (2 + k / 8) for k in range(65)]
    for k, (c, color) in enumerate(zip(found, colors, strict=False)):
        if c.shared is None or c.error is None or c.cosine is None:
            continue
        low, high = c.shared - 2 * c.error, c.shared + 2 * c.error
        band = [(x_of(n), y_of(expected_cosine(low, n))) for n in sizes]
        band += [(x_of(n), y_of(expected_cosine(high, n))) for n in reversed(sizes)]
        parts.append(_path(band, color, "band"))
        curve = [(x_of(n), y_of(expected_cosine(c.shared, n))) for n in sizes]
        parts.append(_path(curve, color))
        x = x_of(min(max(c.demonstrations, 4), 1024))
        parts.append(f'<circle cx="{x:.1f}" cy="{y_of(c.cosine):.1f}" r="4" fill="{color}"/>')
        parts.append(_key(k, base + 48, c.of, color))
    return _svg(base + 56, parts, "Agreement of demonstrations")


def power(found: Mapping[str, Mapping[str, float]]) -> str:
    """For each scoring, how the predictions of cases not fitted on came out."""
    parts, tall = [], 44
    for r, (scoring, counts) in enumerate(found.items()):
        y, x = tall * r, 0.0
        parts.append(_text(0, y + 11, f"by {scoring} accuracy", "head"))
        wrong = counts["answered"] - counts["right"] - counts["opposite"]
        told = (
            ("right", counts["right"], "#009E73"),
            ("draw", wrong, "#E69F00"),
            ("wrong", counts["opposite"], "#D55E00"),
            ("not told", counts["asked"] - counts["answered"], "#7a8591"),
        )
        for _, count, color in told:
            width = WIDTH * count / counts["asked"]
            parts.append(_rect(x, y + 17, max(0.0, width - 1), 16, color))
            if width > 14:
                parts.append(_text(x + width / 2, y + 29, f"{count:.0f}", "mid over"))
            x += width
    base = tall * len(found) + 8
    for k, (title, _, color) in enumerate(told):
        parts.append(_rect(k * 84, base - 8, 9, 9, color))
        parts.append(_text(k * 84 + 13, base, title, ""))
    return _svg(base + 8, parts, "Power of the prediction")


# --- marks --------------------------------------------------------------------------------------


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _bin_axis(y: float) -> list[str]:
    names = ["0", "10⁻⁴", "10⁻³", ".01", *(f".{k}" for k in range(1, 10)), "1"]
    edges = [_text(min(LEFT + b * _BAR, WIDTH - 4), y, name, "mid") for b, name in enumerate(names)]
    return [*edges, _text((LEFT + WIDTH) / 2, y + 16, "probability of the target", "mid")]


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(x0: float, y0: float, x1: float, y1: float, kind: str = "axis") -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _rect(x: float, y: float, w: float, h: float, color: str, opacity: str = "") -> str:
    paint = f'fill="{color}"' if color else f'class="cell" fill-opacity="{opacity}"'
    return f'<rect {paint} x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"/>'


def _path(points: Sequence[tuple[float, float]], color: str, kind: str = "curve") -> str:
    track = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    paint = "fill" if kind == "band" else "stroke"
    return f'<path class="{kind}" {paint}="{color}" d="M{track}"/>'


def _key(k: int, y: float, text: str, color: str) -> str:
    """The k-th entry of a legend of two columns."""
    x, y = LEFT + 158 * (k % 2), y + 15 * (k // 2)
    return _line(x, y - 4, x + 14, y - 4).replace("/>", f' style="stroke:{color}"/>') + _text(
        x + 19, y, text if len(text) < 25 else text[:23] + "…", ""
    )


def _short(share: float) -> str:
    return (
        "" if share < 0.0005 else f"{100 * share:.1f}" if share < 0.0095 else f"{100 * share:.0f}"
    )


def _count(n: int) -> str:
    return f"{n}" if n < 1000 else f"{n / 1000:.1f}k"


def _power(k: int) -> str:
    return {0: "1", 1: "10", 2: "100", 3: "1000", -1: "0.1", -2: "0.01"}.get(k, f"1e{k}")
