"""Is a completion's answer right? Two judges, each in a process of its own with a time limit.

The first judge is math-verify. The second follows the documented rules of the Qwen2.5-Math
harness, by which the paper and its follow-ups were scored: the last boxed answer, else what follows
"he answer is", else the last number; equal as text, as numbers within a relative 1e-4 (also a
hundred times more or less, for percents), or symbolically. Where the two disagree is reported:
published scores depend on it. It is a reading of the rules, not the harness's code.
"""

import logging
import math
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass
from typing import Literal

from dft_theory.llm.problems import boxed

Verdict = Literal["right", "wrong", "no answer", "out of time", "answer key unreadable"]


@dataclass(frozen=True)
class Grade:
    """What one judge makes of one completion. `extracted` is the answer it read, if any."""

    verdict: Verdict
    extracted: str | None = None

    @property
    def right(self) -> bool:
        """Whether it counts as solved: running out of time does not."""
        return self.verdict == "right"


def grade(
    pairs: Sequence[tuple[str, str]],
    judges: Sequence[str] = ("math-verify", "harness-rules"),
    *,
    seconds: float = 5.0,
    workers: int = 2,
) -> Iterator[dict[str, Grade]]:
    """Each judge's grade for each (answer key, completion), in order.

    A hung comparison costs `seconds`. Raises: ValueError for an unknown judge; ImportError where
    math-verify is not installed.
    """
    from pebble import ProcessPool

    for name in judges:
        if name not in JUDGES:
            raise ValueError(f"unknown judge {name!r}: choose {' or '.join(JUDGES)}")
    # Killed and replaced where time runs out: sympy does not always listen to an alarm. Spawned,
    # because a fork of a process with threads may hang.
    with ProcessPool(max_workers=workers, context=multiprocessing.get_context("spawn")) as pool:
        pool.schedule(_ready).result()  # the import is not the first comparison's time
        tasks = [(name, *pair) for pair in pairs for name in judges]
        found = pool.map(_one, tasks, timeout=seconds, chunksize=1).result()
        for _ in pairs:
            yield {name: _next(found) for name in judges}


def _ready() -> None:
    """Imports this module and the judges' libraries."""
    import latex2sympy2_extended  # noqa: F401
    import math_verify  # noqa: F401


def _one(task: tuple[str, str, str]) -> Grade:
    judge, key, completion = task
    return JUDGES[judge](key, completion)


def _next(found: Iterator[Grade]) -> Grade:
    try:
        return next(found)
    except OutOfTime:
        return Grade("out of time")


def by_math_verify(key: str, completion: str) -> Grade:
    """math-verify's parser and comparison. Its own alarms stay off: the process is the limit."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that alarms are off
    known = parse(f"\\boxed{{{key}}}", parsing_timeout=None)
    if not known:
        return Grade("answer key unreadable")
    said = parse(completion, parsing_timeout=None)
    if not said:
        return Grade("no answer")
    return Grade(_verdict(verify(known, said, timeout_seconds=None)), str(said[-1]))


def by_harness_rules(key: str, completion: str) -> Grade:
    """The harness's rules, as documented above."""
    known, said = _plain(key), harness_answer(completion)
    if not known:
        return Grade("answer key unreadable")
    if not said:
        return Grade("no answer")
    return Grade(_verdict(_equal(known, said)), said)


def _verdict(equal: bool) -> Verdict:
    return "right" if equal else "wrong"


_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def harness_answer(completion: str) -> str:
    """The answer that the harness would read, in plain form; "" where there is none."""
    found = boxed(completion)
    if found is None and "he answer is" in completion:
        found = completion.rpartition("he answer is")[2].split("\n")[0].strip(" :.$")
    if found is None:
        numbers = _NUMBER.findall(completion)
        found = numbers[-1] if numbers else ""
    return _plain(found)


_DROPPED = re.compile(r"\\left|\\right|\\[!,;: ]|\\(?:d?)displaystyle|\^\{?\\circ\}?|\\?[$%]|\s")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}")


def _plain(text: str) -> str:
    """Without spaces, dollar signs, units of angle, text wrappers and thousands separators."""
    text = _WRAPPED.sub(r"\1", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
    text = _DROPPED.sub("", text).rstrip(".")
    return text.replace(",", "") if _NUMBER.fullmatch(text) else text


def _equal(known: str, said: str) -> bool:
    if known.lower() == said.lower():
        return True
    a, b = _as_number(known), _as_number(said)
    if a is not None and b is not None:
        return any(math.isclose(a, scale * b, rel_tol=1e-4) for scale in (1, 100, 0.01))
    inner = [text[1:-1] for text in (known, said) if text[:1] in "([{" and text[-1:] in ")]}"]
    if len(inner) == 2 and inner[0].count(",") == inner[1].count(","):
        pairs = zip(inner[0].split(","), inner[1].split(","), strict=True)
        return all(_equal(x, y) for x, y in pairs)
    return _same_symbols(known, said)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        fraction = re.fullmatch(r"(-?)\\frac\{?(\d+)\}?\{?(\d+)\}?|(-?\d+)/(\d+)", text)
    if fraction is None:
        return None
    sign, top, bottom, plain_top, plain_bottom = fraction.groups()
    over = float(bottom or plain_bottom)
    value = float(top or plain_top) / over if over else math.nan
    return -value if sign else value


def _same_symbols(known: str, said: str) -> bool:
    from latex2sympy2_extended import latex2sympy
    from sympy import simplify

    try:
        a, b = latex2sympy(known), latex2sympy(said)
        return bool(simplify(a - b) == 0) or math.isclose(float(a), float(b), rel_tol=1e-4)
    except Exception:  # whatever cannot be read as an expression is not equal
        return False


JUDGES: dict[str, Callable[[str, str], Grade]] = {
    "math-verify": by_math_verify,
    "harness-rules": by_harness_rules,
}


def disagreement(first: Iterable[Grade], second: Iterable[Grade]) -> float:
    """Share of completions on which two judges differ in right or not."""
    differ = [a.right != b.right for a, b in zip(first, second, strict=True)]
    if not differ:
        raise ValueError("there is no completion to compare judges on")
    return sum(differ) / len(differ)
