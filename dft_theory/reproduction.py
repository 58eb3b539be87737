"""`dft-theory reproduce`: from verdicts to the page, with every figure and the real model."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dft_theory import catalog, provenance, report, results
from dft_theory.claims import Verdict
from dft_theory.figures import base
from dft_theory.objectives import MIXTURES, OBJECTIVES, dft, objectives, sft

DEMONSTRATIONS = 4


def write_report(verdicts: Sequence[Verdict], folder: Path) -> Path:
    """Draw the figures, check the real model, and write `folder/index.html` whole."""
    figures = draw_all()
    sections = (*catalogue(), real_model())
    page = report.render(verdicts, figures, sections, provenance.manifest("dft-theory reproduce"))
    return results.write_text(folder / "index.html", page)


def catalogue() -> tuple[report.Section, ...]:
    """Every objective, a table for each family, with the remark a user should read first."""
    return (
        *(
            report.Section(
                title=catalog.SHORT[family],
                paragraphs=(f"{heading}.",),
                columns=("objective", "weight w, target A", "reads", "potential", "", "remark"),
                rows=tuple(
                    (
                        f"{o.title} [{o.name}]",
                        o.equation,
                        catalog.reads(o),
                        "yes" if o.potential else "none",
                        o.cite,
                        o.note,
                    )
                    for o in OBJECTIVES
                    if o.family == family
                ),
            )
            for family, heading in catalog.FAMILIES.items()
        ),
        report.Section(
            title="Hybrids",
            paragraphs=("Demonstrations and rollouts mixed: sums of the objectives above.",),
            columns=("mixture", "", "remark"),
            rows=tuple((f"{m.title} [{m.name}]", m.cite, m.note) for m in MIXTURES),
        ),
    )


def draw_all() -> list[report.FigureItem]:
    """Every figure, redrawn from its record; the files in `out` are replaced one by one."""
    folder = base.find_folder()
    items = []
    for figure in tqdm(base.discover(folder), desc="figures", disable=None, leave=False):
        png = next(p for p in base.draw(figure, folder) if p.suffix == ".png")
        items.append(
            report.FigureItem(
                name=figure.name,
                title=figure.title,
                caption=figure.caption,
                png=png.read_bytes(),
                claims=figure.claims,
            )
        )
    return items


def real_model() -> report.Section:
    """The identity at every response token of a few real solutions, measured now.

    Where the model or the libraries are missing, the section says what to install instead.
    """
    title = "A real model, real text"
    if importlib.util.find_spec("transformers") is None:
        return report.Section(
            title=title, paragraphs=("Not measured: install the extra `dft-theory[llm]`.",)
        )
    from dft_theory.llm.data import load_demonstrations
    from dft_theory.llm.pretrained import MissingModelError, load_pretrained
    from dft_theory.llm.token_identity import check

    try:
        source = load_pretrained()
    except MissingModelError as error:
        return report.Section(title=title, paragraphs=(f"Not measured: {error}",))
    chosen = load_demonstrations(limit=DEMONSTRATIONS)
    bar = tqdm(chosen, desc="real model", disable=None, leave=False)
    checks = [c for d in bar for c in check(source, d, (sft, objectives["power-0.5"], dft))]
    rows = []
    for name, precision in dict.fromkeys((c.objective, c.precision) for c in checks):
        group = [c for c in checks if (c.objective, c.precision) == (name, precision)]
        rows.append(
            (
                name,
                precision,
                str(sum(c.tokens for c in group)),
                f"{max(c.logits for c in group):.2g}",
                f"{max(c.hidden for c in group):.2g}",
                f"{min(c.mutant for c in group):.1e}",
                "holds" if all(c.holds for c in group) else "FAILS",
            )
        )
    vocabulary = source.model.get_input_embeddings().num_embeddings
    return report.Section(
        title=title,
        paragraphs=(
            f"{source.name} on {len(chosen)} solutions from {chosen.source} ({chosen.split}). At "
            "every response token the gradient of the training objective, by autograd, is compared "
            f"with the policy gradient summed over all {vocabulary:,} next tokens, in the logits "
            "and in the last hidden state. Deviations are fractions of the tolerance (at most 1 "
            "conforms); the mutant drops 1/pi and must exceed 1.",
        ),
        columns=("objective", "precision", "tokens", "logits", "hidden", "mutant", "verdict"),
        rows=tuple(rows),
    )
