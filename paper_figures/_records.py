"""Where figures of experiments read: `experiments/results/<name>/full`, and nothing else."""

from pathlib import Path

from dft_theory.results import Run, RunStore


def record(experiment: str) -> Run:
    """The committed full run. Raises: RecordError where it is missing, when it is read."""
    root = Path(__file__).resolve().parents[1] / "experiments" / "results"
    return RunStore(root).run(experiment, "full")


def source(run: Run) -> dict[str, object]:
    """What the figure's manifest says of the run it was drawn from."""
    made = run.manifest()
    return {"record": run.name, "seeds": made["seeds"], "run_utc": made["utc"]}
