"""Scores against counting by hand; generation resumes, and refuses another question's folder."""

import json
from dataclasses import replace

import pytest

from dft_theory.llm.corpus import rows
from dft_theory.llm.evaluation import compare, evaluate, scores, training_data
from dft_theory.llm.generate import Completion, Drawn, Sampling, generate, read
from dft_theory.llm.grade import Grade
from dft_theory.llm.problems import load_problems
from dft_theory.llm.recipe import Corpus

RIGHT, WRONG = "\\boxed{1}", "\\boxed{2}"


def completion(problem: str, sample: int, text: str, **more) -> Completion:
    made = Completion(
        id=problem, sample=sample, question="?", answer="1", text=text, tokens=10, finished=True
    )
    return replace(made, **more)


def graded(text: str) -> Grade:
    return Grade("right" if text == RIGHT else "wrong", text[7:-1])


TEXTS = {"a": [RIGHT] * 4, "b": [RIGHT, WRONG, WRONG, WRONG], "c": [WRONG, RIGHT, RIGHT, RIGHT]}
DONE = [completion(i, k, t) for i, texts in TEXTS.items() for k, t in enumerate(texts)]
GRADES = [graded(c.text) for c in DONE]


def test_scores_are_what_counting_gives():
    found = evaluate(DONE, GRADES)
    assert (found.problems, found.samples) == (3, 4)
    assert found.average.mean == pytest.approx(8 / 12)
    assert found.pass_at[2].mean == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.pass_at[4].mean == 1
    assert found.majority.mean == pytest.approx(2 / 3)
    assert (found.truncated, found.boxed, found.tokens) == (0, 1, 10)
    assert found.judges_differ is None
    json.dumps(found.as_json())


def test_truncation_boxes_and_judges_are_counted_apart():
    cut = [replace(DONE[0], finished=False, text="no box"), *DONE[1:]]
    other = [Grade("wrong"), *GRADES[1:]]
    found = evaluate(cut, GRADES, other)
    assert found.truncated == pytest.approx(1 / 12)
    assert found.boxed == pytest.approx(11 / 12)
    assert found.judges_differ == pytest.approx(1 / 12)


def test_an_unreadable_key_is_left_out_and_counted():
    grades = [Grade("answer key unreadable") if c.id == "b" else graded(c.text) for c in DONE]
    found = evaluate(DONE, grades)
    assert (found.problems, found.unreadable) == (2, 1)
    assert found.average.mean == pytest.approx(7 / 8)


def test_what_does_not_match_is_refused():
    with pytest.raises(ValueError, match="11 grades do not fit 12"):
        evaluate(DONE, GRADES[1:])
    with pytest.raises(ValueError, match="not complete"):
        evaluate(DONE[1:], GRADES[1:])
    with pytest.raises(ValueError, match="1 problems are in one run only, such as c"):
        compare(scores(DONE, GRADES), scores(DONE[:8], GRADES[:8]))


def test_runs_are_compared_problem_by_problem():
    worse = [replace(c, text=WRONG) if c.id == "a" else c for c in DONE]
    found = compare(scores(DONE, GRADES), scores(worse, [graded(c.text) for c in worse]))
    assert found.difference.mean == pytest.approx(1 / 3)


# --- generation with an engine that counts ------------------------------------------------------


class Counting:
    """A stand-in for a model: it says the seed, and counts what it was asked."""

    def __init__(self, name: str = "counting") -> None:
        self.asked: list[str] = []
        self.name = name

    def about(self) -> dict[str, str]:
        return {"model": self.name, "revision": "1", "engine": "stand-in"}

    def chat(self, question: str) -> list[int]:
        self.asked.append(question)
        return [len(question)]

    def draw(self, prompts, sampling, seed):
        return [[Drawn(f"{seed}\u2028{p}{k}", 3, k == 0) for k in range(2)] for p in prompts]


SAMPLING = Sampling(samples=2, instruction=" Think.", max_new_tokens=8)


def test_an_interrupted_generation_goes_on_and_gives_the_same(tmp_path):
    problems = load_problems("sample", limit=5)
    whole = generate(Counting(), problems, SAMPLING, tmp_path / "a", part=2)
    assert [(c.id, c.sample) for c in whole] == [(p.id, k) for p in problems for k in (0, 1)]
    assert [c.finished for c in whole[:2]] == [True, False]
    generate(Counting(), problems, SAMPLING, tmp_path / "b", part=2)
    (tmp_path / "b" / "part-00001.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="goes on from there"):
        list(read(tmp_path / "b"))
    engine = Counting()
    assert generate(engine, problems, SAMPLING, tmp_path / "b", part=2) == whole
    assert engine.asked == [p.question + " Think." for p in problems.items[2:4]]


def test_a_folder_of_something_else_is_refused(tmp_path):
    problems = load_problems("sample", limit=2)
    generate(Counting(), problems, SAMPLING, tmp_path)
    with pytest.raises(ValueError, match="differ in model"):
        generate(Counting("other"), problems, SAMPLING, tmp_path)
    with pytest.raises(ValueError, match="differ in sampling"):
        generate(Counting(), problems, replace(SAMPLING, seed=1), tmp_path)


def test_a_graded_folder_gives_what_to_train_on(tmp_path):
    problems = load_problems("sample", limit=3)
    generate(Counting(), problems, SAMPLING, tmp_path)
    with pytest.raises(FileNotFoundError, match="is not graded yet"):
        training_data(tmp_path)
    # Of each problem the first sample ends by itself: both right, one of each, both wrong.
    verdicts = ["right", "right", "right", "wrong", "wrong", "no answer"]
    lines = [json.dumps({"math-verify": {"verdict": v}}) + "\n" for v in verdicts]
    (tmp_path / "grades.jsonl").write_text("".join(lines))
    files = training_data(tmp_path)
    assert {file.name: rows for file, rows in files.items()} == {
        "accepted-samples.jsonl": 2,
        "preference-pairs.jsonl": 1,
    }
    accepted, pairs = (str(file) for file in files)
    told = rows(Corpus(source=accepted))
    texts = [c.text for c in read(tmp_path)]
    assert [p.solution for p in told] == [texts[0], texts[2]]
    assert [p.question for p in told] == [p.question for p in problems.items[:2]]
    (pair,) = rows(Corpus(source=pairs, holds="pairs"))
    assert (pair.chosen, pair.rejected) == (texts[2], texts[3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "greedy decoding has one answer"),
        ({"temperature": -1.0}, "at least 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_sampling_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)
