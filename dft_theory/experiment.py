"""An experiment: a question, predictions with numbers written before the run, and what came out."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from dft_theory import provenance
from dft_theory.registry import UnknownNameError
from dft_theory.results import Run, RunStore

Rows = Sequence[Mapping[str, Any]]
Outcome = dict[str, dict[str, Any]]
Judged = tuple[bool, dict[str, float]]

# In the order in which they are best read; the script of "a-b" is `experiments/a_b.py`.
EXPERIMENTS = (
    "capability-continuum",
    "five-bases",
    "learning-curves",
    "rate-and-batch",
    "sensitivity",
    "compute-boundary",
    "confounds",
    "relatives",
    "new-format",
    "granularity",
    "forgetting",
    "bandit-orbits",
    "offline-rl",
    "token-histogram",
    "room-for-rl",
    "diagnosis",
)


@dataclass(frozen=True)
class Prediction:
    """A sentence with a number in it; `judge` says whether the rows bear it out, and by how much.

    `written` says after how much had been seen. Where the rows hold no case of the prediction,
    `judge` raises ValueError: that is not a success. `unsettled` says why one that held in the
    record is known to fail on other seeds; `--quick` shows it and does not count it.
    """

    name: str
    statement: str
    judge: Callable[[Rows], Judged]
    written: str = "before any run"
    unsettled: str = ""


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
        settled = {p.name for p in self.predictions if not p.unsettled}
        lost = [n for n, now in found.items() if recorded[n]["holds"] and not now["holds"]]
        return found, [name for name in lost if name in settled]

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
            if p.unsettled:
                lines.append(f"       unsettled: {p.unsettled}")
        return "\n".join(lines)


# --- all of them --------------------------------------------------------------------------------


def scripts(names: Sequence[str], start: Path) -> list[Path]:
    """The scripts of experiments, of all without names, from the checkout `start` or our own.

    Raises: UnknownNameError; FileNotFoundError outside a checkout.
    """
    for name in names:
        if name not in EXPERIMENTS:
            raise UnknownNameError("experiment", name, EXPERIMENTS)
    for root in (start, Path(__file__).resolve().parents[1]):
        if (root / "experiments" / "results").is_dir():
            files = [f"{name.replace('-', '_')}.py" for name in names or EXPERIMENTS]
            return [root / "experiments" / file for file in files]
    raise FileNotFoundError(
        "there is no folder experiments here: they come with the repository, not with the "
        "installed package; run this from a checkout"
    )


def run(scripts: Sequence[Path], tier: str, jobs: int) -> Iterator[tuple[Path, float, str, bool]]:
    """Each script in a process of one thread, `jobs` at a time, as they end.

    Gives the script, its seconds, its report and whether it agrees with its record.
    """

    def one(script: Path) -> tuple[Path, float, str, bool]:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(script), f"--{tier}"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        said = (done.stdout + done.stderr).strip()
        return script, time.perf_counter() - started, said, done.returncode == 0

    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(one, script) for script in scripts]):
            yield future.result()


# --- what a judge reads in rows of {keys, metric: [a value for each seed]} ----------------------


def values(rows: Rows, metric: str, **where: object) -> Tensor:
    """The values of each seed in the one row with these keys, `[seeds]`, float64.

    Raises: ValueError where no row has them, or several do.
    """
    found = [r for r in rows if all(r.get(key) == value for key, value in where.items())]
    if len(found) != 1:
        cell = ", ".join(f"{key} {value}" for key, value in where.items())
        raise ValueError(f"{len(found) or 'no'} cell has {cell}: a judgement reads exactly one")
    return torch.tensor(found[0][metric], dtype=torch.float64)


def lies(low: float, high: float, **each: Tensor) -> Judged:
    """Whether every seed is strictly between; means and extremes are the numbers."""
    holds, numbers = True, dict[str, float]()
    for name, value in each.items():
        holds &= bool(((value > low) & (value < high)).all())
        numbers |= {name: value.mean().item()}
        numbers |= {f"{name} least": value.min().item(), f"{name} most": value.max().item()}
    return holds, numbers


def above(low: float, **each: Tensor) -> Judged:
    """Whether the paired 95 % interval of every mean over seeds lies above `low`.

    Of fewer than five seeds, those of --quick, only the mean is asked: three make an interval of
    4.3 standard errors.
    """
    holds, numbers = True, dict[str, float]()
    for name, value in each.items():
        least, most = interval(value)
        holds &= (least if len(value) >= 5 else value.mean().item()) > low
        numbers |= {name: value.mean().item(), f"{name} low": least, f"{name} high": most}
    return holds, numbers


def interval(difference: Tensor) -> tuple[float, float]:
    """The paired 95 % t interval of a mean difference over seeds `[n]`, n >= 2."""
    if len(difference) < 2:
        raise ValueError("an interval needs at least two seeds")
    half = float(stdtrit(len(difference) - 1, 0.975)) * difference.std().item()
    half /= len(difference) ** 0.5
    return difference.mean().item() - half, difference.mean().item() + half
