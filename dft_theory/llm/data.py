"""Demonstrations (question, worked solution) and their encoding: prompt masked, response not.

The paper's data are pairs (x, y*). Here x is the user's turn under the tokenizer's chat template,
y* the solution followed by the token that ends the assistant's turn; exactly the positions of y*
carry labels.
"""

import hashlib
import importlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.seeding import numpy_generator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA_VARIABLE = "DFT_THEORY_DATA"
"""Environment variable: a folder that holds `gsm8k/train.jsonl` and `gsm8k/test.jsonl`."""

Split = Literal["train", "test"]
HUB_GSM8K = "hub:openai/gsm8k"
SAMPLE_FILES = {"train": "word_problems.jsonl", "test": "word_problems_test.jsonl"}
FORM = '{"question": "...", "answer": "worked steps\\n#### 42"}'
CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One pair (x, y*): `solution` is the whole worked text, its last line `#### answer`."""

    question: str
    solution: str
    answer: str
    id: str


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """The chosen demonstrations and what a manifest must say of where they came from.

    `rows` and `sha256` describe the whole split, before `limit` and `seed` choose from it; `sha256`
    is that of the file's bytes (for the hub, which has no such file, of the rows as JSON lines).
    """

    items: tuple[Demonstration, ...]
    source: str
    split: str
    licence: str
    sha256: str
    rows: int

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Demonstration]:
        return iter(self.items)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids and labels of one demonstration.

    Shapes: both `[L]`, int64. Labels are unshifted: equal to the ids on the response (solution and
    end of turn), `IGNORE_INDEX` on the prompt.
    """

    input_ids: Tensor
    labels: Tensor


