"""The chapters are whole, say what the records say, and fit a phone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from dft_theory import chapters, pages, report
from dft_theory.experiment import EXPERIMENTS
from dft_theory.findings import FINDINGS
from dft_theory.objectives import MIXTURES, OBJECTIVES
from dft_theory.results import RunStore

ROOT = Path(__file__).resolve().parents[1]
STORE = RunStore(ROOT / "experiments" / "results")


def draw(name: str) -> str:
    return f"<figure>{name}</figure>"


@pytest.fixture(scope="module")
def told() -> list[report.Chapter]:
    return [
        chapters.should(ROOT),
        chapters.experiments(ROOT, draw),
        chapters.real_model(ROOT, draw, "<p>measured now</p>"),
        chapters.figures(["a", "b"], draw),
        chapters.catalogue(),
        chapters.peers(ROOT),
        chapters.engine(ROOT),
        chapters.step_through(ROOT, ROOT / "report"),
    ]


@pytest.fixture(scope="module")
def page(told: list[report.Chapter]) -> str:
    return report.render([], told)


def test_nothing_is_requested_and_every_anchor_has_its_place(page: str) -> None:
    assert pages.requests(page) == []
    identifiers = re.findall(r' id="?([^"\s>]+)', page)
    assert len(set(identifiers)) == len(identifiers)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers)
    for address in re.findall(r'href="((?!#|https?:)[^"]+)"', page):
        assert address == "explorer.html" or (ROOT / "report" / address).resolve().is_file()


def test_a_page_fits_a_phone(page: str, browse) -> None:
    program = "const found = [innerWidth, document.documentElement.scrollWidth];"
    (width, needed), _ = browse(page.replace("<details", "<details open"), program)
    assert needed <= width


def test_each_experiment_has_its_finding_figures_and_all_predictions(
    told: list[report.Chapter],
) -> None:
    html = told[1].html
    assert html.count("<article") == len(EXPERIMENTS)
    assert "no longer says so" not in html
    for finding in FINDINGS:
        (part,) = re.findall(rf'<article [^>]*id="{finding.experiment}">(.*?)</article>', html)
        for name in finding.figures:
            assert draw(name) in part
        outcome = STORE.run(finding.experiment, "full").summary()["outcome"]
        failed = [name for name, o in outcome.items() if not o["holds"]]
        assert f"{len(outcome) - len(failed)} of {len(outcome)} predictions held" in part
        assert re.findall(r"<li class=failed>failed <b>([^<]+)", part) == failed
        assert part.count("the finding rests on it") == len(finding.held + finding.failed)


def test_a_record_that_says_otherwise_is_shown_with_a_warning(tmp_path: Path) -> None:
    for name in EXPERIMENTS:
        source = ROOT / "experiments" / "results" / name / "full"
        shutil.copytree(source, tmp_path / "experiments" / "results" / name / "full")
    file = tmp_path / "experiments" / "results" / "room-for-rl" / "full" / "summary.json"
    summary = json.loads(file.read_text())
    summary["outcome"]["content-entropy"]["holds"] = False
    file.write_text(json.dumps(summary))
    html = chapters.experiments(tmp_path, draw).html
    assert "The record no longer says so: content-entropy." in html


def test_the_study_of_the_real_model_appears_with_its_record(tmp_path: Path) -> None:
    assert chapters._study(tmp_path) == []
    run = RunStore(tmp_path / "experiments" / "results").run("real-model", "cpu")
    run.start({"question": "Does it <help>?", "predictions": {"a": "b < c"}})
    assert chapters._study(tmp_path) == []  # unfinished
    run.finish({"outcome": {"a": {"holds": False}}})
    (found,) = chapters._study(tmp_path)
    html = chapters._studied(found)
    assert "Does it &lt;help&gt;?" in html
    assert "0 of 1 predictions held; failed: a" in html


def test_the_write_up_of_the_study_is_part_of_its_chapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunStore(tmp_path / "experiments" / "results").run("real-model", "cpu")
    run.start({"question": "Who wins?", "predictions": {}})
    run.finish({"outcome": {}})
    (tmp_path / "experiments" / "real_model.md").write_text("# What was found\n\nA *draw*.\n")
    parts = {"real-model": lambda: "tokens", "diagnosis": lambda: "told"}
    monkeypatch.setattr(chapters.catalog, "blocks", lambda root: parts)
    html = chapters.real_model(tmp_path, draw, "measured now").html
    assert draw("real_model") in html
    assert "<h3>What was found</h3><p>A <em>draw</em>.</p>" in html


def test_catalogue_peers_and_notebooks_are_complete(told: list[report.Chapter]) -> None:
    html = {chapter.key: chapter.html for chapter in told}
    for item in (*OBJECTIVES, *MIXTURES):
        assert f"<code>{item.name}</code>" in html["catalogue"]
    record = json.loads((STORE.root / "peers" / "peers.json").read_text())
    assert html["peers"].count("<tr>") == len(record["peers"]) + 1
    assert html["step-through"].count(".ipynb") == len(list((ROOT / "notebooks").glob("*.ipynb")))
    elsewhere = chapters.step_through(ROOT, Path("/elsewhere")).html
    assert ".ipynb" not in elsewhere
    assert "Start here" in elsewhere
