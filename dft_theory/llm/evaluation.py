"""Graded completions in numbers: accuracies with intervals, and what a single score hides."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dft_theory.llm.generate import Completion, Engine, generate, read
from dft_theory.llm.grade import JUDGES, Grade, disagreement, grade
from dft_theory.llm.problems import load_problems
from dft_theory.llm.recipe import Exam
from dft_theory.results import write_json, write_text
from dft_theory.statistics import Interval, Paired, bootstrap, paired, pass_at_k

COLUMNS = (
    "average: share of right samples, the mean over problems and its 95 % interval; pass@k: of k "
    "samples one is right; majority: the most frequent answer is right; truncated: cut at the "
    "limit of tokens; boxed: has \\boxed{}; tokens: mean length; judges differ: on so many "
    "samples math-verify, which counts, and the harness's rules disagree"
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """n problems with k samples each, by the first judge; intervals are over problems.

    `average` is avg@k, the paper's score at temperature 1 and plain accuracy when greedy;
    `majority` counts a problem whose most frequent answer is right (ties: the first one);
    `truncated`, `boxed` and `tokens` are shares of completions and their mean length;
    `judges_differ` is the share of completions on which a second judge disagrees.
    """

    problems: int
    samples: int
    average: Interval
    pass_at: dict[int, Interval]
    majority: Interval
    truncated: float
    boxed: float
    tokens: float
    unreadable: int
    out_of_time: int
    judges_differ: float | None

    def as_json(self) -> dict[str, object]:
        """Plain JSON values."""
        return {**asdict(self), "pass_at": {str(k): asdict(v) for k, v in self.pass_at.items()}}

    def __str__(self) -> str:
        passes = "  ".join(f"pass@{k} {v.mean:.3f}" for k, v in self.pass_at.items())
        differ = "" if self.judges_differ is None else f"  judges differ {self.judges_differ:.1%}"
        return (
            f"{self.problems} problems x {self.samples}: average {self.average}  {passes}  "
            f"majority {self.majority.mean:.3f}  truncated {self.truncated:.1%}  "
            f"boxed {self.boxed:.1%}  {self.tokens:.0f} tokens{differ}"
        )


def evaluate(
    completions: Sequence[Completion],
    grades: Sequence[Grade],
    second: Sequence[Grade] | None = None,
    *,
    seed: int = 0,
) -> Evaluation:
    """Numbers of completions whose grades stand in the same order.

    Problems whose answer key a judge cannot read are counted and left out of the scores.
    Raises: ValueError where completions and grades do not match or problems have different
    numbers of samples.
    """
    by_problem = _by_problem(completions, grades)
    readable = [g for g in by_problem if g[0][1].verdict != "answer key unreadable"]
    if len(readable) < 2:
        raise ValueError("fewer than two problems have an answer key that can be read")
    right = np.array([[grade.right for _, grade in group] for group in readable])
    k = right.shape[1]
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256) if 1 < n <= k]
    return Evaluation(
        problems=len(readable),
        samples=k,
        average=bootstrap(right.mean(1), seed=seed),
        pass_at={n: bootstrap(pass_at_k(k, right.sum(1), n), seed=seed) for n in sizes},
        majority=bootstrap([_majority(group) for group in readable], seed=seed),
        truncated=float(np.mean([not c.finished for c in completions])),
        boxed=float(np.mean(["\\boxed{" in c.text for c in completions])),
        tokens=float(np.mean([c.tokens for c in completions])),
        unreadable=len(by_problem) - len(readable),
        out_of_time=sum(g.verdict == "out of time" for g in grades),
        judges_differ=None if second is None else disagreement(grades, second),
    )


def scores(completions: Sequence[Completion], grades: Sequence[Grade]) -> dict[str, float]:
    """Share of right samples of each problem, by id."""
    groups = _by_problem(completions, grades)
    return {g[0][0].id: float(np.mean([grade.right for _, grade in g])) for g in groups}


def compare(a: dict[str, float], b: dict[str, float], *, seed: int = 0) -> Paired:
    """Scores a - b, paired by problem. Raises: ValueError where the problems are not the same."""
    if a.keys() != b.keys():
        only = sorted(a.keys() ^ b.keys())
        raise ValueError(f"{len(only)} problems are in one run only, such as {only[0]}")
    first, second = (np.array([s[i] for i in a]) for s in (a, b))
    return paired(first, second, seed=seed)


def grade_folder(folder: Path, *, seconds: float = 5.0, workers: int = 2) -> Evaluation:
    """Both judges on the completions of a folder; it gets grades.jsonl and evaluation.json."""
    completions = list(read(folder))
    judged = list(
        tqdm(
            grade([(c.answer, c.text) for c in completions], seconds=seconds, workers=workers),
            total=len(completions),
            desc="grading",
            disable=None,
            leave=False,
        )
    )
    lines = [
        {"id": c.id, "sample": c.sample} | {judge: asdict(g) for judge, g in each.items()}
        for c, each in zip(completions, judged, strict=True)
    ]
    write_text(folder / "grades.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    first, second = ([each[judge] for each in judged] for judge in JUDGES)
    found = evaluate(completions, first, second)
    write_json(folder / "evaluation.json", found.as_json())
    return found


def examine(exam: Exam, engine: Engine, folder: Path) -> dict[str, Evaluation]:
    """The problem sets of an exam by name: generated and graded, each in a folder of its own.

    What is there already is not drawn again. Raises: as `load_problems`, `generate`, `grade`.
    """
    found = {}
    for name in exam.problems:
        problems = load_problems(name, limit=exam.limit)
        generate(engine, problems, exam.sampling, folder / problems.name)
        found[problems.name] = grade_folder(folder / problems.name)
    return found


def training_data(folder: Path) -> dict[Path, int]:
    """What a graded folder gives to train on, and how many rows: what is right, and pairs of both.

    `accepted-samples.jsonl` has every completion that math-verify accepts and that ended by itself,
    `preference-pairs.jsonl` the first of them against the first that is wrong, one pair a problem.
    Raises: FileNotFoundError before it is graded.
    """
    accepted: list[dict[str, str]] = []
    pairs: list[dict[str, str]] = []
    for group in _by_problem(*_graded(folder)):
        right = [c.text for c, g in group if g.right and c.finished and c.text.strip()]
        wrong = [c.text for c, g in group if g.verdict == "wrong" and c.text.strip()]
        question = group[0][0].question
        accepted += [{"question": question, "answer": text} for text in right]
        if right and wrong:
            pairs.append({"question": question, "chosen": right[0], "rejected": wrong[0]})
    found = {"accepted-samples.jsonl": accepted, "preference-pairs.jsonl": pairs}
    for name, rows in found.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(folder / name, "".join(lines))
    return {folder / name: len(rows) for name, rows in found.items()}


def folder_scores(folder: Path) -> dict[str, float]:
    """`scores` of a graded folder by math-verify. Raises: FileNotFoundError before it is graded."""
    return scores(*_graded(folder))


Group = list[tuple[Completion, Grade]]


def _graded(folder: Path) -> tuple[list[Completion], list[Grade]]:
    file = folder / "grades.jsonl"
    if not file.exists():
        raise FileNotFoundError(f"{folder} is not graded yet: dft-theory grade {folder}")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list(read(folder)), [Grade(**line["math-verify"]) for line in lines]


def _by_problem(completions: Sequence[Completion], grades: Sequence[Grade]) -> list[Group]:
    if len(completions) != len(grades):
        raise ValueError(f"{len(grades)} grades do not fit {len(completions)} completions")
    groups: dict[str, Group] = {}
    for pair in zip(completions, grades, strict=True):
        groups.setdefault(pair[0].id, []).append(pair)
    if len({len(group) for group in groups.values()}) != 1:
        raise ValueError("problems have different numbers of samples: generation is not complete")
    return list(groups.values())


def _majority(group: Group) -> float:
    answers = [grade.extracted for _, grade in group if grade.extracted is not None]
    if not answers:
        return 0.0
    chosen = Counter(answers).most_common(1)[0][0]
    return float(next(g.right for _, g in group if g.extracted == chosen))
