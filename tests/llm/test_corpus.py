"""The forms in which demonstrations come: public corpora, files of one's own, and what is wrong."""

import json
from types import SimpleNamespace

import pytest

from dft_theory.llm import corpus as corpus_
from dft_theory.llm.corpus import PUBLIC, Asked, Pair, conversations, load, problems
from dft_theory.llm.recipe import Corpus

# A row of each public corpus, with its columns as they are there.
ROWS = {
    "AI-MO/NuminaMath-CoT": {
        "source": "synthetic_math",
        "problem": "1+1?",
        "solution": "It is $\\boxed{2}$.",
        "messages": [],
    },
    "openai/gsm8k": {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "Elliott/Openr1-Math-46k-8192": {
        "data_source": "openr1",
        "prompt": [
            {"role": "system", "content": "Think first."},
            {"role": "user", "content": "1+1?"},
        ],
        "target": [{"role": "assistant", "content": "<think>\nhm\n</think>\nIt is $\\boxed{2}$."}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
    },
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "1+1?",
        "prompt_id": "a",
        "chosen": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "It is 2."},
        ],
        "rejected": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "It is 3."},
        ],
    },
    "google-research-datasets/nq_open": {"question": "1+1?", "answer": ["2", "two"]},
}
SAID = {
    "AI-MO/NuminaMath-CoT": "It is $\\boxed{2}$.",
    "openai/gsm8k": "1+1=<<1+1=2>>2\n#### 2",
    "Elliott/Openr1-Math-46k-8192": "<think>\nhm\n</think>\nIt is $\\boxed{2}$.",
    "HuggingFaceH4/ultrafeedback_binarized": "It is 2.",
    "google-research-datasets/nq_open": "2",
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Rows of a public corpus, as JSON lines where DFT_THEORY_DATA says."""
    monkeypatch.setenv("DFT_THEORY_DATA", str(tmp_path))

    def write(name, *found):
        file = tmp_path / name.rpartition("/")[2] / f"{PUBLIC[name].split}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in found))
        return Corpus(source=f"hub:{name}")

    return write


@pytest.fixture
def no_hub(monkeypatch):
    """A hub that answers with the rows above, and says how it was asked."""
    asked = []

    def load_dataset(name, configuration=None, *, split):
        asked.append((name, configuration, split))
        return [ROWS.get(name, {"question": "2+2?", "answer": "4"})]

    hub = SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.delenv("DFT_THEORY_DATA", raising=False)
    monkeypatch.setattr(corpus_.importlib, "import_module", lambda _: hub)
    return asked


@pytest.mark.parametrize("name", PUBLIC)
def test_public_corpora_are_read_from_one_s_own_copy(store, name):
    (pair,) = load(store(name, ROWS[name]))
    assert pair == Pair("1+1?", SAID[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_without_a_copy_they_come_from_the_hub(no_hub, name):
    assert load(Corpus(source=f"hub:{name}")) == [Pair("1+1?", SAID[name])]
    known = PUBLIC[name]
    assert no_hub == [(name, known.configuration, known.split)]


def test_other_corpora_need_question_and_answer(no_hub):
    assert load(Corpus(source="hub:me/mine")) == [Pair("2+2?", "4")]
    assert no_hub == [("me/mine", None, "train")]


@pytest.mark.parametrize("name", PUBLIC)
def test_other_columns_are_said_with_those_expected(store, name):
    corpus = store(name, ROWS[name], {"text": "1+1?"})
    with pytest.raises(ValueError, match="row 1 of .*its columns should be .*and it has text"):
        load(corpus)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("google-research-datasets/nq_open", {"question": "?", "answer": []}, "IndexError"),
        ("google-research-datasets/nq_open", {"question": "", "answer": ["2"]}, "no question"),
        ("AI-MO/NuminaMath-CoT", {"problem": "?", "solution": None}, "row 0 of .* has no answer"),
        ("Elliott/Openr1-Math-46k-8192", {"prompt": "1+1?", "target": "2"}, "TypeError"),
    ],
)
def test_rows_without_a_half_are_refused(store, name, row, message):
    with pytest.raises(ValueError, match=message):
        load(store(name, row))


FORMS = [
    {"question": "1+1?", "answer": "It is 2."},
    {"instruction": "1+1?", "output": "It is 2."},
    {
        "messages": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "It is 2."},
        ]
    },
    {
        "prompt": [{"role": "user", "content": "1+1?"}],
        "completion": [{"role": "assistant", "content": "It is 2."}],
    },
]


@pytest.mark.parametrize("row", FORMS, ids=lambda row: "-".join(row))
def test_a_file_of_one_s_own_needs_no_final_answer(tmp_path, row):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert load(Corpus(source=str(file))) == [Pair("1+1?", "It is 2.")]


def test_a_turn_in_the_wrong_role_is_no_answer(tmp_path):
    file = tmp_path / "mine.jsonl"
    turned = {"prompt": [{"role": "assistant", "content": "2"}], "completion": "1+1?"}
    file.write_text(json.dumps(turned) + "\n")
    with pytest.raises(ValueError, match="line 1: the question is empty or no text"):
        load(Corpus(source=str(file)))


def test_first_rows_and_a_draw_of_them(store):
    name = "google-research-datasets/nq_open"
    corpus = store(name, *({"question": f"{n}?", "answer": [str(n)]} for n in range(20)))
    first = load(Corpus(source=corpus.source, rows=5))
    drawn = load(Corpus(source=corpus.source, rows=5, choice="random"))
    assert [p.solution for p in first] == ["0", "1", "2", "3", "4"]
    assert drawn != first
    assert drawn == load(Corpus(source=corpus.source, rows=5, choice="random"))
    with pytest.raises(ValueError, match="has 20 rows, and the recipe asks for 21"):
        load(Corpus(source=corpus.source, rows=21))


def test_problems_are_what_has_a_final_answer(store, tmp_path):
    boxed = ROWS["AI-MO/NuminaMath-CoT"]
    proof = boxed | {"solution": "Clear."}
    found = problems(store("AI-MO/NuminaMath-CoT", proof, boxed))
    assert [p.answer for p in found] == ["2"]
    assert found[0].question.startswith("1+1?\n")
    assert "\\boxed{}" in found[0].question
    with pytest.raises(ValueError, match="no row of .* has a final answer"):
        problems(store("AI-MO/NuminaMath-CoT", proof))
    marked = {"question": "?", "answer": "so\n#### 1,200"}
    assert [p.answer for p in problems(store("openai/gsm8k", marked))] == ["1200"]
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "?", "answer": "\\frac{1}{2}"}) + "\n")
    assert [p.answer for p in problems(Corpus(source=str(file)))] == ["\\frac{1}{2}"]


def test_rows_become_the_forms_that_trl_trains_on():
    row = conversations([Asked("1+1?", "2")])[0]
    assert row == {"prompt": [{"role": "user", "content": "1+1?"}], "answer": "2"}
    row = conversations([Pair("1+1?", "2")])[0]
    assert row["completion"] == [{"role": "assistant", "content": "2"}]
