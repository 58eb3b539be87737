"""RL from the base and from what SFT, DFT and their relatives made of it, before and after.

Question: which fine-tuning leaves room for RL, and what seen before RL predicts its gain?

The policies of `relatives` are trained again, on 48 demonstrations with 30 % of the states random,
each at the learning rate of its record. From each of them, and from the base, GRPO trains on the
same prompts for the outcome, the last state: one learning rate and budget for all, chosen on the
worlds of `--quick`. Accuracies on unseen prompts are exact and ask for every state, sampled at
temperature 1 and greedy. `signal` is what GRPO can see at its start: the mean probability that a
group of eight samples of a training prompt holds right and wrong responses.

Cost: laptop minutes. Paper reference: none; the claim that DFT is a better start for RL is in an
abstract without numbers. Deviations: 26,000 parameters, own task; 3,840 samples of RL, no KL
penalty, two updates a step.

    python experiments/room_for_rl.py --quick | --full
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, above, values
from dft_theory.results import RunStore
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases, blank
from dft_theory.toys.gaps import told as intervals
from dft_theory.toys.online import OnlineRun, outcome, reinforced
from dft_theory.toys.relatives import RELATIVES, told, trained
from dft_theory.toys.stacked import Recipe, Stack
from dft_theory.toys.worlds import World, listed, mean, sampled_accuracy

EPS, GROUP = 0.3, 8
ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


@dataclass(frozen=True)
class Size:
    """Priors p0, the policies that RL starts from, and RL's rate and steps; seeds are worlds."""

    priors: tuple[float, ...]
    starts: tuple[str, ...]
    seeds: tuple[int, ...]
    rate: float = 1e-3
    rl_steps: int = 60
    batch: int = 64
    steps: int = 100
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)


def measure(size: Size) -> list[dict[str, Any]]:
    """Two rows for each prior and start: before RL and after it."""
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    demos = [w.taught(EPS) for w in worlds]
    rates = {
        (r["p0"], r["method"]): r["rate"]
        for r in RunStore(ROOT / "experiments" / "results").run("relatives", "full").metrics()
        if r["eps"] == EPS
    }
    rows: list[dict[str, Any]] = []
    for p0 in size.priors:
        base = bases(size.seeds, (p0,), size.pretraining, cache=CACHE)
        tuned = [name for name in size.starts if name != "base"]
        every, n = list(range(len(worlds))), len(worlds)
        names = [name for name in tuned for _ in every]
        fitted = trained(
            base[every * len(tuned)],
            names,
            [rates[p0, name] for name in names],
            demos * len(tuned),
            list(size.seeds) * len(tuned),
            Recipe(steps=size.steps),
        )
        starts = dict(zip(tuned, [fitted[every_of(k, n)] for k in range(len(tuned))], strict=True))
        starts = {"base": base} | starts
        before = Stack(torch.cat([starts[name].flat for name in size.starts]), base.like)
        runs = [
            OnlineRun(
                rate=size.rate,
                prompts=w.split.train,
                reward=partial(outcome, w.chain),
                seed=w.seed,
                group=GROUP,
            )
            for _ in size.starts
            for w in worlds
        ]
        after = reinforced(before, runs, Recipe(steps=size.rl_steps, batch=size.batch)).last
        for phase, stack in (("before", before), ("after", after)):
            for k, name in enumerate(size.starts):
                mine = stack[every_of(k, n)]
                found = told(mine, base, worlds, demos) | {"signal": signal(mine, worlds)}
                rows.append({"p0": p0, "start": name, "phase": phase, **listed(found)})
    return rows


def every_of(k: int, worlds: int) -> list[int]:
    """Rows of the k-th start."""
    return list(range(k * worlds, (k + 1) * worlds))


def signal(stack: Stack, worlds: Sequence[World]) -> Tensor:
    """Probability that a group holds right and wrong responses, mean of training prompts, `[K]`."""
    right = [
        chain.write(
            w.split.train, w.chain.law(), chain.BASE_STYLE, generator(w.seed, "toys", "signal")
        )
        for w in worlds
    ]

    def mixed(t: Any) -> Tensor:
        p = sampled_accuracy(t)
        return 1 - p**GROUP - (1 - p) ** GROUP

    return mean(stack, torch.stack(right), mixed)


# --- what the rows say --------------------------------------------------------------------------


def of(rows: Rows, p0: float, start: str, phase: str, metric: str) -> Tensor:
    """The values of each seed. Raises: ValueError where there is no such row."""
    return values(rows, metric, p0=p0, start=start, phase=phase)


def gain(rows: Rows, p0: float, start: str, metric: str = "sampled") -> Tensor:
    """After RL minus before it, each seed."""
    return of(rows, p0, start, "after", metric) - of(rows, p0, start, "before", metric)


Judge = Callable[[Rows], Judged]


def ends_above(p0: float, first: str, second: str, *metrics: str) -> Judge:
    """After RL the first start is above the second."""

    def judge(rows: Rows) -> Judged:
        each = {
            m: of(rows, p0, first, "after", m) - of(rows, p0, second, "after", m) for m in metrics
        }
        return above(0.0, **each)

    return judge


def gains_more(p0: float, first: str, second: str, least: float) -> Judge:
    """RL gives the first start more than the second, at T = 1."""
    return lambda rows: above(least, more=gain(rows, p0, first) - gain(rows, p0, second))


def starts(rows: Rows) -> list[str]:
    """The fine-tuned policies that are there; the base is not one of them."""
    return [name for name in dict.fromkeys(r["start"] for r in rows) if name != "base"]


