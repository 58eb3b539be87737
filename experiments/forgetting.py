"""Out of distribution, and what is forgotten: DFT against SFT where neither was taught.

Question: does DFT generalise further and forget less than SFT, as its test accuracy suggests?

SFT, p^1/2, DFT and ASFT on the chain task, each at its own best learning rate for unseen prompts of
the same kind, and DFT also at SFT's, which may be lower. Then they are measured elsewhere, sampled
at temperature 1 and greedy: on prompts with an operator of no demonstration; on prompts whose
instruction, the first token, is one that no model has read; and on the base's other task, copying,
where KL(base || model) tells what has moved. Four kinds of demonstrations: with the teacher's own
law of styles; with the base's, so that no style has to move; with six instructions instead of one;
and the base's own samples, which teach nothing.

Cost: laptop minutes. Paper reference: none; its benchmarks are all in distribution. Related: prompt
diversity in arXiv 2510.00237, anchors in arXiv 2509.23753. Deviations: 26,000 parameters, own task;
the response has always three steps, so there are no harder instances. With noise at p0 = 0.9, and
on own samples, SFT's best rate is the lowest of the grid: the less it trains the better.

    python experiments/forgetting.py --quick | --full
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, interval, lies, values
from dft_theory.objectives import objectives
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, Stack
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import (
    Best,
    World,
    at_best_rate,
    listed,
    mean,
    own_samples,
    sampled_accuracy,
)

METHODS = ("sft", "power-0.5", "dft", "asft-0.05")
SAME_RATE = "dft at SFT's rate"
Kind = Literal["taught", "same style", "six instructions", "own samples"]
# Besides the task's own, tokens that stand elsewhere in a prompt or response.
INSTRUCTIONS = (chain.CHAIN, chain.EQUALS, *range(chain.STYLE, chain.STYLE + chain.STYLES))
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Cell:
    """The demonstrations of one cell, and the prior p0 of its bases; own samples have no noise."""

    kind: Kind
    p0: float
    eps: float | None


@dataclass(frozen=True)
class Size:
    """Cells and the grid of learning rates; seeds are worlds."""

    cells: tuple[Cell, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 100
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for each prior's bases, and for each (cell, objective)."""
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    rows: list[dict[str, Any]] = []
    for p0 in dict.fromkeys(cell.p0 for cell in size.cells):
        base = bases(size.seeds, (p0,), size.pretraining, cache=CACHE)
        rows.append({"p0": p0, "objective": "base", **listed(told(base, base, worlds))})
        for cell in size.cells:
            if cell.p0 == p0:
                rows += trained(base, worlds, cell, size)
    return rows


def trained(base: Stack, worlds: Sequence[World], cell: Cell, size: Size) -> list[dict[str, Any]]:
    """A row for each objective of one cell at its best rate, and for DFT at that of SFT."""
    demos = demonstrations(base, worlds, cell)

    def runs(names: Sequence[str], rates: Sequence[float]) -> list[Best]:
        chosen, recipe = [objectives[name] for name in names], Recipe(steps=size.steps)
        return at_best_rate(base, worlds, demos, chosen, rates, recipe, every=size.steps)

    found = dict(zip(METHODS, runs(METHODS, size.rates), strict=True))
    found[SAME_RATE] = found["dft"]
    if found["dft"].rate != found["sft"].rate:
        (found[SAME_RATE],) = runs(["dft"], [found["sft"].rate])
    return [
        asdict(cell)
        | {"objective": name, "rate": best.rate}
        | listed(told(best.last, base, worlds))
        for name, best in found.items()
    ]


def demonstrations(base: Stack, worlds: Sequence[World], cell: Cell) -> list[Tensor]:
    """What each world trains on, `[N, P+T]`. Raises: ValueError for a teacher without a noise."""
    if cell.kind == "own samples":
        return own_samples(base, worlds, 1)
    if cell.eps is None:
        raise ValueError(f"demonstrations of kind {cell.kind!r} need a noise eps")
    if cell.kind == "same style":
        return [w.taught(cell.eps, style=chain.BASE_STYLE) for w in worlds]
    demos = [w.taught(cell.eps) for w in worlds]
    if cell.kind == "six instructions":
        return [instructed(d, w.seed) for d, w in zip(demos, worlds, strict=True)]
    return demos


