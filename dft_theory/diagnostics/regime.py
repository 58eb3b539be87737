"""Who will lead after training, DFT or SFT, told before it: fitted on a toy task, or not told.

The gap DFT - SFT in accuracy falls with the part of their gradients that two demonstrations share:
what they agree on is to be learned, and SFT learns it first; what they disagree on is noise, and
SFT learns that too. Line, scatter and the power on scenarios that the fit has not seen are those of
the experiment `diagnosis`. The scatter is wider than MARGIN, so the line never says "alike". On any
other task its numbers do not carry over, and the answer is "cannot tell".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, Self, get_args

import torch

Name = Literal["dft leads", "sft leads", "alike", "cannot tell"]
Scoring = Literal["sampled", "greedy"]

MARGIN = 0.05  # of accuracy: a smaller gap is called alike
SURE = 2 / 3  # the least probability at which a regime is named
ENOUGH = 24  # demonstrations: with fewer the shared part is too uncertain
LIKELY = 0.9  # where no target is less probable, DFT's weights are within a tenth of SFT's
ORDERS = 100.0  # times the planned steps: out of reach


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known before training.

    `shared`: `coherence.shared_part` of the gradients on content tokens, None where unknown.
    `mean_p`, of content tokens; `least_p`, of all. `calibrated`: the demonstrations are of the
    task that the fit is from. `escape`: steps that SFT and DFT need to lift the format tokens to
    p = 1/2, over the planned steps, where known.
    """

    demonstrations: int
    shared: float | None
    mean_p: float
    least_p: float
    calibrated: bool = False
    escape: tuple[float, float] | None = None


@dataclass(frozen=True)
class Regime:
    """What is to be expected, how probable it is (None: no number is honest), and why.

    Where it is "cannot tell", the reason comes first and the numbers after a colon.
    """

    name: Name
    probability: float | None
    because: str


@dataclass(frozen=True, kw_only=True)
class Fit:
    """gap = intercept + slopes . statistics, with normal scatter of standard deviation sd.

    `low` and `high` are the ends of each statistic in the data of the fit.
    """

    intercept: float
    slopes: tuple[float, ...]
    sd: float
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, points: Sequence[Sequence[float]], gaps: Sequence[float]) -> Self:
        """Least squares. Raises: ValueError for fewer points than the line has freedom, plus 2."""
        x, y = (torch.tensor(v, dtype=torch.float64) for v in (points, gaps))
        free = x.shape[1] + 1
        if len(x) < free + 2 or len(x) != len(y):
            raise ValueError(f"{len(x)} points and {len(y)} gaps do not fix a line")
        design = torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x], dim=1)
        line = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
        left = float((design @ line - y).square().sum())
        return cls(
            intercept=float(line[0]),
            slopes=tuple(line[1:].tolist()),
            sd=math.sqrt(left / (len(x) - free)),
            low=tuple(x.amin(0).tolist()),
            high=tuple(x.amax(0).tolist()),
        )

    def gap(self, point: Sequence[float]) -> float:
        """DFT - SFT to be expected."""
        return self.intercept + sum(a * b for a, b in zip(self.slopes, point, strict=True))

    def above(self, gap: float, point: Sequence[float]) -> float:
        """Probability that the gap is larger than that."""
        return 0.5 * math.erfc((gap - self.gap(point)) / (self.sd * math.sqrt(2)))

    def covers(self, point: Sequence[float]) -> bool:
        """Whether each statistic is one that the fit has seen."""
        ends = zip(self.low, point, self.high, strict=True)
        return all(low <= x <= high for low, x, high in ends)

    def chances(self, point: Sequence[float]) -> dict[Name, float]:
        """Probability of each regime."""
        lead, trail = self.above(MARGIN, point), 1 - self.above(-MARGIN, point)
        return {"dft leads": lead, "sft leads": trail, "alike": 1 - lead - trail}


@cache
def fitted() -> dict[str, Any]:
    """The packaged numbers: `fits` and measured `power` by scoring, and the worst `failures`."""
    file = resources.files("dft_theory") / "data" / "regime.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def fit(scoring: Scoring) -> Fit:
    """The packaged fit."""
    raw = fitted()["fits"][scoring]
    return Fit(
        intercept=raw["intercept"],
        slopes=tuple(raw["slopes"]),
        sd=raw["sd"],
        low=tuple(raw["low"]),
        high=tuple(raw["high"]),
    )


def predict(evidence: Evidence, scoring: Scoring = "greedy", known: Fit | None = None) -> Regime:
    """The regime by exact accuracy, greedy or sampled at T = 1, under a fit (the packaged one).

    Raises: ValueError for another scoring.
    """
    if scoring not in get_args(Scoring):
        raise ValueError(f"accuracy is {' or '.join(get_args(Scoring))}, got {scoring!r}")
    if evidence.least_p > LIKELY:
        return Regime(
            "alike",
            None,
            f"every target has p > {LIKELY:g}: DFT's weights are within a tenth of SFT's",
        )
    if evidence.escape is not None and evidence.escape[0] <= 1 and evidence.escape[1] >= ORDERS:
        return Regime(
            "sft leads",
            None,
            f"on the format tokens: DFT needs {evidence.escape[1]:.2g} times the planned steps to "
            f"learn them, SFT {evidence.escape[0]:.2g}",
        )
    if evidence.shared is None:
        return Regime("cannot tell", None, "the gradients of the demonstrations were not compared")
    numbers = f"two demonstrations share {evidence.shared:.3f} of their gradient"
    if evidence.demonstrations < ENOUGH:
        few = f"{evidence.demonstrations} demonstrations are too few ({ENOUGH} at least): {numbers}"
        return Regime("cannot tell", None, few)
    known = fit(scoring) if known is None else known
    point = (evidence.shared,)
    chances = known.chances(point)
    best = max(chances, key=lambda name: chances[name])
    if not evidence.calibrated:
        return Regime(
            "cannot tell",
            None,
            f"the fit is of a toy task: {numbers}, which speaks for {best!r} there; how much is "
            "shared depends on task and model, and no threshold carries over",
        )
    if not known.covers(point):
        return Regime("cannot tell", None, f"outside what the fit has seen: {numbers}")
    if chances[best] < SURE:
        close = f"{best!r} is likeliest, with probability {chances[best]:.2f} only: {numbers}"
        return Regime("cannot tell", chances[best], close)
    expected = f"{numbers}, for which a gap DFT - SFT of {known.gap(point):+.2f} is expected"
    if best == "dft leads":
        expected += "; not where the model itself believes the errors, or wrote the demonstrations"
    return Regime(best, chances[best], expected)