def rank(rows: Rows, p0: float, predictor: str, of_what: str) -> Tensor:
    """Rank correlation over fine-tuned starts of a metric before RL with what comes of it.

    That is the "gain" at T = 1 or the accuracy "after" it; each seed.
    """
    names = starts(rows)
    seen = torch.stack([of(rows, p0, name, "before", predictor) for name in names])
    target = torch.stack(
        [
            gain(rows, p0, name) if of_what == "gain" else of(rows, p0, name, "after", "sampled")
            for name in names
        ]
    )
    each = [spearmanr(seen[:, i], target[:, i]).statistic for i in range(seen.shape[1])]
    return torch.tensor(each, dtype=torch.float64)


def ranks(predictor: str, of_what: str, priors: Sequence[float], least: float) -> Judge:
    """The mean rank correlation is above `least` at each prior."""

    def judge(rows: Rows) -> Judged:
        each = {f"p0 {p0}": rank(rows, p0, predictor, of_what) for p0 in priors}
        return all(x.mean().item() > least for x in each.values()), intervals(**each)

    return judge


def no_signal(rows: Rows) -> Judged:
    """What RL gains from a base that is hardly ever right."""
    found = gain(rows, 0.1, "base")
    return found.mean().item() < 0.05, intervals(gain=found)


def greedy_gains_less(rows: Rows) -> Judged:
    """Mean gain over fine-tuned starts, at T = 1 and greedy."""
    both = {
        m: torch.stack([gain(rows, 0.6, name, m) for name in starts(rows)]).mean(0)
        for m in ("sampled", "greedy")
    }
    less = both["greedy"].mean().item() < both["sampled"].mean().item() / 2
    return less, intervals(**both)


def style_is_left(rows: Rows) -> Judged:
    """RL after SFT takes more entropy from states than from styles."""
    lost = {m: -gain(rows, 0.6, "sft", f"{m}_entropy") for m in ("content", "style")}
    return above(0.0, more=lost["content"] - lost["style"])


PREDICTIONS = (
    Prediction(
        "sft-gains-more",
        "p0 = 0.6: RL gives the SFT policy at least 0.1 more at T = 1 than the DFT policy",
        gains_more(0.6, "sft", "dft", 0.1),
    ),
    Prediction(
        "dft-ends-above-strong",
        "p0 = 0.6: and yet the DFT policy is ahead of it after RL, at T = 1 and greedily",
        ends_above(0.6, "dft", "sft", "sampled", "greedy"),
    ),
    Prediction(
        "dft-ends-above-middle",
        "p0 = 0.1: the DFT policy is ahead of the SFT policy after RL, at T = 1 and greedily",
        ends_above(0.1, "dft", "sft", "sampled", "greedy"),
    ),
    Prediction(
        "base-ends-above",
        "p0 = 0.6: RL from the base ends above RL from SFT on noise, at T = 1 and greedily",
        ends_above(0.6, "base", "sft", "sampled", "greedy"),
    ),
    Prediction(
        "no-signal",
        "p0 = 0.1: from the base, hardly ever right, RL gains less than 0.05",
        no_signal,
    ),
    Prediction(
        "power-ends-above",
        "p0 = 0.1: the p^1/2 policy, with the higher pass@8, ends above the DFT policy at T = 1",
        ends_above(0.1, "power", "dft", "sampled"),
    ),
    Prediction(
        "content-entropy",
        "p0 = 0.6: over fine-tuned starts, content entropy before RL and the gain at T = 1 have a "
        "mean rank correlation above 0.5",
        ranks("content_entropy", "gain", (0.6,), 0.5),
    ),
    Prediction(
        "style-entropy",
        "p0 = 0.6: style entropy before RL and the gain have one above 0.3",
        ranks("style_entropy", "gain", (0.6,), 0.3),
    ),
    Prediction(
        "pass8-predicts-the-end",
        "p0 = 0.1 and 0.6: pass@8 before RL and accuracy at T = 1 after it have one above 0.5",
        ranks("pass8", "after", (0.1, 0.6), 0.5),
    ),
    Prediction(
        "signal-predicts-the-gain",
        "p0 = 0.1 and 0.6: the signal at the start and the gain at T = 1 have one above 0.3",
        ranks("signal", "gain", (0.1, 0.6), 0.3),
    ),
    Prediction(
        "greedy-gains-less",
        "p0 = 0.6: over fine-tuned starts RL's mean greedy gain is below half of that at T = 1",
        greedy_gains_less,
    ),
    Prediction(
        "style-is-left",
        "p0 = 0.6: after SFT, RL takes more entropy from states than from styles",
        style_is_left,
    ),
)

QUICK = Size(
    priors=(0.1, 0.6),
    starts=("base", "sft", "dft", "power", "floor", "gem"),
    seeds=(10, 11, 12),
)
FULL = Size(priors=(0.1, 0.6), starts=("base", *RELATIVES), seeds=(0, 1, 2, 3, 4))


def speed() -> dict[str, float]:
    """Runs of RL a second, six as one stack and one at a time."""
    world = World.of(0)
    run = OnlineRun(
        rate=1e-3, prompts=world.split.train, reward=partial(outcome, world.chain), seed=0
    )
    start, recipe = Stack.fresh(blank(), range(6)), Recipe(steps=5, batch=64)
    started = time.perf_counter()
    reinforced(start, [run] * 6, recipe)
    stacked = 6 / (time.perf_counter() - started)
    started = time.perf_counter()
    reinforced(start[[0]], [run], recipe)
    loop = 1 / (time.perf_counter() - started)
    return {"stacked": round(stacked, 2), "loop": round(loop, 2), "ratio": round(stacked / loop, 1)}


EXPERIMENT = Experiment(
    name="room-for-rl",
    question="Which fine-tuning leaves room for RL, and what seen before RL predicts its gain?",
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
