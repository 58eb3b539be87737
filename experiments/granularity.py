"""One weight a token, a response, or a geometric mean: what the paper's Table 5 turns on.

Question: why does DFT weight tokens and not responses, and does that hold for short responses?

SFT and DFT at the three levels of Table 5 on the chain task, each at its own best learning rate,
by AdamW and by SGD, from priors p0 and with or without 30 % random states; sampled at temperature 1
and greedy, with the control of training on the base's own samples. A response of the task has six
tokens where the paper's have hundreds, so "dft-long" gives each response the weight it would have
at 25 times the length and the same token probabilities: 150 tokens. Beside it the effective sample
size of the weights of 64 responses against their length, for tokens of independent probabilities
uniform in (0, 1): in expectation (3/4)^T for a product, (T + 2) / T (T / (T + 1))^2 to the power T
for a geometric mean, 3/4 for a token, and those of the demonstrations under the bases.

Cost: laptop minutes. Paper reference: Table 5. Deviations: 26,000 parameters, own task; gradients
are clipped at norm 1, as in the paper. By SGD the best rate of sequence weights is mostly the
highest of the grid, one at which the others have long broken down.

    python experiments/granularity.py --quick | --full
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, interval, lies, values
from dft_theory.importance_weight import effective_sample_size
from dft_theory.objectives import Objective, dft, dft_geometric, dft_sequence, sft
from dft_theory.seeding import generator
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, Stack
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import World, at_best_rate, exact, listed, own_samples

LONGER = 25
dft_long = replace(
    dft_sequence,
    name="dft-long",
    title=f"DFT (sequence, {LONGER} times as long)",
    weight=lambda t: (LONGER * t.sequence_logp()).exp(),
    potential=None,
    optimum=None,
)
LEVELS = (sft, dft, dft_geometric, dft_sequence)
# What each optimiser trains. By SGD a weight of exactly 0 needs no run.
METHODS: dict[str, tuple[Objective, ...]] = {"adamw": (*LEVELS, dft_long), "sgd": LEVELS}
OPTIMIZERS: tuple[Literal["adamw"], Literal["sgd"]] = ("adamw", "sgd")
RESPONSES = 64  # weights of which the effective sample size is taken
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Size:
    """Grids of the prior p0, the noise eps, lengths in tokens and learning rates; seeds are worlds.

    At the priors of `controls` there are also AdamW runs on the base's own samples.
    """

    priors: tuple[float, ...]
    controls: tuple[float, ...]
    noise: tuple[float, ...]
    lengths: tuple[int, ...]
    adamw: tuple[float, ...]
    sgd: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 100
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)


def measure(size: Size) -> list[dict[str, Any]]:
    """Rows of weights, then one for each base and each (optimiser, source, prior, objective)."""
    rows = uniform_weights(size)
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    every = bases(size.seeds, size.priors, size.pretraining, cache=CACHE)
    for i, p0 in enumerate(size.priors):
        base = every[range(i, len(every), len(size.priors))]  # a row for each seed
        told = exact(base, base, [w.test for w in worlds])
        rows.append({"p0": p0, "objective": "base", **chosen(told)})
        taught: dict[object, list[Tensor]] = {e: [w.taught(e) for w in worlds] for e in size.noise}
        own: dict[object, list[Tensor]] = (
            {"self": own_samples(base, worlds, 1)} if p0 in size.controls else {}
        )
        for source, demos in (taught | own).items():
            rows += weights_of(base, demos, {"source": source, "p0": p0})
        adamw, sgd = (Recipe(steps=size.steps, optimizer=o, clip=1.0) for o in OPTIMIZERS)
        for recipe, rates, sources in ((adamw, size.adamw, taught | own), (sgd, size.sgd, taught)):
            for source, demos in sources.items():
                cell = {"optimizer": recipe.optimizer, "source": source, "p0": p0}
                rows += [cell | row for row in trained(base, worlds, demos, rates, recipe)]
    return rows


def trained(
    base: Stack,
    worlds: Sequence[World],
    demos: Sequence[Tensor],
    rates: Sequence[float],
    recipe: Recipe,
) -> list[dict[str, Any]]:
    """A row for each objective of one cell, at its best rate."""
    found = []
    objectives = METHODS[recipe.optimizer]
    for best in at_best_rate(base, worlds, demos, objectives, rates, recipe, every=recipe.steps):
        told = exact(best.last, base, [w.test for w in worlds])
        by_rate = [float(f"{x:.3g}") for x in best.validation]
        row = {"objective": best.objective.name, "rate": best.rate, "validation": by_rate}
        found.append(row | chosen(told))
    return found


def chosen(told: Mapping[str, Tensor]) -> dict[str, list[float | None]]:
    """Accuracies at T = 1 and greedy."""
    return listed({metric: told[metric] for metric in ("sampled", "greedy")})


# --- effective sample sizes, as a share of the number of weights ---------------------------------


def share(log_weight: Tensor) -> float:
    """Effective sample size of weights `[N]` or `[N, T]` over their number."""
    return effective_sample_size(log_weight) / log_weight.numel()


# Log weights, `[N]` or `[N, T]`, of responses whose tokens have log-probabilities `[N, T]`.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dft": lambda logp: logp,
    "dft-geometric": lambda logp: logp.mean(-1),
    "dft-sequence": lambda logp: logp.sum(-1),
}


def uniform_weights(size: Size) -> list[dict[str, Any]]:
    """A row for each level and length: 64 responses for each seed."""
    rows = []
    for length in size.lengths:
        drawn = [
            torch.rand(
                RESPONSES,
                length,
                dtype=torch.float64,
                generator=generator(seed, "granularity", "uniform", length),
            ).log()
            for seed in size.seeds
        ]
        for level, weight in WEIGHTS.items():
            shares = torch.tensor([share(weight(logp)) for logp in drawn])
            rows.append({"level": level, "length": length, **listed({"share": shares})})
    return rows


def expected_share(level: str, length: int) -> float:
    """(E w)^2 / E w^2 of one weight, for independent probabilities uniform in (0, 1)."""
    power = {"dft": 1.0, "dft-geometric": 1 / length, "dft-sequence": 1.0}[level]
    one = (1 / (1 + power)) ** 2 * (1 + 2 * power)  # E p^a = 1 / (1 + a)
    return float(one if level == "dft" else one**length)


def weights_of(
    base: Stack, demos: Sequence[Tensor], cell: dict[str, object]
) -> list[dict[str, Any]]:
    """A row for each level, of a base's weights of its demonstrations."""
    with torch.no_grad():
        logp = base.stats(torch.stack(list(demos))).logp.unflatten(0, (len(demos), -1))
    rows = []
    for level, weight in WEIGHTS.items():
        shares = torch.tensor([share(weight(one)) for one in logp])
        rows.append(cell | {"level": level, **listed({"share": shares})})
    return rows


