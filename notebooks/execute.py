"""Execute every notebook source here and write the .ipynb beside it, whole."""

from pathlib import Path

import jupytext
from nbclient import NotebookClient

from dft_theory.results import write_text

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Run the sources in order; the first error stops with its cell."""
    for source in sorted(FOLDER.glob("[0-9]*.py")):
        notebook = jupytext.read(source)
        NotebookClient(
            notebook, timeout=600, record_timing=False, resources={"metadata": {"path": FOLDER}}
        ).execute()
        # Ids are random in every run; the position serves as well and keeps the history quiet.
        for k, cell in enumerate(notebook.cells):
            cell.id = f"cell-{k}"
        write_text(source.with_suffix(".ipynb"), jupytext.writes(notebook, fmt="ipynb"))


if __name__ == "__main__":
    main()
