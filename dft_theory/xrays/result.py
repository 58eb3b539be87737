"""What an X-ray shows, and how it reads as text."""

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from dft_theory.objectives import Level
from dft_theory.xrays.seen import SHOWN

EXTENT = {
    "token": "its own position only",
    "geometric-mean": "its response, through the geometric mean of the probabilities",
    "sequence": "its response",
    "batch": "other responses of the batch",
}


@dataclass(frozen=True)
class Edge:
    """The weight at an end of (0, 1): coefficient * h^power at distance h from it.

    `power` is None where the weight is 0 there; `drifts` where the power still changes from decade
    to decade, as with a logarithm.
    """

    coefficient: float
    power: float | None
    drifts: bool

    def formula(self, h: str) -> str:
        """The leading term in the distance h."""
        if self.power is None:
            return "0"
        if self.drifts:
            return f"about {h}^{self.power:.2f}, a power that still drifts (a logarithm?)"
        size = f"{self.coefficient:.4g}"
        return size if self.power == 0 else f"{size} {h}^{self.power:.4g}"


@dataclass(frozen=True)
class Relative:
    """A known objective beside the loss, whose field is `factor` times the known one.

    `distance` is the part of the loss's field, in its norm, that the relative does not explain;
    `exact`: nothing is left but rounding, at any state, and then `reduction` names that of the
    tokens if it is a usual one. `wrong` says what is wrong with the form.
    """

    name: str
    title: str
    factor: float
    distance: float
    exact: bool
    reduction: str = ""
    wrong: str = ""

    def __str__(self) -> str:
        plain = not self.exact or abs(self.factor - 1) < 1e-3
        return self.title if plain else f"{self.factor:.4g} x {self.title}"


@dataclass(frozen=True)
class XRay:
    """What the gradient of a loss shows.

    `weight` are the pulls on the target's logit over 1 - p at the probabilities `p`, with the rest
    spread evenly over the rivals. `level`: whose logits the pull at one position depends on.
    `asymmetry` is that of the field's Jacobian as a fraction of it, within `asymmetry_error` of 0
    where a `potential` exists. `relatives` come nearest first. `given` is what an objective was
    supplied with besides logits.
    """

    name: str
    precision: str
    given: str
    is_objective: bool
    p: tuple[float, ...]
    weight: tuple[float, ...]
    at_zero: Edge | None
    at_one: Edge | None
    sign_changes: tuple[float, ...]
    adds_target: bool
    depends_on: tuple[str, ...]
    level: Level
    potential: bool
    asymmetry: float
    asymmetry_error: float
    remarks: tuple[str, ...]
    relatives: tuple[Relative, ...]

    @property
    def reward(self) -> tuple[float, ...]:
        """The implied reward w / p at each p."""
        return tuple(w / p for w, p in zip(self.weight, self.p, strict=True))

    @property
    def nearest(self) -> Relative:
        """The nearest relative."""
        return self.relatives[0]

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for `results.write_json`."""
        return asdict(self) | {"reward": self.reward}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(x: XRay) -> list[str]:
    """The X-ray as text, one finding a line."""
    near = x.nearest
    flips = ", ".join(f"{p:.3g}" for p in x.sign_changes)
    verdict = f"is {near}" if near.exact else "is no known objective"
    shown = [min(range(len(x.p)), key=lambda i: abs(x.p[i] / p - 1)) for p in SHOWN]
    shown = list(dict.fromkeys(shown))
    rows = {"p": x.p, "weight w(p)": x.weight, "reward w/p": x.reward}
    found = {name: "".join(f"{v[i]:<11.3g}" for i in shown).rstrip() for name, v in rows.items()}
    for end, edge, h in (("0", x.at_zero, "p"), ("1", x.at_one, "(1 - p)")):
        found[f"as p -> {end}"] = f"w is {edge.formula(h)}" if edge else "beyond half precision"
    if x.sign_changes or max(x.weight) <= 0:
        found["sign"] = _sign(x, flips)
    if x.adds_target:
        found["direction"] = "not along e_y - pi: adds a target over the vocabulary"
    found["depends on"] = ", ".join(("p", *x.depends_on))
    found["reads"] = EXTENT[x.level]
    found["potential"] = (
        f"{'exists' if x.potential else 'none'}; asymmetry of the Jacobian {x.asymmetry:.1g}, "
        f"error {x.asymmetry_error:.1g}, in {x.precision}"
    )
    if near.reduction and not x.is_objective:
        found["reduction"] = near.reduction
    if x.remarks:
        found["remark"] = "; ".join(x.remarks)
    signs = f"; sign flips at p = {flips}" if flips else ""
    distance = "" if near.exact else f"; distance {near.distance:.2g}"
    found["nearest relative"] = f"{near}{signs}{distance}"
    lines = [f"{name + ':':17s} {text}" for name, text in found.items()]
    wrong = [f"{'':17s} {r.title}: {r.wrong}" for r in x.relatives if r.exact and r.wrong]
    given = f", given {x.given}" if x.given else ""
    indent = " " * 18
    whole = [f"{x.name} {verdict}{given}", *lines, *wrong]
    return [textwrap.fill(line, 100, subsequent_indent=indent) for line in whole]


def _sign(x: XRay, flips: str) -> str:
    """Where the weight is negative."""
    if not x.sign_changes:
        return "negative: targets are pushed down"
    if len(x.sign_changes) > 1:
        return f"changes at p = {flips}"
    lowest = sum(w for w, p in zip(x.weight, x.p, strict=True) if p < x.sign_changes[0])
    return (
        f"negative {'below' if lowest < 0 else 'above'} p = {flips}: such targets are pushed down"
    )