def instructed(demos: Tensor, seed: int) -> Tensor:
    """The same demonstrations, each under one of six instructions."""
    g = generator(seed, "forgetting", "instructions")
    drawn = torch.randint(len(INSTRUCTIONS), (len(demos),), generator=g)
    return torch.cat([torch.tensor(INSTRUCTIONS)[drawn].unsqueeze(1), demos[:, 1:]], dim=1)


# --- what is measured ---------------------------------------------------------------------------


def elsewhere(world: World) -> dict[str, Tensor]:
    """Right responses `[N, P+T]` in distribution and to each of the prompts of no demonstration."""
    reworded = world.test.clone()
    reworded[:, 0] = chain.NEW
    g = generator(world.seed, "forgetting", "copies")
    return {
        "test": world.test,
        "unseen": world.unseen,
        "reworded": reworded,
        "copy": chain.copies(len(world.test), chain.BASE_STYLE, g),
    }


@torch.no_grad()
def told(stack: Stack, base: Stack, worlds: Sequence[World]) -> dict[str, Tensor]:
    """Accuracy at T = 1 and greedy on each, and KL(base || model) of copies, `[K]`.

    KL is summed over the three states, or styles, of a response, in nats.
    """
    places = [elsewhere(w) for w in worlds]
    found: dict[str, Tensor] = {}
    for name in places[0]:
        asked = torch.stack([place[name] for place in places])
        found[name] = mean(stack, asked, sampled_accuracy)
        found[f"{name}_greedy"] = mean(stack, asked, chain.greedy)
    copies = torch.stack([place["copy"] for place in places])
    now, before = (s.stats(copies, needs=("log_probs",)) for s in (stack, base))
    away = chain.divergence(before, now).unflatten(0, copies.shape[:2]).mean(1)
    found["copy_kl_states"] = away[:, chain.CONTENT].sum(-1)
    found["copy_kl_styles"] = away[:, chain.STYLED].sum(-1)
    return found


# --- what the rows say --------------------------------------------------------------------------

FORGETTING = ("copy", "copy_kl", "unseen")  # less KL is better, more accuracy


def of(rows: Rows, kind: Kind, p0: float, eps: float | None, objective: str, metric: str) -> Tensor:
    """The values of each seed; "copy_kl" is that of states and styles."""
    if metric == "copy_kl":
        parts = (of(rows, kind, p0, eps, objective, f"copy_kl_{x}") for x in ("states", "styles"))
        return sum(parts, start=torch.zeros(()))
    return values(rows, metric, kind=kind, p0=p0, eps=eps, objective=objective)


def gap(rows: Rows, kind: Kind, p0: float, eps: float | None, metric: str) -> Tensor:
    """DFT - SFT of each seed."""
    dft, sft = (of(rows, kind, p0, eps, m, metric) for m in ("dft", "sft"))
    return dft - sft


def numbers(**each: Tensor) -> dict[str, float]:
    """The mean of each difference, and its paired 95 % interval."""
    found = dict[str, float]()
    for name, value in each.items():
        low, high = interval(value)
        found |= {name: value.mean().item(), f"{name} low": low, f"{name} high": high}
    return found


def lead(
    kind: Kind, p0: float, eps: float | None, metric: str, low: float, high: float
) -> Callable[[Rows], Judged]:
    """The mean of DFT - SFT lies strictly between."""

    def judge(rows: Rows) -> Judged:
        found = gap(rows, kind, p0, eps, metric)
        return bool(low < found.mean() < high), numbers(gap=found)

    return judge


