"""What an objective costs in training, and what it costs to judge one.

    python benchmarks/objectives.py [--json FILE]

Everything in one process on one thread, interleaved, best of several; ratios are what counts.

(a) loss and gradient in the logits (4 x 256 positions, V = 32,000, float32, a quarter masked)
    against torch's own `cross_entropy` (SFT only) and against the least that any such loss must
    do: read the logits once and write a gradient of their size;
(b) seconds of `check_objective` for every objective, of `check_loss_function` and of `xray`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import token_stats
from dft_theory.objectives import OBJECTIVES, TokenMean, dft, objectives
from dft_theory.provenance import manifest
from dft_theory.results import write_json
from dft_theory.seeding import generator
from dft_theory.testing import check_loss_function, check_objective
from dft_theory.xrays import xray

ROUNDS = 5
SHAPE = (4, 257, 32_000)
CHOSEN = ("sft", "dft", "dft-sequence", "chord-phi", "eaft", "deft-renyi", "gem-0.7", "entropy-0.1")


def batch() -> tuple[Tensor, Tensor]:
    """Logits `[4, 257, V]` and labels with a quarter of the targets masked."""
    g = generator(0, "benchmark", "objectives")
    logits = torch.randn(SHAPE, generator=g).requires_grad_(True)
    labels = torch.randint(SHAPE[-1], SHAPE[:2], generator=g)
    masked = torch.rand(SHAPE[:2], generator=g) < 0.25
    return logits, labels.masked_fill(masked, -100)


def ours(name: str, logits: Tensor, labels: Tensor) -> None:
    """Loss and gradient of an objective of the catalogue."""
    objective = objectives[name]
    stats = token_stats(logits, labels, needs=objective.needs)
    torch.autograd.grad(objective.surrogate(stats, reduction=TokenMean()), logits)


def bare(logits: Tensor, labels: Tensor) -> None:
    """The same for SFT by torch alone."""
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.autograd.grad(loss, logits)


def floor(logits: Tensor) -> None:
    """One pass over the logits that writes as much as it reads."""
    logits.detach().clone()


def seconds(f: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def training() -> dict[str, float]:
    """Best seconds of each loss, of the peer and of the floor, in interleaved rounds."""
    logits, labels = batch()
    runs: dict[str, Callable[[], object]] = {
        "cross_entropy": lambda: bare(logits, labels),
        "floor": lambda: floor(logits),
    } | {name: (lambda n=name: ours(n, logits, labels)) for name in CHOSEN}
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    return best


def my_dft(logits: Tensor, labels: Tensor, count: int | None = None) -> Tensor:
    """A loss of somebody else's make."""
    stats = token_stats(logits, labels)
    total = None if count is None else float(count)
    return dft.surrogate(stats, reduction=TokenMean(total))


def judging() -> dict[str, float]:
    """Seconds to judge every objective, the slowest of them, a loss, and an x-ray."""
    each = {o.name: seconds(lambda o=o: check_objective(o)) for o in OBJECTIVES}
    slowest = max(each, key=lambda name: each[name])
    return {
        "check_objective_all": sum(each.values()),
        "check_objective_slowest": each[slowest],
        "check_loss_function": seconds(lambda: check_loss_function(my_dft, claims_to_be=dft)),
        "xray": seconds(lambda: xray(my_dft)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the record to this file")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    cost, judged = training(), judging()
    for name in CHOSEN:
        print(
            f"{name:14s} {1e3 * cost[name]:7.0f} ms  {cost[name] / cost['cross_entropy']:.2f} x "
            f"cross_entropy  {cost[name] / cost['floor']:.1f} x floor"
        )
    for name, value in judged.items():
        print(f"{name:24s} {value:.2f} s")
    if chosen.json:
        record = {"shape": SHAPE, "rounds": ROUNDS, "seconds": cost, "judging": judged}
        about = manifest("python benchmarks/objectives.py --json FILE", started=started)
        write_json(chosen.json, {**record, "environment": about})


if __name__ == "__main__":
    main()
