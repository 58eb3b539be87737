"""Which tokens each method makes likely or unlikely, in its training text and in fresh text.

Question: does DFT polarise token probabilities, and which tokens does it, or RL, give up?

The models of the offline comparison at their best rates: the base, SFT and DFT on 48 demonstrations
of a teacher who errs in 15 % of states, DPO on pairs of own samples, GRPO and PPO online. Token
probabilities are read along these demonstrations, and along fresh ones: the same teacher answers
the same prompts anew. Tokens are of three classes: right states, wrong states, and styles, of
which the teacher and the base have different laws. Bins are the paper's thirteen; what is judged
are the shares below 0.05 and above 0.95.

Cost: laptop minutes. Paper reference: Figure 2. Deviations: toy transformers, own task; the paper
shows one text, without saying which, and all tokens together.

    python experiments/token_histogram.py --quick | --full
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dft_theory.diagnostics.bins import BINS, bin_index
from dft_theory.experiment import Experiment, Judged, Prediction, Rows, above, values
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases, blank
from dft_theory.toys.methods import METHODS, Source, fitted, texts
from dft_theory.toys.stacked import Recipe, Stack
from dft_theory.toys.worlds import World, listed

EPS, SAMPLES = 0.15, 16  # of the teacher; own samples a prompt
SHOWN = ("sft", "dft", "dpo", "ppo", "grpo")
CLASSES = ("all", "right", "wrong", "style")
CACHE = Path(__file__).resolve().parents[1] / ".cache"


@dataclass(frozen=True)
class Size:
    """Priors p0, learning rates on text, pairs and online; seeds are worlds."""

    priors: tuple[float, ...]
    rates: tuple[float, ...]
    pair_rates: tuple[float, ...]
    online_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 100
    online_batch: int = 64
    demos: int = 48
    held_out: int = 64
    pretraining: Pretraining = Pretraining()  # noqa: RUF009 (frozen)

    def grid(self, source: Source) -> tuple[float, ...]:
        """The learning rates of a source of text."""
        return {"online": self.online_rates, "pairs": self.pair_rates}.get(source, self.rates)


def measure(size: Size) -> list[dict[str, Any]]:
    """A row for each prior, method, text ("train" or "fresh") and class of tokens."""
    worlds = [World.of(seed, demos=size.demos, held_out=size.held_out) for seed in size.seeds]
    every = bases(size.seeds, size.priors, size.pretraining, cache=CACHE)
    rows: list[dict[str, Any]] = []
    for i, p0 in enumerate(size.priors):
        base = every[range(i, len(every), len(size.priors))]  # a row for each seed
        text = texts(base, worlds, EPS, SAMPLES)
        rows += [{"p0": p0, "method": "base", **row} for row in tokens(base, worlds)]
        for name in SHOWN:
            online = METHODS[name].source == "online"
            grid = size.grid(METHODS[name].source)
            recipe = Recipe(steps=size.steps, batch=size.online_batch if online else 16)
            found = fitted(METHODS[name], base, worlds, text, grid, recipe)
            cell = {"p0": p0, "method": name, "rate": found.best}
            rows += [cell | row for row in tokens(found.at(found.best), worlds)]
    return rows


@torch.no_grad()
def tokens(stack: Stack, worlds: Sequence[World]) -> list[dict[str, Any]]:
    """A row for each text and class: shares of tokens, the mean probability and the 13 bins.

    NaN, that is None, where a text has no token of the class.
    """
    rows = []
    for name in ("train", "fresh"):
        text = torch.stack([w.taught(EPS, fresh=name == "fresh") for w in worlds])
        p = stack.stats(text).logp.exp().unflatten(0, text.shape[:2])
        for which, where in classes(text, worlds).items():
            told = shares(p, where)
            bins = [[float(f"{x:.4g}") for x in row] for row in binned(p, where).tolist()]
            rows.append({"text": name, "tokens": which, **listed(told), "bins": bins})
    return rows


def classes(text: Tensor, worlds: Sequence[World]) -> dict[str, Tensor]:
    """Which response tokens of `[K, N, P+T]` belong to each class, `[K, N, T]`."""
    right = torch.zeros(*text.shape[:2], chain.LENGTH, dtype=torch.bool)
    wrong, style = right.clone(), right.clone()
    for k, world in enumerate(worlds):
        follows = world.chain.follows(text[k], world.chain.right)
        right[k][:, chain.CONTENT], wrong[k][:, chain.CONTENT] = follows, ~follows
    style[..., chain.STYLED] = True
    return {"all": torch.ones_like(style), "right": right, "wrong": wrong, "style": style}


def shares(p: Tensor, where: Tensor) -> dict[str, Tensor]:
    """Number, mean probability, shares of low and high, each `[K]`, of tokens `where [K, N, T]`."""
    n = where.sum((1, 2))

    def mean(x: Tensor) -> Tensor:
        return (x * where).sum((1, 2)) / n

    return {"count": n.float(), "mean_p": mean(p), "low": mean(p < 0.05), "high": mean(p > 0.95)}


def binned(p: Tensor, where: Tensor) -> Tensor:
    """Share of the tokens `where` in each of the 13 bins, `[K, 13]`; 0 where there are none."""
    place, every = bin_index(p), range(len(BINS) - 1)
    counts = torch.stack([(where & (place == b)).sum((1, 2)) for b in every], -1)
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


# --- what the rows say --------------------------------------------------------------------------


def of(rows: Rows, p0: float, method: str, text: str, which: str, metric: str) -> Tensor:
    """The values of each seed. Raises: ValueError where the grid has no such cell."""
    return values(rows, metric, p0=p0, method=method, text=text, tokens=which)


def polarised(p0: float) -> Callable[[Rows], Judged]:
    """DFT's shares of low and of high tokens exceed the base's in both texts."""

    def judge(rows: Rows) -> Judged:
        gaps = {}
        for text in ("train", "fresh"):
            for end in ("low", "high"):
                dft, base = (of(rows, p0, m, text, "all", end) for m in ("dft", "base"))
                gaps[f"{text} {end}"] = dft - base
        return above(0.0, **gaps)

    return judge


def lifted_in_training(rows: Rows) -> Judged:
    """How many low tokens SFT leaves in its training text."""
    base, sft = (of(rows, 0.6, m, "train", "all", "low") for m in ("base", "sft"))
    holds, numbers = above(0.0, less=base - sft)
    return holds and bool(sft.mean() < 0.02), numbers | {"sft": sft.mean().item()}


def not_lifted_in_fresh(rows: Rows) -> Judged:
    """How many more in fresh text."""
    train, fresh = (of(rows, 0.6, "sft", text, "all", "low") for text in ("train", "fresh"))
    return above(0.03, more=fresh - train)


def memory(rows: Rows) -> Judged:
    """Wrong training states under SFT and under DFT."""
    sft, dft = (of(rows, 0.6, m, "train", "wrong", "mean_p") for m in ("sft", "dft"))
    return above(0.2, more=sft - dft)


def memory_is_of_training(rows: Rows) -> Judged:
    """Wrong states under SFT, in training text and in fresh."""
    train, fresh = (of(rows, 0.6, "sft", text, "wrong", "mean_p") for text in ("train", "fresh"))
    return above(0.0, rest=train / 2 - fresh)


def styles_given_up(rows: Rows) -> Judged:
    """Shares of low styles in fresh text."""
    low = {m: of(rows, 0.6, m, "fresh", "style", "low") for m in ("dft", "sft", "grpo", "ppo")}
    holds, numbers = above(0.1, dft=low["dft"])
    others = {m: low[m].mean().item() for m in ("sft", "grpo", "ppo")}
    return holds and max(others.values()) < 0.05, numbers | others


def rl_polarises_states(rows: Rows) -> Judged:
    """Right states up, wrong states down, styles left."""
    right, base = (of(rows, 0.6, m, "fresh", "right", "high") for m in ("grpo", "base"))
    wrong = of(rows, 0.6, "grpo", "fresh", "wrong", "low")
    style = of(rows, 0.6, "grpo", "fresh", "style", "high")
    holds, numbers = above(0.2, right=right - base)
    holds &= bool(wrong.mean() > 0.8) and bool(style.mean() < 0.05)
    return holds, numbers | {"wrong": wrong.mean().item(), "style": style.mean().item()}


def milder(p0: float, end: str) -> Callable[[Rows], Judged]:
    """RL's share of tokens at one end, in training text, is below DFT's."""

    def judge(rows: Rows) -> Judged:
        dft = of(rows, p0, "dft", "train", "all", end)
        others = {m: dft - of(rows, p0, m, "train", "all", end) for m in ("dpo", "ppo", "grpo")}
        return above(0.0, **others)

    return judge


def same_direction(rows: Rows) -> Judged:
    """All raise the share of high tokens."""
    base = of(rows, 0.6, "base", "train", "all", "high")
    gains = {m: of(rows, 0.6, m, "train", "all", "high") - base for m in ("dpo", "ppo", "grpo")}
    return above(0.0, **gains)


KNOWN = "before any run of this program, after an earlier one of the same design"
PREDICTIONS = (
    Prediction(
        "sft-lifts-its-training-text",
        "p0 = 0.6: SFT leaves less than 2 % of its training tokens below 0.05, fewer than the base",
        lifted_in_training,
        KNOWN,
    ),
    Prediction(
        "and-only-that",
        "p0 = 0.6: in fresh text SFT's share below 0.05 is larger by more than 0.03",
        not_lifted_in_fresh,
        KNOWN,
    ),
    Prediction(
        "dft-polarises-strong",
        "p0 = 0.6: DFT has more tokens than the base below 0.05 and above 0.95, in both texts",
        polarised(0.6),
        KNOWN,
    ),
    Prediction(
        "dft-polarises-weak",
        "p0 = 0.3: DFT has more tokens than the base below 0.05 and above 0.95, in both texts",
        polarised(0.3),
        KNOWN,
    ),
    Prediction(
        "memory",
        "p0 = 0.6: SFT gives the wrong states of its training text more than DFT does, by over 0.2",
        memory,
        KNOWN,
    ),
    Prediction(
        "memory-is-of-the-training-text",
        "p0 = 0.6: SFT gives wrong states of fresh text less than half of what those it saw get",
        memory_is_of_training,
    ),
    Prediction(
        "dft-gives-up-styles",
        "p0 = 0.6, fresh text: DFT has over 10 % of styles below 0.05; SFT, GRPO and PPO under 5 %",
        styles_given_up,
        KNOWN,
    ),
    Prediction(
        "rl-polarises-states-only",
        "p0 = 0.6, fresh text: GRPO has over 0.2 more right states above 0.95 than the base, over "
        "80 % of wrong ones below 0.05, under 5 % of styles above 0.95",
        rl_polarises_states,
        KNOWN,
    ),
    Prediction(
        "same-direction",
        "p0 = 0.6: DPO, PPO and GRPO raise the share of training tokens above 0.95, as in the "
        "paper",
        same_direction,
    ),
    Prediction(
        "milder-below",
        "p0 = 0.6: DPO, PPO and GRPO have fewer training tokens below 0.05 than DFT, as in the "
        "paper",
        milder(0.6, "low"),
    ),
    Prediction(
        "milder-above",
        "p0 = 0.6: DPO, PPO and GRPO have fewer training tokens above 0.95 than DFT, as in the "
        "paper",
        milder(0.6, "high"),
    ),
)

QUICK = Size(
    priors=(0.3, 0.6),
    rates=(1e-3, 3e-3),
    pair_rates=(1e-4,),
    online_rates=(1e-3,),
    seeds=(10, 11, 12),
    online_batch=48,
)
FULL = Size(
    priors=(0.3, 0.6),
    rates=(1e-4, 3e-4, 1e-3, 3e-3, 6e-3),
    pair_rates=(3e-5, 1e-4, 3e-4, 1e-3),
    online_rates=(3e-4, 1e-3, 3e-3),
    seeds=(0, 1, 2, 3, 4),
)


def speed() -> dict[str, float]:
    """Tokens read a second, of 24 models as one stack and one at a time."""
    worlds = [World.of(0)] * 24
    start = Stack.fresh(blank(), range(24))
    count = 24 * 2 * 48 * chain.LENGTH
    started = time.perf_counter()
    tokens(start, worlds)
    stacked = count / (time.perf_counter() - started)
    started = time.perf_counter()
    for row in range(24):
        tokens(start[[row]], worlds[:1])
    loop = count / (time.perf_counter() - started)
    return {"stacked": round(stacked), "loop": round(loop), "ratio": round(stacked / loop, 1)}


EXPERIMENT = Experiment(
    name="token-histogram",
    question="Does DFT polarise token probabilities, and which tokens does it, or RL, give up?",
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
