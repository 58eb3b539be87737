"""A format token that no base has seen: who learns it, at which rate, and what a remedy costs.

Question: at which learning rates is a token of probability 1e-5 learned, and what does it cost?

Demonstrations of the chain task (p0 = 0.6) that hold a token unknown to the base in place of the
last style. SFT, p^1/2, DFT and three remedies: DFT with a floor of 0.1 under every weight, or under
the new token's alone, and a quarter of the steps by SFT before DFT. All train in two stages, each
with a cosine of its own, so that warm-up is one method among others; a grid of rates with AdamW and
SGD is the result. Clean states show who learns the format; 30 % random ones whether a remedy keeps
what DFT has against noise, sampled and greedy, beside training on the base's own states, which
teach nothing but the format. Accuracy is that of the two states in front of the token. With SGD,
the integrated rate until p = 1/2 is compared with the closed form for a tabular policy. Gradients
are clipped at norm 1, which SFT by SGD needs at high rates: it shortens SFT's first steps and so
understates how much longer the others take.

The token is also tried in all three slots, half of all tokens. Accuracy says little there: behind
a token that it has never read a base writes no right state (accuracy 1e-9).

Cost: laptop minutes. Paper reference: none; the official code once had a floor under the weight.
Deviations: 26,000 parameters, own task; the format is one token.

    python experiments/new_format.py --quick | --full
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dft_theory.dynamics import escape_time
from dft_theory.experiment import Experiment, Judged, Prediction, Rows, interval, lies, values
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import dft, floored, power, sft, with_floor
from dft_theory.objectives.parts import given
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import World, listed, mean, own_samples

PRIOR, FLOOR = 0.6, 0.1
SLOTS = {1: (4,), 3: (0, 2, 4)}  # where in a response the token stands; it is measured in the last
SLOT = 4
named = with_floor(dft, [chain.NEW], FLOOR)
# The objective of the first quarter of the steps, and of the rest.
METHODS = {
    "sft": (sft, sft),
    "power-0.5": (power(0.5), power(0.5)),
    "dft": (dft, dft),
    "floor": (floored(FLOOR), floored(FLOOR)),
    "named-floor": (named, named),
    "warm-up": (sft, dft),
}
EVERY = 5  # steps between two looks at p(new)
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Trial:
    """One rate curve: the states are a teacher's with that noise, or the base's own, "self"."""

    optimizer: Literal["adamw", "sgd"]
    source: float | str
    slots: int
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Size:
    """Curves, seeds, which are worlds, and the steps of the two stages."""

    trials: tuple[Trial, ...]
    seeds: tuple[int, ...]
    stages: tuple[int, int] = (25, 75)
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)


def in_new_format(tokens: Tensor, slots: int) -> Tensor:
    """The same responses `[..., P+T]` with NEW in the last slot, or in all three."""
    out = tokens.clone()
    for slot in SLOTS[slots]:
        out[..., chain.PROMPT + slot] = chain.NEW
    return out


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for the base in each format, and for each (trial, method, rate)."""
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    base = bases(size.seeds, (PRIOR,), size.pretraining, cache=CACHE)
    rows: list[dict[str, Any]] = [
        {"slots": slots, "method": "base", **listed(told(base, worlds, slots))} for slots in SLOTS
    ]
    for trial in size.trials:
        rows += curve(base, worlds, trial, size.stages)
    return rows


