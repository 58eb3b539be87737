"""Problems with a known answer, from the public sets that the paper and its critics evaluate on."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from dft_theory.llm.data import DATA_VARIABLE, SAMPLE_FILES
from dft_theory.seeding import numpy_generator

FORM = '{"id": "...", "question": "...", "answer": "42"}'


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question and the text of its answer, which may be LaTeX or a list."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class ProblemSet:
    """The chosen problems; `rows` and `sha256` are of the whole file."""

    name: str
    items: tuple[Problem, ...]
    sha256: str
    rows: int

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.items)


Row = Mapping[str, Any]


def _number(value: float | str) -> str:
    """5.0 as "5": some files store every answer as a float."""
    return f"{value:g}" if isinstance(value, float) and value == int(value) else str(value)


def _boxed_last(text: str) -> str:
    r"""What stands in the last \boxed{...} of a worked solution."""
    content = boxed(text)
    if content is None:
        raise ValueError("the solution has no \\boxed{...}")
    return content


def boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} with its braces matched; None without a whole one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 0, start + len("\\boxed{")
    for i in range(first - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[first:i]
    return None


def _final(text: str) -> str:
    """What follows `####`, without thousands separators."""
    _, mark, answer = text.rpartition("####")
    if not mark or not answer.strip():
        raise ValueError("the solution has no final answer after ####")
    return answer.strip().replace(",", "")


# For each set: question and answer of a row of its public file.
SETS: dict[str, tuple[Callable[[Row], str], Callable[[Row], str]]] = {
    "gsm8k": (lambda r: r["question"], lambda r: _final(r["answer"])),
    "math500": (lambda r: r["problem"], lambda r: r["answer"]),
    "minerva_math": (lambda r: r["problem"], lambda r: _boxed_last(r["solution"])),
    "olympiadbench": (lambda r: r["question"], lambda r: r["final_answer"][0].replace("$", "")),
    "amc23": (lambda r: r["problem"], lambda r: _number(r["answer"])),
    "aime24": (lambda r: r["problem"], lambda r: _number(r["answer"])),
    "svamp": (
        lambda r: f"{r['Body'].rstrip(' .')}. {r['Question']}",
        lambda r: _number(r["Answer"]),
    ),
    "asdiv": (
        lambda r: f"{r['body']} {r['question']}",
        lambda r: re.sub(r"\s*\([^()]*\)$", "", r["answer"]),  # its unit
    ),
}


def load_problems(
    source: str, *, limit: int | None = None, seed: int | None = None, data: Path | None = None
) -> ProblemSet:
    """The problems of a set in file order, or the first `limit` of a seeded shuffle.

    `source` is a name of `SETS`, read from `<name>/test.jsonl` in the folder `data` (without it the
    one that DFT_THEORY_DATA names); "sample", the word problems of this package; or the path of
    a .jsonl file with an id, a question and an answer a line.

    Raises: FileNotFoundError; ValueError for a line that cannot be read, an answer that is
    missing, or an id used twice.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; leave it out to take every row")
    if source in SETS:
        root = data or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
        path = root / source / "test.jsonl" if root else None
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f"{source} is not part of this package: set {DATA_VARIABLE} to a folder that holds "
                f"{source}/test.jsonl, or take 'sample' (bundled) or the path of a .jsonl file"
            )
        content, (question, answer) = path.read_bytes(), SETS[source]
    elif source == "sample":
        content = (resources.files("dft_theory") / "data" / SAMPLE_FILES["test"]).read_bytes()
        question, answer = SETS["gsm8k"]
    elif source.endswith(".jsonl"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {source}")
        content = path.read_bytes()
        question, answer = (lambda r: r["question"]), (lambda r: str(r["answer"]))
    else:
        known = ", ".join([*SETS, "sample"])
        raise ValueError(f"unknown problems {source!r}: choose {known} or a .jsonl file")
    name = Path(source).stem
    items = _read(content, name, question, answer)
    order = list(range(len(items)))
    if seed is not None:
        order = numpy_generator(seed, "problems", name).permutation(len(items)).tolist()
    return ProblemSet(
        name=name,
        items=tuple(items[i] for i in order[:limit]),
        sha256=hashlib.sha256(content).hexdigest(),
        rows=len(items),
    )


def _read(
    content: bytes, name: str, question: Callable[[Row], str], answer: Callable[[Row], str]
) -> list[Problem]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from None
    found: dict[str, Problem] = {}
    # Not splitlines: JSON strings may hold characters such as U+2028 that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        try:
            row = json.loads(line)
            asked, known = question(row).strip(), answer(row).strip()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{where} cannot be read ({error!r}); a line is {FORM}") from None
        if not asked or not known:
            raise ValueError(f"{where} has no {'answer' if asked else 'question'}")
        named = [row[k] for k in ("id", "unique_id", "ID") if row.get(k) is not None]
        key = str(named[0]) if named else f"{name}-{number}"
        if key in found:
            raise ValueError(f"{where} has the id {key!r} of an earlier line: ids must differ")
        found[key] = Problem(id=key, question=asked, answer=known)
    if not found:
        raise ValueError(f"{name} holds no problem")
    return list(found.values())
