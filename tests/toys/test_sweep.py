"""A sweep gives what training each run alone gives, and looks when it is told to."""

import pytest
import torch

from dft_theory.objectives import objectives
from dft_theory.toys import chain
from dft_theory.toys.bases import blank
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.sweep import METRICS, accuracies, digits, runs, sweep
from dft_theory.toys.worlds import World, mean, sampled_accuracy

SEEDS, RATES = (0, 1), (1e-3, 3e-2)
CHOSEN = [objectives["sft"], objectives["dft"]]
RECIPE = Recipe(steps=6, batch=4)


@pytest.fixture(scope="module")
def setting():
    worlds = [World.of(seed, demos=6, held_out=4) for seed in SEEDS]
    return Stack.fresh(blank(), SEEDS), worlds, [w.taught(0.3) for w in worlds]


def test_each_cell_is_that_run_alone(setting):
    base, worlds, demos = setting
    found = sweep(base, worlds, demos, CHOSEN, RATES, RECIPE)
    assert found.test.shape == (1, 2, 2, 2, 2)
    for o, objective in enumerate(CHOSEN):
        for r, rate in enumerate(RATES):
            for i, world in enumerate(worlds):
                run = Run(objective=objective, rate=rate, demos=demos[i], seed=world.seed)
                alone = train(base[[i]], [run], RECIPE).last
                for m, metric in enumerate((sampled_accuracy, chain.greedy)):
                    for of, held in (("test", found.test[-1]), ("validation", found.validation)):
                        one = mean(alone, getattr(world, of)[None], metric)
                        assert held[m, o, r, i].item() == pytest.approx(one.item(), rel=1e-3)


def test_looking_on_the_way_changes_nothing_and_shows_shorter_progress(setting):
    base, worlds, demos = setting
    end = sweep(base, worlds, demos, CHOSEN, RATES, RECIPE)
    way = sweep(base, worlds, demos, CHOSEN, RATES, RECIPE, steps=(2, 4, 6))
    assert way.test.shape[0] == 3
    torch.testing.assert_close(way.test[-1], end.test[-1])
    assert not torch.equal(way.test[0], way.test[1])
    start = accuracies(base, torch.stack([w.test for w in worlds]))
    assert not torch.equal(way.test[0, :, 0, 0], start)


@pytest.mark.parametrize("steps", [(2, 4), (4, 2, 6), (0, 6), (6, 6), (3, 9)])
def test_steps_that_do_not_rise_to_the_last_are_refused(setting, steps):
    with pytest.raises(ValueError, match="rise to the last, 6"):
        sweep(*setting, CHOSEN, RATES, RECIPE, steps=steps)


def test_the_best_rate_is_that_of_mean_validation(setting):
    found = sweep(*setting, CHOSEN, RATES, RECIPE)
    for m, metric in enumerate(METRICS):
        each = found.validation[m].mean(-1)
        assert found.best(metric) == [int(row.argmax()) for row in each]


def test_runs_are_in_the_order_of_the_axes(setting):
    _, worlds, demos = setting
    told = [(r.objective.name, r.rate, r.seed) for r in runs(worlds, demos, CHOSEN, RATES)]
    assert told == [(o, r, s) for o in ("sft", "dft") for r in RATES for s in SEEDS]


def test_digits_nest_as_the_tensor_does():
    assert digits(torch.tensor([[0.123456, 1.0], [2e-7, 0.0]])) == [[0.1235, 1.0], [2e-7, 0.0]]