def curve(
    base: Stack, worlds: Sequence[World], trial: Trial, stages: tuple[int, int]
) -> list[dict[str, Any]]:
    """A row for each method and rate; all of them are one stack."""
    written = (
        own_samples(base, worlds, 1)
        if isinstance(trial.source, str)
        else [w.taught(trial.source) for w in worlds]
    )
    demos = [in_new_format(d, trial.slots) for d in written]
    grid = list(itertools.product(METHODS, trial.rates, range(len(worlds))))
    stack = base[[i for *_, i in grid]]
    held = torch.stack([in_new_format(worlds[i].validation[:16], trial.slots) for *_, i in grid])
    looks, spent = [], torch.zeros(1)
    for stage, steps in enumerate(stages):
        runs = [
            Run(objective=METHODS[m][stage], rate=rate, demos=demos[i], seed=worlds[i].seed)
            for m, rate, i in grid
        ]
        recipe = Recipe(steps=steps, optimizer=trial.optimizer, clip=1.0)
        done = train(stack, runs, recipe, validate=lambda s: mean(s, held, new), every=EVERY)
        stack = done.last
        # The first look of the second stage is the last of the first: it is skipped.
        looks.append(done.scores[stage:])
        at = [*range(0, steps, EVERY), steps][stage:]
        so_far = spent[-1] + torch.tensor([sum(map(recipe.rate, range(t))) for t in at])
        spent = torch.cat([spent, so_far]) if stage else so_far
    seen = half(torch.cat(looks), spent)
    cell = {"optimizer": trial.optimizer, "source": trial.source, "slots": trial.slots}
    rows, n = [], len(worlds)
    for row in range(0, len(grid), n):
        method, rate, _ = grid[row]
        measured = told(stack[range(row, row + n)], worlds, trial.slots)
        measured["half"] = rate * seen[row : row + n]
        rows.append(cell | {"method": method, "rate": rate, **listed(measured)})
    return rows


def half(p: Tensor, spent: Tensor) -> Tensor:
    """Where p `[checks, K]` first reaches 1/2, on the scale `spent [checks]`, `[K]`; NaN: never.

    Between two looks the log-odds are taken to be linear.
    """
    odds, found = torch.logit(p, eps=1e-7), torch.full(p.shape[1:], math.nan)
    for i in reversed(range(1, len(p))):
        passed = odds[i] >= 0
        share = odds[i - 1] / (odds[i - 1] - odds[i])
        found = torch.where(passed, spent[i - 1] + share * (spent[i] - spent[i - 1]), found)
    return found


# --- what is measured ---------------------------------------------------------------------------


def new(t: TokenStats) -> Tensor:
    """Probability of the token in its slot, after a right response so far, `[B]`."""
    return t.logp[:, SLOT].exp()


def likeliest(t: TokenStats, where: Sequence[int]) -> Tensor:
    """1.0 where the given tokens are the likeliest at all these positions, else 0.0, `[B]`."""
    best = given(t.log_probs).argmax(-1)
    return (best == given(t.targets))[:, where].all(-1).float()


# The task is to write the states in front of the token, whose prior is p0.
BEFORE = (1, 3)
METRICS: dict[str, Callable[[TokenStats], Tensor]] = {
    "new": new,
    "sampled": lambda t: t.logp[:, BEFORE].sum(-1).exp(),
    "greedy": lambda t: likeliest(t, BEFORE),
}


def told(stack: Stack, worlds: Sequence[World], slots: int) -> dict[str, Tensor]:
    """The metrics on test prompts, and on validation what a learning rate is chosen by, `[K]`."""
    test, held = (
        torch.stack([in_new_format(getattr(w, of), slots) for w in worlds])
        for of in ("test", "validation")
    )
    found = {name: mean(stack, test, metric) for name, metric in METRICS.items()}
    found["validation"] = mean(stack, held, METRICS["sampled"])
    return found


# --- what the rows say --------------------------------------------------------------------------


def at(
    rows: Rows, optimizer: str, method: str, rate: float, *, slots: int = 3, metric: str = "new"
) -> Tensor:
    """The values of each seed on clean demonstrations."""
    cell = {"optimizer": optimizer, "source": 0.0, "slots": slots}
    return values(rows, metric, **cell, method=method, rate=rate)


