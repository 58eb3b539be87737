"""Token histograms at a tiny size, against counting by hand, and judgements on made-up rows."""

import importlib.util
import itertools
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
FILE = ROOT / "experiments" / "token_histogram.py"


def load():
    spec = importlib.util.spec_from_file_location("token_histogram", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    priors=(0.6,),
    rates=(1e-3, 1e-2),
    pair_rates=(1e-4,),
    online_rates=(1e-3,),
    seeds=(30, 31),
    steps=2,
    online_batch=16,
    demos=6,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


def test_there_is_a_row_for_each_method_text_and_class(tmp_path):
    experiment.CACHE = tmp_path
    rows = experiment.measure(TINY)
    expected = [
        (m, text, which)
        for m in ("base", *experiment.SHOWN)
        for text in ("train", "fresh")
        for which in experiment.CLASSES
    ]
    assert [(r["method"], r["text"], r["tokens"]) for r in rows] == expected
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert all(len(bins) == 13 for bins in row["bins"])
        if row["method"] != "base":
            assert row["rate"] in TINY.rates + TINY.pair_rates + TINY.online_rates


def test_classes_are_apart_and_make_up_all():
    worlds = [World.of(seed, demos=20, held_out=4) for seed in (3, 4)]
    text = torch.stack([w.taught(0.5) for w in worlds])
    found = experiment.classes(text, worlds)
    parts = torch.stack([found[c] for c in ("right", "wrong", "style")])
    assert bool((parts.sum(0) == 1).all())
    assert bool(found["all"].all())
    for k, world in enumerate(worlds):
        follows = world.chain.follows(text[k], world.chain.right)
        assert torch.equal(found["right"][k][:, chain.CONTENT], follows)
        assert 0 < found["wrong"][k].sum() < 60


def test_shares_and_bins_are_counts():
    p = torch.tensor([[[0.00005, 0.04, 0.5, 0.96, 0.05, 1.0]]])
    where = torch.tensor([[[True, True, True, True, True, False]]])
    told = experiment.shares(p, where)
    assert told["count"].item() == 5
    assert told["low"].item() == pytest.approx(2 / 5)
    assert told["high"].item() == pytest.approx(1 / 5)
    assert told["mean_p"].item() == pytest.approx((0.00005 + 0.04 + 0.5 + 0.96 + 0.05) / 5)
    bins = experiment.binned(p, where)[0]
    assert bins.sum().item() == pytest.approx(1)
    edges = (0.0, 1e-4, 1e-3, 1e-2, *(k / 10 for k in range(1, 11)))  # the paper's
    for b, (low, high) in enumerate(itertools.pairwise(edges)):
        n = int(((p >= low) & (p < high) & where).sum())
        assert bins[b].item() == pytest.approx(n / 5)


def test_wrong_states_get_the_mean_that_worlds_tell():
    worlds = [World.of(seed, demos=20, held_out=4) for seed in (3, 4)]
    stack = Stack.fresh(experiment.blank(), (0, 1))
    rows = experiment.tokens(stack, worlds)
    (row,) = (r for r in rows if r["text"] == "train" and r["tokens"] == "wrong")
    expected = wrong_p(stack, worlds, [w.taught(experiment.EPS) for w in worlds])
    assert row["mean_p"] == pytest.approx(expected.tolist(), rel=1e-3)


# --- judgements ---------------------------------------------------------------------------------


def made(**changes: float) -> list[dict[str, object]]:
    """Rows without a difference, 0.5 everywhere but where "method text class metric" says so."""
    noise = torch.linspace(-0.01, 0.01, 5).tolist()
    rows = []
    for p0 in (0.3, 0.6):
        for m in ("base", *experiment.SHOWN):
            for text in ("train", "fresh"):
                for which in experiment.CLASSES:
                    row: dict[str, object] = {"p0": p0, "method": m, "text": text, "tokens": which}
                    for metric in ("low", "high", "mean_p"):
                        level = changes.get(f"{m}_{text}_{which}_{metric}", 0.5)
                        row[metric] = [level + x for x in noise]
                    rows.append(row)
    return rows


def test_no_prediction_holds_where_nothing_differs():
    held = {n for n, now in experiment.EXPERIMENT.outcome(made()).items() if now["holds"]}
    assert held == set()


def test_polarised_asks_for_both_ends_of_both_texts():
    ends = {f"dft_{t}_all_{e}": 0.7 for t in ("train", "fresh") for e in ("low", "high")}
    assert experiment.polarised(0.6)(made(**ends))[0]
    for one in ends:
        assert not experiment.polarised(0.6)(made(**(ends | {one: 0.4})))[0]


def test_lifting_asks_for_few_low_tokens():
    assert experiment.lifted_in_training(made(sft_train_all_low=0.0))[0]
    assert not experiment.lifted_in_training(made(sft_train_all_low=0.1))[0]
    assert experiment.not_lifted_in_fresh(made(sft_train_all_low=0.0))[0]
    assert not experiment.not_lifted_in_fresh(made(sft_fresh_all_low=0.0))[0]


def test_memory_is_of_sft_and_of_its_training_text():
    assert experiment.memory(made(dft_train_wrong_mean_p=0.1))[0]
    assert not experiment.memory(made(dft_train_wrong_mean_p=0.4))[0]
    assert experiment.memory_is_of_training(made(sft_fresh_wrong_mean_p=0.1))[0]
    assert not experiment.memory_is_of_training(made(sft_fresh_wrong_mean_p=0.4))[0]


def test_styles_are_given_up_by_dft_alone():
    few = {f"{m}_fresh_style_low": 0.0 for m in ("sft", "grpo", "ppo")}
    assert experiment.styles_given_up(made(**few))[0]
    assert not experiment.styles_given_up(made(**(few | {"dft_fresh_style_low": 0.0})))[0]
    assert not experiment.styles_given_up(made(**(few | {"ppo_fresh_style_low": 0.1})))[0]


def test_rl_polarises_states_and_not_styles():
    states = {
        "grpo_fresh_right_high": 0.9,
        "grpo_fresh_wrong_low": 0.9,
        "grpo_fresh_style_high": 0.0,
    }
    assert experiment.rl_polarises_states(made(**states))[0]
    for one in states:
        assert not experiment.rl_polarises_states(made(**(states | {one: 0.5})))[0]


@pytest.mark.parametrize("end", ["low", "high"])
def test_milder_asks_for_all_three(end):
    ours = {f"dft_train_all_{end}": 0.8}
    assert experiment.milder(0.6, end)(made(**ours))[0]
    for m in ("dpo", "ppo", "grpo"):
        assert not experiment.milder(0.6, end)(made(**(ours | {f"{m}_train_all_{end}": 0.9})))[0]


def test_the_same_direction_is_asked_of_all_three():
    up = {f"{m}_train_all_high": 0.7 for m in ("dpo", "ppo", "grpo")}
    assert experiment.same_direction(made(**up))[0]
    for one in up:
        assert not experiment.same_direction(made(**(up | {one: 0.4})))[0]


# --- the record ---------------------------------------------------------------------------------


def test_the_record_is_of_the_full_size_on_seeds_that_quick_has_not():
    store = RunStore(ROOT / "experiments" / "results")
    size = store.run("token-histogram", "full").manifest()["size"]
    assert size["seeds"] == list(experiment.FULL.seeds)
    assert size["priors"] == list(experiment.FULL.priors)
    assert not set(experiment.QUICK.seeds) & set(size["seeds"])
