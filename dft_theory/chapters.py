"""Chapters of the report that are read from records: what was found, measured, and compared.

`draw` turns the name of a figure into HTML; a chapter asks for the figures that belong to it.
"""

import os
from collections.abc import Callable
from html import escape
from pathlib import Path

from dft_theory import catalog, markdown, notebooks
from dft_theory.experiment import EXPERIMENTS
from dft_theory.findings import FINDINGS, Finding
from dft_theory.objectives import MIXTURES, OBJECTIVES, Objective
from dft_theory.report import Chapter
from dft_theory.results import RecordError, Run, RunStore

Draw = Callable[[str], str]
REAL = ("real_model_tokens", "real_model_sequences", "real_model")  # figures of its chapter


def should(root: Path) -> Chapter:
    """Advice in ten lines."""
    setting = (
        "The toy: a transformer of 26,000 weights applies three operators to a state. Before "
        "fine-tuning it follows the right rule with probability p0, its *prior*; a teacher's "
        "demonstrations may hold wrong states. Sampled is at temperature 1, greedy is not."
    )
    return Chapter(
        key="should",
        title="Should I use DFT?",
        brief="ten lines, from toys small enough for exact accuracies",
        html=markdown.html(f"{setting}\n\n{catalog.blocks(root)['should']()}"),
    )


def experiments(root: Path, draw: Draw) -> Chapter:
    """Each toy experiment: question, finding, predictions that held and failed, main figure."""
    store = RunStore(root / "experiments" / "results")
    runs = {f.experiment: store.run(f.experiment, "full") for f in FINDINGS}
    rows, parts, held, made = [], [], 0, 0
    for finding in FINDINGS:
        run = runs[finding.experiment]
        outcome, about = run.summary()["outcome"], run.manifest()
        good = sum(o["holds"] for o in outcome.values())
        held, made = held + good, made + len(outcome)
        anchor = f'<a href="#{finding.experiment}">{escape(about["question"])}</a>'
        rows.append([anchor, f"{good}&nbsp;of&nbsp;{len(outcome)}"])
        parts.append(_experiment(finding, run, "".join(map(draw, finding.figures))))
    lead = markdown.inline(
        "Predictions were written before the recorded runs, or say after how much they were; those "
        "that failed stay. Accuracies are of unseen prompts, each method at its own best learning "
        "rate, means over seeds with paired 95 % intervals."
    )
    return Chapter(
        key="experiments",
        title="Toy experiments",
        brief=f"{len(EXPERIMENTS)} questions, {held} of {made} predictions held",
        html=f"<p>{lead}</p>"
        + markdown.table(["question", "predictions held"], rows)
        + "".join(parts),
    )


def _experiment(finding: Finding, run: Run, figures: str) -> str:
    about = run.manifest()
    wrong = finding.contradicted(run.summary()["outcome"])
    doubt = f"<p class=failure>The record no longer says so: {', '.join(wrong)}.</p>"
    script = f"experiments/{finding.experiment.replace('-', '_')}.py"
    facts = (
        f"<p class=facts><span>{len(about['seeds'])} seeds</span>"
        f"<span>{about['wall_seconds']:.0f} s</span><code>{script}</code></p>"
    )
    return (
        f'<article class=experiment id="{finding.experiment}"><h3>{escape(about["question"])}</h3>'
        f"<p class=finding>{escape(finding.says)}</p>{doubt if wrong else ''}"
        f"{_predictions(run, {*finding.held, *finding.failed})}{facts}{figures}</article>"
    )


def _predictions(run: Run, bearing: set[str]) -> str:
    """Every prediction of a run, failed ones first in the line that can be opened."""
    outcome, said = run.summary()["outcome"], run.manifest().get("predictions", {})
    failed = [name for name, o in outcome.items() if not o["holds"]]
    line = f"{len(outcome) - len(failed)} of {len(outcome)} predictions held"
    line += f"; failed: {', '.join(failed)}" if failed else ""
    items = "".join(
        f"<li class={'held' if o['holds'] else 'failed'}>"
        f"{'held' if o['holds'] else 'failed'} <b>{escape(name)}</b> {escape(said.get(name, ''))}"
        f"{' <i>(the finding rests on it)</i>' if name in bearing else ''}</li>"
        for name, o in outcome.items()
    )
    return f"<details><summary>{escape(line)}</summary><ul class=outcome>{items}</ul></details>"


def real_model(root: Path, draw: Draw, measured: str) -> Chapter:
    """The identity on a real model, and the study of its fine-tuning where there is a record."""
    parts = catalog.blocks(root)
    html = [
        "<h3>Before any training</h3>",
        markdown.html(parts["real-model"]()),
        *map(draw, REAL[:2]),
        "<h3>Measured in this run</h3>",
        measured,
        "<h3>What diagnose says of it</h3>",
        markdown.html(parts["diagnosis"]()),
    ]
    studies = _study(root)
    html += [_studied(run) for run in studies]
    if studies:
        html.append(draw(REAL[2]))
        written = root / "experiments" / "real_model.md"
        html.append(markdown.html(written.read_text("utf-8")) if written.exists() else "")
    trained = "and fine-tuned" if studies else "not fine-tuned here yet"
    return Chapter(
        key="real-model",
        title="A real model",
        brief=f"SmolLM2-135M on GSM8K, token by token, {trained}",
        html="".join(html),
    )


