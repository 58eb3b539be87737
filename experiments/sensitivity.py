"""What changes the sign of DFT - SFT: one factor at a time around three cells.

Question: which choice of data, training or scoring turns DFT's lead over SFT into a deficit?

The chain task on toy transformers whose prior on the right rule is p0, taught by 48 demonstrations
of which a share eps of the states is noise. Three cells: a strong and a middling prior under 30 %
noise, where DFT leads, and a weak one without, where it trails. Each change replaces one thing in
a cell, and each objective takes its own best learning rate anew. SGD also takes three times the
steps, at rates below 1, where SFT diverges (seen in the worlds of --quick, before the record).
Every gap stands at T = 1, greedily, and greedily with early stopping on clean prompts.

Cost: laptop minutes. Paper reference: none; section 4.4 varies learning rate and batch size only.
Deviation: 26,000 parameters, 10 states, own task.

    python experiments/sensitivity.py --quick | --full
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, values
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective, dft, power, sft
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.chain import BASE_STYLE, TEACHER_STYLE, Error
from dft_theory.toys.gaps import gap, scores, told
from dft_theory.toys.stacked import Recipe, Run
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import World, at_best_rate

CACHE = Path(__file__).resolve().parents[1] / ".cache"
BETWEEN = (0.25, 0.5, 0.75)  # exponents of the weight p^alpha; SFT has 0 and DFT 1


def of_mean_one(t: TokenStats) -> torch.Tensor:
    """DFT's weights over their mean in the batch, `[B, T]`."""
    p = t.logp.exp()
    return p * t.mask.sum() / (p * t.mask).sum()


