"""Teacher text, filtered own samples, pairs and online RL from one base: the paper's Table 2 small.

Question: does DFT lie between SFT and RL, and is data that RL's reward filtered better text for it?

The chain task on toy transformers whose prior on the right rule is p0. The teacher errs in 15 % of
states. SFT, DFT and iw-SFT train on its 48 demonstrations, and on what an outcome reward (is the
last state right?) accepts of 16 own samples a prompt; DPO on pairs of an accepted and a rejected
one; GRPO and PPO sample 64 responses a step while they train. Two controls train on all own
samples, which teach nothing. Each method takes its own best learning rate (mean validation accuracy
over seeds). Accuracies on unseen prompts are exact and ask for every state, sampled at temperature
1 and greedy; only `average`, in which the last state alone counts, is sampled, 16 times a prompt.
Distances are KL(pi || base) along right responses, states and styles apart, and on another task,
at every rate of the grid: they depend on the rate as much as on the method.

Cost: laptop minutes. Paper reference: Table 2. Deviations: 26,000 parameters, own task; PPO's
critic is a table of one running mean a prompt, without GAE; a step of GRPO or PPO is gone through
in two updates; no KL penalty; online methods see 6,400 samples, rejection 768.

    python experiments/offline_rl.py --quick | --full
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dft_theory.experiment import Experiment, Judged, Prediction, Rows, above, values
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases, blank
from dft_theory.toys.methods import METHODS, Source, fitted, texts
from dft_theory.toys.online import OnlineRun, answered, outcome, process, reinforced
from dft_theory.toys.stacked import Recipe, Stack
from dft_theory.toys.worlds import World, exact, listed, mean

EPS = 0.15
SAMPLES = 16  # own samples a prompt
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Size:
    """Priors p0, learning rates on text, pairs and online; seeds are worlds.

    `average` responses to each test prompt are sampled for the accuracy of last states.
    """

    priors: tuple[float, ...]
    rates: tuple[float, ...]
    pair_rates: tuple[float, ...]
    online_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 100
    online_batch: int = 64
    demos: int = 48
    held_out: int = 64
    average: int = 16
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)

    def grid(self, source: Source) -> tuple[float, ...]:
        """The learning rates of a source of text."""
        return {"online": self.online_rates, "pairs": self.pair_rates}.get(source, self.rates)


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for each base, and for each prior, method and rate; `best` marks the rate it takes."""
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    every = bases(size.seeds, size.priors, size.pretraining, cache=CACHE)
    rows: list[dict[str, Any]] = []
    for i, p0 in enumerate(size.priors):
        base = every[range(i, len(every), len(size.priors))]  # a row for each seed
        text = texts(base, worlds, EPS, SAMPLES)
        numbers = told(base, base, worlds) | filtered(worlds, text)
        numbers["average"] = last_right(base, worlds, size.average)
        rows.append({"p0": p0, "method": "base", "best": True, **listed(numbers)})
        for name, method in METHODS.items():
            batch = size.online_batch if method.source == "online" else 16
            recipe = Recipe(steps=size.steps, batch=batch)
            found = fitted(method, base, worlds, text, size.grid(method.source), recipe)
            for rate, validation in zip(found.rates, found.validation, strict=True):
                numbers = told(found.at(rate), base, worlds)
                if rate == found.best:
                    numbers["average"] = last_right(found.at(rate), worlds, size.average)
                row = {"p0": p0, "method": name, "rate": rate, "best": rate == found.best}
                row["validation"] = float(f"{validation:.3g}")
                rows.append(row | listed(numbers))
    return rows


def filtered(worlds: Sequence[World], text: dict[Source, list[Tensor]]) -> dict[str, Tensor]:
    """Numbers of accepted samples and of pairs, and the share of accepted right in full."""
    taken = zip(worlds, text["accepted"], text["pairs"], strict=True)
    found = [(len(a), process(w.chain, a).mean(), len(p) / 2) for w, a, p in taken]
    names = ("accepted", "accepted_right", "pairs")
    return dict(zip(names, torch.tensor(found).T, strict=True))


def told(stack: Stack, base: Stack, worlds: Sequence[World]) -> dict[str, Tensor]:
    """What is recorded of each world, `[K]`; exact."""
    test = torch.stack([w.test for w in worlds])
    found = exact(stack, base, list(test))
    found["pass8"] = mean(stack, test, lambda t: chain.pass_at_k(chain.content_logp(t), 8))
    dice = [generator(w.seed, "toys", "copies") for w in worlds]
    other = exact(stack, base, [chain.copies(64, chain.BASE_STYLE, g) for g in dice])
    found["other"] = other["sampled"]
    found["other_kl"] = other["content_kl"] + other["style_kl"]
    return found


