"""What an objective will do to this model and these demonstrations, before any training.

`measures` reads token statistics; `coherence`, `escape` and `regime` say what follows from them;
`advice` says what to do; `text`, `record` and `page` show it. Models are `llm.diagnose`'s business,
the toy's scenarios `toys.diagnose`'s.
"""

from dft_theory.diagnostics.measures import (
    CERTAIN,
    CONTENT_TOKENS,
    DEFAULT,
    KINDS,
    RARE,
    RARE_TOKENS,
    Diagnosis,
    Tokens,
    measure,
    with_baseline,
)

__all__ = [
    "CERTAIN",
    "CONTENT_TOKENS",
    "DEFAULT",
    "KINDS",
    "RARE",
    "RARE_TOKENS",
    "Diagnosis",
    "Tokens",
    "measure",
    "with_baseline",
]