def load_demonstrations(
    source: str | None = None,
    *,
    split: Split = "train",
    limit: int | None = None,
    seed: int | None = None,
) -> Demonstrations:
    """Demonstrations of a source, in file order, or the first `limit` of a seeded shuffle.

    `source` is one of

    - `"gsm8k"`: `gsm8k/<split>.jsonl` in the folder that the variable `DFT_THEORY_DATA` names;
    - `"hub:openai/gsm8k"`: the same from the model hub over the network, with `datasets`;
    - `"sample"`: the word problems that come with this package (68 train, 16 test);
    - the path of a `.jsonl` file with one `{"question", "answer"}` object a line, and an `id` if
      it likes; the answer ends in `#### <final answer>`. Such a file is one split;
    - None: `"gsm8k"` where `DFT_THEORY_DATA` has it, else `"sample"`; `source` of the result says
      which.

    GSM8K's `<<48/2=24>>` marks, orders to a calculator and no part of the prose, are taken out of
    the solution, and thousands separators out of the answer.

    Raises: FileNotFoundError for a source that is not there; ValueError for one that cannot be
    read, with the line; ImportError for the hub without `datasets`.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to take every row")
    if source is None:
        source = "gsm8k" if _gsm8k_file(split) is not None else "sample"

    if source == "gsm8k":
        name, licence, label = "gsm8k", "MIT", f"gsm8k-{split}"
        file = _gsm8k_file(split)
        if file is None:
            raise FileNotFoundError(
                f"GSM8K is not part of this package: set {DATA_VARIABLE} to a folder that holds "
                f"gsm8k/{split}.jsonl, or ask for {HUB_GSM8K!r} (network) or 'sample' (bundled)"
            )
        content = file.read_bytes()
    elif source == HUB_GSM8K:
        name, licence, label = source, "MIT", f"gsm8k-{split}"
        content = _from_hub(split)
    elif source == "sample":
        name, licence, label = "sample", "Apache-2.0", f"sample-{split}"
        content = (resources.files("dft_theory") / "data" / SAMPLE_FILES[split]).read_bytes()
    elif source.endswith(".jsonl"):
        if split != "train":
            raise ValueError(
                f"{source} is one split by itself: give the path of the test file, without `split`"
            )
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {source}: give the path of a .jsonl file")
        # The name only: a manifest is read on other machines, where the folder means nothing.
        name, licence, label = path.name, "unknown", path.stem
        content = path.read_bytes()
    else:
        raise ValueError(
            f"unknown source {source!r}: choose 'gsm8k', 'sample', {HUB_GSM8K!r} "
            "or the path of a .jsonl file"
        )

    rows = _parse(content, name=name, label=label)
    order = list(range(len(rows)))
    if seed is not None:
        order = numpy_generator(seed, "demonstrations", split).permutation(len(rows)).tolist()
    return Demonstrations(
        items=tuple(rows[i] for i in order[:limit]),
        source=name,
        split=split,
        licence=licence,
        sha256=hashlib.sha256(content).hexdigest(),
        rows=len(rows),
    )


def prompt_ids(question: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The prompt x: the user's turn under the chat template, up to where the assistant starts.

    Raises: ValueError for a tokenizer without a chat template.
    """
    _check_template(tokenizer)
    turn = [{"role": "user", "content": question}]
    ids: list[int] = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return ids


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends an assistant's turn: the first special one behind it in the template.

    Read from the template because `eos_token` is another token in some model families.

    Raises: ValueError for a template that has no such token.
    """
    _check_template(tokenizer)
    content = "the last words"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    behind = text.rpartition(content)[2]
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(behind, add_special_tokens=False).input_ids:
        if token in added and added[token].special:
            return int(token)
    raise ValueError(
        f"the chat template puts no special token behind the assistant's turn, only {behind!r}: "
        "a model trained on it could not learn to stop"
    )


def encode(demonstration: Demonstration, tokenizer: "PreTrainedTokenizerBase") -> Encoded:
    """Prompt x, then response y* = solution and end of turn; labels on the response alone.

    The mask is made by position: the end of turn may be the padding token as well, and a mask made
    by its id would never teach the model to stop.

    Shapes: `[L]` each. Raises: ValueError for a tokenizer without a usable chat template.
    """
    prompt = prompt_ids(demonstration.question, tokenizer)
    solution = tokenizer(demonstration.solution, add_special_tokens=False).input_ids
    response = [*solution, end_of_turn(tokenizer)]
    return Encoded(
        input_ids=torch.tensor(prompt + response),
        labels=torch.tensor([IGNORE_INDEX] * len(prompt) + response),
    )


def collate(batch: Sequence[Encoded], *, pad_id: int) -> dict[str, Tensor]:
    """One right-padded batch, its attention mask and labels made from the lengths, never from ids.

    Shapes: `input_ids`, `attention_mask`, `labels` `[B, T]` int64, T the longest L of the batch.
    Raises: ValueError for an empty batch.
    """
    if not batch:
        raise ValueError("cannot collate an empty batch")
    ids = [e.input_ids for e in batch]
    ones = [torch.ones_like(e.input_ids) for e in batch]
    labels = [e.labels for e in batch]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_id),
        "attention_mask": pad_sequence(ones, batch_first=True, padding_value=0),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX),
    }


def _check_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    if tokenizer.chat_template is None:
        raise ValueError(
            "this tokenizer has no chat template: take an instruction-tuned model, "
            "or set `tokenizer.chat_template`"
        )


def _gsm8k_file(split: str) -> Path | None:
    """GSM8K's file in the user's data folder, None where the variable is unset or it has none."""
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{DATA_VARIABLE} names {folder}, which is not a folder: correct it or unset it"
        )
    file = Path(folder) / "gsm8k" / f"{split}.jsonl"
    return file if file.is_file() else None


def _from_hub(split: str) -> bytes:
    """GSM8K's rows from the hub, written as the JSON lines that `_parse` reads."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"{HUB_GSM8K!r} needs the `datasets` package: pip install datasets, "
            f"or set {DATA_VARIABLE} to a folder that holds gsm8k/{split}.jsonl"
        ) from error
    rows = datasets.load_dataset("openai/gsm8k", "main", split=split)
    lines = [
        json.dumps({"question": row["question"], "answer": row["answer"]}, ensure_ascii=False)
        for row in rows
    ]
    return "\n".join(lines).encode()


def _parse(content: bytes, *, name: str, label: str) -> list[Demonstration]:
    """JSON lines to demonstrations; `name` is for messages, `label` numbers rows without an id."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"{name}, line {line}: not UTF-8; save the file as UTF-8") from error
    rows: list[Demonstration] = []
    seen: dict[str, int] = {}
    # Not splitlines: JSON strings may hold characters such as U+2028 that it takes for line ends.
    for number, line_text in enumerate(text.split("\n"), 1):
        if not line_text.strip():
            continue
        row = _row(line_text, where=f"{name}, line {number}", default_id=f"{label}-{number}")
        if row.id in seen:
            raise ValueError(
                f"{name}, line {number}: id {row.id!r} already stands in line {seen[row.id]}; "
                "make the ids distinct or leave them out"
            )
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"{name} holds no rows: expected one {FORM} a line")
    return rows


def _row(text: str, *, where: str, default_id: str) -> Demonstration:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); expected {FORM}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object {FORM}, got {type(row).__name__}")
    for field in ("question", "answer"):
        value = row.get(field)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: field {field!r} must be a text; expected {FORM}")
    solution = CALCULATOR_MARK.sub("", row["answer"]).strip()
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise ValueError(f"{where}: no final answer; end the answer with a line '#### <number>'")
    return Demonstration(
        question=row["question"].strip(),
        solution=solution,
        answer=answer.strip().replace(",", ""),
        id=str(row.get("id", default_id)),
    )
