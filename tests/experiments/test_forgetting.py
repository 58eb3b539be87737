"""Forgetting's rows at a tiny size, its measures by hand, and its judgements on made-up rows."""

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, blank
from dft_theory.toys.stacked import Stack
from dft_theory.toys.worlds import World

FILE = Path(__file__).resolve().parents[2] / "experiments" / "forgetting.py"


def load():
    spec = importlib.util.spec_from_file_location("forgetting", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
OBJECTIVES = (*experiment.METHODS, experiment.SAME_RATE)
CELLS = (
    experiment.Cell("taught", 0.3, 0.0),
    experiment.Cell("own samples", 0.3, None),
    experiment.Cell("six instructions", 0.6, 0.3),
)
TINY = experiment.Size(
    cells=CELLS,
    rates=(1e-3, 1e-2),
    seeds=(0, 1),
    steps=2,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_base_and_each_cell(rows):
    keys = [
        (r["p0"], r["objective"]) if r["objective"] == "base" else
        (r["kind"], r["p0"], r["eps"], r["objective"])
        for r in rows
    ]  # fmt: skip
    expected = [(0.3, "base")]
    expected += [("taught", 0.3, 0.0, m) for m in OBJECTIVES]
    expected += [("own samples", 0.3, None, m) for m in OBJECTIVES]
    expected += [(0.6, "base")]
    expected += [("six instructions", 0.6, 0.3, m) for m in OBJECTIVES]
    assert keys == expected
    assert json.loads(json.dumps(rows)) == rows


def test_a_base_has_not_moved_from_itself(rows):
    for row in rows:
        moved = [*row["copy_kl_states"], *row["copy_kl_styles"]]
        assert all(kl == 0 for kl in moved) == (row["objective"] == "base")


def test_dft_is_also_trained_at_the_rate_of_sft(rows):
    for cell in CELLS:
        rate = {r["objective"]: r["rate"] for r in rows if r.get("kind") == cell.kind}
        assert rate[experiment.SAME_RATE] == rate["sft"]


def test_demonstrations_differ_where_their_kind_says():
    worlds = [World.of(3, demos=30, held_out=4)]
    base = Stack.fresh(blank(), (0,))

    def demos(kind, eps=0.3):
        return experiment.demonstrations(base, worlds, experiment.Cell(kind, 0.6, eps))[0]

    taught, mixed = demos("taught"), demos("six instructions")
    assert torch.equal(taught, worlds[0].taught(0.3))
    assert torch.equal(taught[:, 1:], mixed[:, 1:])
    assert set(mixed[:, 0].tolist()) == set(experiment.INSTRUCTIONS)
    assert len(experiment.INSTRUCTIONS) == 6
    assert not {chain.COPY, chain.NEW} & set(experiment.INSTRUCTIONS)
    own = demos("own samples", None)
    assert torch.equal(own[:, : chain.PROMPT], taught[:, : chain.PROMPT])
    with pytest.raises(ValueError, match="need a noise"):
        demos("taught", None)


def test_what_is_asked_elsewhere_is_right_and_new():
    world = World.of(3, demos=6, held_out=4)
    places = experiment.elsewhere(world)
    assert bool(world.chain.follows(places["unseen"], world.chain.right).all())
    assert bool((places["unseen"] == chain.OPERATOR + chain.UNSEEN).any(1).all())
    assert bool((places["reworded"][:, 0] == chain.NEW).all())
    assert torch.equal(places["reworded"][:, 1:], places["test"][:, 1:])
    copies = places["copy"]
    assert bool((copies[:, 0] == chain.COPY).all())
    body, states = copies[:, 1 : chain.PROMPT - 1], copies[:, chain.PROMPT :][:, chain.CONTENT]
    assert torch.equal(states, body.flip(1)[:, : chain.STEPS])


def test_accuracies_and_divergences_are_what_two_policies_say():
    worlds = [World.of(3, demos=6, held_out=4)]
    now, base = (Stack.fresh(blank(), (seed,)) for seed in (0, 1))
    told = experiment.told(now, base, worlds)
    asked = experiment.elsewhere(worlds[0])["copy"]
    p, b = (
        torch.softmax(s.policy(0).logits(asked[:, :-1])[:, chain.PROMPT - 1 :].double(), -1)
        for s in (now, base)
    )
    kl = (b * (b / p).log()).sum(-1).mean(0)
    assert told["copy_kl_states"].item() == pytest.approx(kl[1::2].sum().item(), rel=1e-4)
    assert told["copy_kl_styles"].item() == pytest.approx(kl[0::2].sum().item(), rel=1e-4)
    right = p.gather(-1, asked[:, chain.PROMPT :].unsqueeze(-1)).squeeze(-1)[:, 1::2].prod(1)
    assert told["copy"].item() == pytest.approx(right.mean().item(), rel=1e-4)


# --- judgements on made-up rows -----------------------------------------------------------------

METRICS = ("test", "unseen", "reworded", "copy")


def made(value, seeds=5):
    """Rows of the full size; `value(kind, p0, eps, objective, metric)` is a mean."""
    rows = []
    for cell in experiment.FULL.cells:
        for name in OBJECTIVES:
            row = asdict(cell) | {"objective": name, "rate": 1e-3}
            for metric in (*METRICS, *(f"{m}_greedy" for m in METRICS)):
                mean = value(cell.kind, cell.p0, cell.eps, name, metric)
                row[metric] = [mean + 0.001 * (i - 2) * (name == "dft") for i in range(seeds)]
            for part in ("copy_kl_states", "copy_kl_styles"):
                mean = value(cell.kind, cell.p0, cell.eps, name, part)
                row[part] = [mean + 0.001 * (i - 2) * (name == "dft") for i in range(seeds)]
            rows.append(row)
    return rows


def outcome(rows):
    return {name: now["holds"] for name, now in experiment.EXPERIMENT.outcome(rows).items()}


def test_rows_as_predicted_bear_all_predictions_out():
    def value(kind, p0, eps, name, metric):
        if metric.startswith("copy_kl"):
            styles = metric.endswith("styles")
            if name == experiment.SAME_RATE:
                return 0.2 + 2 * styles
            return {"dft": 2.0, "sft": 0.3}.get(name, 1.0) * (1 + styles)
        if metric == "unseen":
            if p0 == 0.3:
                return 0.1
            return 0.5 + (name == "dft") * (0.1 if eps else -0.1)
        if metric == "reworded":
            return 0.4 + 0.3 * (kind == "six instructions")
        return 0.7

    assert all(outcome(made(value)).values())


def test_every_prediction_can_fail():
    # DFT ahead everywhere by as much: in accuracy, and as near to the base.
    def wins(kind, p0, eps, name, metric):
        sign = -1 if metric.startswith("copy_kl") else 1
        return 0.5 + 0.3 * sign * (name == "dft")

    held = {name for name, holds in outcome(made(wins)).items() if holds}
    assert held == {"unseen-strong-noise"}
    alike = outcome(made(lambda *_: 0.5))
    assert not alike["unseen-strong-noise"]


def test_a_cell_that_is_missing_is_no_success():
    rows = [r for r in made(lambda *_: 0.5) if r["kind"] != "own samples"]
    with pytest.raises(ValueError, match="no cell has"):
        experiment.EXPERIMENT.outcome(rows)
    with pytest.raises(ValueError, match="no cell was taught"):
        experiment.not_a_win([])
