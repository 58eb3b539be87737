"""Where the real-model figures read: the record of experiments/real_model_tokens.py."""

from pathlib import Path

from dft_theory.results import Run, RunStore

RUN = "smollm2-135m-instruct-gsm8k-n64"


def record() -> Run:
    """The committed run. Raises: RecordError where it is missing."""
    root = Path(__file__).resolve().parents[1] / "experiments" / "results"
    return RunStore(root).run("real-model-tokens", RUN)


def source(run: Run) -> dict[str, object]:
    """What the figure's manifest says of the run it was drawn from."""
    made = run.manifest()
    return {
        "record": run.name,
        "model": made["model"],
        "data": made["data"],
        "run_utc": made["utc"],
    }
