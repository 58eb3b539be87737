"""A drawing with sliders: still where nothing runs, alive in a browser with a kernel behind it."""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.figure


class Sliders:
    """One drawing of several numbers, each in a range, and a still one that says the same.

    A notebook shows the sliders where ipywidgets is installed and a kernel runs, and the still
    picture everywhere else: on GitHub, in a file opened without running it, and on paper. `draw`
    gets one number a name; `ranges` are (lowest, highest, first).
    """

    def __init__(
        self,
        draw: Callable[..., matplotlib.figure.Figure],
        still: matplotlib.figure.Figure,
        ranges: Mapping[str, tuple[float, float, float]],
    ) -> None:
        self.draw, self.still, self.ranges = draw, still, ranges

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        found: dict[str, Any] = {
            "text/plain": "sliders: " + ", ".join(self.ranges),
            "image/png": base64.b64encode(png(self.still)).decode(),
        }
        try:
            panel = self.panel()
        except ModuleNotFoundError:  # no ipywidgets
            return found
        return {**panel._repr_mimebundle_(), **found}

    def panel(self) -> Any:
        """The sliders above the drawing, as one widget. Raises: ModuleNotFoundError."""
        import ipywidgets

        sliders = {
            name: ipywidgets.FloatSlider(
                value=first,
                min=low,
                max=high,
                step=(high - low) / 100,
                description=name,
                readout_format=".2f",
            )
            for name, (low, high, first) in self.ranges.items()
        }
        image = ipywidgets.Image(format="png", layout={"max_width": "100%"})

        def refresh(_: object = None) -> None:
            image.value = png(self.draw(**{name: s.value for name, s in sliders.items()}))

        for slider in sliders.values():
            slider.observe(refresh, names="value")
        refresh()
        return ipywidgets.VBox([*sliders.values(), image])


def png(figure: matplotlib.figure.Figure) -> bytes:
    """A figure at the resolution of the notebooks."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130, bbox_inches="tight")
    return content.getvalue()