# --- what the rows say --------------------------------------------------------------------------


def of(
    rows: Rows, optimizer: str, source: object, p0: float, objective: str, metric: str = "sampled"
) -> Tensor:
    """The values of each seed. Raises: ValueError where the grid has no such cell."""
    cell = {"optimizer": optimizer, "source": source, "p0": p0, "objective": objective}
    return values(rows, metric, **cell)


def start(rows: Rows, p0: float, metric: str = "sampled") -> Tensor:
    """The values of the bases."""
    return values(rows, metric, objective="base", p0=p0)


def collapse(rows: Rows) -> Judged:
    """Effective share of the weights at each level."""
    shares = {
        name: values(rows, "share", level=level, length=length)
        for name, level, length in (
            ("product 8", "dft-sequence", 8),
            ("product 64", "dft-sequence", 64),
            ("geometric 64", "dft-geometric", 64),
            ("token 64", "dft", 64),
        )
    }
    holds = (
        bool(0.07 < shares["product 8"].mean() < 0.3)
        and bool((shares["product 64"] < 4 / RESPONSES).all())
        and bool((shares["geometric 64"] > 0.9).all())
        and bool((abs(shares["token 64"] - 0.75) < 0.1).all())
    )
    return holds, lies(0, 1, **shares)[1]


def short(rows: Rows) -> Judged:
    """Effective share of the sequence weights of the task's own, short demonstrations."""
    each = {
        name: values(rows, "share", level="dft-sequence", source=eps, p0=0.6)
        for name, eps in (("clean", 0.0), ("noisy", 0.3))
    }
    holds = bool((each["clean"] > 0.7).all()) and bool((each["noisy"] < 0.6).all())
    return holds, lies(0, 1, **each)[1]


def order(rows: Rows) -> Judged:
    """SFT, geometric mean, token."""
    names = {"sft": "sft", "geometric": "dft-geometric", "token": "dft"}
    each = {k: of(rows, "adamw", 0.3, 0.6, m) for k, m in names.items()}
    a, b, c = (x.mean() for x in each.values())
    return bool(a < b < c), lies(0, 1, **each)[1]


def nearer_sft(rows: Rows) -> Judged:
    """Which end the geometric mean is nearer to."""
    a, b, c = (of(rows, "adamw", 0.3, 0.6, m) for m in ("sft", "dft-geometric", "dft"))
    return bool((b - a).mean().abs() < (c - b).mean()), lies(-1, 1, rise=b - a, rest=c - b)[1]


def lead(
    optimizer: str, source: object, p0: float, objective: str, over: str, metric: str, least: float
) -> Callable[[Rows], Judged]:
    """One objective leads another by more than that in the mean; its interval excludes 0.

    Of fewer than five seeds, those of --quick, the mean alone is asked.
    """

    def judge(rows: Rows) -> Judged:
        gap = of(rows, optimizer, source, p0, objective, metric)
        gap = gap - of(rows, optimizer, source, p0, over, metric)
        low, high = interval(gap)
        numbers = {"gap": gap.mean().item(), "low": low, "high": high}
        return numbers["gap"] > least and (low > 0 or len(gap) < 5), numbers

    return judge


