"""What training a stack of toy transformers gains, and how far it is from matrix products alone.

    python benchmarks/stacked_training.py [--json FILE]

One process, one thread, interleaved, best of several, processor seconds; ratios are what counts.
The runs are those of an experiment: 2 layers, width 32, batches of 16 responses of the chain task,
three objectives, AdamW. Against

(a) a loop over single runs as anyone would write it: `ToyTransformer`, the same surrogate, torch's
    AdamW (its `foreach` form, where that is faster);
(b) bare batched matrix products of the same sizes: forward, and both gradients, of every linear
    layer, and nothing else. Attention, norms, GELU, the softmax and the update come on top.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dft_theory.logprobs import token_stats
from dft_theory.objectives import Objective, TokenMean, objectives
from dft_theory.provenance import manifest
from dft_theory.results import write_json
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.chain import Chain, Split
from dft_theory.toys.stacked import Recipe, Run, Stack, train

ROUNDS, STEPS, BATCH = 5, 10, 16
SIZES = (1, 9, 27, 81)
CHOSEN = tuple(objectives[name] for name in ("sft", "power-0.5", "dft"))


def demos() -> torch.Tensor:
    world, g = Chain.random(0), generator(0, "benchmark", "stacked")
    return chain.write(Split.random(0).train, world.law("uniform", 0.3), chain.TEACHER_STYLE, g)


def stacked(k: int) -> Callable[[], object]:
    """`train` on k runs."""
    taught = demos()
    runs = [
        Run(objective=CHOSEN[i % len(CHOSEN)], rate=1e-3, demos=taught, seed=i) for i in range(k)
    ]
    start = Stack.fresh(blank(), range(k))
    return lambda: train(start, runs, Recipe(steps=STEPS, batch=BATCH))


def alone(objective: Objective, *, foreach: bool) -> Callable[[], object]:
    """The plain loop of one run; like `train` it leaves the start as it was."""
    taught, start = demos(), Stack.fresh(blank(), (0,))

    def run() -> None:
        policy = start.policy(0)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, foreach=foreach)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for step in range(STEPS):
            tokens = taught[torch.arange(step * BATCH, (step + 1) * BATCH) % len(taught)]
            labels = tokens.clone()
            labels[:, : chain.PROMPT] = -100
            stats = token_stats(policy.logits(tokens), labels)
            optimizer.zero_grad()
            objective.surrogate(stats, reduction=TokenMean()).backward()
            optimizer.step()
            schedule.step()

    return run


def bare(k: int) -> Callable[[], object]:
    """The linear layers' products for k runs and STEPS steps, operands at hand.

    The last block's queries need only the positions that are read; so do its later layers.
    """
    g, width, long = generator(0, "benchmark", "bare"), 32, chain.PROMPT + chain.LENGTH - 1
    sizes = []
    for positions in (long, chain.LENGTH):
        sizes += [(long, width, 3 * width), (positions, width, width)]
        sizes += [(positions, width, 4 * width), (positions, 4 * width, width)]
    sizes.append((chain.LENGTH, width, chain.VOCAB))
    each = [
        (
            torch.randn(k, BATCH * n, a, generator=g),
            torch.randn(k, a, b, generator=g),
            torch.randn(k, BATCH * n, b, generator=g),
        )
        for n, a, b in sizes
    ]

    def run() -> None:
        for _ in range(STEPS):
            for x, w, slope in each:
                (
                    torch.bmm(x, w),
                    torch.bmm(slope, w.transpose(1, 2)),
                    torch.bmm(x.transpose(1, 2), slope),
                )

    return run


def measure() -> dict[str, float]:
    """Best processor seconds of a run's step."""
    cases: dict[str, tuple[int, Callable[[], object]]] = {}
    for foreach in (False, True):
        for objective in CHOSEN:
            cases[f"alone/{objective.name}/{foreach}"] = 1, alone(objective, foreach=foreach)
    for k in SIZES:
        cases |= {f"stacked/{k}": (k, stacked(k)), f"bare/{k}": (k, bare(k))}
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, (k, run) in cases.items():
            started = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - started) / (k * STEPS))
    loops = [
        sum(best.pop(f"alone/{o.name}/{foreach}") for o in CHOSEN) / len(CHOSEN)
        for foreach in (False, True)
    ]
    return {"loop": min(loops), **best}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    seconds = measure()
    for k in SIZES:
        mine, products = seconds[f"stacked/{k}"], seconds[f"bare/{k}"]
        print(
            f"{k:3d} runs  {1e3 * mine:.2f} ms a run's step  {0.01 / mine:.1f} runs of 100 steps a "
            f"second  {seconds['loop'] / mine:.1f} x the loop  {mine / products:.1f} x the products"
        )
    if chosen.json:
        record = {"steps": STEPS, "batch": BATCH, "rounds": ROUNDS, "seconds_per_step": seconds}
        about = manifest("python benchmarks/stacked_training.py --json FILE", started=started)
        write_json(chosen.json, {**record, "environment": about})


if __name__ == "__main__":
    main()
