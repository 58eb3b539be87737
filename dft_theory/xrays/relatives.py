"""Known objectives beside a loss: how far its field is from a multiple of theirs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import OBJECTIVES, Level, Objective
from dft_theory.xrays.result import Relative
from dft_theory.xrays.seen import Seen, alone, batches, spoken
from dft_theory.xrays.wrong_forms import WRONG_FORMS

FAR = 2.0  # beyond every distance
NEEDS = ("entropy", "log_probs")  # what logits alone tell


def relatives(seen: Seen, level: Level, *, of_p: bool) -> tuple[Relative, ...]:
    """Known objectives that read nothing but logits, and fitted families, nearest first."""
    states = _States.of(seen)
    together = level == "batch"
    known = [(o, "") for o in OBJECTIVES] + [(o, o.note) for o in WRONG_FORMS]
    found = [
        _compared(seen, states, o, wrong)
        for o, wrong in known
        if set(o.needs) <= set(NEEDS) and (together or o.level not in ("batch", "group"))
    ]
    if of_p and not any(r.exact for r in found):
        fitted = [_compared(seen, states, o, "") for o in _fitted(seen)]
        found += [r for r in fitted if r.exact]
    # Python's sort is stable: among equals the catalogue comes first.
    return tuple(sorted(found, key=lambda r: 0.0 if r.exact else r.distance)[:5])


@dataclass(frozen=True)
class _States:
    """Statistics of the states at which the loss was looked at: the grid and the batches."""

    grid: TokenStats
    alone: tuple[TokenStats, ...]
    batches: tuple[TokenStats, ...]

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """All of them, with what an objective may need."""
        rows = [alone(z) for z in seen.states.flatten(0, 1)]
        logits, labels = batches()
        return cls(
            token_stats(*(torch.cat(part) for part in zip(*rows, strict=True)), needs=NEEDS),
            tuple(token_stats(*row, needs=NEEDS) for row in rows),
            tuple(token_stats(z, labels, needs=NEEDS) for z in logits),
        )

    def field_on_grid(self, objective: Objective) -> Tensor:
        """The objective's field where the target stands, `[3 * N, V]`, each alone in its batch."""
        apart = objective.level in ("batch", "group")
        calls = self.alone if apart else (self.grid,)
        return torch.cat([objective.field(t)[:, 0] for t in calls])

    def field_on_batches(self, objective: Objective) -> Tensor:
        """The objective's field, `[draws, rows, T - 1, V]`."""
        return torch.stack([objective.field(t) for t in self.batches])


def _compared(seen: Seen, states: _States, objective: Objective, wrong: str) -> Relative:
    """How far the loss's field is from a multiple of the objective's, and from which."""
    mine = seen.scaled
    theirs = states.field_on_grid(objective).reshape(mine.shape) / seen.length
    # Where p (1 - p) is small, rounding is large and should not decide the factor.
    clear = (seen.p * seen.q).unsqueeze(-1)
    factor = _factor(mine * clear, theirs * clear)
    left = (mine - factor * theirs).norm(dim=-1)
    exact = bool((left <= seen.rounding).all())
    if not exact:
        factor = _factor(mine, theirs)
    distance = _left(mine, factor * theirs)
    labels = batches()[1]
    together = states.field_on_batches(objective)
    scales = []
    for row, places in enumerate(spoken(labels)[:, :-1]):
        # The reduction may scale each response; it does not look at logits.
        mine, theirs = seen.batch[:, row, :-1][:, places], together[:, row, places]
        scale = _factor(mine, theirs)
        allowed = seen.noise * float(mine.abs().max())
        exact = exact and float((mine - scale * theirs).abs().max()) <= allowed
        distance = max(distance, _left(mine, scale * theirs))
        scales.append(scale / factor if factor else math.nan)
    reduction = _reduction(scales, labels) if exact else ""
    return Relative(objective.name, objective.title, factor, distance, exact, reduction, wrong)


def _reduction(scales: list[float], labels: Tensor) -> str:
    """The reduction that scales each response of the batch so, against a token alone."""
    counts = spoken(labels).sum(-1).tolist()
    total, rows = sum(counts), len(counts)
    for name, found in (
        ("sum over targets", [1.0] * rows),
        ("mean over targets", [1 / total] * rows),
        ("sum over targets, mean over responses", [1 / rows] * rows),
        ("mean over responses of the means over their targets", [1 / rows / n for n in counts]),
        ("sum over responses of the means over their targets", [1 / n for n in counts]),
    ):
        if all(abs(s / f - 1) < 0.01 for s, f in zip(scales, found, strict=True)):
            return name
    return ""


def _factor(mine: Tensor, theirs: Tensor) -> float:
    """The multiple of theirs that is nearest to mine, by least squares."""
    return float((mine * theirs).sum() / theirs.square().sum().clamp_min(1e-300))


def _left(mine: Tensor, theirs: Tensor) -> float:
    """What theirs leaves of mine, as a fraction of mine."""
    return float((mine - theirs).norm() / mine.norm().clamp_min(1e-300))


def _fitted(seen: Seen) -> list[Objective]:
    """The member of each declared one-parameter family that comes nearest to the weight."""
    families = {x.family: o for o in OBJECTIVES for x in o.limits if o.is_function_of_p}
    return [o for family in families if (o := _fit(family, seen)) is not None]


def _fit(family: Callable[[float], Objective], seen: Seen) -> Objective | None:
    """The family's nearest member, its parameter found on a scan and then refined."""
    weight = seen.weights[0]

    def distance(value: float) -> float:
        try:
            member = family(value)
        except ValueError:  # outside of the family's domain
            return FAR
        theirs = member.weight_at(seen.p)
        left = _left(weight, _factor(weight, theirs) * theirs)
        return left if math.isfinite(left) else FAR

    scan = [*torch.logspace(-4, 0.9, 25).tolist(), 0.5, 0.9, 0.99]
    scan = sorted([*scan, *(-v for v in scan)])
    values = [distance(v) for v in scan]
    best = min(range(len(scan)), key=values.__getitem__)
    if values[best] == FAR:
        return None
    ends = scan[max(best - 1, 0)], scan[min(best + 1, len(scan) - 1)]
    refined = minimize_scalar(distance, bounds=ends, method="bounded", options={"xatol": 1e-9})
    value = _polished(family, float(refined.x), weight, seen.p)
    rounded = float(f"{value:.4g}")
    value = rounded if distance(rounded) <= max(distance(value), 1e-7) else value
    return family(value) if distance(value) < FAR else None


def _polished(
    family: Callable[[float], Objective], value: float, weight: Tensor, p: Tensor
) -> float:
    """Three Gauss-Newton steps on factor and parameter: what a search by values cannot resolve."""
    step = 1e-4
    for _ in range(3):
        try:
            here, low, high = (family(value + s).weight_at(p) for s in (0.0, -step, step))
        except ValueError:  # at the border of the family's domain
            return value
        sides = torch.stack([here, (high - low) / (2 * step)], -1)
        factor, moved = torch.linalg.lstsq(sides, weight.unsqueeze(-1)).solution.flatten().tolist()
        if factor == 0 or abs(moved / factor) > step:
            return value
        value += moved / factor
    return value
