"""An experiment: a question, predictions with numbers written before the run, and what came out."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dft_theory import provenance
from dft_theory.results import Run, RunStore

Rows = Sequence[Mapping[str, Any]]
Outcome = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Prediction:
    """A sentence with a number in it; `judge` says whether the rows bear it out, and by how much.

    `written` says after how much had been seen. Where the rows hold no case of the prediction,
    `judge` raises ValueError: that is not a success.
    """

    name: str
    statement: str
    judge: Callable[[Rows], tuple[bool, dict[str, float]]]
    written: str = "before any run"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`measure(size)` gives rows of JSON values, one a run; `speed()` what batching them gains.

    `quick` and `full` are sizes, dataclasses with `seeds`; theirs are not the same.
    """

    name: str
    question: str
    script: str
    predictions: tuple[Prediction, ...]
    quick: Any
    full: Any
    measure: Callable[[Any], Rows]
    speed: Callable[[], dict[str, float]]

    def outcome(self, rows: Rows) -> Outcome:
        """For each prediction whether it holds, and the numbers that decide it."""
        found = {p.name: p.judge(rows) for p in self.predictions}
        return {name: {"holds": bool(holds), **numbers} for name, (holds, numbers) in found.items()}

    def record(self, store: RunStore) -> Run:
        """Measure at full size into `<store>/<name>/full`, in place of an earlier run."""
        started, size = time.perf_counter(), asdict(self.full)
        rows = self.measure(self.full)
        said = {p.name: f"{p.statement} (written {p.written})" for p in self.predictions}
        extra = {"question": self.question, "size": size, "predictions": said}
        command = ["python", self.script, "--full"]
        run = store.run(self.name, "full")
        made = provenance.manifest(command, seeds=size["seeds"], extra=extra, started=started)
        run.start(made, replace=True)
        for row in rows:
            run.log(row)
        run.finish({"outcome": self.outcome(rows), "speed": self.speed()})
        return run

    def replicate(self, store: RunStore) -> tuple[Outcome, list[str]]:
        """The outcome at quick size, and which predictions fail here that held in the record.

        One that failed there may hold here: there are fewer cases.
        """
        recorded = store.run(self.name, "full").summary()["outcome"]
        found = self.outcome(self.measure(self.quick))
        return found, [n for n, now in found.items() if recorded[n]["holds"] and not now["holds"]]

    def main(self, arguments: Sequence[str] | None = None) -> str:
        """What `--quick` or `--full` found, in lines. Raises: SystemExit where quick disagrees."""
        parser = argparse.ArgumentParser(description=self.question)
        size = parser.add_mutually_exclusive_group(required=True)
        size.add_argument("--quick", action="store_true", help="other seeds, against the record")
        size.add_argument("--full", action="store_true", help="write the record")
        store = RunStore(Path(self.script).parent / "results")
        if parser.parse_args(arguments).full:
            return self.report(self.record(store).summary()["outcome"])
        found, lost = self.replicate(store)
        if lost:
            raise SystemExit(f"{self.report(found)}\nheld in the record: {', '.join(lost)}")
        return self.report(found)

    def report(self, outcome: Mapping[str, Mapping[str, Any]]) -> str:
        """The question, and one line a prediction."""
        lines = [self.question]
        for p in self.predictions:
            numbers = [f"{k} {v:.4g}" for k, v in outcome[p.name].items() if k != "holds"]
            held = "held  " if outcome[p.name]["holds"] else "FAILED"
            lines.append(f"{held} {p.name}: {p.statement} [{', '.join(numbers)}]")
        return "\n".join(lines)