def tried(rows: Rows, optimizer: str, source: object, slots: int, method: str) -> Rows:
    """The rows of one curve, by rate. Raises: ValueError where there is none."""
    wanted = (optimizer, source, slots, method)
    found = [
        r for r in rows if (r.get("optimizer"), r.get("source"), r["slots"], r["method"]) == wanted
    ]
    if not found:
        raise ValueError(f"no run of {method} by {optimizer} on source {source}, {slots} slots")
    return sorted(found, key=lambda r: float(r["rate"]))


def best(rows: Rows, source: object, method: str, metric: str) -> Tensor:
    """The values with one slot at AdamW's best rate: mean accuracy at T = 1 on validation."""
    chosen = max(tried(rows, "adamw", source, 1, method), key=lambda r: sum(r["validation"]))
    return torch.tensor(chosen[metric], dtype=torch.float64)


def start(rows: Rows, metric: str, slots: int) -> Tensor:
    """The values of the bases."""
    return values(rows, metric, method="base", slots=slots)


def rare(rows: Rows) -> Judged:
    """How unlikely the new token is before training."""
    return lies(1e-8, 1e-4, one=start(rows, "new", 1), three=start(rows, "new", 3))


def middling(rows: Rows) -> Judged:
    """Who has learned the token at AdamW's middling rate."""
    each = {m: at(rows, "adamw", m, 1e-3) for m in ("sft", "power-0.5", "dft")}
    holds = all(bool((each[m] > 0.7).all()) for m in ("sft", "power-0.5"))
    return holds and bool((each["dft"] < 0.05).all()), lies(-1, 2, **each)[1]


def recovery(rows: Rows) -> Judged:
    """DFT at AdamW's high rate."""
    return lies(0.8, 1.01, dft=at(rows, "adamw", "dft", 6e-3))


def crossing(rows: Rows) -> Judged:
    """How much higher a rate of AdamW DFT needs to reach 1/2."""
    each = {m: rate_of_half(rows, m) for m in ("sft", "power-0.5", "dft")}
    ratio = each["dft"] / each["sft"]
    numbers = {"ratio": ratio, **each}
    return 2 < ratio < 10, {k: v for k, v in numbers.items() if not math.isnan(v)}


def rate_of_half(rows: Rows, method: str) -> float:
    """AdamW's rate at which the mean p(new) passes 1/2, log-linear; NaN where it does not."""
    found = tried(rows, "adamw", 0.0, 3, method)
    points = [(float(r["rate"]), float(sum(r["new"]) / len(r["new"]))) for r in found]
    for (low, p), (high, q) in itertools.pairwise(points):
        if p < 0.5 <= q:
            return low * float((high / low) ** ((0.5 - p) / (q - p)))
    return math.nan


def plain_gradient(rows: Rows) -> Judged:
    """SGD at a rate that suits SFT."""
    each = {m: at(rows, "sgd", m, 0.1) for m in ("sft", "dft")}
    holds = bool((each["sft"] > 0.8).all()) and bool((each["dft"] < 0.05).all())
    return holds, lies(-1, 2, **each)[1]


def ten_times(rows: Rows) -> Judged:
    """SGD at ten times that rate."""
    each = {m: at(rows, "sgd", m, 1.0) for m in ("sft", "dft")}
    holds = bool(each["dft"].mean() < 0.6) and bool(each["sft"].mean() > 0.9)
    return holds, lies(-1, 2, **each)[1]


def halves(rows: Rows, method: str) -> list[float]:
    """SGD's integrated rates at p = 1/2, at the lowest rate at which every seed got there."""
    found = [r["half"] for r in tried(rows, "sgd", 0.0, 3, method) if None not in r["half"]]
    return found[0] if found else []


def geometric(x: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, x)) / len(x))


def closed(rows: Rows, alpha: float) -> float:
    """Escape time from the base's p(new) to 1/2 over that of SFT, for a tabular policy."""
    p0 = geometric(start(rows, "new", 3).tolist())
    both = [escape_time(p0, 0.5, alpha=a, vocab=chain.VOCAB) for a in (alpha, 0.0)]
    return both[0] / both[1]


