"""`dft-theory reproduce`: from verdicts to the page, with every figure and the real model."""

import importlib.util
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dft_theory import chapters, explorer, markdown, provenance, report, results
from dft_theory.claims import Verdict
from dft_theory.figures import base
from dft_theory.objectives import dft, objectives, sft

DEMONSTRATIONS = 4


def write_report(verdicts: Sequence[Verdict], folder: Path) -> Path:
    """Draw the figures, check the real model, and write `folder/index.html` and the explorer."""
    items = {item.name: item for item in draw_all()}
    made = provenance.manifest("dft-theory reproduce")
    page = assemble(verdicts, items, real_model(), made, folder)
    results.write_text(folder / "explorer.html", explorer.render())
    return results.write_text(folder / "index.html", page)


def assemble(
    verdicts: Sequence[Verdict],
    items: Mapping[str, report.FigureItem],
    measured: str,
    made: Mapping[str, Any],
    folder: Path,
) -> str:
    """The chapters in their order, as one page in `folder`; figures by name."""
    root = base.find_folder().parent
    known = frozenset(v.claim.name for v in verdicts)

    def folded(name: str) -> str:
        return report.figure(items[name], known, folded=True) if name in items else ""

    rest = [name for name in items if name not in chapters.shown()]
    return report.render(
        verdicts,
        [
            chapters.should(root),
            chapters.experiments(root, folded),
            chapters.real_model(root, folded, measured),
            chapters.figures(rest, lambda name: report.figure(items[name], known)),
            report.ledger(verdicts),
            chapters.catalogue(),
            chapters.peers(root),
            chapters.engine(root),
            chapters.step_through(root.resolve(), folder.resolve()),
            report.environment(made),
            report.sources(verdicts, made),
        ],
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


def real_model() -> str:
    """The identity at every response token of a few real solutions, measured now.

    Where the model or the libraries are missing, it says what to install instead.
    """
    if importlib.util.find_spec("transformers") is None:
        return markdown.html("Not measured: install the extra `dft-theory[llm]`.")
    from dft_theory.llm.data import load_demonstrations
    from dft_theory.llm.pretrained import MissingModelError, load_pretrained
    from dft_theory.llm.token_identity import check

    try:
        source = load_pretrained()
    except MissingModelError as error:
        return f"<p>Not measured: {escape(str(error))}</p>"
    chosen = load_demonstrations(limit=DEMONSTRATIONS)
    bar = tqdm(chosen, desc="real model", disable=None, leave=False)
    checks = [c for d in bar for c in check(source, d, (sft, objectives["power-0.5"], dft))]
    rows = []
    for name, precision in dict.fromkeys((c.objective, c.precision) for c in checks):
        group = [c for c in checks if (c.objective, c.precision) == (name, precision)]
        rows.append(
            [
                name,
                precision,
                str(sum(c.tokens for c in group)),
                f"{max(c.logits for c in group):.2g}",
                f"{max(c.hidden for c in group):.2g}",
                f"{min(c.mutant for c in group):.1e}",
                "holds" if all(c.holds for c in group) else "FAILS",
            ]
        )
    vocabulary = source.model.get_input_embeddings().num_embeddings
    lead = (
        f"{source.name} on {len(chosen)} solutions from {chosen.source} ({chosen.split}). At "
        "every response token the gradient of the training objective, by autograd, is compared "
        f"with the policy gradient summed over all {vocabulary:,} next tokens, in the logits "
        "and in the last hidden state. Deviations are fractions of the tolerance (at most 1 "
        "conforms); the mutant drops 1/pi and must exceed 1."
    )
    head = ["objective", "precision", "tokens", "logits", "hidden", "mutant", "verdict"]
    return f"<p>{escape(lead)}</p>{markdown.table(head, rows)}"
