"""The page of a diagnosis: nothing is loaded, and a browser lays it out on a phone."""

import pytest
import torch

from dft_theory.diagnostics import page as diagnosis_page
from dft_theory.diagnostics.advice import LIMITS, advise
from dft_theory.diagnostics.coherence import coherence
from dft_theory.diagnostics.measures import (
    CONTENT_TOKENS,
    KINDS,
    RARE_TOKENS,
    Conflict,
    Diagnosis,
    measure,
    with_reference,
)
from dft_theory.diagnostics.regime import fitted
from dft_theory.logprobs import target_stats
from dft_theory.objectives import objectives
from dft_theory.pages import PageError, requests
from dft_theory.seeding import generator

NAMES = ("sft", "power-0.5", "dft", "eaft", "thresholded-above-0.2", "sft-kl-0.1")


def diagnosis(names: tuple[str, ...] = NAMES, **more: object) -> Diagnosis:
    g = generator(0, "page")
    logits = 4 * torch.randn(8, 20, 30, generator=g, dtype=torch.float64)
    targets = torch.randint(30, (8, 20), generator=g)
    kind = torch.randint(len(KINDS), (8, 20), generator=g)
    t = target_stats(logits, targets, needs=("entropy", "log_probs", "targets"))
    tokens = measure(with_reference(t, t), [objectives[n] for n in names], kind)
    gram = torch.eye(8, dtype=torch.float64) + 0.2
    found = {
        "model": "a <model> & more",
        "data": "mine.jsonl (train)",
        "texts": {i: f"<t{i}>&\n" for i in range(30)},
        "coherence": tuple(
            coherence(gram, of=name, tokens=80, generator=generator(0, "halves"))
            for name in (RARE_TOKENS, CONTENT_TOKENS)
        ),
    }
    return Diagnosis(**{"tokens": tokens, "vocab": 30, **found, **more})


def test_the_page_is_whole_and_escaped():
    d = diagnosis()
    page = diagnosis_page.render(d)
    assert requests(page) == []
    assert "<model>" not in page
    assert "&lt;t" in page
    assert page.count("<svg") == page.count("</svg>") == 5
    assert "prefers-color-scheme: dark" in page
    assert page.count('class="advice') == len(advise(d))
    for counts in fitted()["power"].values():
        told = f"named a winner or a draw in {counts['answered']:.0f}; {counts['right']:.0f} were"
        assert told in page
    for limit in LIMITS:
        assert limit.split(".")[0].replace("'", "&#x27;") in page


def test_the_worst_conflicts_stand_in_their_places():
    worst = Conflict(
        demonstration="mine.jsonl-7", before="is <", target=" x", p=1e-5, expected=" y",
        p_expected=0.93,
    )  # fmt: skip
    page = diagnosis_page.render(diagnosis(worst=(worst,)))
    assert "<td>mine.jsonl-7</td><td>is &lt;</td>" in page
    assert "mine.jsonl-7" not in diagnosis_page.render(diagnosis())


def test_without_gradients_or_rare_tokens_it_still_renders():
    page = diagnosis_page.render(diagnosis(("sft",), coherence=(), incoherent="for this reason"))
    assert "for this reason" in page
    assert page.count("<svg") == 4


def test_a_page_that_would_load_something_is_refused(monkeypatch):
    monkeypatch.setattr(diagnosis_page, "_STYLE", "@import 'https://example.org/x.css';")
    with pytest.raises(PageError, match="not self-contained"):
        diagnosis_page.render(diagnosis())


def test_a_browser_fits_it_on_a_phone(browse) -> None:
    program = """
    const box = (e) => e.getBoundingClientRect(), all = [...document.querySelectorAll("svg")];
    const beyond = (q, r) => q.left < r.left - 1 || q.right > r.right + 1 || q.top < r.top - 1
      || q.bottom > r.bottom + 1;
    const found = {
      large: all.filter((s) => box(s).height > 70 && box(s).width > 300).length,
      outside: all.filter((s) =>
        [...s.querySelectorAll("text")].some((t) => beyond(box(t), box(s)))).length,
      fits: document.documentElement.scrollWidth <= innerWidth,
    };"""
    found, _ = browse(diagnosis_page.render(diagnosis()), program)
    assert found == {"large": 5, "outside": 0, "fits": True}
