"""The shared form of an experiment: predictions are judged, recorded either way, and replicated."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.stats
import torch

from dft_theory import experiment as toys
from dft_theory.experiment import EXPERIMENTS, Experiment, Prediction, Rows, interval, lies, values
from dft_theory.registry import UnknownNameError
from dft_theory.results import RecordError, RunStore


@dataclass(frozen=True)
class Size:
    seeds: tuple[int, ...]
    offset: float = 0.0


def above(bound: float):
    def judge(rows: Rows) -> tuple[bool, dict[str, float]]:
        if not rows:
            raise ValueError("no case")
        least = min(r["value"] for r in rows)
        return least > bound, {"least": least}

    return judge


def experiment(tmp_path, quick: Size = Size((5, 6))) -> Experiment:
    return Experiment(
        name="demo",
        question="Are seeds large?",
        script=str(tmp_path / "demo.py"),
        predictions=(
            Prediction("positive", "every value is above 0", above(0.0)),
            Prediction("large", "every value is above 3", above(3.0), "after seed 9"),
        ),
        quick=quick,
        full=Size((1, 2, 3)),
        measure=lambda size: [{"seed": s, "value": s + size.offset} for s in size.seeds],
        speed=lambda: {"ratio": 2.0},
    )


def test_the_record_keeps_rows_predictions_and_failures(tmp_path):
    store = RunStore(tmp_path / "results")
    run = experiment(tmp_path).record(store)
    assert run.folder == tmp_path / "results" / "demo" / "full"
    assert [r["seed"] for r in run.metrics()] == [1, 2, 3]
    made, summary = run.manifest(), run.summary()
    assert made["seeds"] == [1, 2, 3]
    assert made["predictions"]["large"] == "every value is above 3 (written after seed 9)"
    assert summary["outcome"]["positive"] == {"holds": True, "least": 1.0}
    assert summary["outcome"]["large"] == {"holds": False, "least": 1.0}
    assert summary["speed"] == {"ratio": 2.0}


def test_a_second_full_run_takes_the_place_of_the_first(tmp_path):
    store = RunStore(tmp_path / "results")
    experiment(tmp_path).record(store)
    run = experiment(tmp_path).record(store)
    assert len(run.metrics()) == 3


def test_other_seeds_may_do_better_than_the_record_but_not_worse(tmp_path):
    store = RunStore(tmp_path / "results")
    experiment(tmp_path).record(store)
    found, lost = experiment(tmp_path).replicate(store)
    assert found["large"]["holds"]  # it failed in the record
    assert lost == []
    _, lost = experiment(tmp_path, quick=Size((5, 6), offset=-9.0)).replicate(store)
    assert lost == ["positive"]


def test_quick_without_a_record_says_so(tmp_path):
    with pytest.raises(RecordError, match="did not finish"):
        experiment(tmp_path).main(["--quick"])


def test_the_command_line_reports_and_fails_where_other_seeds_disagree(tmp_path):
    text = experiment(tmp_path).main(["--full"])
    assert text.splitlines() == [
        "Are seeds large?",
        "held   positive: every value is above 0 [least 1]",
        "FAILED large: every value is above 3 [least 1]",
    ]
    assert "held   large" in experiment(tmp_path).main(["--quick"])
    with pytest.raises(SystemExit, match="held in the record: positive"):
        experiment(tmp_path, quick=Size((5,), offset=-9.0)).main(["--quick"])


@pytest.mark.parametrize("arguments", [[], ["--quick", "--full"]])
def test_one_size_has_to_be_named(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        experiment(tmp_path).main(arguments)
    assert end.value.code == 2
    assert "--quick" in capsys.readouterr().err


def test_a_prediction_without_a_case_is_no_success(tmp_path):
    with pytest.raises(ValueError, match="no case"):
        experiment(tmp_path).outcome([])


ROWS = [{"p0": 0.1, "method": m, "hits": v} for m, v in (("sft", [1, 2]), ("dft", [3, 3.5]))]


def test_a_judgement_reads_exactly_one_row():
    assert values(ROWS, "hits", method="dft").tolist() == [3, 3.5]
    with pytest.raises(ValueError, match="2 cell has p0 0.1"):
        values(ROWS, "hits", p0=0.1)
    with pytest.raises(ValueError, match="no cell has p0 0.2, method dft"):
        values(ROWS, "hits", p0=0.2, method="dft")


def test_every_seed_must_lie_strictly_between():
    gap = values(ROWS, "hits", method="dft") - values(ROWS, "hits", method="sft")
    assert lies(1, 3, gap=gap) == (True, {"gap": 1.75, "gap least": 1.5, "gap most": 2.0})
    assert not lies(1.5, 3, gap=gap)[0]
    assert not lies(1, 2, gap=gap)[0]


def test_the_interval_is_that_of_a_paired_t_test():
    a, b = (torch.randn(5, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    known = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert interval(a - b) == pytest.approx((known.low, known.high), rel=1e-5)
    with pytest.raises(ValueError, match="two seeds"):
        interval(torch.ones(1))


def test_scripts_are_found_by_name_in_a_checkout(tmp_path):
    root = Path(__file__).resolve().parents[1]
    assert all(script.is_file() for script in toys.scripts((), root))
    assert len(toys.scripts((), tmp_path)) == len(EXPERIMENTS)  # the package's own checkout
    [script] = toys.scripts(("bandit-orbits",), root)
    assert script == root / "experiments" / "bandit_orbits.py"
    with pytest.raises(UnknownNameError, match="bandit-orbits"):
        toys.scripts(("bandit",), root)


def test_scripts_run_in_their_own_processes_and_say_whether_they_agree(tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import os, sys; print(sys.argv[1], os.environ['OMP_NUM_THREADS'])")
    bad.write_text("raise SystemExit('held in the record: nothing')")
    found = {script.stem: rest for script, *rest in toys.run([good, bad], "quick", jobs=2)}
    assert found["good"][1:] == ["--quick 1", True]
    assert found["bad"][1:] == ["held in the record: nothing", False]