def styles_carry_it(rows: Rows) -> Judged:
    """The two parts of the gap in KL."""
    both = {x: gap(rows, "taught", 0.6, 0.3, f"copy_kl_{x}") for x in ("states", "styles")}
    return bool(both["styles"].mean() > both["states"].mean()), numbers(**both)


def no_sign(rows: Rows) -> Judged:
    """The gap on the other task's accuracy."""
    both = {m: gap(rows, "taught", 0.6, 0.3, m) for m in ("copy", "copy_greedy")}
    return all(bool(g.mean().abs() <= 0.15) for g in both.values()), numbers(**both)


def unseen_from_weak(rows: Rows) -> Judged:
    """The unseen operator from a weak prior."""
    each = {
        f"{m} {eps}": of(rows, "taught", 0.3, eps, m, "unseen")
        for m in ("sft", "dft")
        for eps in (0.0, 0.3)
    }
    return all(bool(x.mean() < 0.2) for x in each.values()), lies(0, 1, **each)[1]


def not_a_win(rows: Rows) -> Judged:
    """In how many cells DFT leads, and trails, with an interval that excludes 0."""
    cells = {(r["p0"], r["eps"]) for r in rows if r.get("kind") == "taught"}
    if not cells:
        raise ValueError("no cell was taught by a teacher")
    found = {}
    for metric in FORGETTING:
        better = -1 if metric == "copy_kl" else 1
        bounds = [interval(better * gap(rows, "taught", *cell, metric)) for cell in cells]
        found[f"{metric} ahead"] = float(sum(low > 0 for low, _ in bounds))
        found[f"{metric} behind"] = float(sum(high < 0 for _, high in bounds))
    holds = all(found[f"{metric} ahead"] <= len(cells) / 2 for metric in FORGETTING)
    return holds, found | {"cells": float(len(cells))}


def many_instructions(rows: Rows) -> Judged:
    """What six instructions give SFT on another one, beside DFT's lead with one."""
    mixed, one = (
        of(rows, kind, 0.6, 0.0, "sft", "reworded") for kind in ("six instructions", "taught")
    )
    lift, ahead = mixed - one, gap(rows, "taught", 0.6, 0.0, "reworded")
    holds = bool(lift.mean() > 0.1) and bool(lift.mean() > ahead.mean())
    return holds, numbers(lift=lift, dft=ahead)


def same_rate(part: str, sign: int) -> Callable[[Rows], Judged]:
    """DFT at SFT's rate minus SFT in KL of states, or of styles: intervals on one side of 0."""

    def judge(rows: Rows) -> Judged:
        metric = f"copy_kl_{part}"
        each = {
            name: of(rows, "taught", 0.6, eps, SAME_RATE, metric)
            - of(rows, "taught", 0.6, eps, "sft", metric)
            for name, eps in (("clean", 0.0), ("noisy", 0.3))
        }
        bounds = [interval(sign * gap) for gap in each.values()]
        return all(low > 0 for low, _ in bounds), numbers(**each)

    return judge


def anchored(rows: Rows) -> Judged:
    """ASFT minus DFT: KL on copies, and accuracy on the task."""
    each = {
        name: of(rows, "taught", 0.6, 0.3, "asft-0.05", metric)
        - of(rows, "taught", 0.6, 0.3, "dft", metric)
        for name, metric in (("kl", "copy_kl"), ("test", "test"))
    }
    return bool(each["kl"].mean() < 0 and each["test"].mean().abs() < 0.1), numbers(**each)


