"""Fingerprints: equal for the same drawing, and a sentence for the first thing that changed."""

import json
from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from dft_theory.figures import style
from dft_theory.figures.fingerprint import LONGEST, compare, fingerprint

X = np.linspace(0.1, 1, 20)


def drawing(change: Callable[[Any], object] = lambda _: None) -> dict[str, Any]:
    with style.use():
        figure, axes = style.panels(1, 2, width=style.TEXT)
        left, right = axes[0]
        left.plot(X, X**2, label="dft", color="#0072B2")
        left.set(title="weights", xlabel="p", ylabel="w")
        left.legend()
        right.bar(["sft", "dft"], [1.0, 0.5])
        right.scatter([0.0, 1.0], [0.2, 0.3], label="points")
        change(figure)
        return fingerprint(figure)


def test_the_same_drawing_has_one_fingerprint() -> None:
    assert drawing() == drawing()
    assert compare(drawing(), drawing()) == ""
    assert json.loads(json.dumps(drawing())) == drawing()


def test_it_holds_what_a_reader_sees() -> None:
    left, right = drawing()["axes"]
    assert left["titles"][0] == "weights"
    assert left["x"]["label"] == "p"
    assert left["x"]["scale"] == "linear"
    assert left["lines"][0]["label"] == "dft"
    assert left["lines"][0]["y"][-1] == 1.0
    assert left["legend"] == ["dft"]
    assert [bar["size"][1] for bar in right["bars"]] == [1.0, 0.5]
    assert right["x"]["ticks"] == ["sft", "dft"]
    assert right["collections"][0]["points"] == [0.0, 0.2, 1.0, 0.3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.axes[0].set_title("other", loc="left"), 'titles 1: was "weights", is "other"'),
        (lambda f: f.axes[0].set_xlabel("q"), 'axes 1, x, label: was "p", is "q"'),
        (lambda f: f.axes[0].set_yscale("log"), 'y, scale: was "linear", is "log"'),
        (lambda f: f.axes[0].set_xlim(0, 5), "axes 1, x, limits 1: was 0.073, is 0.0"),
        (lambda f: f.axes[0].lines[0].set_color("#D55E00"), "lines 1 (dft), colour"),
        (lambda f: f.axes[0].lines[0].set_ydata(X**2 * 1.01), "lines 1 (dft), y 1: was 0.01, is"),
        (lambda f: f.axes[0].lines[0].set_data([], []), "lines 1 (dft), x 1: was 0.1, is nothing"),
        (lambda f: f.axes[0].lines[0].remove(), "axes 1, lines 1 (dft): was {"),
        (lambda f: f.axes[0].legend_.texts[0].set_text("DFT"), 'legend 1: was "dft", is "DFT"'),
        (lambda f: f.axes[1].patches[1].set_height(0.6), "axes 2, bars 2, size 2: was 0.5, is 0.6"),
        (
            lambda f: f.axes[1].collections[0].set_offsets([[0, 0.2], [1, 0.4]]),
            "axes 2, collections 1 (points), points 4: was 0.3, is 0.4",
        ),
        (lambda f: f.axes[1].text(0, 0, "note"), 'texts 1: was nothing, is "note"'),
        (lambda f: f.suptitle("all"), 'figure, title: was "", is "all"'),
    ],
)
def test_every_visible_change_is_named(
    change: Callable[[matplotlib.figure.Figure], object], words: str
) -> None:
    changed = drawing(change)
    assert changed["sha256"] != drawing()["sha256"]
    assert words in compare(drawing(), changed)


def test_noise_below_six_digits_is_no_change() -> None:
    noisy = drawing(lambda f: f.axes[0].lines[0].set_ydata(X**2 * (1 + 1e-9)))
    assert noisy == drawing()


def test_long_arrays_keep_their_range_and_hash() -> None:
    def image(values: np.ndarray) -> dict[str, Any]:
        return drawing(lambda f: f.axes[0].imshow(values))

    values = np.arange(2.0 * LONGEST).reshape(2, LONGEST)
    other = values.copy()
    other[1, 7] += 0.5
    kept = image(values)["axes"][0]["images"][0]
    assert kept["shape"] == [2, LONGEST]
    assert kept["range"] == [0.0, 2 * LONGEST - 1]
    assert "images 1, sha256" in compare(image(values), image(other))


def test_filled_bands_and_error_bars_count() -> None:
    def band(top: float) -> dict[str, Any]:
        return drawing(lambda f: f.axes[0].fill_between(X, 0, top, label="band"))

    assert "collections 1 (band), points" in compare(band(0.5), band(0.6))

    def bars(error: float) -> dict[str, Any]:
        return drawing(lambda f: f.axes[0].errorbar([0.5], [0.5], yerr=error))

    assert "axes 1, lines 3, y 1" in compare(bars(0.1), bars(0.2))
