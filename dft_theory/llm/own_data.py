"""Demonstrations as people keep them: JSON lines under the usual names, no final answer needed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dft_theory.llm.data import Demonstration, Demonstrations, load_demonstrations
from dft_theory.seeding import numpy_generator

# Where the two halves of a demonstration stand; the first pair that a line has is taken.
PAIRS = (
    ("question", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("problem", "solution"),
)
FORMS = ", ".join(f'{{"{a}", "{b}"}}' for a, b in PAIRS) + ' or {"messages": [user, assistant]}'


def demonstrations(source: str | None, *, limit: int | None, seed: int | None) -> Demonstrations:
    """What `source` names: as `load_demonstrations`, but a `.jsonl` file may be of any usual form.

    A line is an object under one of `PAIRS`, or `messages` with one user's and one assistant's
    turn; further names are ignored. `limit` and `seed` as there.

    Raises: FileNotFoundError for a file that is not there; ValueError for one that cannot be read,
    with the line.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; a large one takes every row")
    if source is None or not source.endswith(".jsonl"):
        return load_demonstrations(source, limit=limit, seed=seed)
    path = Path(source).expanduser()
    rows = [_row(row, path.name, number) for number, row in lines(path, FORMS)]
    order = list(range(len(rows)))
    if seed is not None:
        order = numpy_generator(seed, "demonstrations", "train").permutation(len(rows)).tolist()
    return Demonstrations(
        items=tuple(rows[i] for i in order[:limit]),
        source=path.name,
        split="train",
        licence="unknown",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows=len(rows),
    )


def lines(path: Path, forms: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with the numbers of their lines; `forms` for messages.

    Raises: FileNotFoundError; ValueError for a file that is not UTF-8 or empty, and for a line that
    is no object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the path of a .jsonl file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8: save the file as UTF-8") from error
    found = []
    # Not splitlines: JSON strings may hold characters such as U+2028 that it takes for line ends.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}); expected {forms}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object, {forms}, got {type(row).__name__}")
        found.append((number, row))
    if not found:
        raise ValueError(f"{path.name} holds no rows: expected, one a line, {forms}")
    return found


def _row(row: dict[str, Any], name: str, number: int) -> Demonstration:
    where = f"{name}, line {number}"
    if "messages" in row:
        question, answer = _turns(row["messages"], where)
    else:
        pair = next((p for p in PAIRS if p[0] in row and p[1] in row), None)
        if pair is None:
            raise ValueError(f"{where}: no question with an answer: expected {FORMS}")
        question, answer = said(row[pair[0]], "user"), said(row[pair[1]], "assistant")
    for what, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{where}: the {what} is empty or no text; fill it or drop the line")
    return Demonstration(
        question=question.strip(), solution=answer.strip(), answer="", id=f"{name}-{number}"
    )


def said(value: Any, role: str) -> Any:
    """The text of a chat's only turn, where `value` is a list of one turn in that role."""
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)
    return value[0].get("content") if one and value[0].get("role") == role else value


def _turns(messages: Any, where: str) -> tuple[Any, Any]:
    """The user's and the assistant's turn."""
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages or ()]
    if roles != ["user", "assistant"]:
        raise ValueError(
            f"{where}: messages must be one user's and one assistant's turn, got {roles}: "
            "cut longer conversations into such pairs"
        )
    return messages[0].get("content"), messages[1].get("content")