# It takes DFT's place in rows, and so its name.
NORMALISED = Objective(
    name="dft", title="DFT, weights of mean 1", level="batch", weight=of_mean_one
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where objectives meet: prior p0, noise eps, and what a change may replace."""

    p0: float
    eps: float
    rates: tuple[float, ...]
    recipe: Recipe
    demos: int = 48
    error: Error = "uniform"
    style: tuple[float, ...] = TEACHER_STYLE
    objectives: tuple[Objective, ...] = (sft, dft)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Which cells each change is tried in, the grids of learning rates, and seeds: worlds."""

    changes: Mapping[str, tuple[str, ...]]
    rates: tuple[float, ...]
    low_rates: tuple[float, ...]
    sgd_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 100
    held_out: int = 64
    pretraining: Pretraining = field(default_factory=Pretraining)


CELLS = {"strong": (0.6, 0.3), "middle": (0.1, 0.3), "weak": (0.02, 0.0)}
NOISY = ("strong", "middle")


def longer(s: Setting, times: float) -> Setting:
    """The same with so many times the steps."""
    return replace(s, recipe=replace(s.recipe, steps=round(times * s.recipe.steps)))


def changed(s: Setting, change: str, size: Size) -> Setting:
    """A setting in which one thing is replaced. Raises: KeyError for no known change."""
    low = (*size.low_rates, *s.rates)
    by_sgd = replace(s, rates=size.sgd_rates, recipe=replace(s.recipe, optimizer="sgd"))
    return {
        "reference": s,
        "p^alpha": replace(s, objectives=tuple(power(a) for a in BETWEEN)),
        "aligned errors": replace(s, error="aligned"),
        "systematic errors": replace(s, error="systematic"),
        "N = 12": replace(s, demos=12),
        "N = 400": replace(s, demos=400),
        "0.3 x steps": longer(s, 0.3),
        "4 x steps": longer(s, 4),
        "SGD": longer(by_sgd, 3),
        "weights of mean 1": replace(s, objectives=(sft, NORMALISED)),
        "style not shifted": replace(s, style=BASE_STYLE),
        "low rates": replace(s, rates=low),
        "p0 = 0.9": replace(s, p0=0.9),
        "p0 = 0.9, low rates": replace(s, p0=0.9, rates=low),
    }[change]


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for each change, cell and objective, at the objective's best rate."""
    rows: list[dict[str, Any]] = []
    for change, cells in size.changes.items():
        for cell in cells:
            p0, eps = CELLS[cell]
            start = Setting(p0=p0, eps=eps, rates=size.rates, recipe=Recipe(steps=size.steps))
            s = changed(start, change, size)
            rows += [{"cell": cell, "change": change} | row for row in trained(s, size)]
    return rows


def trained(s: Setting, size: Size) -> list[dict[str, Any]]:
    """A row for each objective of one setting."""
    worlds = [World.of(seed, demos=s.demos, held_out=size.held_out) for seed in size.seeds]
    base = bases(size.seeds, [s.p0], size.pretraining, cache=CACHE)
    demos = [w.taught(s.eps, s.error, s.style) for w in worlds]
    every = min(25, -(-s.recipe.steps // 3))  # steps between chances to stop early
    found = at_best_rate(base, worlds, demos, s.objectives, s.rates, s.recipe, every=every)
    return [scores(best, worlds) for best in found]


# --- what the rows say --------------------------------------------------------------------------

Metrics = Sequence[str]
LATE = ("sampled", "greedy")


def cells_of(rows: Rows, change: str, among: Sequence[str]) -> list[str]:
    """Those of some cells in which a change was tried. Raises: ValueError for none."""
    tried = {r["cell"] for r in rows if r["change"] == change}
    found = [cell for cell in among if cell in tried]
    if not found:
        raise ValueError(f"the rows hold no {change} in {', '.join(among)}")
    return found


def mean_lies(
    low: float, high: float, change: str, metrics: Metrics, among: Sequence[str]
) -> Callable[[Rows], Judged]:
    """Whether the mean gap lies between, in each cell."""

    def judge(rows: Rows) -> Judged:
        each = {
            f"{cell} {metric}": gap(rows, cell, change, metric)
            for cell in cells_of(rows, change, among)
            for metric in metrics
        }
        return all(low < value.mean() < high for value in each.values()), told(**each)

    return judge


def share_lies(
    low: float,
    high: float,
    change: str,
    metrics: Metrics,
    among: Sequence[str],
    of: str = "reference",
) -> Callable[[Rows], Judged]:
    """Whether the mean gap is such a share of that in the reference, in each cell."""

    def judge(rows: Rows) -> Judged:
        holds, numbers = True, dict[str, float]()
        for cell in cells_of(rows, change, among):
            for metric in metrics:
                now, then = (gap(rows, cell, c, metric) for c in (change, of))
                holds &= bool(low * abs(then.mean()) < now.mean() * then.mean().sign())
                holds &= bool(now.mean() * then.mean().sign() < high * abs(then.mean()))
                numbers |= told(**{f"{cell} {metric}": now, f"{cell} {metric} there": then})
        return holds, numbers

    return judge


def shift_within(
    bound: float, change: str, metrics: Metrics, among: Sequence[str]
) -> Callable[[Rows], Judged]:
    """Whether the mean gap is that of the reference up to a bound, in each cell."""

    def judge(rows: Rows) -> Judged:
        each = {}
        for cell in cells_of(rows, change, among):
            for metric in metrics:
                now, then = (gap(rows, cell, c, metric) for c in (change, "reference"))
                each[f"{cell} {metric}"] = now - then
        return all(abs(value.mean()) < bound for value in each.values()), told(**each)

    return judge


def everywhere(
    low: float, high: float, metric: str, among: Sequence[str], but: Sequence[str] = ()
) -> Callable[[Rows], Judged]:
    """Whether mean gaps lie between under every change but some; extremes are the numbers."""

    def judge(rows: Rows) -> Judged:
        tried = dict.fromkeys(
            (r["cell"], r["change"])
            for r in rows
            if r["cell"] in among and r["change"] not in ("p^alpha", *but)
        )
        if not tried:
            raise ValueError(f"the rows hold no change in {', '.join(among)}")
        means = torch.stack([gap(rows, *where, metric).mean() for where in tried])
        numbers = {"least": means.min().item(), "most": means.max().item(), "cases": len(means)}
        return bool(((means > low) & (means < high)).all()), numbers

    return judge


def rates_apart(rows: Rows) -> Judged:
    """DFT's best learning rate over SFT's, with SGD."""
    numbers = {}
    for cell in cells_of(rows, "SGD", tuple(CELLS)):
        mine, other = (
            next(
                r["rate"]
                for r in rows
                if (r["cell"], r["change"], r["objective"]) == (cell, "SGD", name)
            )
            for name in ("dft", "sft")
        )
        numbers[cell] = mine / other
    return all(ratio > 2.9 for ratio in numbers.values()), numbers


def lowest_rate(rows: Rows) -> Judged:
    """Where the grid of SFT's best rate ends, and what SFT takes of it."""
    grid = [r for r in rows if r["change"] == "p0 = 0.9, low rates" and r["objective"] == "sft"]
    if not grid:
        raise ValueError("the rows hold no low rates at p0 = 0.9")
    best = max(range(len(grid[0]["validation"])), key=grid[0]["validation"].__getitem__)
    return best == 0, {"rate": grid[0]["rate"], "place": best}


def family(rows: Rows, cell: str, metric: str) -> torch.Tensor:
    """Mean accuracies for alpha = 0, 1/4, 1/2, 3/4, 1."""
    where = [("reference", "sft")]
    where += [("p^alpha", f"power-{a:g}") for a in BETWEEN]
    where += [("reference", "dft")]
    found = [values(rows, metric, cell=cell, change=c, objective=o) for c, o in where]
    return torch.stack(found).mean(-1)


def rises(rows: Rows) -> Judged:
    """T = 1 accuracy in alpha at a strong prior under noise."""
    means = family(rows, "strong", "sampled")
    steps = means.diff()
    named = zip((0.0, *BETWEEN, 1.0), means.tolist(), strict=True)
    return bool((steps > 0).all()), {f"alpha {a:g}": m for a, m in named}


def half_leads(rows: Rows) -> Judged:
    """How far p^1/2 leads DFT at a weak prior."""
    leads = {m: family(rows, "weak", m) for m in LATE}
    found = {m: (means[2] - means[4]).item() for m, means in leads.items()}
    return all(lead > 0.1 for lead in found.values()), found


def quarter(rows: Rows) -> Judged:
    """How far p^1/4 leads both ends of the family at a weak prior."""
    means = family(rows, "weak", "sampled")
    sft_too, dft_too = (means[1] - means[0]).item(), (means[1] - means[4]).item()
    return sft_too >= 0 and dft_too > 0.1, {"over SFT": sft_too, "over DFT": dft_too}


# Numbers come from an earlier program of the same design on other worlds. The unchanged cells were
# known from the record of the capability continuum, which has the same worlds.
KNOWN = "after the record of the capability continuum, which holds these cells"
AFTER = "after seeds 10, 11 and 12"
ALL = tuple(CELLS)
PREDICTIONS = (
    Prediction(
        "reference-lead",
        "the mean lead of DFT is above 0.1 at T = 1 in the strong and the middle cell",
        mean_lies(0.1, 1.0, "reference", ("sampled",), NOISY),
        KNOWN,
    ),
    Prediction(
        "reference-lead-greedy",
        "and above 0.05 greedily",
        mean_lies(0.05, 1.0, "reference", ("greedy",), NOISY),
        KNOWN,
    ),
    Prediction(
        "reference-deficit",
        "in the weak cell DFT is behind by more than 0.05 in the mean, at T = 1 and greedily",
        mean_lies(-1.0, -0.05, "reference", LATE, ("weak",)),
        KNOWN,
    ),
    Prediction(
        "aligned",
        "errors along the prior's own wrong rule leave less than half of the lead at T = 1",
        share_lies(-9.0, 0.5, "aligned errors", ("sampled",), NOISY),
    ),
    Prediction(
        "aligned-greedy",
        "errors along the prior's own wrong rule leave less than half of the greedy lead",
        share_lies(-9.0, 0.5, "aligned errors", ("greedy",), NOISY),
    ),
    Prediction(
        "systematic",
        "coherent errors that the prior does not share leave more than half of the T = 1 lead",
        share_lies(0.5, 9.0, "systematic errors", ("sampled",), NOISY),
    ),
    Prediction(
        "few",
        "12 demonstrations leave less than half of the T = 1 lead in both noisy cells",
        share_lies(-9.0, 0.5, "N = 12", ("sampled",), NOISY),
    ),
    Prediction(
        "many",
        "400 demonstrations raise the T = 1 lead in both noisy cells",
        share_lies(1.0, 9.0, "N = 400", ("sampled",), NOISY),
    ),
    Prediction(
        "many-greedy",
        "with 400 demonstrations the greedy lead is below 0.06 in the mean, in both noisy cells",
        mean_lies(-1.0, 0.06, "N = 400", ("greedy",), NOISY),
    ),
    Prediction(
        "short",
        "at 0.3 times the steps the mean T = 1 lead at the strong prior is above 0.2",
        mean_lies(0.2, 1.0, "0.3 x steps", ("sampled",), ("strong",)),
    ),
    Prediction(
        "short-greedy",
        "at 0.3 times the steps the greedy lead is smaller than at all of them, in noisy cells",
        share_lies(-9.0, 1.0, "0.3 x steps", ("greedy",), NOISY),
    ),
    Prediction(
        "long",
        "four times the steps leave less than half of the weak-prior deficit, T = 1 and greedy",
        share_lies(-9.0, 0.5, "4 x steps", LATE, ("weak",)),
    ),
    Prediction(
        "sgd-lead",
        "with SGD the lead stays above 0.05 in the mean in the noisy cells, T = 1 and greedy",
        mean_lies(0.05, 1.0, "SGD", LATE, NOISY),
    ),
    Prediction(
        "sgd-deficit",
        "with SGD the weak-prior deficit stays beyond 0.05 in the mean, T = 1 and greedy",
        mean_lies(-1.0, -0.05, "SGD", LATE, ("weak",)),
    ),
    Prediction(
        "sgd-rates",
        "with SGD the best rate of DFT is at least three times that of SFT in every cell",
        rates_apart,
    ),
    Prediction(
        "mean-1",
        "weights of mean 1 move no mean T = 1 gap by 0.1",
        shift_within(0.1, "weights of mean 1", ("sampled",), ALL),
    ),
    Prediction(
        "style",
        "demonstrations in the base's own style move no mean T = 1 gap by 0.1",
        shift_within(0.1, "style not shifted", ("sampled",), ALL),
    ),
    Prediction(
        "low-rates",
        "rates down to 3e-5 move the mean T = 1 gap at p0 = 0.6 by less than 0.1",
        shift_within(0.1, "low rates", ("sampled",), ("strong",)),
    ),
    Prediction(
        "low-rates-strongest",
        "at p0 = 0.9 rates down to 3e-5 leave less than half of the T = 1 lead",
        share_lies(-9.0, 0.5, "p0 = 0.9, low rates", ("sampled",), ("strong",), "p0 = 0.9"),
    ),
    Prediction(
        "low-rates-nothing",
        "at p0 = 0.9 the best rate of SFT is the lowest there is: it does best by not learning",
        lowest_rate,
    ),
    Prediction(
        "alpha",
        "strong cell: mean T = 1 accuracy rises from each alpha to the next, 0, 1/4, 1/2, 3/4, 1",
        rises,
    ),
    Prediction(
        "alpha-weak",
        "weak cell: p^1/2 leads DFT by more than 0.1 in the mean, at T = 1 and greedily",
        half_leads,
    ),
    Prediction(
        "early-stopping",
        "strong cell: stopped early, the mean greedy gap is within 0.1 under every change",
        everywhere(-0.1, 0.1, "early_greedy", ("strong",)),
    ),
    Prediction(
        "lead-stays",
        "no change but aligned errors makes the mean T = 1 gap negative in a noisy cell",
        everywhere(0.0, 1.0, "sampled", NOISY, ("aligned errors",)),
    ),
    Prediction(
        "deficit-stays",
        "no change but four times the steps makes the mean T = 1 gap positive in the weak cell",
        everywhere(-1.0, 0.0, "sampled", ("weak",), ("4 x steps",)),
    ),
    Prediction(
        "low-rates-greedy",
        "at p0 = 0.9 with rates down to 3e-5 DFT leads greedily by less than 0.03 in the mean",
        mean_lies(-1.0, 0.03, "p0 = 0.9, low rates", ("greedy",), ("strong",)),
        AFTER,
    ),
    Prediction(
        "quarter",
        "weak cell: p^1/4 leads DFT by more than 0.1 and is not behind SFT in the mean, at T = 1",
        quarter,
        AFTER,
    ),
)
FULL = Size(
    changes={
        "reference": ALL,
        "p^alpha": ALL,
        "aligned errors": NOISY,
        "systematic errors": NOISY,
        "N = 12": ALL,
        "N = 400": ALL,
        "0.3 x steps": ALL,
        "4 x steps": ALL,
        "SGD": ALL,
        "weights of mean 1": ALL,
        "style not shifted": ALL,
        "low rates": ("strong",),
        "p0 = 0.9": ("strong",),
        "p0 = 0.9, low rates": ("strong",),
    },
    rates=(3e-4, 1e-3, 3e-3, 6e-3),
    low_rates=(3e-5, 1e-4),
    sgd_rates=(0.03, 0.1, 0.3, 0.6),
    seeds=(0, 1, 2, 3, 4),
)
QUICK = Size(
    changes={
        "reference": ("strong", "weak"),
        "p^alpha": ("strong", "weak"),
        "aligned errors": ("strong",),
        "systematic errors": ("strong",),
        "N = 12": ("strong",),
        "N = 400": ("strong",),
        "0.3 x steps": ("strong",),
        "4 x steps": ("weak",),
        "SGD": ("strong", "weak"),
        "weights of mean 1": ("strong",),
        "style not shifted": ("strong",),
        "low rates": ("strong",),
        "p0 = 0.9": ("strong",),
        "p0 = 0.9, low rates": ("strong",),
    },
    rates=(1e-3, 3e-3),
    low_rates=(3e-5,),
    sgd_rates=(0.1, 0.3),
    seeds=(10, 11, 12),
    steps=60,
)


def speed() -> dict[str, float]:
    """Runs of 20 steps a second, 24 as one stack and one at a time."""
    worlds = [World.of(seed) for seed in (0, 1, 2)]
    grid = [(o, rate, w) for o in (sft, dft) for rate in FULL.rates for w in worlds]
    runs = [Run(objective=o, rate=rate, demos=w.taught(0.3), seed=w.seed) for o, rate, w in grid]
    return throughput(runs, Recipe(steps=20))


EXPERIMENT = Experiment(
    name="sensitivity",
    question="Which choice of data, training or scoring turns DFT's lead over SFT into a deficit?",
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
