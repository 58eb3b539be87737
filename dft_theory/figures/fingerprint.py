"""What a drawing says, without its pixels: labels, scales, limits and data, to six digits.

Two drawings with one fingerprint show the same thing; `compare` says in words where two part.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import Collection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter

LONGEST = 400  # numbers kept one by one; longer arrays keep their shape, range and hash
_ABSENT = "nothing"


def fingerprint(figure: matplotlib.figure.Figure) -> dict[str, Any]:
    """The figure's artists as nested JSON values, with their SHA-256 under `sha256`."""
    axes = [_axes(panel) for panel in figure.axes]
    described = {"title": figure.get_suptitle(), "axes": axes}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    return described | {"sha256": digest}


def compare(earlier: dict[str, Any], later: dict[str, Any]) -> str:
    """The first difference in words, empty where there is none."""
    for place, old, new in _differences(_without_hash(earlier), _without_hash(later), "figure"):
        return f"{place}: was {_shown(old)}, is {_shown(new)}"
    return ""


def _axes(panel: Axes) -> dict[str, Any]:
    legend = panel.get_legend()
    return {
        "titles": [panel.get_title(loc=side) for side in ("left", "center", "right")],
        "lines": [
            {
                "label": _label(line),
                "colour": to_hex(line.get_color()),
                "stroke": [str(line.get_linestyle()), str(line.get_marker())],
                "x": _numbers(line.get_xdata(orig=False)),
                "y": _numbers(line.get_ydata(orig=False)),
            }
            for line in panel.get_lines()
        ],
        "bars": [
            {
                "colour": to_hex(patch.get_facecolor()),
                "at": _numbers([patch.get_x(), patch.get_y()]),
                "size": _numbers([patch.get_width(), patch.get_height()]),
            }
            for patch in panel.patches
            if isinstance(patch, Rectangle)
        ],
        "collections": [_collection(collection) for collection in panel.collections],
        "images": [_numbers(np.asarray(image.get_array())) for image in panel.images],
        "x": _axis(panel.get_xlabel(), panel.get_xscale(), panel.get_xlim(), panel.xaxis),
        "y": _axis(panel.get_ylabel(), panel.get_yscale(), panel.get_ylim(), panel.yaxis),
        "texts": [text.get_text() for text in panel.texts],
        "legend": [text.get_text() for text in legend.get_texts()] if legend else [],
    }


def _axis(label: str, scale: str, limits: tuple[float, float], axis: Any) -> dict[str, Any]:
    named = isinstance(axis.get_major_formatter(), FixedFormatter | StrCategoryFormatter)
    ticks = [text.get_text() for text in axis.get_ticklabels()] if named else []
    return {"label": label, "scale": scale, "limits": _numbers(limits), "ticks": ticks}


def _collection(collection: Collection) -> dict[str, Any]:
    vertices = [path.vertices for path in collection.get_paths()]
    offsets = np.asarray(collection.get_offsets())  # the points of a scatter; (0, 0) otherwise
    points = offsets if len(offsets) > 1 or not vertices else np.concatenate(vertices)
    faces, edges = collection.get_facecolor(), collection.get_edgecolor()
    colours = faces if len(faces) else edges
    values = collection.get_array()
    return {
        "label": _label(collection),
        "kind": type(collection).__name__,
        "colours": [to_hex(colour) for colour in colours[:LONGEST]],
        "points": _numbers(points),
        "values": [] if values is None else _numbers(values),
    }


def _label(artist: Any) -> str:
    """An artist's label; matplotlib's own `_child3` only counts artists."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _numbers(values: Any) -> Any:
    array = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    rounded = [None if np.isnan(v) else float(f"{v:.6g}") + 0.0 for v in array.ravel().tolist()]
    if len(rounded) <= LONGEST:
        return rounded
    known = [v for v in rounded if v is not None]
    return {
        "shape": list(array.shape),
        "range": [min(known, default=None), max(known, default=None)],
        "sha256": hashlib.sha256(json.dumps(rounded).encode()).hexdigest(),
    }


def _differences(old: Any, new: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            label = old.get(key, _ABSENT), new.get(key, _ABSENT)
            yield from _differences(*label, f"{place}, {key}")
    elif isinstance(old, list) and isinstance(new, list):
        for i, pair in enumerate(zip_longest(old, new, fillvalue=_ABSENT), start=1):
            name = next((p["label"] for p in pair if isinstance(p, dict) and p.get("label")), "")
            yield from _differences(*pair, f"{place} {i}" + (f" ({name})" if name else ""))
    elif old != new:
        yield place, old, new


def _without_hash(described: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != "sha256"}


def _shown(value: Any) -> str:
    if value is _ABSENT or value == _ABSENT:
        return _ABSENT
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
