"""Learning rates and batch sizes, swept further down than the paper's, sampled and greedy.

Question: does DFT's lead over SFT depend on SFT's learning rate being too high?

The chain task, 48 demonstrations: from a strong prior clean, with 15 % random states, and on the
base's own unfiltered samples, which teach nothing; from a weak prior clean. SFT, p^1/2 and DFT at
seven learning rates and three batch sizes. As in the paper the examples seen are the same for each
batch size, 1600: small batches make more steps. Rates are chosen on validation prompts, by accuracy
at T = 1 or by greedy accuracy.

Cost: laptop minutes. Paper reference: Figure 3. Deviations: 26,000 parameters, own task; rates span
a factor of 1000 where the paper has 20; no warm-up, no clipping.

    python experiments/rate_and_batch.py --quick | --full
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, interval, values
from dft_theory.objectives import objectives
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe
from dft_theory.toys.sweep import METRICS, accuracies, digits, runs, sweep
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import World, own_samples

METHODS = ("sft", "power-0.5", "dft")
NOISE, BATCH = 0.15, 16  # fixed beforehand
SELF = "self"  # in place of a noise
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Size:
    """Cells are a prior, a noise or SELF, and a batch size; rates; worlds."""

    cells: tuple[tuple[float, float | str, int], ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    examples: int = 1600
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for each base, and for each (cell, objective).

    Accuracies of a base are one for each seed, else `[rates, seeds]`; validation is `[rates]`.
    """
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    test = torch.stack([w.test for w in worlds])
    priors = sorted({p0 for p0, *_ in size.cells})
    every = bases(size.seeds, priors, size.pretraining, cache=CACHE)
    chosen = [objectives[name] for name in METHODS]
    rows: list[dict[str, Any]] = []
    for i, p0 in enumerate(priors):
        base = every[range(i, len(every), len(priors))]  # a row for each seed
        told = dict(zip(METRICS, digits(accuracies(base, test)), strict=True))
        rows.append({"p0": p0, "source": "none", "objective": "base", **told})
        for source, batch in ((s, b) for p, s, b in size.cells if p == p0):
            demos = [w.taught(source) for w in worlds] if isinstance(source, float) else []
            demos = demos or own_samples(base, worlds, 1)
            recipe = Recipe(steps=size.examples // batch, batch=batch)
            found = sweep(base, worlds, demos, chosen, size.rates, recipe)
            for o, name in enumerate(METHODS):
                key = {"p0": p0, "source": source, "batch": batch, "objective": name}
                row: dict[str, Any] = key | {"rates": list(size.rates)}
                for m, metric in enumerate(METRICS):
                    row[metric] = digits(found.test[-1, m, o])
                    row[f"{metric} validation"] = digits(found.validation[m, o].mean(-1))
                rows.append(row)
    return rows


# --- what the rows say --------------------------------------------------------------------------


def at_rates(
    rows: Rows, p0: float, source: object, name: str, metric: str, batch: int = BATCH
) -> Tensor:
    """Accuracies on test prompts, `[rates, seeds]`."""
    return values(rows, metric, p0=p0, source=source, batch=batch, objective=name)


def best(
    rows: Rows, p0: float, source: object, name: str, by: str, batch: int = BATCH
) -> tuple[int, float]:
    """The place in the grid and the rate that validation chooses by a metric."""
    key = {"p0": p0, "source": source, "batch": batch, "objective": name}
    place = int(values(rows, f"{by} validation", **key).argmax())
    return place, values(rows, "rates", **key)[place].item()


def chosen(
    rows: Rows, p0: float, source: object, name: str, metric: str, by: str, batch: int = BATCH
) -> Tensor:
    """Accuracies `[seeds]` at the rate chosen by a metric."""
    place, _ = best(rows, p0, source, name, by, batch)
    return at_rates(rows, p0, source, name, metric, batch)[place]


def gap(rows: Rows, p0: float, source: object, metric: str, by: str) -> Tensor:
    """DFT - SFT `[seeds]`, each at its own rate."""
    sft, dft = (chosen(rows, p0, source, m, metric, by) for m in ("sft", "dft"))
    return dft - sft


def told(found: Tensor) -> dict[str, float]:
    """A mean gap and its paired 95 % interval."""
    low, high = interval(found)
    return {"gap": found.mean().item(), "low": low, "high": high}


def leads(p0: float, source: object, metric: str, by: str) -> Callable[[Rows], Judged]:
    """DFT ahead, the interval excludes 0."""

    def judge(rows: Rows) -> Judged:
        numbers = told(gap(rows, p0, source, metric, by))
        return numbers["low"] > 0, numbers

    return judge


def within(most: float, p0: float, source: object, by: str) -> Callable[[Rows], Judged]:
    """The mean gap of a metric chosen by itself."""

    def judge(rows: Rows) -> Judged:
        numbers = told(gap(rows, p0, source, by, by))
        return abs(numbers["gap"]) <= most, numbers

    return judge


def at_every_rate(rows: Rows) -> Judged:
    """The least mean gap over equal rates from 3e-4 to 1e-2."""
    rates = next(row["rates"] for row in rows if "rates" in row)
    sft, dft = (at_rates(rows, 0.6, NOISE, m, "sampled").mean(-1) for m in ("sft", "dft"))
    seen = {f"{r:g}": (dft - sft)[i].item() for i, r in enumerate(rates) if 3e-4 <= r <= 1e-2}
    return min(seen.values()) > 0, seen


def small_at_the_lowest(rows: Rows) -> Judged:
    """The mean gap where neither has gone far."""
    rates = next(row["rates"] for row in rows if "rates" in row)
    sft, dft = (at_rates(rows, 0.6, NOISE, m, "sampled").mean(-1) for m in ("sft", "dft"))
    difference = (dft - sft)[rates.index(3e-5)].item()
    return abs(difference) <= 0.15, {"gap": difference}


def same_rate(rows: Rows) -> Judged:
    """How far apart SFT's and DFT's best rates at T = 1 are, as a factor."""
    cells = [(r["p0"], r["source"], r["batch"]) for r in rows if r["objective"] == "dft"]
    found = {}
    for p0, source, batch in cells:
        if source != SELF:
            (_, sft), (_, dft) = (best(rows, p0, source, m, "sampled", batch) for m in METHODS[::2])
            found[f"p0 {p0}, noise {source}, batch {batch}"] = dft / sft
    return max(abs(math.log(x)) for x in found.values()) <= math.log(3.4), found


def batches_matter_little(rows: Rows) -> Judged:
    """The spread over batch sizes of mean accuracy at T = 1, each at its best rate."""
    sizes = sorted({r["batch"] for r in rows if r.get("source") == NOISE})
    if len(sizes) < 2:
        raise ValueError("needs at least two batch sizes")
    found = {}
    for name in ("sft", "dft"):
        each = [chosen(rows, 0.6, NOISE, name, "sampled", "sampled", b).mean() for b in sizes]
        found[name] = (max(each) - min(each)).item()
    return max(found.values()) < 0.1, found


def sft_wants_less(rows: Rows) -> Judged:
    """SFT's best rate by greedy accuracy against its best at T = 1."""
    (_, sampled), (_, greedy) = (best(rows, 0.6, NOISE, "sft", by) for by in METRICS)
    return greedy < sampled, {"sampled": sampled, "greedy": greedy}


def weak(rows: Rows) -> Judged:
    """DFT behind SFT at T = 1 and greedily, each chosen by itself."""
    found = {m: gap(rows, 0.02, 0.0, m, m).mean().item() for m in METRICS}
    return max(found.values()) < 0, found


def half_at_weak(rows: Rows) -> Judged:
    """p^1/2 against SFT at T = 1."""
    sft, half = (chosen(rows, 0.02, 0.0, m, "sampled", "sampled").mean() for m in METHODS[:2])
    return bool(half - sft > -0.05), {"gap": (half - sft).item()}


def control(rows: Rows) -> Judged:
    """Own samples: DFT's gain at T = 1 at its best rate, and what greedy accuracy does there."""
    gains = {}
    for metric in METRICS:
        base = values(rows, metric, p0=0.6, objective="base").mean()
        found = chosen(rows, 0.6, SELF, "dft", metric, "sampled").mean()
        gains[metric] = (found - base).item()
    return gains["sampled"] > 0.02 and gains["greedy"] <= 0, gains


KNOWN = "after the record of the capability continuum, which holds these worlds at four rates"
PREDICTIONS = (
    Prediction(
        "lead",
        "p0 = 0.6, 15 % noise, own best rates: DFT leads at T = 1, the interval excludes 0",
        leads(0.6, NOISE, "sampled", "sampled"),
        KNOWN,
    ),
    Prediction(
        "lead-greedy",
        "the same runs, greedily: DFT leads, the interval excludes 0",
        leads(0.6, NOISE, "greedy", "sampled"),
        KNOWN,
    ),
    Prediction(
        "greedy-by-greedy",
        "p0 = 0.6, 15 % noise, rates chosen greedily: the mean greedy gap is within 0.06",
        within(0.06, 0.6, NOISE, "greedy"),
        KNOWN,
    ),
    Prediction(
        "sft-wants-less",
        "p0 = 0.6, 15 % noise: SFT's best rate is lower by greedy accuracy than at T = 1",
        sft_wants_less,
        KNOWN,
    ),
    Prediction(
        "every-rate",
        "p0 = 0.6, 15 % noise, T = 1: DFT leads at every equal rate from 3e-4 to 1e-2, in the mean",
        at_every_rate,
        KNOWN,
    ),
    Prediction(
        "lowest-rate",
        "p0 = 0.6, 15 % noise, T = 1: at 3e-5 the mean gap is within 0.15",
        small_at_the_lowest,
    ),
    Prediction(
        "same-rate",
        "best rates at T = 1 of SFT and DFT differ by at most one step of the grid in every cell",
        same_rate,
        KNOWN,
    ),
    Prediction(
        "batch",
        "p0 = 0.6, 15 % noise: over batch sizes each best T = 1 accuracy varies less than 0.1",
        batches_matter_little,
    ),
    Prediction(
        "clean",
        "p0 = 0.6, clean, own best rates: the mean gap at T = 1 is within 0.06",
        within(0.06, 0.6, 0.0, "sampled"),
        KNOWN,
    ),
    Prediction(
        "weak",
        "p0 = 0.02, clean, own best rates: DFT is behind SFT at T = 1 and greedily, in the mean",
        weak,
        KNOWN,
    ),
    Prediction(
        "half-at-weak",
        "p0 = 0.02, clean, own best rates: p^1/2 is at most 0.05 behind SFT at T = 1, in the mean",
        half_at_weak,
        KNOWN,
    ),
    Prediction(
        "control",
        "p0 = 0.6, own samples: DFT gains more than 0.02 at T = 1, nothing greedily, in the mean",
        control,
        KNOWN,
    ),
)

QUICK = Size(
    cells=(
        (0.6, NOISE, 16),
        (0.6, NOISE, 48),
        (0.6, 0.0, 16),
        (0.6, SELF, 16),
        (0.02, 0.0, 16),
    ),
    rates=(3e-5, 3e-4, 1e-3, 3e-3),
    seeds=(10, 11, 12),
)
FULL = Size(
    cells=(
        *((0.6, NOISE, batch) for batch in (4, 16, 48)),
        *((0.6, 0.0, batch) for batch in (4, 16, 48)),
        *((0.02, 0.0, batch) for batch in (4, 16, 48)),
        (0.6, SELF, 16),
    ),
    rates=(3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Runs a second, a cell of 36 as one stack and one at a time."""
    worlds = [World.of(seed) for seed in (0, 1, 2)]
    demos = [w.taught(NOISE) for w in worlds]
    every = runs(worlds, demos, [objectives[name] for name in METHODS], QUICK.rates)
    return throughput(every, Recipe(steps=20))


EXPERIMENT = Experiment(
    name="rate-and-batch",
    question="Does DFT's lead over SFT depend on SFT's learning rate being too high?",
    script=__file__,
    predictions=PREDICTIONS,
    quick=QUICK,
    full=FULL,
    measure=measure,
    speed=speed,
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    print(EXPERIMENT.main())
