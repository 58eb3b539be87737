"""The relatives at a tiny size, and their judgements on made-up rows."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from dft_theory.toys.bases import Pretraining

FILE = Path(__file__).resolve().parents[2] / "experiments" / "relatives.py"


def load():
    spec = importlib.util.spec_from_file_location("experiment_of_relatives", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    cells=((0.1, 0.0), (0.6, 0.3), (0.6, "own")),
    rates={0.1: (1e-3,), 0.6: (1e-3, 1e-2)},
    seeds=(30, 31),
    steps=10,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)
METRICS = ("sampled", "greedy", "pass8", "style_entropy", "wrong_p")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_base_and_each_relative_of_a_cell(rows):
    expected = []
    for p0, cells in ((0.1, (0.0,)), (0.6, (0.3, "own"))):
        expected.append((p0, None, "base"))
        expected += [(p0, eps, name) for eps in cells for name in experiment.RELATIVES]
    assert [(r["p0"], r["eps"], r["method"]) for r in rows] == expected
    assert json.loads(json.dumps(rows)) == rows


def test_each_relative_takes_the_best_rate_of_its_prior(rows):
    for row in rows:
        if row["eps"] is not None:
            grid = TINY.rates[row["p0"]]
            assert len(row["validation"]) == len(grid)
            assert row["rate"] == grid[row["validation"].index(max(row["validation"]))]


def test_wrong_states_are_followed_where_there_are_any(rows):
    for row in rows:
        clean = row["eps"] == 0.0
        assert all((p is None) == clean for p in row["wrong_p"])


# --- judgements ---------------------------------------------------------------------------------


def made(level=0.5, tilt=1e-4, **cells):
    """Rows of five seeds at one level; `weak={"dft": 0.2}` sets a method's level in a cell.

    Methods differ by `tilt` in order: ties have no rank.
    """
    names = {"weak": (0.0, 0.0), "middle": (0.1, 0.3), "strong": (0.6, 0.3), "own": (0.6, "own")}
    noise = torch.linspace(-0.01, 0.01, 5).tolist()
    rows = [
        {"p0": 0.6, "eps": None, "method": "base"}
        | {m: [level + x for x in noise] for m in METRICS}
    ]
    for name, (p0, eps) in names.items():
        for i, method in enumerate(experiment.RELATIVES):
            here = cells.get(name, {}).get(method, level + tilt * i)
            row = {m: [here + x for x in noise] for m in METRICS}
            rows.append({"p0": p0, "eps": eps, "method": method} | row)
    return rows


def test_a_lead_is_of_the_first_over_the_second_by_every_metric():
    judge = experiment.lead(experiment.WEAK, "dft", "sft", "sampled", "greedy")
    assert judge(made(weak={"dft": 0.7}))[0]
    assert not judge(made(weak={"dft": 0.3}))[0]
    rows = made(weak={"dft": 0.7})
    (dft,) = (r for r in rows if r["p0"] == 0.0 and r["method"] == "dft")
    dft["greedy"] = [0.1] * 5
    assert not judge(rows)[0]
    dft["greedy"] = [0.9, 0.1, 0.9, 0.1, 0.9]  # a mean above, an interval that is not
    assert not judge(rows)[0]


def test_no_loss_asks_both_metrics():
    judge = experiment.no_loss(experiment.WEAK, "talr", 0.1)
    assert judge(made(weak={"talr": 0.45}))[0]
    assert not judge(made(weak={"talr": 0.3}))[0]


def test_a_share_is_of_the_lead_of_dft():
    judge = experiment.share("talr", 0.5, 1.0)
    for ours, holds in ((0.8, True), (0.6, False), (1.0, False)):
        assert judge(made(strong={"sft": 0.5, "dft": 0.9, "talr": ours}))[0] == holds
    assert not judge(made(strong={"sft": 0.9, "dft": 0.5, "talr": 0.7}))[0]  # no lead of DFT


def test_both_needs_a_gain_in_both_cells_and_no_loss():
    gains = {"power": 0.7, "sft": 0.5}
    assert experiment.both(made(middle=gains, strong=gains))[0]
    assert not experiment.both(made(middle=gains))[0]
    assert not experiment.both(made(middle=gains, strong=gains, weak={"power": 0.3}))[0]
    other = {"asft": 0.7, "sft": 0.5}  # not one of those that were named
    holds, found = experiment.both(made(middle=other, strong=other))
    assert not holds
    assert set(found) == {"asft"}


def test_memory_is_ranked_over_relatives():
    rows = made()
    for row in rows:
        row["greedy"] = [1 - x for x in row["wrong_p"]]
    assert experiment.memory(rows)[0]
    assert not experiment.memory(made())[0]


def test_sharpening_is_against_the_base():
    assert experiment.sharpening(made())[0]
    assert not experiment.sharpening(made(strong={"gem": 0.6}))[0]


def test_own_samples_give_dft_and_no_others():
    judge = experiment.own_gains
    assert judge(made(own={"dft": 0.7}))[0]
    assert not judge(made())[0]
    assert not judge(made(own={"dft": 0.7, "gem": 0.6}))[0]


def test_ranks_of_two_gains():
    up = {name: 0.5 + 0.01 * i for i, name in enumerate(experiment.RELATIVES)}
    down = {name: 0.9 - x for name, x in up.items()}
    assert experiment.own_ranks(made(own=up, strong=up))[0]
    assert not experiment.own_ranks(made(own=up, strong=down))[0]


def test_every_prediction_can_fail():
    """Leads of a hair hold one way or the other; bounds on losses fail where SFT is ahead."""

    def held(rows):
        return {n for n, now in experiment.EXPERIMENT.outcome(rows).items() if now["holds"]}

    down = {name: 0.5 - 0.01 * i for i, name in enumerate(experiment.RELATIVES)}
    ahead = {"gem": 0.9, "psft": 0.9, "iw-sft": 0.9}
    behind = made(weak={"sft": 0.9}, strong=ahead, own=down)
    assert not held(made()) & held(made(tilt=-1e-4)) & held(behind)
