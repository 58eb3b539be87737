"""What stacking gains: training runs a second, together and one at a time."""

import time
from collections.abc import Sequence

from dft_theory.toys.bases import blank
from dft_theory.toys.stacked import Recipe, Run, Stack, train

SAMPLE = 3  # runs that are trained alone


def throughput(runs: Sequence[Run], recipe: Recipe) -> dict[str, float]:
    """Runs a second as one stack and one at a time, and their ratio; from untrained models.

    Raises: ValueError without any run.
    """
    if not runs:
        raise ValueError("give at least one run to time")
    start = Stack.fresh(blank(), range(len(runs)))
    started = time.perf_counter()
    train(start, runs, recipe)
    stacked = len(runs) / (time.perf_counter() - started)
    alone = range(0, len(runs), -(-len(runs) // SAMPLE))
    started = time.perf_counter()
    for row in alone:
        train(start[[row]], [runs[row]], recipe)
    loop = len(alone) / (time.perf_counter() - started)
    return {"stacked": round(stacked, 2), "loop": round(loop, 2), "ratio": round(stacked / loop, 1)}
