"""Public files read as they are, by their documented variable; what cannot be read is named."""

import json

import pytest

from dft_theory.llm.problems import SETS, boxed, load_problems

ROWS = {
    "gsm8k": {"question": "How many?", "answer": "2 + 2 = <<2+2=4>>4\n#### 1,204"},
    "math500": {"problem": "Solve.", "answer": "\\frac{1}{2}", "unique_id": "test/7.json"},
    "minerva_math": {"problem": "Find it.", "solution": "$\\boxed{1}$ or $\\boxed{\\sqrt{2}}$"},
    "olympiadbench": {"id": 16, "question": "Prove?", "final_answer": ["$69$,$84$"]},
    "amc23": {"id": 0, "problem": "Cities.", "answer": 27.0},
    "aime24": {"id": 60, "problem": "Walk.", "answer": "204"},
    "svamp": {"ID": "chal-1", "Body": "He had 4", "Question": "How many left?", "Answer": 0.5},
    "asdiv": {"body": "Nine.", "question": "How many?", "answer": "9 (red apples)"},
}
READ = {
    "gsm8k": ("gsm8k-1", "How many?", "1204"),
    "math500": ("test/7.json", "Solve.", "\\frac{1}{2}"),
    "minerva_math": ("minerva_math-1", "Find it.", "\\sqrt{2}"),
    "olympiadbench": ("16", "Prove?", "69,84"),
    "amc23": ("0", "Cities.", "27"),
    "aime24": ("60", "Walk.", "204"),
    "svamp": ("chal-1", "He had 4. How many left?", "0.5"),
    "asdiv": ("asdiv-1", "Nine. How many?", "9"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, row in ROWS.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("DFT_THEORY_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_in_its_own_form(folder, name):
    [problem] = load_problems(name).items
    assert (problem.id, problem.question, problem.answer) == READ[name]


def test_a_limit_takes_the_first_of_a_seeded_shuffle(tmp_path):
    file = tmp_path / "mine.jsonl"
    lines = [{"id": i, "question": f"{i}?", "answer": i} for i in range(20)]
    file.write_text("\n".join(map(json.dumps, lines)))
    first = load_problems(str(file), limit=5)
    assert [p.id for p in first] == list("01234")
    shuffled = load_problems(str(file), limit=5, seed=1)
    assert [p.id for p in shuffled] == [p.id for p in load_problems(str(file), seed=1)][:5]
    assert [p.id for p in shuffled] != [p.id for p in first]
    assert (first.rows, len(first)) == (20, 5)


def test_the_bundled_sample_needs_no_folder(monkeypatch):
    monkeypatch.delenv("DFT_THEORY_DATA", raising=False)
    assert len(load_problems("sample")) == 16
    with pytest.raises(FileNotFoundError, match="set DFT_THEORY_DATA"):
        load_problems("math500")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a?"}', "line 1 of mine cannot be read"),
        ('{"question": "a?", "answer": ""}', "line 1 of mine has no answer"),
        ('{"question": "", "answer": "1"}', "has no question"),
        ("not json", "cannot be read"),
        ('{"id": 1, "question": "a?", "answer": "1"}\n' * 2, "ids must differ"),
        ("\n", "holds no problem"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, text, message):
    (tmp_path / "mine.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_problems(str(tmp_path / "mine.jsonl"))


def test_what_is_no_text_or_no_set_is_refused(tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(b'{"question": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        load_problems(str(tmp_path / "mine.jsonl"))
    with pytest.raises(FileNotFoundError, match="no file"):
        load_problems(str(tmp_path / "other.jsonl"))
    with pytest.raises(ValueError, match="choose gsm8k"):
        load_problems("gsm9k")
    with pytest.raises(ValueError, match="at least 1"):
        load_problems("sample", limit=0)


def test_boxes_nest_and_the_last_counts():
    assert boxed("\\boxed{1} then \\boxed{\\frac{1}{2}} end") == "\\frac{1}{2}"
    assert boxed("\\boxed{\\frac{1}{2}") is None
    assert boxed("none") is None
