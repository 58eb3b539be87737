"""The timing runs what it is given, and refuses nothing to run."""

import pytest

from dft_theory.objectives import sft
from dft_theory.toys.stacked import Recipe, Run
from dft_theory.toys.throughput import throughput
from dft_theory.toys.worlds import World


def test_a_throughput_is_a_ratio_of_two_rates() -> None:
    demos = World.of(3, demos=4, held_out=4).taught(0.0)
    runs = [Run(objective=sft, rate=1e-3, demos=demos, seed=seed) for seed in range(5)]
    found = throughput(runs, Recipe(steps=2, batch=2))
    assert all(value > 0 for value in found.values())
    assert found["ratio"] == pytest.approx(found["stacked"] / found["loop"], abs=0.06, rel=0.05)


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        throughput([], Recipe())
