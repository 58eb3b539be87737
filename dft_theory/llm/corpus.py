"""The rows of a recipe: which, how long, and in the form that TRL trains on."""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dft_theory.llm.data import DATA_VARIABLE, prompt_ids
from dft_theory.llm.generate import BOXED
from dft_theory.llm.own_data import demonstrations, lines, said
from dft_theory.llm.problems import boxed
from dft_theory.llm.recipe import Corpus
from dft_theory.seeding import numpy_generator

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PREFERENCES = '{"question": "...", "chosen": "...", "rejected": "..."}'


@dataclass(frozen=True)
class Pair:
    """One demonstration (x, y*) as text."""

    question: str
    solution: str

    @property
    def responses(self) -> tuple[str, ...]:
        """What is trained on."""
        return (self.solution,)


@dataclass(frozen=True)
class Asked:
    """A problem and its known answer; the model finds the responses itself."""

    question: str
    answer: str
    responses = ()


@dataclass(frozen=True)
class Preference:
    """Two responses to one question, of which the first is the better."""

    question: str
    chosen: str
    rejected: str

    @property
    def responses(self) -> tuple[str, ...]:
        """What is trained on."""
        return (self.chosen, self.rejected)


Row = Pair | Asked | Preference
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, kw_only=True)
class Public:
    """A corpus on the hub: its columns, and question and solution of a row."""

    columns: str
    question: Callable[[Mapping[str, Any]], Any]
    solution: Callable[[Mapping[str, Any]], Any]
    split: str = "train"
    configuration: str | None = None


PUBLIC = {
    "AI-MO/NuminaMath-CoT": Public(
        columns="problem, solution",
        question=lambda r: r["problem"],
        solution=lambda r: r["solution"],
    ),
    "openai/gsm8k": Public(
        columns="question, answer",
        question=lambda r: r["question"],
        solution=lambda r: r["answer"],
        configuration="main",
    ),
    "Elliott/Openr1-Math-46k-8192": Public(
        columns="prompt (turns, the user's last), target (turns, the assistant's last)",
        question=lambda r: r["prompt"][-1]["content"],
        solution=lambda r: r["target"][-1]["content"],
    ),
    "HuggingFaceH4/ultrafeedback_binarized": Public(
        columns="prompt, chosen (turns, the assistant's last)",
        question=lambda r: r["prompt"],
        solution=lambda r: r["chosen"][-1]["content"],
        split="train_sft",
    ),
    "google-research-datasets/nq_open": Public(
        columns="question, answer (a list, whose first is taken)",
        question=lambda r: r["question"],
        solution=lambda r: r["answer"][0],
    ),
}


def rows(corpus: Corpus) -> Sequence[Row]:
    """The rows that a corpus names, of the kind that it holds.

    Raises: what `load`, `problems` and `preferences` raise.
    """
    match corpus.holds:
        case "problems":
            return problems(corpus)
        case "pairs":
            return preferences(corpus)
    return load(corpus)


def load(corpus: Corpus) -> list[Pair]:
    """The demonstrations that a corpus names.

    `source` is one of

    - `"gsm8k"`, `"sample"` or `"default"`, as in `load_demonstrations`;
    - the path of a `.jsonl` file of any form that `own_data` reads, without a final answer;
    - `"hub:<owner>/<name>"`, of `PUBLIC` or with columns question and answer. Where the variable
      `DFT_THEORY_DATA` names a folder with `<name>/<split>.jsonl`, the same rows as JSON lines,
      that is read; else the hub, over the network, which nothing else here uses.

    "first" takes the first `rows` in stored order, as the paper's code does; "random" draws that
    many, as its text says.
    Raises: ValueError where there are fewer rows than asked for, or a row has no answer or other
    columns; FileNotFoundError; ImportError for the hub without `datasets`.
    """
    if corpus.source.startswith("hub:"):
        pairs = _public(corpus.source.removeprefix("hub:"))
    else:
        source = None if corpus.source == "default" else corpus.source
        pairs = [
            Pair(d.question, d.solution) for d in demonstrations(source, limit=None, seed=None)
        ]
    return _chosen(pairs, corpus)


def problems(corpus: Corpus) -> list[Asked]:
    r"""The questions of a corpus whose answer can be compared: its last \boxed{}, or behind ####.

    In a `.jsonl` file the answer may also stand alone. Rows without one, proofs for instance, are
    left out. The prompt asks for the box, as in the paper's evaluation.
    Raises: ValueError where none has an answer; what `load` raises.
    """
    alone = corpus.source.endswith(".jsonl")
    found = []
    for pair in load(corpus):
        _, mark, last = pair.solution.rpartition("####")
        answer = boxed(pair.solution) or (last.replace(",", "") if mark else last if alone else "")
        if answer.strip():
            found.append(Asked(pair.question + BOXED, answer.strip()))
    if not found:
        raise ValueError(
            f"no row of {corpus.source} has a final answer: end solutions in \\boxed{{...}}, or in "
            "a line '#### <answer>'"
        )
    return found


