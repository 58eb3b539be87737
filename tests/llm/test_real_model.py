"""The study on a real model: its tasks, scores and judgements, one run, and its true text."""

import importlib.util
import json
import sys
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dft_theory import catalog, study
from dft_theory.llm.data import encode
from dft_theory.llm.generate import Drawn
from dft_theory.llm.grade import by_harness_rules
from dft_theory.results import RunStore

ROOT = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location(
        "experiment_real_model", ROOT / "experiments" / "real_model.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


R = load()
STRONG, WEAK = R.TASKS["strong"], R.TASKS["weak"]
RECORD = RunStore(ROOT / "experiments" / "results").run("real-model", "laptop")


# --- the tasks ----------------------------------------------------------------------------------


def test_a_solution_adds_up_and_is_graded_right() -> None:
    assert STRONG.solution((4, 7, 5)) == "4 + 7 = 11\n11 + 5 = 16"
    assert WEAK.solution((12, 34, 56)) == "12+34=46\n46+56=102"
    assert by_harness_rules("16", STRONG.solution((4, 7, 5))).right
    assert STRONG.formed(Drawn(STRONG.solution((4, 7, 5)), 9, True))
    assert WEAK.formed(Drawn(WEAK.solution((12, 34, 56)), 9, True))
    assert not STRONG.formed(Drawn(STRONG.solution((4, 7, 5)), 9, False))
    assert not STRONG.formed(Drawn("4 + 7 = 11", 9, True))
    assert not STRONG.formed(Drawn(WEAK.solution((4, 7, 5)), 9, True))


def test_a_wrong_step_is_carried_on() -> None:
    assert STRONG.solution((4, 7, 5), (2, 0)) == "4 + 7 = 13\n13 + 5 = 18"


def test_noise_spoils_its_share_of_steps_and_of_answers() -> None:
    numbers = [tuple(int(n) for n in x) for x in np.random.default_rng(0).integers(1, 9, (2000, 3))]
    made = list(R.demonstrations(STRONG, numbers, R.NOISE, seed=0))
    wrong = np.array(
        [[eval(step.replace("=", "==")) is False for step in d.solution.split("\n")] for d in made]
    )
    assert wrong.mean() == pytest.approx(R.NOISE, abs=0.02)
    right = np.mean([by_harness_rules(d.answer, d.solution).right for d in made])
    assert right == pytest.approx((1 - R.NOISE) ** 2, abs=0.06)  # two errors may cancel
    clean = R.demonstrations(STRONG, numbers[:50], 0.0, seed=0)
    assert all(by_harness_rules(d.answer, d.solution).right for d in clean)


@pytest.mark.parametrize("size", [R.LAPTOP, R.GPU], ids=["laptop", "gpu"])
def test_no_problem_is_taught(size) -> None:
    for task in R.TASKS.values():
        lists = asdict(R.instances(task, 1, size))
        every = [numbers for one in lists.values() for numbers in one]
        assert len(every) == len(set(every))
        assert len(lists["taught"]) == size.demos
        assert lists == asdict(R.instances(task, 1, size))
        assert lists != asdict(R.instances(task, 2, size))


@pytest.mark.parametrize("size", [R.LAPTOP, R.GPU], ids=["laptop", "gpu"])
def test_the_plan_scans_both_methods_over_rates_and_seeds(size) -> None:
    jobs = R.plan(size)
    assert len(set(jobs)) == len(jobs)
    for task, source in size.grid:
        for method in ("sft", "dft"):
            mine = [j for j in jobs if (j.task, j.source, j.method) == (task, source, method)]
            for seed in size.seeds:
                assert {j.rate for j in mine if j.seed == seed} >= set(size.rates)
    assert min(len(size.seeds), len(size.rates)) >= 3
    assert {j.method for j in jobs} == {"base", *R.METHODS, R.ANNEALED, R.FLOORED_END}
    assert any(j.source == "own" for j in jobs)


# --- one run ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tiny_folder):
    size = replace(
        R.LAPTOP, demos=8, batch=4, problems=2, words_problems=2, samples=2, read=3,
        max_new_tokens=6, base_tokens=6,
    )  # fmt: skip
    return R.Bench.of(str(tiny_folder), size, "cpu")


def test_results_are_the_digits_behind_the_sign(bench) -> None:
    (d,) = R.demonstrations(WEAK, [(12, 34, 56)], 0.0, 0)
    e = encode(d, bench.base.tokenizer)
    targets = e.labels[e.labels >= 0].tolist()
    text = "".join(bench.base.tokenizer.decode([i]) for i in targets)
    places = R.result_places(e, bench.base.tokenizer).tolist()
    assert text.startswith("12+34=46\n46+56=102")
    assert places[:19] == [0] * 6 + [1, 1] + [0] * 7 + [2] * 3 + [0]


@pytest.mark.parametrize("method", ["sft", "asft", "iw-sft", R.FLOORED_END, R.ANNEALED])
def test_a_run_is_checked_trained_read_and_scored(bench, method) -> None:
    before = {k: v.clone() for k, v in bench.base.model.state_dict().items()}
    row = R.run(bench, R.Job("strong", "noise", method, 1e-3, 0))
    json.dumps(row, allow_nan=False)
    assert row["check"][0] <= row["check"][1]
    assert row["kl"] > 0
    assert sum(row["bins"]) > 0
    assert R.score(row, "sampled").shape == (2,)
    assert all(torch.equal(v, before[k]) for k, v in bench.base.model.state_dict().items())
    if method == "sft":
        assert row["printed"] == pytest.approx(row["train_nll"], abs=2e-4)


def test_what_is_read_is_what_whole_logits_say(bench) -> None:
    held = [encode(d, bench.base.tokenizer) for d in R.demonstrations(STRONG, [(4, 7, 5)], 0.0, 0)]
    found = R.read(bench.base.model, bench, held)
    ids = held[0].input_ids
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = bench.base.model(ids[None]).logits[0, :-1].float()
    each = logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0][held[0].labels[1:] >= 0]
    assert found["nll"] == pytest.approx(float(-each.mean()), abs=1e-3)
    assert found["mean_p"] == pytest.approx(float(each.exp().mean()), abs=1e-3)


