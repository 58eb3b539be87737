"""A line with scatter, when it must not answer, and where its numbers are from."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dft_theory.diagnostics import regime
from dft_theory.diagnostics.regime import Evidence, Fit, predict
from dft_theory.results import RunStore

ROOT = Path(__file__).resolve().parents[2]
LINE = Fit(intercept=0.7, slopes=(-2.0,), sd=0.1, low=(0.0,), high=(0.6,))
TOLD = Evidence(demonstrations=48, shared=0.1, mean_p=0.5, least_p=1e-4, calibrated=True)


def test_a_line_without_scatter_is_found():
    x = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = Fit.of(x.tolist(), (0.5 - 2 * x[:, 0] + 0.4 * x[:, 1]).tolist())
    assert fit.slopes == pytest.approx((-2.0, 0.4))
    assert fit.intercept == pytest.approx(0.5)
    assert fit.sd == pytest.approx(0, abs=1e-9)
    assert fit.low == pytest.approx(x.amin(0).tolist())
    assert fit.high == pytest.approx(x.amax(0).tolist())


def test_scatter_is_what_is_left_per_degree_of_freedom():
    fit = Fit.of([(0.0,), (0.0,), (1.0,), (1.0,)], [1.0, -1.0, 2.0, 0.0])
    assert fit.sd == pytest.approx((4 / 2) ** 0.5)
    assert fit.gap((1.0,)) == pytest.approx(1.0)


def test_too_few_points_fix_no_line():
    with pytest.raises(ValueError, match="do not fix a line"):
        Fit.of([(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)], [0.0, 1.0, 2.0])


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.35, 0.6])
def test_chances_are_those_of_a_normal_gap(shared):
    point = (shared,)
    chances = LINE.chances(point)
    g = torch.Generator().manual_seed(1)
    drawn = LINE.gap(point) + LINE.sd * torch.randn(200_000, generator=g)
    assert sum(chances.values()) == pytest.approx(1)
    lead, trail = (drawn > regime.MARGIN), (drawn < -regime.MARGIN)
    for name, share in (("dft leads", lead), ("sft leads", trail), ("alike", ~lead & ~trail)):
        assert chances[name] == pytest.approx(share.float().mean().item(), abs=0.005)


def test_shared_gradients_speak_for_sft_and_scattered_ones_for_dft():
    scattered = predict(TOLD, known=LINE)
    assert scattered.name == "dft leads"
    assert "believes the errors" in scattered.because
    agreed = predict(replace(TOLD, shared=0.6), known=LINE)
    assert agreed.name == "sft leads"
    assert agreed.probability > 0.99
    assert "0.600" in agreed.because


def test_a_close_call_is_none():
    close = predict(replace(TOLD, shared=0.35), known=LINE)
    assert LINE.gap((0.35,)) == pytest.approx(0.0)
    assert close.name == "cannot tell"
    assert close.probability < regime.SURE


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"shared": 0.7}, "outside what the fit has seen"),
        ({"shared": -0.1}, "outside what the fit has seen"),
        ({"demonstrations": regime.ENOUGH - 1}, "too few"),
        ({"shared": None}, "not compared"),
        ({"calibrated": False}, "no threshold carries over"),
    ],
)
def test_what_the_fit_does_not_know_it_does_not_tell(change, why):
    told = predict(replace(TOLD, **change), known=LINE)
    assert told.name == "cannot tell"
    assert told.probability is None
    assert why in told.because


def test_an_uncalibrated_answer_still_says_what_the_evidence_speaks_for():
    assert "'dft leads'" in predict(replace(TOLD, calibrated=False), known=LINE).because


@pytest.mark.parametrize("calibrated", [True, False])
def test_exact_rules_need_no_fit(calibrated):
    other = replace(TOLD, calibrated=calibrated, shared=None)
    assert predict(replace(other, least_p=0.91)).name == "alike"
    late = predict(replace(other, escape=(0.5, 1e4)))
    assert late.name == "sft leads"
    assert "format" in late.because
    for escape in ((0.5, 50.0), (2.0, 1e4)):  # within reach of DFT; out of SFT's reach too
        assert predict(replace(other, escape=escape)).name == "cannot tell"


def test_weights_above_nine_tenths_are_within_a_tenth():
    from dft_theory.objectives import dft, sft

    p = torch.linspace(regime.LIKELY, 1.0, 11, dtype=torch.float64)
    assert float((dft.weight_at(p) / sft.weight_at(p) - 1).abs().max()) <= 0.1 + 1e-12


def test_another_scoring_is_refused():
    with pytest.raises(ValueError, match="sampled or greedy"):
        predict(TOLD, "early")


# --- the packaged numbers -----------------------------------------------------------------------


def test_the_packaged_numbers_are_those_of_the_record():
    spec = importlib.util.spec_from_file_location(
        "experiment_diagnosis", ROOT / "experiments" / "diagnosis.py"
    )
    experiment = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = experiment
    spec.loader.exec_module(experiment)
    rows = RunStore(ROOT / "experiments" / "results").run("diagnosis", "full").metrics()
    made = json.loads(json.dumps(experiment.packaged(rows)))
    assert made.keys() == regime.fitted().keys()
    for scoring in ("sampled", "greedy"):
        for part in ("fits", "power"):
            for key, value in made[part][scoring].items():
                assert regime.fitted()[part][scoring][key] == pytest.approx(value), key
    for now, stored in zip(made["failures"], regime.fitted()["failures"], strict=True):
        assert stored.keys() == now.keys()
        for key, value in now.items():
            assert stored[key] == (value if isinstance(value, str) else pytest.approx(value))


def test_the_packaged_fit_answers():
    for scoring in ("sampled", "greedy"):
        assert regime.fit(scoring).sd > 0
        assert predict(TOLD, scoring).name in ("dft leads", "sft leads", "alike", "cannot tell")
