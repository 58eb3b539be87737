"""RL from fine-tuned policies at a tiny size, and its judgements on made-up rows."""

import importlib.util
import json
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import torch

from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.stacked import Stack
from dft_theory.toys.worlds import World

FILE = Path(__file__).resolve().parents[2] / "experiments" / "room_for_rl.py"


def load():
    spec = importlib.util.spec_from_file_location("experiment_of_room", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    priors=(0.1, 0.6),
    starts=("base", "sft", "sft-then-dft"),
    seeds=(30, 31),
    rl_steps=2,
    batch=16,
    steps=10,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)
METRICS = ("sampled", "greedy", "pass8", "signal", "content_entropy", "style_entropy")


@dataclass(frozen=True)
class Record:
    """Stands for the record of `relatives`: a rate for each start, another one clean."""

    def run(self, experiment, name):
        assert (experiment, name) == ("relatives", "full")
        return self

    def metrics(self):
        cells = product((0.1, 0.6), (0.0, 0.3, None), ("sft", "sft-then-dft"))
        return [
            {"p0": p0, "eps": eps, "method": m, "rate": 1e-3 if eps == 0.3 else 0.5}
            for p0, eps, m in cells
        ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    experiment.RunStore = lambda root: Record()
    return experiment.measure(TINY)


def test_there_are_two_rows_for_each_start(rows):
    cells = [(r["p0"], r["phase"], r["start"]) for r in rows]
    assert cells == list(product((0.1, 0.6), ("before", "after"), TINY.starts))
    assert json.loads(json.dumps(rows)) == rows


def test_before_rl_the_base_is_the_base_and_others_are_trained(rows):
    for row in rows:
        far = max(row["content_kl"]) > 1e-3
        assert far == ((row["start"], row["phase"]) != ("base", "before")) or (
            row["start"] == "base" and row["phase"] == "after"  # no signal, no step
        )


def test_the_signal_is_the_chance_of_a_mixed_group():
    world = World.of(3, demos=6, held_out=4)
    stack = Stack.fresh(experiment.blank(), (0,))
    right = chain.write(
        world.split.train, world.chain.law(), chain.BASE_STYLE, generator(3, "toys", "signal")
    )
    p = stack.stats(right).logp[:, chain.CONTENT].double().exp().prod(-1)
    found = experiment.signal(stack, [world]).item()
    assert found == pytest.approx((1 - p**8 - (1 - p) ** 8).mean().item(), abs=1e-5)


# --- judgements ---------------------------------------------------------------------------------


def made(before=None, after=None, tilt=1e-4, **metrics):
    """Rows of five seeds at 0.5; levels by (prior, start), or by metric for all, by start."""
    noise = torch.linspace(-0.01, 0.01, 5).tolist()
    rows = []
    for p0, phase in product((0.1, 0.6), ("before", "after")):
        levels = (before if phase == "before" else after) or {}
        for i, start in enumerate(experiment.FULL.starts):
            level = levels.get((p0, start), 0.5 + tilt * i * (1 + (phase == "after")))
            row = {m: [level + x for x in noise] for m in METRICS}
            if phase == "before":
                row |= {m: [each[start] + x for x in noise] for m, each in metrics.items()}
            rows.append({"p0": p0, "start": start, "phase": phase} | row)
    return rows


def test_a_gain_is_after_minus_before():
    rows = made(before={(0.6, "sft"): 0.2}, after={(0.6, "sft"): 0.7})
    assert experiment.gain(rows, 0.6, "sft").tolist() == pytest.approx([0.5] * 5)


def test_more_is_of_the_first_over_the_second():
    judge = experiment.gains_more(0.6, "sft", "dft", 0.1)
    assert judge(made(after={(0.6, "sft"): 0.9}))[0]
    assert not judge(made(after={(0.6, "sft"): 0.55}))[0]
    assert not judge(made(after={(0.6, "dft"): 0.9, (0.6, "sft"): 0.95}))[0]


def test_ends_are_compared_by_every_metric():
    judge = experiment.ends_above(0.6, "dft", "sft", "sampled", "greedy")
    rows = made(after={(0.6, "dft"): 0.9})
    assert judge(rows)[0]
    (dft,) = (r for r in rows if (r["p0"], r["start"], r["phase"]) == (0.6, "dft", "after"))
    dft["greedy"] = [0.1] * 5
    assert not judge(rows)[0]


def test_ranks_are_over_fine_tuned_starts():
    up = {s: 0.1 * i for i, s in enumerate(experiment.FULL.starts)} | {"base": 99.0}
    gains = {(p0, s): 0.1 * i for p0 in (0.1, 0.6) for i, s in enumerate(experiment.FULL.starts)}
    rows = made(tilt=0, after=gains, pass8=up)
    assert experiment.rank(rows, 0.6, "pass8", "gain").tolist() == pytest.approx([1.0] * 5)
    assert experiment.rank(rows, 0.6, "pass8", "after").tolist() == pytest.approx([1.0] * 5)
    down = made(tilt=0, after=gains, pass8={s: -x for s, x in up.items()})
    assert experiment.rank(down, 0.6, "pass8", "gain").tolist() == pytest.approx([-1.0] * 5)


def test_every_prediction_can_fail():
    def held(rows):
        return {n for n, now in experiment.EXPERIMENT.outcome(rows).items() if now["holds"]}

    ahead = {(p0, "sft"): 0.9 for p0 in (0.1, 0.6)} | {(0.1, "base"): 0.9}
    falls = {s: 1 - 0.01 * i for i, s in enumerate(experiment.FULL.starts)}
    wrong = made(after=ahead, pass8=falls, signal=falls, content_entropy=falls, style_entropy=falls)
    assert not held(made()) & held(made(tilt=-1e-4)) & held(wrong)