def last_right(stack: Stack, worlds: Sequence[World], n: int) -> Tensor:
    """Share of samples at T = 1 whose last state is right, n a test prompt, `[K]`."""
    asked = torch.stack([w.split.test.repeat(n, 1) for w in worlds])
    size = (asked.shape[1], chain.LENGTH)
    dice = [generator(w.seed, "toys", "average") for w in worlds]
    tokens, _ = answered(stack, asked, torch.stack([torch.rand(size, generator=g) for g in dice]))
    pairs = zip(worlds, tokens, strict=True)
    return torch.stack([outcome(w.chain, row).mean() for w, row in pairs])


# --- what the rows say --------------------------------------------------------------------------


def of(rows: Rows, p0: float, method: str, metric: str) -> Tensor:
    """The values of each seed at the best rate. Raises: ValueError without such a cell."""
    return values(rows, metric, p0=p0, method=method, best=True)


def lead(p0: float, ahead: str, behind: str, metric: str) -> Callable[[Rows], Judged]:
    """The first method's metric is above the second's."""

    def judge(rows: Rows) -> Judged:
        return above(0.0, lead=of(rows, p0, ahead, metric) - of(rows, p0, behind, metric))

    return judge


def between(p0: float, metric: str) -> Callable[[Rows], Judged]:
    """DFT's distance from the base is below SFT's and above GRPO's."""

    def judge(rows: Rows) -> Judged:
        sft, dft, grpo = (of(rows, p0, m, metric) for m in ("sft", "dft", "grpo"))
        return above(0.0, sft_dft=sft - dft, dft_grpo=dft - grpo)

    return judge


def beyond(metric: str) -> Callable[[Rows], Judged]:
    """DFT's distance is above SFT's and GRPO's, at both priors."""

    def judge(rows: Rows) -> Judged:
        gaps = {}
        for p0 in (0.3, 0.6):
            dft = of(rows, p0, "dft", metric)
            for other in ("sft", "grpo"):
                gaps[f"{other} {p0}"] = dft - of(rows, p0, other, metric)
        return above(0.0, **gaps)

    return judge


def near(p0: float, one: str, other: str, metric: str, most: float) -> Callable[[Rows], Judged]:
    """The mean gap of two methods is small."""

    def judge(rows: Rows) -> Judged:
        gap = of(rows, p0, one, metric) - of(rows, p0, other, metric)
        return bool(gap.mean().abs() <= most), above(0.0, gap=gap)[1]

    return judge


def no_gain(p0: float, method: str, metric: str, most: float) -> Callable[[Rows], Judged]:
    """The mean gain over the base is at most that."""

    def judge(rows: Rows) -> Judged:
        gain = of(rows, p0, method, metric) - of(rows, p0, "base", metric)
        return bool(gain.mean() <= most), above(0.0, gain=gain)[1]

    return judge


def filter_is_bad_where_the_prior_is_weak(rows: Rows) -> Judged:
    """Share of accepted samples whose every state is right."""
    weak, strong = (of(rows, p0, "base", "accepted_right") for p0 in (0.3, 0.6))
    holds = bool(weak.mean() < 0.4) and bool(strong.mean() > 0.6)
    return holds, {"at 0.3": weak.mean().item(), "at 0.6": strong.mean().item()}


def sharpening(rows: Rows) -> Judged:
    """What eight samples leave of DFT's gain over the base."""
    gain = {m: of(rows, 0.6, "dft", m) - of(rows, 0.6, "base", m) for m in ("sampled", "pass8")}
    return above(0.0, rest=gain["sampled"] / 2 - gain["pass8"])


def equal_rates(metric: str, sign: int) -> Callable[[Rows], Judged]:
    """DFT minus SFT, both at the same rate, times the sign."""

    def judge(rows: Rows) -> Judged:
        gaps = {}
        for rate in (1e-3, 3e-3):
            sft, dft = (values(rows, metric, p0=0.6, method=m, rate=rate) for m in ("sft", "dft"))
            gaps[f"at {rate:g}"] = sign * (dft - sft)
        return above(0.0, **gaps)

    return judge


def rate_decides(rows: Rows) -> Judged:
    """The distance on the other task at a high rate, beyond twice that at a lower one."""
    more = {}
    for name in ("sft", "dft", "rft-sft", "rft-dft"):
        low, high = (
            values(rows, "other_kl", p0=0.6, method=name, rate=rate) for rate in (1e-3, 3e-3)
        )
        more[name] = high - 2 * low
    return above(0.0, **more)