def half_power(rows: Rows) -> Judged:
    """Integrated rate of p^1/2 to p = 1/2, in units of SFT's."""
    mine, by_sft = (halves(rows, m) for m in ("power-0.5", "sft"))
    if not (mine and by_sft):
        return False, {"closed": closed(rows, 0.5)}
    ratio = geometric(mine) / geometric(by_sft)
    return 3 < ratio < closed(rows, 0.5), {"ratio": ratio, "closed": closed(rows, 0.5)}


def whole_power(rows: Rows) -> Judged:
    """Least integrated rate at which DFT reached p = 1/2, in units of SFT's, if it ever did."""
    by_sft = halves(rows, "sft")
    if not by_sft:
        return False, {"closed": closed(rows, 1.0)}
    seen = [h for r in tried(rows, "sgd", 0.0, 3, "dft") for h in r["half"] if h is not None]
    ratio = min(seen, default=math.inf) / geometric(by_sft)
    return ratio > 30, ({"ratio": ratio} if seen else {}) | {"closed": closed(rows, 1.0)}


def remedies(rows: Rows) -> Judged:
    """The remedies where DFT fails."""
    each = {m: at(rows, "adamw", m, 1e-3) for m in ("floor", "named-floor", "warm-up")}
    return lies(0.5, 1.01, **each)


def lead(source: object, metric: str, least: float) -> Callable[[Rows], Judged]:
    """The named floor leads SFT in the mean by that much, and its interval excludes 0.

    Of fewer than five seeds, those of --quick, the mean alone is asked.
    """

    def judge(rows: Rows) -> Judged:
        each = {m: best(rows, source, m, metric) for m in ("sft", "named-floor")}
        gap = each["named-floor"] - each["sft"]
        low, high = interval(gap)
        numbers = {"gap": gap.mean().item(), "low": low, "high": high}
        return numbers["gap"] > least and (low > 0 or len(gap) < 5), numbers

    return judge


def as_robust(method: str, within: float) -> Callable[[Rows], Judged]:
    """How far a remedy is from DFT under noise, T = 1 and greedy."""

    def judge(rows: Rows) -> Judged:
        gaps = {
            metric: best(rows, 0.3, method, metric) - best(rows, 0.3, "dft", metric)
            for metric in ("sampled", "greedy")
        }
        return bool(gaps["sampled"].mean().abs() <= within), lies(-1, 1, **gaps)[1]

    return judge


def floor_costs(rows: Rows) -> Judged:
    """A floor under every weight against one under the new token's, with noise."""
    gap = best(rows, 0.3, "named-floor", "sampled") - best(rows, 0.3, "floor", "sampled")
    return bool(gap.mean() > 0), lies(-1, 1, gap=gap)[1]


def control(rows: Rows) -> Judged:
    """The named floor's gain at T = 1 from noisy demonstrations and from the base's own states."""
    each = {
        name: best(rows, source, "named-floor", "sampled") - start(rows, "sampled", 1)
        for name, source in (("taught", 0.3), ("own", "self"))
    }
    return bool(each["own"].mean() < each["taught"].mean() / 2), lies(-1, 1, **each)[1]


def never(optimizer: str, highest: float) -> Callable[[Rows], Judged]:
    """The most that DFT gives the token in one slot, at any rate up to the highest."""

    def judge(rows: Rows) -> Judged:
        found = tried(rows, optimizer, 0.0, 1, "dft")
        most = max(p for r in found if r["rate"] <= highest for p in r["new"])
        return most < 0.05, {"most": most}

    return judge


def one_slot(rows: Rows) -> Judged:
    """Who learns the token in one slot at a high rate."""
    names = {"sft": "sft", "floor": "floor", "named": "named-floor", "warm": "warm-up"}
    each = {name: at(rows, "adamw", m, 6e-3, slots=1) for name, m in names.items()}
    return lies(0.6, 1.01, **each)