def _study(root: Path) -> list[Run]:
    """Finished runs of `experiments/real_model.py`, none where nothing is recorded."""
    try:
        runs = RunStore(root / "experiments" / "results").runs("real-model")
    except RecordError:
        return []
    return [run for run in runs if run.finished and "outcome" in run.summary()]


def _studied(run: Run) -> str:
    question = run.manifest().get("question", "Fine-tuned")
    head = f"<h3>{escape(question)} <small>({escape(run.folder.name)})</small></h3>"
    return head + _predictions(run, set())


def figures(names: list[str], draw: Draw) -> Chapter:
    """Figures that no experiment has shown."""
    return Chapter(
        key="figures",
        title="Theory in pictures",
        brief=f"{len(names)} figures of what can be computed exactly",
        html="".join(map(draw, names)),
    )


def catalogue() -> Chapter:
    """Every objective, a table for each family, with the remark a user should read first."""
    head = ["objective", "weight w, target A", "reads, potential, source", "remark"]
    tables = [
        f"<h3>{escape(heading)}</h3>"
        + markdown.table(head, [_row(o) for o in OBJECTIVES if o.family == family])
        for family, heading in catalog.FAMILIES.items()
    ]
    mixtures = [
        [_named(m.title, m.name), markdown.inline(catalog.source(m.cite)), markdown.inline(m.note)]
        for m in MIXTURES
    ]
    tables.append("<h3>Demonstrations and rollouts mixed: sums of the objectives above</h3>")
    return Chapter(
        key="catalogue",
        title="Catalogue",
        brief=f"{len(OBJECTIVES)} objectives and {len(MIXTURES)} mixtures",
        html="".join(tables) + markdown.table(["mixture", "source", "remark"], mixtures),
    )


def _row(o: Objective) -> list[str]:
    potential = "a potential" if o.potential else "no potential"
    source = markdown.inline(catalog.source(o.cite))
    facts = f"{escape(catalog.reads(o))}<br>{potential}<br>{source}"
    return [_named(o.title, o.name), escape(o.equation), facts, markdown.inline(o.note)]


def _named(title: str, name: str) -> str:
    return f"{escape(title)}<br><code>{escape(name)}</code>"


def engine(root: Path) -> Chapter:
    """What training and checking cost, as recorded."""
    parts = catalog.blocks(root)
    told = {
        "The head that never holds all logits": ("head", "stacked"),
        "Whole steps of training": ("end-to-end",),
        "Generation": ("engines",),
        "An objective on logits that are there": ("cost",),
        "Exact enumeration": ("benchmark",),
        "Small changes of the code, noticed": ("mutation",),
    }
    return Chapter(
        key="engine",
        title="Engine",
        brief="what training, checking and enumerating cost, in ratios",
        html="".join(
            f"<h3>{title}</h3>" + "".join(markdown.html(parts[name]()) for name in names)
            for title, names in told.items()
            if parts.keys() >= set(names)
        ),
    )


def peers(root: Path) -> Chapter:
    """What other packages compute when they are asked for DFT."""
    whole = (root / "PEERS.md").read_text(encoding="utf-8").partition("\n")[2]
    return Chapter(
        key="peers",
        title="Other packages",
        brief="released code, held to the gradient that it claims to have",
        html=markdown.html(catalog.blocks(root)["peers"]())
        + f"<details class=peers><summary>Every implementation, check by check</summary>"
        f"{markdown.html(whole)}</details>",
    )


def step_through(root: Path, folder: Path) -> Chapter:
    """The explorer beside the page, and the notebooks of the checkout."""
    rows = []
    found = notebooks.find(root / "notebooks").values()
    for page in (page for page in found if page.executed.exists()):
        about = page.header
        name = f"{page.name[:2]} {escape(about.title)}"
        if folder.is_relative_to(root):  # elsewhere the way there would tell of this machine
            name = f'<a href="{os.path.relpath(page.executed, folder)}">{name}</a>'
        rows.append([name, markdown.inline(about.promise), str(about.minutes)])
    lead = (
        '<p><a href="explorer.html"><b>The explorer</b></a>, a page beside this one: sliders for '
        "the start, the exponent, label noise and vocabulary, and what they do to weight, reward, "
        "trajectory and end point.</p><p>Notebooks, in the order of reading; "
        "<code>make notebooks</code> opens them.</p>"
    )
    return Chapter(
        key="step-through",
        title="Step through it",
        brief=f"an explorer with sliders, and {len(rows)} notebooks",
        html=lead + markdown.table(["notebook", "", "minutes"], rows),
    )


def shown() -> set[str]:
    """Names of the figures that belong to a chapter of their own."""
    return {n for f in FINDINGS for n in f.figures} | set(REAL)