# Those marked so come from an earlier program of the same design on other worlds, which had neither
# PPO nor DPO and another iw-SFT; the rest are guesses from theory. The last were written once the
# worlds of `--quick` had been run.
AFTER = "after seeds 10, 11 and 12"
LAST = "after seeds 10, 11, 12 and a record of seeds 0 to 4 that kept best rates only"
KNOWN = "before any run of this program, after an earlier one of the same design"
PREDICTIONS = (
    Prediction(
        "dft-over-sft",
        "p0 = 0.6, 15 % noise: DFT leads SFT at T = 1, the interval above 0",
        lead(0.6, "dft", "sft", "sampled"),
        KNOWN,
    ),
    Prediction(
        "dft-over-sft-greedy",
        "p0 = 0.6, 15 % noise: DFT leads SFT greedily, the interval above 0",
        lead(0.6, "dft", "sft", "greedy"),
        KNOWN,
    ),
    Prediction(
        "own-samples-sharpen",
        "p0 = 0.6: on all of its own samples DFT gains at T = 1 over the base, interval above 0",
        lead(0.6, "own-dft", "base", "sampled"),
        KNOWN,
    ),
    Prediction(
        "own-samples-teach-nothing",
        "p0 = 0.6: on all of its own samples DFT gains at most 0.05 greedily in the mean",
        no_gain(0.6, "own-dft", "greedy", 0.05),
        KNOWN,
    ),
    Prediction(
        "between-in-content-strong",
        "p0 = 0.6: the KL of states from the base falls from SFT to DFT to GRPO, intervals above 0",
        between(0.6, "content_kl"),
        KNOWN,
    ),
    Prediction(
        "between-in-content-weak",
        "p0 = 0.3: the KL of states from the base falls from SFT to DFT to GRPO, intervals above 0",
        between(0.3, "content_kl"),
        KNOWN,
    ),
    Prediction(
        "not-between-in-style",
        "p0 = 0.3 and 0.6: the KL of styles is larger for DFT than for SFT and for GRPO",
        beyond("style_kl"),
        KNOWN,
    ),
    Prediction(
        "not-between-elsewhere",
        "p0 = 0.3 and 0.6: the KL on the other task is larger for DFT than for SFT and for GRPO",
        beyond("other_kl"),
        KNOWN,
        unsettled="on seeds 10 to 12 DFT's best rate is 1e-3, and its KL is then below SFT's: the "
        "rate decides the sign",
    ),
    Prediction(
        "rl-leaves-style",
        "p0 = 0.6: the mean KL of styles is at most 0.5 nats for GRPO",
        no_gain(0.6, "grpo", "style_kl", 0.5),
        KNOWN,
    ),
    Prediction(
        "filtered-strong",
        "p0 = 0.6: on accepted samples DFT leads SFT at T = 1, the interval above 0",
        lead(0.6, "rft-dft", "rft-sft", "sampled"),
        KNOWN,
    ),
    Prediction(
        "filtered-weak",
        "p0 = 0.3: on accepted samples SFT leads DFT at T = 1, the interval above 0",
        lead(0.3, "rft-sft", "rft-dft", "sampled"),
        KNOWN,
    ),
    Prediction(
        "weak-filter",
        "of the accepted samples less than 40 % are right in every state at p0 = 0.3, more than "
        "60 % at 0.6",
        filter_is_bad_where_the_prior_is_weak,
    ),
    Prediction(
        "demonstrations-over-rl",
        "p0 = 0.3: DFT on demonstrations leads GRPO at T = 1, the interval above 0",
        lead(0.3, "dft", "grpo", "sampled"),
        KNOWN,
    ),
    Prediction(
        "demonstrations-over-rl-greedy",
        "p0 = 0.3: DFT on demonstrations leads GRPO greedily, the interval above 0",
        lead(0.3, "dft", "grpo", "greedy"),
    ),
    Prediction(
        "demonstrations-tie-with-rl",
        "p0 = 0.6: DFT on demonstrations and GRPO are within 0.1 at T = 1 in the mean",
        near(0.6, "dft", "grpo", "sampled", 0.1),
        KNOWN,
    ),
    Prediction(
        "rl-over-filtered",
        "p0 = 0.6: GRPO leads SFT on accepted samples at T = 1, the interval above 0",
        lead(0.6, "grpo", "rft-sft", "sampled"),
        KNOWN,
    ),
    Prediction(
        "rl-over-filtered-dft",
        "p0 = 0.6: GRPO leads DFT on accepted samples at T = 1, against the paper; interval above "
        "0",
        lead(0.6, "grpo", "rft-dft", "sampled"),
        KNOWN,
    ),
    Prediction(
        "rl-keeps-greedy",
        "p0 = 0.6: GRPO leads SFT on accepted samples greedily, the interval above 0",
        lead(0.6, "grpo", "rft-sft", "greedy"),
        KNOWN,
    ),
    Prediction(
        "importance-weights-filtered",
        "p0 = 0.6: on accepted samples iw-SFT leads SFT at T = 1, the interval above 0",
        lead(0.6, "rft-iw-sft", "rft-sft", "sampled"),
    ),
    Prediction(
        "importance-weights-noise",
        "p0 = 0.6, 15 % noise: on demonstrations DFT leads iw-SFT at T = 1, whose weights rise on "
        "what is memorised; interval above 0",
        lead(0.6, "dft", "iw-sft", "sampled"),
    ),
    Prediction(
        "ppo-is-grpo",
        "p0 = 0.6: PPO and GRPO are within 0.1 at T = 1 in the mean",
        near(0.6, "ppo", "grpo", "sampled", 0.1),
    ),
    Prediction(
        "dpo-gains",
        "p0 = 0.6: DPO leads the base at T = 1, the interval above 0",
        lead(0.6, "dpo", "base", "sampled"),
    ),
    Prediction(
        "dpo-behind-rl",
        "p0 = 0.6: GRPO leads DPO at T = 1, the interval above 0",
        lead(0.6, "grpo", "dpo", "sampled"),
    ),
    Prediction(
        "eight-samples",
        "p0 = 0.6: DFT's gain over the base at pass@8 is less than half of that at T = 1",
        sharpening,
    ),
    Prediction(
        "between-elsewhere",
        "p0 = 0.6: the KL on the other task falls from SFT to DFT to GRPO, intervals above 0",
        between(0.6, "other_kl"),
        AFTER,
    ),
    Prediction(
        "dpo-behind-filtered",
        "p0 = 0.6: SFT on accepted samples leads DPO at T = 1, as in the paper, interval above 0",
        lead(0.6, "rft-sft", "dpo", "sampled"),
        AFTER,
    ),
    Prediction(
        "rate-decides-elsewhere",
        "p0 = 0.6: the KL on the other task at rate 3e-3 is more than twice that at 1e-3, for SFT "
        "and DFT on demonstrations and on accepted samples",
        rate_decides,
        LAST,
    ),
    Prediction(
        "equal-rates-content",
        "p0 = 0.6, at rate 1e-3 and at 3e-3: the KL of states is smaller for DFT than for SFT",
        equal_rates("content_kl", -1),
        LAST,
    ),
    Prediction(
        "equal-rates-style",
        "p0 = 0.6, at rate 1e-3 and at 3e-3: the KL of styles is larger for DFT than for SFT",
        equal_rates("style_kl", 1),
        LAST,
    ),
    Prediction(
        "equal-rates-elsewhere",
        "p0 = 0.6, at rate 1e-3 and at 3e-3: the KL on the other task is larger for DFT than for "
        "SFT",
        equal_rates("other_kl", 1),
        LAST,
    ),
)