def warm_up_needs_rate(rows: Rows) -> Judged:
    """Warm-up at a rate at which a quarter of the steps are too few."""
    return lies(-1, 0.05, warm=at(rows, "adamw", "warm-up", 1e-3, slots=1))


def learned_and_robust(rows: Rows) -> Judged:
    """p(new) under noise where accuracy is best."""
    each = {name: best(rows, 0.3, m, "new") for name, m in (("named", "named-floor"), ("dft",) * 2)}
    return bool(each["named"].mean() > 0.5 and each["dft"].mean() < 0.01), lies(-1, 2, **each)[1]


def frontier(rows: Rows) -> Judged:
    """Best mean T = 1 accuracy under noise among rates at which the mean p(new) exceeds 0.8."""
    found = {}
    for method in METHODS:
        curve = tried(rows, "adamw", 0.3, 1, method)
        learned = [r for r in curve if sum(r["new"]) > 0.8 * len(r["new"])]
        if learned:
            found[method] = float(max(sum(r["sampled"]) / len(r["sampled"]) for r in learned))
    rest = [v for method, v in found.items() if method != "named-floor"]
    return bool(rest) and found.get("named-floor", 0.0) > max(rest) + 0.05, found


# The first design had the token in all three slots only. When seeds 10 to 12 showed that a base's
# prior does not survive behind it, one slot was added, and what was said of noise is judged there.
FIRST = "before any run, for the token in all three slots"
AFTER = "after seeds 10, 11 and 12"
PREDICTIONS = (
    Prediction(
        "rare",
        "each base gives the new token a probability between 1e-8 and 1e-4",
        rare,
        FIRST,
    ),
    Prediction(
        "adamw-middle",
        "AdamW, rate 1e-3, clean: p(new) exceeds 0.7 with SFT and p^1/2, and is below 0.05 with "
        "DFT, on every seed",
        middling,
        FIRST,
    ),
    Prediction(
        "adamw-high",
        "AdamW, rate 6e-3, clean: DFT has recovered, p(new) exceeds 0.8 on every seed",
        recovery,
        FIRST,
    ),
    Prediction(
        "adamw-crossing",
        "AdamW, clean: the rate at which the mean p(new) passes 1/2 is 2 to 10 times SFT's for DFT",
        crossing,
        FIRST,
    ),
    Prediction(
        "sgd-low",
        "SGD, rate 0.1, clean: p(new) exceeds 0.8 with SFT and is below 0.05 with DFT, every seed",
        plain_gradient,
        FIRST,
    ),
    Prediction(
        "sgd-high",
        "SGD, rate 1, clean: SFT's mean p(new) exceeds 0.9, DFT's is below 0.6",
        ten_times,
        FIRST,
    ),
    Prediction(
        "sgd-escape-half",
        "SGD, clean: to p = 1/2, p^1/2 takes over 3 times SFT's integrated rate, less than the "
        "closed form of a tabular policy, about 50 times, because features are shared",
        half_power,
        FIRST,
    ),
    Prediction(
        "sgd-escape",
        "SGD, clean: DFT takes over 30 times SFT's integrated rate, or never reaches p = 1/2; the "
        "closed form of a tabular policy says about 10,000 times",
        whole_power,
        FIRST,
    ),
    Prediction(
        "remedies",
        "AdamW, rate 1e-3, clean: with each remedy p(new) exceeds 0.5 on every seed",
        remedies,
        FIRST,
    ),
    Prediction(
        "robust",
        "30 % noise, own best rates: DFT with the named floor leads SFT at T = 1 by more than 0.1 "
        "in the mean, and the interval excludes 0",
        lead(0.3, "sampled", 0.1),
    ),
    Prediction(
        "robust-greedy",
        "30 % noise, own best rates: it leads greedily, too, and the interval excludes 0",
        lead(0.3, "greedy", 0.0),
    ),
    Prediction(
        "named-floor-is-free",
        "30 % noise, own best rates: the named floor's mean T = 1 accuracy is within 0.08 of DFT's",
        as_robust("named-floor", 0.08),
    ),
    Prediction(
        "warm-up-is-cheap",
        "30 % noise, own best rates: warm-up's mean T = 1 accuracy is within 0.1 of DFT's",
        as_robust("warm-up", 0.1),
    ),
    Prediction(
        "floor-costs",
        "30 % noise, own best rates: a floor under every weight is behind the named floor at T = 1",
        floor_costs,
    ),
    Prediction(
        "control-is-less",
        "the named floor gains at T = 1 less than half as much from the base's own states as from "
        "demonstrations with 30 % noise",
        control,
    ),
    Prediction(
        "one-slot",
        "AdamW, one slot, rate 6e-3, clean: SFT and all three remedies give the token more than "
        "0.6 on every seed",
        one_slot,
        AFTER,
    ),
    Prediction(
        "one-slot-dft",
        "AdamW, one slot, clean: up to rate 1e-2 DFT gives it less than 0.05 on every seed",
        never("adamw", 1e-2),
        AFTER,
    ),
    Prediction(
        "one-slot-dft-sgd",
        "SGD, one slot, clean: at every rate and on every seed DFT gives it less than 0.05",
        never("sgd", math.inf),
        AFTER,
    ),
    Prediction(
        "warm-up-needs-rate",
        "AdamW, one slot, rate 1e-3, clean: warm-up is too short, p(new) < 0.05 on every seed",
        warm_up_needs_rate,
        AFTER,
    ),
    Prediction(
        "learned-and-robust",
        "30 % noise, own best rates: the mean p(new) exceeds 0.5 with the named floor and is below "
        "0.01 with DFT",
        learned_and_robust,
        AFTER,
    ),
    Prediction(
        "frontier",
        "30 % noise, rates at which the mean p(new) exceeds 0.8: the named floor's best mean T = 1 "
        "accuracy leads that of every other method by more than 0.05",
        frontier,
        "after seeds 0 to 4 and 10 to 12",
    ),
)

