"""Bases of the chain task: one trunk for each world, and a branch for each prior."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dft_theory import logprobs
from dft_theory.objectives import sft
from dft_theory.policies import ToyTransformer, transformer
from dft_theory.provenance import source_hash
from dft_theory.results import write_bytes
from dft_theory.seeding import generator
from dft_theory.toys import chain, stacked
from dft_theory.toys.chain import Chain
from dft_theory.toys.stacked import Recipe, Run, Stack, train


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Steps of trunk (p0 = 1/2) and branch, learning rates, and the share of the other task."""

    trunk: int = 1200
    branch: int = 400
    batch: int = 32
    rate: float = 4e-3
    branch_rate: float = 2e-3
    copies: float = 0.25


def blank(width: int = 32) -> ToyTransformer:
    """The shape of all: 2 layers, 2 heads, 26,016 parameters at width 32."""
    return ToyTransformer(
        vocab=chain.VOCAB,
        length=chain.LENGTH,
        context=chain.PROMPT + chain.LENGTH,
        width=width,
    )


def text(world: Chain, p0: float, n: int, share: float, g: torch.Generator) -> torch.Tensor:
    """What a base reads, `[n, P+T]`: each state by sigma with probability p0, else by tau."""
    every = chain.prompts()
    asked = every[torch.randint(len(every), (n,), generator=g)]
    read = chain.write(asked, world.law("aligned", 1 - p0), chain.BASE_STYLE, g)
    other = torch.rand(n, 1, generator=g) < share
    return torch.where(other, chain.copies(n, chain.BASE_STYLE, g), read)


def pretrain(seeds: Sequence[int], priors: Sequence[float], how: Pretraining) -> Stack:
    """A base for each seed and prior, prior running fastest."""
    cells = [(seed, p0) for seed in seeds for p0 in priors]
    return _branches(_trunks(seeds, how), cells, how)


def _trunks(seeds: Sequence[int], how: Pretraining) -> dict[int, Tensor]:
    start = Stack.fresh(blank(), seeds)
    cells = [(seed, 0.5) for seed in seeds]
    return dict(zip(seeds, _grown(start, cells, how.trunk, how.rate, how).flat, strict=True))


def _branches(
    trunks: dict[int, Tensor], cells: Sequence[tuple[int, float]], how: Pretraining
) -> Stack:
    start = Stack(torch.stack([trunks[seed] for seed, _ in cells]), blank())
    return _grown(start, cells, how.branch, how.branch_rate, how)


def _grown(
    start: Stack, cells: Sequence[tuple[int, float]], steps: int, rate: float, how: Pretraining
) -> Stack:
    runs = []
    for seed, p0 in cells:
        g = generator(seed, "toys", "base", str(p0), steps)
        read = text(Chain.random(seed), p0, steps * how.batch, how.copies, g)
        runs.append(Run(objective=sft, rate=rate, demos=read, seed=seed))
    return train(start, runs, Recipe(steps=steps, batch=how.batch)).last


def bases(
    seeds: Sequence[int], priors: Sequence[float], how: Pretraining, *, cache: Path | None = None
) -> Stack:
    """`pretrain`, or what it gave before: each base is kept in the folder `cache`, if there is one.

    The key is the code that made it and what it was asked for.
    """
    if cache is None:
        return pretrain(seeds, priors, how)
    made_by = (chain, stacked, transformer, logprobs, sft, text, _grown, blank)

    def file(seed: int, p0: float) -> Path:
        key = source_hash((made_by, torch.__version__, how, seed, float(p0)))
        return cache / f"base-{key[:16]}.npy"

    cells = [(seed, p0) for seed in seeds for p0 in priors]
    missing = [cell for cell in cells if not file(*cell).exists()]
    if missing:
        trunks = _trunks(list(dict.fromkeys(seed for seed, _ in missing)), how)
        for cell, row in zip(missing, _branches(trunks, missing, how).flat, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, row.numpy())
            write_bytes(file(*cell), buffer.getvalue())
    rows = [torch.from_numpy(np.load(file(*cell))) for cell in cells]
    return Stack(torch.stack(rows), blank())