PREDICTIONS = (
    Prediction(
        "copy-kl",
        "p0 = 0.6, 30 % noise: on the other task DFT moves further from the base than SFT, in the "
        "mean KL",
        lead("taught", 0.6, 0.3, "copy_kl", 0.0, 100.0),
    ),
    Prediction(
        "copy-kl-is-style",
        "p0 = 0.6, 30 % noise: most of that difference is in the styles, not in the states",
        styles_carry_it,
    ),
    Prediction(
        "copy-kl-same-style",
        "p0 = 0.6, 30 % noise, styles of the base: DFT still moves further, in the mean",
        lead("same style", 0.6, 0.3, "copy_kl", 0.0, 100.0),
    ),
    Prediction(
        "copy-accuracy",
        "p0 = 0.6, 30 % noise: no sign is predicted for accuracy on the other task; mean gaps are "
        "within 0.15, sampled and greedy",
        no_sign,
    ),
    Prediction(
        "unseen-strong-noise",
        "p0 = 0.9, 30 % noise: DFT keeps more of the unseen operator at T = 1, by over 0.05 in the "
        "mean",
        lead("taught", 0.9, 0.3, "unseen", 0.05, 1.0),
    ),
    Prediction(
        "unseen-strong-clean",
        "p0 = 0.9, clean: DFT keeps less of the unseen operator at T = 1, in the mean",
        lead("taught", 0.9, 0.0, "unseen", -1.0, 0.0),
    ),
    Prediction(
        "unseen-weak",
        "p0 = 0.3: SFT and DFT give the unseen operator less than 0.2 at T = 1 in the mean",
        unseen_from_weak,
    ),
    Prediction(
        "not-a-win",
        "taught cells: on accuracy and KL of the other task and on the unseen operator, DFT is "
        "ahead with an interval without 0 in at most half of the cells",
        not_a_win,
    ),
    Prediction(
        "many-instructions",
        "p0 = 0.6, clean: six instructions lift SFT at T = 1 on a seventh by more than 0.1, and by "
        "more than DFT leads SFT with one, in the mean",
        many_instructions,
    ),
    Prediction(
        "anchor",
        "p0 = 0.6, 30 % noise: ASFT moves less on the other task than DFT, and is within 0.1 of it "
        "at T = 1 on its own, in the mean",
        anchored,
    ),
    Prediction(
        "own-samples",
        "p0 = 0.6, own samples, which teach nothing: DFT moves further on the other task than SFT",
        lead("own samples", 0.6, None, "copy_kl", 0.0, 100.0),
    ),
    Prediction(
        "same-rate-states",
        "p0 = 0.6, clean and noisy: on the other task DFT at SFT's rate moves the states less than "
        "SFT, intervals without 0",
        same_rate("states", -1),
        "after seeds 0 to 4 and 10 to 12; the means agree in the former, not in the latter",
    ),
    Prediction(
        "same-rate-styles",
        "p0 = 0.6, clean and noisy: on the other task DFT at SFT's rate moves the styles more than "
        "SFT, intervals without 0",
        same_rate("styles", 1),
        "after seeds 0 to 4 and 10 to 12",
    ),
)

NOISE = (0.0, 0.3)
TAUGHT = tuple(Cell("taught", p0, eps) for p0 in (0.3, 0.6, 0.9) for eps in NOISE)
QUICK = Size(
    cells=(
        *TAUGHT,
        Cell("same style", 0.6, 0.3),
        Cell("six instructions", 0.6, 0.0),
        Cell("own samples", 0.6, None),
    ),
    rates=(1e-3, 3e-3),
    seeds=(10, 11, 12),
)
FULL = Size(
    cells=(
        *TAUGHT,
        *(
            Cell(kind, p0, eps)
            for kind in ("same style", "six instructions")
            for p0 in (0.3, 0.6, 0.9)
            for eps in NOISE
        ),
        *(Cell("own samples", p0, None) for p0 in (0.3, 0.6, 0.9)),
    ),
    rates=(1e-4, 3e-4, 1e-3, 3e-3, 6e-3),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Runs a second, every objective and rate as one stack and one at a time."""
    demos = World.of(0).taught(0.3)
    runs = [
        Run(objective=objectives[m], rate=rate, demos=demos, seed=0)
        for m, rate in itertools.product(METHODS, FULL.rates)
    ]
    return throughput(runs, Recipe(steps=20))


EXPERIMENT = Experiment(
    name="forgetting",
    question="Does DFT generalise further and forget less than SFT?",
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
