"""Bases of the chain task: one trunk for each world, and a branch for each prior."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

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

    def grown(start: Stack, cells: Sequence[tuple[int, float]], steps: int, rate: float) -> Stack:
        recipe = Recipe(steps=steps, batch=how.batch)
        runs = []
        for seed, p0 in cells:
            g = generator(seed, "toys", "base", str(p0), steps)
            read = text(Chain.random(seed), p0, steps * how.batch, how.copies, g)
            runs.append(Run(objective=sft, rate=rate, demos=read, seed=seed))
        return train(start, runs, recipe).last

    trunk = Stack.fresh(blank(), seeds)
    trunk = grown(trunk, [(s, 0.5) for s in seeds], how.trunk, how.rate)
    cells = [(seed, p0) for seed in seeds for p0 in priors]
    rows = [seeds.index(seed) for seed, _ in cells]
    return grown(trunk[rows], cells, how.branch, how.branch_rate)


def bases(
    seeds: Sequence[int], priors: Sequence[float], how: Pretraining, *, cache: Path | None = None
) -> Stack:
    """`pretrain`, or what it gave before: kept in the folder `cache`, if there is one.

    The key is the code that made it and what it was asked for.
    """
    if cache is None:
        return pretrain(seeds, priors, how)
    made_by = (chain, stacked, transformer, logprobs, sft, text, pretrain, blank)
    key = source_hash((made_by, torch.__version__, how, tuple(seeds), tuple(priors)))
    file = cache / f"bases-{key[:16]}.npy"
    if not file.exists():
        buffer = io.BytesIO()
        np.save(buffer, pretrain(seeds, priors, how).flat.numpy())
        write_bytes(file, buffer.getvalue())
    return Stack(torch.from_numpy(np.load(file)), blank())
