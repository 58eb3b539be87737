"""Each finding is borne out by the record of its experiment, and its figures exist."""

from dataclasses import replace
from pathlib import Path

import pytest

from dft_theory.experiment import EXPERIMENTS
from dft_theory.findings import FINDINGS, Finding
from dft_theory.results import RunStore

ROOT = Path(__file__).resolve().parents[1]


def outcome(finding: Finding) -> dict:
    store = RunStore(ROOT / "experiments" / "results")
    return store.run(finding.experiment, "full").summary()["outcome"]


def test_every_experiment_has_one() -> None:
    assert tuple(f.experiment for f in FINDINGS) == EXPERIMENTS


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda f: f.experiment)
def test_the_record_bears_it_out(finding: Finding) -> None:
    assert finding.held
    assert finding.contradicted(outcome(finding)) == []
    for figure in finding.figures:
        assert (ROOT / "paper_figures" / f"{figure}.py").is_file()


@pytest.mark.parametrize("finding", FINDINGS[:3], ids=lambda f: f.experiment)
def test_a_record_that_turns_or_lacks_a_prediction_contradicts_it(finding: Finding) -> None:
    for name in (*finding.held, *finding.failed):
        found = outcome(finding)
        found[name] = {"holds": not found[name]["holds"]}
        assert finding.contradicted(found) == [name]
    assert replace(finding, held=("no-such",), failed=()).contradicted(found) == ["no-such"]
