"""Real language models: the only part of the package that imports the Hugging Face stack.

Nothing here imports it before a function needs it.
"""

from dft_theory.llm.data import (
    Demonstration,
    Demonstrations,
    Encoded,
    collate,
    encode,
    load_demonstrations,
)
from dft_theory.llm.loss_adapter import loss_function
from dft_theory.llm.pretrained import MissingModelError, Pretrained, load_pretrained

__all__ = [
    "Demonstration",
    "Demonstrations",
    "Encoded",
    "MissingModelError",
    "Pretrained",
    "collate",
    "encode",
    "load_demonstrations",
    "load_pretrained",
    "loss_function",
]
