"""What target tokens are for, guessed from their text: the end, format, arithmetic, words."""

import unicodedata
from typing import TYPE_CHECKING

from dft_theory.diagnostics import KINDS
from dft_theory.llm.data import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SIGNS = frozenset("+-*/=<>%^$")


def kinds(tokenizer: "PreTrainedTokenizerBase", ids: set[int]) -> dict[int, int]:
    """An index into KINDS for each token id."""
    end = end_of_turn(tokenizer)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    found = {i: kind_of_text(tokenizer.decode([i])) for i in ids}
    found |= dict.fromkeys(ids & special, "special") | dict.fromkeys(ids & {end}, "end of turn")
    return {i: KINDS.index(kind) for i, kind in found.items()}


def kind_of_text(text: str) -> str:
    """A rough guess: a word, a number or one arithmetic sign, or else format (layout, marks)."""
    core = text.strip()
    groups = {unicodedata.category(c)[0] for c in core}
    if "L" in groups:
        return "word"
    if core in _SIGNS or "N" in groups:
        return "arithmetic"
    return (
        "format"
        if all(c in _SIGNS or unicodedata.category(c)[0] in "PZC" for c in core)
        else "word"
    )