def stays(rows: Rows) -> Judged:
    """How far a response of 150 tokens takes any base."""
    moved = [
        of(rows, "adamw", eps, p0, "dft-long", metric) - start(rows, p0, metric)
        for p0 in {r["p0"] for r in rows if r.get("objective") == "dft-long"}
        for eps in (0.0, 0.3)
        for metric in ("sampled", "greedy")
    ]
    return lies(-0.02, 0.02, moved=torch.cat(moved))


def gradient_is_tiny(rows: Rows) -> Judged:
    """What sequence weights gain from a weak prior, by SGD and by AdamW."""
    each = {o: of(rows, o, 0.0, 0.1, "dft-sequence") - start(rows, 0.1) for o in METHODS}
    holds = bool((each["sgd"].abs() < 0.02).all()) and bool(each["adamw"].mean() > 0.1)
    return holds, lies(-1, 1, **each)[1]


def control(rows: Rows) -> Judged:
    """What token weights gain from the base's own samples."""
    each = {
        m: of(rows, "adamw", "self", 0.6, "dft", m) - start(rows, 0.6, m)
        for m in ("sampled", "greedy")
    }
    holds = bool(each["sampled"].mean() > 0) and bool(each["greedy"].mean() <= 0.05)
    return holds, lies(-1, 1, **each)[1]


PREDICTIONS = (
    Prediction(
        "weights-collapse",
        "of 64 products of uniform probabilities a mean share of 0.07 to 0.3 is effective at 8 "
        "tokens and fewer than 4 on any seed at 64, where geometric means keep over 0.9 and tokens "
        "0.75 within 0.1",
        collapse,
    ),
    Prediction(
        "short-responses",
        "p0 = 0.6: of the sequence weights of six-token demonstrations over 0.7 is effective when "
        "they are clean, less than 0.6 with 30 % noise, on every seed",
        short,
    ),
    Prediction(
        "order",
        "AdamW, p0 = 0.6, 30 % noise: mean T = 1 accuracy rises from SFT to geometric to token",
        order,
    ),
    Prediction(
        "geometric-is-near-sft",
        "AdamW, p0 = 0.6, 30 % noise: at T = 1 the geometric mean is nearer to SFT than to token",
        nearer_sft,
    ),
    Prediction(
        "short-sequences-filter",
        "AdamW, p0 = 0.6, 30 % noise: unlike Table 5, sequence weights of six tokens lead SFT at "
        "T = 1 by more than 0.1 in the mean, interval without 0: they drop responses with noise",
        lead("adamw", 0.3, 0.6, "dft-sequence", "sft", "sampled", 0.1),
    ),
    Prediction(
        "short-sequences-filter-greedy",
        "the same greedily, by more than 0",
        lead("adamw", 0.3, 0.6, "dft-sequence", "sft", "greedy", 0.0),
    ),
    Prediction(
        "weak-prior",
        "AdamW, p0 = 0.1, clean: token weights lead sequence weights at T = 1 by more than 0.1 in "
        "the mean, interval without 0",
        lead("adamw", 0.0, 0.1, "dft", "dft-sequence", "sampled", 0.1),
    ),
    Prediction(
        "long-responses-teach-nothing",
        "AdamW, every prior, clean or noisy: with the weight of 150 tokens, accuracy stays within "
        "0.02 of the base's at T = 1 and greedy, on every seed",
        stays,
    ),
    Prediction(
        "sgd-needs-size",
        "p0 = 0.1, clean: by SGD sequence weights leave T = 1 accuracy within 0.02 of the base's "
        "on every seed, by AdamW, which ignores scale, they gain more than 0.1 in the mean",
        gradient_is_tiny,
    ),
    Prediction(
        "sgd-token",
        "SGD, p0 = 0.6, 30 % noise: token weights lead SFT at T = 1 by more than 0.1 in the mean, "
        "interval without 0",
        lead("sgd", 0.3, 0.6, "dft", "sft", "sampled", 0.1),
    ),
    Prediction(
        "own-samples",
        "AdamW, p0 = 0.6, own samples: in the mean token weights gain at T = 1, and greedily at "
        "most 0.05",
        control,
    ),
)

QUICK = Size(
    priors=(0.1, 0.6),
    controls=(0.6,),
    noise=(0.0, 0.3),
    lengths=(8, 64),
    adamw=(1e-3, 3e-3),
    sgd=(1.0,),
    seeds=(10, 11, 12),
)
FULL = Size(
    priors=(0.1, 0.3, 0.6),
    controls=(0.6,),
    noise=(0.0, 0.3),
    lengths=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    adamw=(1e-4, 3e-4, 1e-3, 3e-3, 6e-3),
    sgd=(0.1, 0.3, 1.0, 3.0, 10.0),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Runs a second, every level and rate as one stack and one at a time."""
    demos = World.of(0).taught(0.3)
    runs = [
        Run(objective=o, rate=rate, demos=demos, seed=0)
        for o in METHODS["adamw"]
        for rate in FULL.adamw
    ]
    return throughput(runs, Recipe(steps=20))


EXPERIMENT = Experiment(
    name="granularity",
    question="Why does DFT weight tokens and not responses, and is it so for short ones?",
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