HIGH = (3e-4, 1e-3, 3e-3, 6e-3, 1e-2, 2e-2)
PLAIN = (0.03, 0.1, 0.3, 1.0, 3.0)
QUICK = Size(
    trials=(
        Trial("adamw", 0.0, 1, (1e-3, 6e-3)),
        Trial("adamw", 0.3, 1, (1e-3, 6e-3)),
        Trial("adamw", "self", 1, (1e-3,)),
        Trial("sgd", 0.0, 1, (1.0,)),
        Trial("adamw", 0.0, 3, (1e-3, 6e-3)),
        Trial("sgd", 0.0, 3, (0.1, 1.0)),
    ),
    seeds=(10, 11, 12),
)
FULL = Size(
    trials=(
        Trial("adamw", 0.0, 1, HIGH),
        Trial("adamw", 0.3, 1, HIGH),
        Trial("adamw", "self", 1, HIGH),
        Trial("sgd", 0.0, 1, PLAIN),
        Trial("adamw", 0.0, 3, HIGH),
        Trial("sgd", 0.0, 3, PLAIN),
    ),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Runs a second, every method and rate as one stack and one at a time."""
    demos = in_new_format(World.of(0).taught(0.3), 1)
    grid = itertools.product(METHODS.values(), HIGH)
    runs = [Run(objective=m[1], rate=rate, demos=demos, seed=0) for m, rate in grid]
    return throughput(runs, Recipe(steps=20))


EXPERIMENT = Experiment(
    name="new-format",
    question="At which learning rates is a token of probability 1e-5 learned, at what cost?",
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
