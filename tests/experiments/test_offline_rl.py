"""The offline comparison at a tiny size, its judgements on made-up rows, and its record."""

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
from dft_theory.toys.worlds import World

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "experiments" / "offline_rl.py"


def load():
    spec = importlib.util.spec_from_file_location("offline_rl", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = experiment.Size(
    priors=(0.3, 0.6),
    rates=(1e-3, 1e-2),
    pair_rates=(1e-4,),
    online_rates=(1e-3, 1e-2),
    seeds=(30, 31),
    steps=2,
    online_batch=16,
    demos=6,
    held_out=4,
    average=2,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_base_and_each_rate_of_a_method(rows):
    expected = [
        (p0, m, rate)
        for p0 in TINY.priors
        for m in ("base", *experiment.METHODS)
        for rate in ([None] if m == "base" else TINY.grid(experiment.METHODS[m].source))
    ]
    assert [(r["p0"], r["method"], r.get("rate")) for r in rows] == expected
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert all(len(row[m]) == 2 for m in ("sampled", "greedy", "pass8", "other_kl"))
        assert ("average" in row) == row["best"]


def test_each_method_takes_the_best_rate_of_its_own_grid(rows):
    for p0 in TINY.priors:
        for name in experiment.METHODS:
            mine = [r for r in rows if (r["p0"], r["method"]) == (p0, name)]
            (best,) = (r for r in mine if r["best"])
            assert best["validation"] == max(r["validation"] for r in mine)


def test_the_base_is_no_distance_from_itself_and_tells_what_was_accepted(rows):
    for row in rows:
        if row["method"] == "base":
            assert max(row["content_kl"] + row["style_kl"] + row["other_kl"]) < 1e-5
            for kept, right, pairs in zip(
                row["accepted"], row["accepted_right"], row["pairs"], strict=True
            ):
                assert 0 < kept <= 6 * experiment.SAMPLES
                assert 0 <= right <= 1
                assert 0 < pairs <= kept


def test_what_is_told_is_the_mean_over_test_prompts():
    worlds = [World.of(3, demos=6, held_out=4)]
    stack, base = (Stack.fresh(experiment.blank(), (seed,)) for seed in (0, 1))
    told = experiment.told(stack, base, worlds)
    t = stack.stats(worlds[0].test, needs=("log_probs",))
    before = base.stats(worlds[0].test, needs=("log_probs",))
    p = t.logp[:, chain.CONTENT].exp().prod(-1)
    assert told["pass8"].item() == pytest.approx((1 - (1 - p) ** 8).mean().item(), abs=1e-5)
    apart = torch.nn.functional.kl_div(
        before.log_probs, t.log_probs, log_target=True, reduction="none"
    ).sum(-1)
    assert told["style_kl"].item() == pytest.approx(apart[:, ::2].sum(-1).mean().item(), rel=1e-4)
    assert told["other_kl"].item() > 0


def test_the_average_is_the_chance_that_the_last_state_is_right():
    """Against torch's own draws."""
    worlds = [World.of(3, demos=6, held_out=4)]
    stack = Stack.fresh(experiment.blank(), (0,))
    found = experiment.last_right(stack, worlds, 800).item()
    dice = torch.Generator().manual_seed(0)
    asked = worlds[0].split.test.repeat(800, 1).unsqueeze(0)
    again = stack.sample(asked, generator=dice)[0]
    state = again[:, 1]
    for t in range(chain.STEPS):
        state = worlds[0].chain.right[again[:, 2 + t] - chain.OPERATOR, state]
    assert found == pytest.approx((again[:, -1] == state).float().mean().item(), abs=0.03)


# --- judgements ---------------------------------------------------------------------------------

METRICS = ("sampled", "greedy", "pass8", "content_kl", "style_kl", "other_kl", "accepted_right")


def made(**levels: float) -> list[dict[str, object]]:
    """Rows in which a method has the same value everywhere, 0.5 where none is given.

    The rate 3e-3 is the best; 1e-3 stands beside it.
    """
    noise = torch.linspace(-0.01, 0.01, 5).tolist()
    rows: list[dict[str, object]] = []
    for p0 in (0.3, 0.6):
        for m in ("base", *experiment.METHODS):
            level = levels.get(m.replace("-", "_"), 0.5)
            for rate in (3e-3, 1e-3):
                row = {"p0": p0, "method": m, "rate": rate, "best": rate == 3e-3}
                rows.append(row | {k: [level + x for x in noise] for k in METRICS})
    return rows


def changed(rows: list[dict[str, object]], values: list[float], **where: object) -> None:
    """Put values of a metric into the rows with those keys."""
    metric = where.pop("metric")
    for row in rows:
        if all(row[k] == v for k, v in where.items()):
            row[metric] = values


def test_a_lead_is_of_the_first_over_the_second_and_its_interval_counts():
    judge = experiment.lead(0.6, "dft", "sft", "sampled")
    assert judge(made(dft=0.7))[0]
    assert not judge(made(dft=0.3))[0]
    rows = made(dft=0.52)
    changed(rows, [0.9, 0.5, 0.1, 0.5, 0.7], metric="sampled", p0=0.6, method="dft")
    assert not judge(rows)[0]  # a mean above, an interval that is not


def test_of_three_seeds_the_mean_is_asked():
    apart = torch.tensor([0.3, -0.1, 0.1], dtype=torch.float64)
    assert experiment.above(0.0, gap=apart)[0]
    assert not experiment.above(0.2, gap=apart)[0]
    assert not experiment.above(0.0, gap=torch.cat([apart, apart[1:]]))[0]


def test_between_asks_for_both_sides():
    judge = experiment.between(0.6, "content_kl")
    assert judge(made(sft=0.9, dft=0.6, grpo=0.2))[0]
    assert not judge(made(sft=0.9, dft=0.1, grpo=0.2))[0]
    assert not judge(made(sft=0.5, dft=0.6, grpo=0.2))[0]


def test_beyond_asks_for_both_others_at_both_priors():
    judge = experiment.beyond("style_kl")
    assert judge(made(dft=0.9))[0]
    assert not judge(made(dft=0.9, grpo=0.95))[0]
    rows = made(dft=0.9)
    changed(rows, [0.1] * 5, metric="style_kl", p0=0.3, method="dft")
    assert not judge(rows)[0]


def test_what_eight_samples_leave():
    def rows(pass8: float) -> list[dict[str, object]]:
        every = made(dft=0.9)
        changed(every, [pass8] * 5, metric="pass8", method="dft")
        return every

    assert experiment.sharpening(rows(0.6))[0]
    assert not experiment.sharpening(rows(0.8))[0]


def test_equal_rates_ask_for_both_rates():
    judge = experiment.equal_rates("other_kl", 1)
    rows = made(dft=0.9)
    assert judge(rows)[0]
    assert not experiment.equal_rates("other_kl", -1)(rows)[0]
    changed(rows, [0.1] * 5, metric="other_kl", method="dft", rate=1e-3)
    assert not judge(rows)[0]


def test_the_rate_decides_where_every_method_doubles():
    rows = made()
    assert not experiment.rate_decides(rows)[0]
    changed(rows, [0.2] * 5, metric="other_kl", rate=1e-3)
    assert experiment.rate_decides(rows)[0]
    changed(rows, [0.3] * 5, metric="other_kl", rate=1e-3, method="rft-dft")
    assert not experiment.rate_decides(rows)[0]


def test_a_cell_that_is_missing_is_no_success():
    with pytest.raises(ValueError, match="no cell has p0 0.9"):
        experiment.lead(0.9, "dft", "sft", "sampled")(made())


def test_every_prediction_can_fail():
    """On rows in which nothing differs, only bounds on a difference could hold."""
    held = {n for n, now in experiment.EXPERIMENT.outcome(made()).items() if now["holds"]}
    assert held == {
        "own-samples-teach-nothing",
        "rl-leaves-style",
        "demonstrations-tie-with-rl",
        "ppo-is-grpo",
    }
    apart = made(own_dft=0.9, grpo=1.2, dft=0.1, ppo=0.1)
    failed = {n for n, now in experiment.EXPERIMENT.outcome(apart).items() if not now["holds"]}
    assert held <= failed


# --- the record ---------------------------------------------------------------------------------


def test_the_record_is_of_the_full_size_on_seeds_that_quick_has_not():
    size = RunStore(ROOT / "experiments" / "results").run("offline-rl", "full").manifest()["size"]
    assert size["seeds"] == list(experiment.FULL.seeds)
    assert size["rates"] == list(experiment.FULL.rates)
    assert size["online_rates"] == list(experiment.FULL.online_rates)
    assert not set(experiment.QUICK.seeds) & set(size["seeds"])
