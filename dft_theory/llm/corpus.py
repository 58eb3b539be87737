"""The demonstrations of a recipe: which rows, how long, and in the form that TRL trains on."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dft_theory.llm.data import load_demonstrations, prompt_ids
from dft_theory.llm.recipe import Corpus
from dft_theory.seeding import numpy_generator

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# Question and solution of public corpora on the hub; others must have "question" and "answer".
COLUMNS = {
    "AI-MO/NuminaMath-CoT": ("problem", "solution"),
    "openai/gsm8k": ("question", "answer"),
}


@dataclass(frozen=True)
class Pair:
    """One demonstration (x, y*) as text."""

    question: str
    solution: str


def load(corpus: Corpus) -> list[Pair]:
    """The rows that a corpus names.

    "first" takes the first `rows` in stored order, as the paper's code does; "random" draws that
    many, as its text says. The network is used for `hub:` sources alone.
    Raises: ValueError where there are fewer rows than asked for, or a row has no answer; what
    `load_demonstrations` raises for its sources; ImportError for the hub without `datasets`.
    """
    if corpus.source.startswith("hub:"):
        pairs = _from_hub(corpus)
    else:
        found = load_demonstrations(None if corpus.source == "default" else corpus.source)
        pairs = [Pair(d.question, d.solution) for d in found]
    for number, pair in enumerate(pairs):
        if not pair.question.strip() or not pair.solution.strip():
            missing = "answer" if pair.question.strip() else "question"
            raise ValueError(f"row {number} of {corpus.source} has no {missing}")
    rows = len(pairs) if corpus.rows is None else corpus.rows
    if rows > len(pairs):
        raise ValueError(f"{corpus.source} has {len(pairs)} rows, and the recipe asks for {rows}")
    if corpus.choice == "first":
        return pairs[:rows]
    order = numpy_generator(0, "corpus", corpus.source).permutation(len(pairs))[:rows]
    return [pairs[i] for i in order]


def _from_hub(corpus: Corpus) -> list[Pair]:
    name = corpus.source.removeprefix("hub:")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{corpus.source} needs datasets: pip install datasets") from error
    asked, solved = COLUMNS.get(name, ("question", "answer"))
    table = datasets.load_dataset(name, split="train")
    missing = {asked, solved} - set(table.column_names)
    if missing:
        raise ValueError(f"{name} has no column {', '.join(sorted(missing))}")
    pairs = zip(table[asked], table[solved], strict=True)
    return [Pair(str(q or ""), str(s or "")) for q, s in pairs]


@dataclass(frozen=True)
class Fit:
    """How demonstrations fit the length limit, in counts: their solutions may lose their end.

    `without_target` have prompts that fill the limit: nothing of the solution is trained on.
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
    pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[Pair], Fit]:
    """The demonstrations that keep a target under the limit, and the counts.

    Raises: ValueError where none does, or the tokenizer has no chat template.
    """
    kept, cut, lost = [], 0, 0
    for pair in pairs:
        prompt = len(prompt_ids(pair.question, tokenizer))
        whole = prompt + len(tokenizer(pair.solution, add_special_tokens=False).input_ids) + 1
        cut += whole > max_length
        if prompt < max_length:
            kept.append(pair)
        else:
            lost += 1
    found = Fit(len(pairs), cut, lost)
    if not kept:
        raise ValueError(f"no prompt is shorter than max_length = {max_length}: raise it ({found})")
    return kept, found


def conversations(pairs: Sequence[Pair]) -> "Dataset":
    """TRL's conversational prompt-completion form: the chat template and the mask are its work."""
    from datasets import Dataset

    rows: list[dict[str, Any]] = [
        {
            "prompt": [{"role": "user", "content": pair.question}],
            "completion": [{"role": "assistant", "content": pair.solution}],
        }
        for pair in pairs
    ]
    return Dataset.from_list(rows)
