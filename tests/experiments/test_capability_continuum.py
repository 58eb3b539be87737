"""The continuum's rows at a tiny size, its judgements on made-up rows, and its record."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from dft_theory.results import RunStore
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.stacked import Stack
from dft_theory.toys.worlds import World, wrong_p

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "experiments" / "capability_continuum.py"
RECORD = RunStore(ROOT / "experiments" / "results").run("capability-continuum", "full")


def load():
    spec = importlib.util.spec_from_file_location("capability_continuum", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    priors=(0.1, 0.6),
    controls=(0.6,),
    noise=(0.0, 0.5),
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
    bases = [(r["p0"], r["objective"]) for r in rows if r["source"] == "none"]
    assert bases == [(0.1, "base"), (0.6, "base")]
    cells = [(r["source"], r["p0"], r["objective"]) for r in rows if r["source"] != "none"]
    expected = [(s, 0.1, o) for s in (0.0, 0.5) for o in experiment.METHODS]
    expected += [(s, 0.6, o) for s in (0.0, 0.5, "self-1", "self-8") for o in experiment.METHODS]
    assert cells == expected
    assert json.loads(json.dumps(rows)) == rows


def test_each_objective_takes_its_own_best_rate(rows):
    for row in rows:
        if row["source"] != "none":
            best = max(range(2), key=lambda i: row["validation"][i])
            assert row["rate"] == TINY.rates[best]
            assert len(row["sampled"]) == len(row["early_greedy"]) == len(TINY.seeds)


def test_wrong_states_are_followed_where_there_are_any(rows):
    clean = [r["wrong_p"] for r in rows if r["source"] == 0.0]
    noisy = [r["wrong_p"] for r in rows if r["source"] == 0.5]
    assert all(p is None for values in clean for p in values)
    assert all(0 < p < 1 for values in noisy for p in values)


def test_wrong_p_is_the_mean_over_wrong_states_only():
    world = World.of(3, demos=TINY.demos, held_out=TINY.held_out)
    demos = world.taught(0.5)
    stack = Stack.fresh(experiment.blank(), (0,))
    p = stack.stats(demos).logp.exp()[:, chain.CONTENT]
    each = [
        p[i, t].item()
        for i in range(len(demos))
        for t in range(3)
        if not world.chain.follows(demos, world.chain.right)[i, t]
    ]
    found = wrong_p(stack, [world], [demos]).item()
    assert 0 < len(each) < p.numel()
    assert found == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_held_out_responses_are_right_and_their_prompts_new():
    world = World.of(3, demos=TINY.demos, held_out=TINY.held_out)
    right = world.chain.right
    for held in (world.validation, world.test, world.unseen):
        assert bool(world.chain.follows(held, right).all())
        both = torch.cat([held[:, : chain.PROMPT], world.split.train])
        assert len(both.unique(dim=0)) == len(held) + TINY.demos


def made(**gaps: float) -> list[dict[str, object]]:
    """Rows of one cell in which DFT leads SFT by those gaps."""
    rows = []
    for name, share in (("sft", 0.0), ("power-0.5", 0.5), ("dft", 1.0)):
        values = {k: [0.3 + share * v, 0.3 + share * v + 0.01] for k, v in gaps.items()}
        rows.append({"source": 0.3, "p0": 0.6, "objective": name, **values})
    return rows


def test_a_gap_is_dft_minus_sft_and_every_seed_must_agree():
    rows = made(sampled=0.4, greedy=-0.1)
    assert experiment.gap(rows, 0.3, 0.6, "sampled").tolist() == pytest.approx([0.4, 0.4])
    assert experiment.cell(0.3, 0.6, "sampled", 0.25, 0.6)(rows)[0]
    assert not experiment.cell(0.3, 0.6, "greedy", 0.0, 1.0)(rows)[0]
    rows[2]["sampled"][1] = 0.5  # one seed of DFT
    assert not experiment.cell(0.3, 0.6, "sampled", 0.25, 0.6)(rows)[0]


def test_a_cell_that_is_missing_is_no_success():
    with pytest.raises(ValueError, match="no cell has source 0.0"):
        experiment.gap(made(sampled=0.4), 0.0, 0.6, "sampled")


def test_half_must_lie_between():
    assert experiment.between(made(sampled=0.4))[0]
    assert not experiment.between(made(sampled=-0.1))[0]


def test_every_prediction_can_fail():
    """On rows in which nothing was learned and bases are off, only a few could hold."""
    flat = [
        {"source": s, "p0": p0, "objective": o}
        | {k: [0.9, 0.9] for k in ("sampled", "greedy", "early_greedy", "content_p", "wrong_p")}
        for s in ("none", 0.0, 0.3, "self-1", "self-8")
        for p0 in (0.0, 0.1, 0.6)
        for o in ("base", *experiment.METHODS)
    ]
    held = {name for name, now in experiment.EXPERIMENT.outcome(flat).items() if now["holds"]}
    # No gap at all is within a bound on a gap.
    bounds = {"boundary", "strong-noise-early", "self-training-greedy", "self-training-8-greedy"}
    assert held == bounds


# --- the record ---------------------------------------------------------------------------------


def test_the_record_says_what_its_rows_say():
    outcome = experiment.EXPERIMENT.outcome(RECORD.metrics())
    recorded = RECORD.summary()["outcome"]
    assert outcome.keys() == recorded.keys()
    for name, now in outcome.items():
        assert now == pytest.approx(recorded[name])


def test_the_record_is_of_the_full_size_on_seeds_that_quick_has_not():
    size = RECORD.manifest()["size"]
    assert size["seeds"] == list(experiment.FULL.seeds)
    assert size["priors"] == list(experiment.FULL.priors)
    assert not set(experiment.QUICK.seeds) & set(size["seeds"])