def test_own_samples_that_were_cut_have_no_end(bench) -> None:
    for e in bench.own(STRONG, 0):
        targets = e.labels[e.labels >= 0]
        assert len(targets) >= 1
        assert bool((e.labels[e.labels >= 0] == e.input_ids[-len(targets) :]).all())


# --- going on -----------------------------------------------------------------------------------


class AtOnce:
    """A pool that works when asked."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "AtOnce":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, work, job) -> Future:
        done: Future = Future()
        done.set_result(work(job))
        return done


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(R, "ProcessPoolExecutor", AtOnce)
    monkeypatch.setattr(R, "_one", lambda job: row(**asdict(job)))
    jobs, record = R.plan(R.LAPTOP)[:7], RunStore(tmp_path).run("real-model", "laptop")
    R.measure(record, jobs, R.LAPTOP, minutes=0)
    assert record.metrics() == ()
    R.measure(record, jobs[:4], R.LAPTOP)
    R.measure(record, jobs, R.LAPTOP)
    made = [tuple(r[k] for k in KEYS) for r in record.metrics()]
    assert len(made) == len(jobs)
    assert set(made) == {tuple(asdict(job)[k] for k in KEYS) for job in jobs}


# --- what the rows say --------------------------------------------------------------------------


def row(**given):
    """A made-up row: 10 problems, `level` of them right greedily and in each of 4 samples."""
    level = given.pop("level", 5)
    sampled = given.pop("sampled", "4" * level + "0" * (10 - level))
    greedy = given.pop("greedy", "1" * level + "0" * (10 - level))
    read = {
        "nll": 0.1, "mean_p": 0.9, "result_p": 0.5, "perplexity": 27.0, "kl": 1.0,
        "sampled_cut": 0.0, "sampled_formed": 0.9, "bins": [1] * 13, "check": [1e-5, 1e-3],
        "seconds": 1.0, "cpu_seconds": 1.0, "samples": {"scored": 4, "words": 2},
        "words_sampled": "2" * level + "0" * (10 - level), "words_greedy": greedy,
    }  # fmt: skip
    key = {"task": "strong", "source": "noise", "method": "sft", "rate": 3e-5, "seed": 0}
    return key | read | {"sampled": sampled, "greedy": greedy} | given


def test_a_seed_is_scored_at_the_rate_that_is_best_on_the_others() -> None:
    levels = {1e-5: (9, 2, 2), 3e-5: (4, 4, 4), 1e-4: (1, 6, 3)}
    rows = [row(rate=r, seed=s, level=n) for r, each in levels.items() for s, n in enumerate(each)]
    found = R.best(rows, "strong", "noise", "sft")
    assert {seed: r["rate"] for seed, r in found.items()} == {0: 1e-4, 1: 1e-5, 2: 1e-5}


def test_a_gap_is_paired_and_over_problems() -> None:
    rows = [row(seed=s, level=3) for s in (0, 1)]
    rows += [row(seed=s, level=7, method="dft") for s in (0, 1)]
    found = R.gap(rows, "strong", "noise", "sampled")
    assert found["mean"] == pytest.approx(0.4)
    assert found["seeds"] == pytest.approx([0.4, 0.4])
    assert 0 < found["low"] < 0.4 < found["high"]
    with pytest.raises(ValueError, match="not run: dft on weak"):
        R.gap(rows, "weak", "clean", "sampled")


def world(
    *,
    sft: dict,
    dft: dict,
    others: dict[str, dict],
    own: dict[str, dict],
    base: dict,
    remedied: dict,
):
    """Rows of every cell in which each method is what it is given, at every rate."""
    rows = []
    for seed in R.LAPTOP.seeds:
        rows += [
            row(task=t, source="none", method="base", rate=None, seed=seed, **base) for t in R.TASKS
        ]
        for task, source in R.LAPTOP.grid:
            for rate in R.LAPTOP.rates:
                for method, given in (("sft", sft), ("dft", dft)):
                    chosen = given.get((task, source), {})
                    best = given.get("rate", rate)
                    worse = {"level": 0} if rate != best else {}
                    rows.append(
                        row(task=task, source=source, method=method, rate=rate, seed=seed)
                        | {k: v for k, v in row(**(chosen | worse)).items() if k not in KEYS}
                    )
    floored = {"task": "weak", "source": "clean", "method": R.FLOORED_END, "rate": 1e-4}
    rows += [row(seed=seed, **floored, **remedied) for seed in R.LAPTOP.seeds]
    rate = R.LAPTOP.middle[0]
    rows += [row(source="own", method=m, rate=rate, **given) for m, given in own.items()]
    return rows + [row(method=m, rate=rate, **given) for m, given in others.items()]


KEYS = ("task", "source", "method", "rate", "seed")
LIKE_DFT = ("p^1/2", "threshold", "floored", "asft", R.ANNEALED)
GOOD = world(
    sft={
        ("strong", "noise"): {"level": 3, "greedy": "1111111000"},
        ("weak", "clean"): {"level": 6},
    },
    dft={
        ("strong", "noise"): {"level": 7, "result_p": 0.7, "kl": 1.5},
        ("strong", "clean"): {"kl": 1.5},
        ("weak", "clean"): {
            "level": 2,
            "nll": 0.5,
            "result_p": 0.2,
            "sampled_formed": 0.5,
            "kl": 2.0,
        },
    },
    others={m: {"level": 6} for m in LIKE_DFT} | {m: {"level": 3} for m in ("eaft", "iw-sft")},
    own={"sft": {"level": 1}, "dft": {"level": 2}},
    base={"level": 1},
    remedied={"level": 7, "sampled_formed": 0.95},
)
BAD = world(
    sft={
        ("strong", "noise"): {"level": 7}, ("strong", "clean"): {"level": 2},
        ("weak", "clean"): {"level": 2}, "rate": 1e-5,
    },
    dft={
        ("strong", "noise"): {"level": 3, "kl": 0.5}, ("strong", "clean"): {"level": 8, "kl": 0.5},
        ("weak", "clean"): {"level": 6, "kl": 0.5, "result_p": 0.6, "nll": 0.05}
        | {"sampled_formed": 1.0},
        "rate": 1e-4,
    },
    others={m: {"level": 0} for m in LIKE_DFT} | {m: {"level": 5} for m in ("eaft", "iw-sft")},
    own={"sft": {"level": 9}, "dft": {"level": 9}},
    base={"level": 3},
    remedied={"level": 0, "sampled_formed": 0.1},
)  # fmt: skip


@pytest.mark.parametrize("prediction", R.PREDICTIONS, ids=lambda p: p.name)
def test_every_prediction_can_hold_and_can_fail(prediction) -> None:
    assert prediction.judge(GOOD)[0]
    assert not prediction.judge(BAD)[0]
    with pytest.raises(ValueError, match="not run"):
        prediction.judge(GOOD[:1])


def test_the_sum_of_a_part_says_what_is_missing() -> None:
    jobs = R.plan(R.LAPTOP)
    found = R.reduce(GOOD[:8], jobs)
    assert len(found["missing"]) == len(jobs) - 8
    assert found["outcome"]["weak-greedy"]["holds"] is None
    json.dumps(found, allow_nan=False)
    assert "not measured" in study.gaps(found)
    assert "not measured" in study.table(found)


# --- the record ---------------------------------------------------------------------------------


def test_the_summary_is_what_the_rows_say() -> None:
    recorded = RECORD.summary()
    again = json.loads(json.dumps(R.reduce(RECORD.metrics(), R.plan(R.LAPTOP))))
    assert {k: recorded[k] for k in again} == again
    assert RECORD.manifest()["size"] == json.loads(json.dumps(asdict(R.LAPTOP)))
    said = {p.name: f"{p.statement} (written {p.written})" for p in R.PREDICTIONS}
    assert RECORD.manifest()["predictions"] == said


def test_every_recorded_run_passed_the_gradient_check() -> None:
    checked = [r["check"] for r in RECORD.metrics() if r["method"] != "base"]
    assert len(checked) >= 40
    assert all(deviation <= tolerance for deviation, tolerance in checked)


def test_the_record_belongs_into_version_control() -> None:
    assert (RECORD.folder / "metrics.jsonl").stat().st_size <= 100_000


def test_the_write_up_says_what_the_record_says() -> None:
    file = ROOT / "experiments" / "real_model.md"
    text = file.read_text(encoding="utf-8")
    assert text.count("<!-- generated: study-") >= 6
    assert catalog.refreshed(text, study.blocks(ROOT)) == text