def preferences(corpus: Corpus) -> list[Preference]:
    """The pairs of a `.jsonl` file, `PREFERENCES` or with "prompt" for "question".

    Raises: FileNotFoundError; ValueError for another source, and for a row that lacks a text or
    whose two responses are the same.
    """
    if not corpus.source.endswith(".jsonl"):
        raise ValueError(f"pairs are read from a .jsonl file, not from {corpus.source}")
    path, found = Path(corpus.source).expanduser(), []
    for number, row in lines(path, PREFERENCES):
        question = row.get("question", row.get("prompt"))
        chosen, rejected = (said(row.get(name), "assistant") for name in ("chosen", "rejected"))
        texts = (said(question, "user"), chosen, rejected)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"{path.name}, line {number}: expected texts {PREFERENCES}")
        if chosen == rejected:
            raise ValueError(f"{path.name}, line {number}: chosen and rejected are the same")
        found.append(Preference(*texts))
    return _chosen(found, corpus)


def _chosen(found: list[R], corpus: Corpus) -> list[R]:
    count = len(found) if corpus.rows is None else corpus.rows
    if count > len(found):
        raise ValueError(f"{corpus.source} has {len(found)} rows, and the recipe asks for {count}")
    if corpus.choice == "first":
        return found[:count]
    order = numpy_generator(0, "corpus", corpus.source).permutation(len(found))[:count]
    return [found[i] for i in order]


def _public(name: str) -> list[Pair]:
    known = PUBLIC.get(name, PUBLIC["openai/gsm8k"])
    stored: Any = _stored(name, known.split)
    if stored is None:
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise ImportError(f"hub:{name} needs datasets: pip install datasets") from error
        configuration = known.configuration if name in PUBLIC else None
        stored = datasets.load_dataset(name, configuration, split=known.split)
    pairs = []
    for number, row in enumerate(stored):
        try:
            pair = Pair(known.question(row), known.solution(row))
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"row {number} of {name} cannot be read ({error!r}): its columns should be "
                f"{known.columns}, and it has {', '.join(row)}"
            ) from error
        for what, text in (("question", pair.question), ("answer", pair.solution)):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"row {number} of {name} has no {what}")
        pairs.append(pair)
    return pairs


def _stored(name: str, split: str) -> list[dict[str, Any]] | None:
    """The user's copy of a public corpus, None where there is none."""
    folder = os.environ.get(DATA_VARIABLE)
    file = Path(folder or ".") / name.rpartition("/")[2] / f"{split}.jsonl"
    if not folder or not file.is_file():
        return None
    return [row for _, row in lines(file, "the rows of the hub as JSON lines")]


@dataclass(frozen=True)
class Fit:
    """How rows fit the length limit, in counts: their responses may lose their end.

    `without_target` have prompts that leave no room: nothing of the response is trained on.
    """

    rows: int
    truncated: int
    without_target: int

    def __str__(self) -> str:
        return (
            f"{self.rows} demonstrations, {self.truncated} longer than the limit, "
            f"{self.without_target} of them without a single target left"
        )


def fit(
    found: Sequence[R], tokenizer: "PreTrainedTokenizerBase", max_length: int, room: int = 1
) -> tuple[list[R], Fit]:
    """The rows whose prompts leave `room` tokens under the limit, and the counts.

    Raises: ValueError where none does, or the tokenizer has no chat template.
    """
    kept, cut, lost = [], 0, 0
    for row in found:
        prompt = len(prompt_ids(row.question, tokenizer))
        encoded = [tokenizer(r, add_special_tokens=False).input_ids for r in row.responses]
        whole = prompt + max((len(ids) + 1 for ids in encoded), default=room)
        cut += whole > max_length
        if prompt + room <= max_length:
            kept.append(row)
        else:
            lost += 1
    counts = Fit(len(found), cut, lost)
    if not kept:
        raise ValueError(
            f"no prompt leaves {room} of max_length = {max_length} tokens: raise it ({counts})"
        )
    return kept, counts


def conversations(found: Sequence[Row]) -> "Dataset":
    """TRL's conversational forms: the chat template and the mask are its work."""
    from datasets import Dataset

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def form(row: Row) -> dict[str, Any]:
        prompt = {"prompt": turn("user", row.question)}
        match row:
            case Pair():
                return prompt | {"completion": turn("assistant", row.solution)}
            case Asked():
                return prompt | {"answer": row.answer}
        return prompt | {
            "chosen": turn("assistant", row.chosen),
            "rejected": turn("assistant", row.rejected),
        }

    return Dataset.from_list([form(row) for row in found])
