"""The style: sizes of a page, colours that can be told apart, and no trace left behind."""

from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dft_theory.figures import style

# Machado, Oliveira and Fernandes (2009), severity 1.0, for linear RGB.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lab(colour: str, matrix: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of a colour as seen through `matrix`."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(matrix @ linear, 0, 1)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = to_xyz @ seen / (to_xyz @ np.ones(3))
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_style_ends_with_its_block() -> None:
    before = dict(mpl.rcParams)
    with style.use():
        assert mpl.rcParams["font.size"] == 7.5
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["figure.figsize"] == [style.COLUMN, 2.3]
    assert dict(mpl.rcParams) == before


def test_the_readers_own_settings_do_not_leak_in() -> None:
    with mpl.rc_context({"axes.titlecolor": "red", "lines.dashed_pattern": [9, 9]}), style.use():
        assert mpl.rcParams["axes.titlecolor"] == "auto"
        assert mpl.rcParams["lines.dashed_pattern"] == [3.7, 1.6]


@pytest.mark.parametrize("width", [style.COLUMN, style.TEXT])
def test_panels_have_their_size_and_stay_out_of_the_global_list(width: float) -> None:
    before = plt.get_fignums()
    with style.use():
        figure, axes = style.panels(2, 3, width=width, height=4)
    assert tuple(figure.get_size_inches()) == (width, 4)
    assert axes.shape == (2, 3)
    assert plt.get_fignums() == before


def test_letters_precede_titles_in_reading_order() -> None:
    with style.use():
        _, axes = style.panels(1, 3)
        axes[0, 0].set_title("first")
        style.letter(axes)
    assert [a.get_title(loc="left") for a in axes[0]] == ["a   first", "b", "c"]


def test_every_text_is_legible_at_column_width() -> None:
    with style.use():
        figure, axes = style.panels()
        axes[0, 0].plot([0, 1], label="x")
        axes[0, 0].legend()
        axes[0, 0].set(title="t", xlabel="x", ylabel="y")
        figure.draw_without_rendering()
        axis = axes[0, 0]
        texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels(), *axis.legend_.get_texts()]
        assert min(text.get_fontsize() for text in texts) >= 7


@pytest.mark.parametrize("eye", ["normal", *DEFICIENCIES])
def test_the_cycle_survives_colour_blindness(eye: str) -> None:
    matrix = np.array(DEFICIENCIES.get(eye, np.eye(3)))
    with style.use():
        cycle = mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    assert set(cycle) <= set(style.PALETTE.values())
    for one, two in combinations(cycle, 2):
        # 2.3 is a just noticeable difference
        assert np.linalg.norm(lab(one, matrix) - lab(two, matrix)) > 10, (one, two)