QUICK = Size(
    priors=(0.3, 0.6),
    rates=(1e-3, 3e-3),
    pair_rates=(1e-4,),
    online_rates=(1e-3,),
    seeds=(10, 11, 12),
    average=1,
)
FULL = Size(
    priors=(0.3, 0.6),
    rates=(1e-4, 3e-4, 1e-3, 3e-3, 6e-3),
    pair_rates=(3e-5, 1e-4, 3e-4, 1e-3),
    online_rates=(3e-4, 1e-3, 3e-3),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Online runs a second at 4 steps, 12 as one stack and one at a time."""
    world, recipe = World.of(0), Recipe(steps=4, batch=64)
    reward = partial(outcome, world.chain)
    run = OnlineRun(rate=1e-3, prompts=world.split.train, reward=reward, seed=0)
    start = Stack.fresh(blank(), range(12))
    started = time.perf_counter()
    reinforced(start, [run] * 12, recipe)
    stacked = 12 / (time.perf_counter() - started)
    started = time.perf_counter()
    for row in range(3):
        reinforced(start[[row]], [run], recipe)
    loop = 3 / (time.perf_counter() - started)
    return {"stacked": round(stacked, 2), "loop": round(loop, 2), "ratio": round(stacked / loop, 1)}


EXPERIMENT = Experiment(
    name="offline-rl",
    question="Does DFT lie between SFT and RL, and does RL's reward filter better text for it?",
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
