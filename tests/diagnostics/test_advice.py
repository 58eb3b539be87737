"""Advice follows from evidence: each answer is made to turn, and the words fit on one screen."""

from dataclasses import asdict, replace
from typing import get_args

import pytest
import torch

from dft_theory import results
from dft_theory.claims import claims
from dft_theory.diagnostics import advice
from dft_theory.diagnostics import text as diagnosis_text
from dft_theory.diagnostics.advice import Confidence, advise
from dft_theory.diagnostics.coherence import coherence
from dft_theory.diagnostics.escape import Plan
from dft_theory.diagnostics.measures import (
    CONTENT_TOKENS,
    DEFAULT,
    KINDS,
    RARE_TOKENS,
    Diagnosis,
    measure,
    with_reference,
)
from dft_theory.diagnostics.record import as_json
from dft_theory.diagnostics.regime import Regime
from dft_theory.diagnostics.text import HEIGHT, WIDTH, lines
from dft_theory.diagnostics.wording import number, percent
from dft_theory.logprobs import target_stats
from dft_theory.objectives import OBJECTIVES, objectives, sft
from dft_theory.seeding import generator


def made(
    *groups: tuple[float, str, int], chosen=DEFAULT, vocab: int = 50, rows: int = 4, **more: object
) -> Diagnosis:
    """A diagnosis of `count` tokens of each (p, kind), in each of `rows` demonstrations."""
    p = torch.tensor([[x for x, _, n in groups for _ in range(n)]] * rows, dtype=torch.float64)
    kind = torch.tensor([[KINDS.index(k) for _, k, n in groups for _ in range(n)]] * rows)
    rest = ((1 - p) / (vocab - 1)).log().unsqueeze(-1).expand(*p.shape, vocab - 1)
    logits = torch.cat([p.log().unsqueeze(-1), rest], -1)
    t = target_stats(logits, torch.zeros_like(kind), needs=("entropy", "log_probs", "targets"))
    tokens = measure(with_reference(t, t), chosen, kind)
    return Diagnosis(model="m", data="d (train)", tokens=tokens, vocab=vocab, **more)


def told(d: Diagnosis, start: str) -> advice.Advice:
    return next(a for a in advise(d) if start in a.question)


def printed(d: Diagnosis) -> str:
    return " ".join(" ".join(lines(d)).split())


LIKELY = (0.95, "word", 20)
GRAM = torch.eye(64, dtype=torch.float64)


def agreed(shared: float, of: str = CONTENT_TOKENS):
    gram = (1 - shared) * GRAM + shared
    return coherence(gram, of=of, tokens=64, generator=generator(0, "halves"))


# --- answers turn ---------------------------------------------------------------------------------


def test_objectives_that_spend_alike_hardly_matter():
    found = told(made((0.9, "word", 5), (0.95, "word", 5)), "SFT or another")
    assert "hardly matters" in found.answer
    assert found.confidence == "measured on these tokens"


@pytest.mark.parametrize("name", ["dft leads", "sft leads", "cannot tell"])
def test_the_regime_is_the_prediction_s(name, monkeypatch):
    read = []

    def predict(evidence):
        read.append(evidence)
        return Regime(name, 0.8, "of this reason")

    monkeypatch.setattr(advice, "predict", predict)
    d = made((0.01, "word", 5), LIKELY, coherence=(agreed(0.05),), calibrated=True)
    found = told(d, "SFT or another")
    assert read == [d.evidence()] * len(read) != []
    assert "of this reason" in found.evidence
    assert found.confidence == ("cannot tell" if name == "cannot tell" else "predicted")
    assert ("probability 0.80" in found.answer) == (name != "cannot tell")
    assert (name in found.answer.lower()) == (name != "cannot tell")


def test_the_packaged_prediction_names_a_winner_on_its_own_task_alone():
    d = made((0.01, "word", 5), LIKELY, coherence=(agreed(0.0),), calibrated=True)
    assert "DFT leads" in told(d, "SFT or another").answer
    assert told(replace(d, calibrated=False), "SFT or another").confidence == "cannot tell"


def test_elsewhere_nobody_can_tell_and_the_answer_is_an_experiment():
    d = made((0.01, "word", 5), LIKELY, coherence=(agreed(0.0),))
    found = told(d, "SFT or another")
    assert found.confidence == "cannot tell"
    assert "held-out split" in found.answer
    assert "carries over" in found.evidence
    assert found.doubt == "the fit is of a toy task"
    assert "[cannot tell: the fit is of a toy task]" in printed(d)
    few = replace(d, coherence=(coherence(GRAM[:8, :8], of=CONTENT_TOKENS, tokens=8,
                                          generator=generator(0, "halves")),))  # fmt: skip
    assert "[cannot tell: 8 demonstrations are too few (24 at least)]" in printed(few)


def test_a_floor_is_advised_for_structure_that_starves_and_not_otherwise():
    starving = told(made((1e-3, "end of turn", 1), LIKELY), "A floor")
    assert "from dft_theory.objectives import with_floor" in starving.answer
    assert "token_ids=[0]" in starving.answer
    assert "dft 4 of 4 end of turn" in starving.evidence
    assert "not needed" in told(made((0.2, "end of turn", 1), LIKELY), "A floor").answer
    assert "not needed" in told(made((1e-3, "word", 1), LIKELY), "A floor").answer


@pytest.mark.parametrize(
    ("p", "answer"), [(0.2, "DFT's 1 too"), (3e-3, "0.75 is the largest"), (1e-12, "take a floor")]
)
def test_alpha_is_the_largest_that_feeds_structure(p, answer):
    assert answer in told(made((p, "format", 1), LIKELY), "Which alpha").answer


def test_sft_first_where_tokens_starve():
    found = told(made((1e-4, "word", 1), LIKELY), "SFT first")
    assert "anneal(sft, dft, steps)" in found.answer
    assert "starves 4 of 84 tokens" in found.evidence
    assert "x SFT's steps" in found.evidence
    planned = made((1e-4, "word", 1), LIKELY, plan=Plan(lr=0.1, steps=500), pace=1.0)
    assert "it takes 46 steps, of 500 planned" in told(planned, "SFT first").evidence
    assert "no token asks" in told(made((0.2, "word", 1), LIKELY), "SFT first").answer
    never = made((1e-4, "word", 1), LIKELY, chosen=(sft, objectives["thresholded-above-0.2"]))
    assert "never reaches 1/2" in told(never, "SFT first").evidence


def test_the_learning_rate_depends_on_the_optimizer():
    groups = (0.01, "word", 5), LIKELY
    by_adam, by_sgd = (
        told(made(*groups, plan=Plan(optimizer=name)), "Learning rate") for name in ("adam", "sgd")
    )
    assert "start from SFT's" in by_adam.answer
    assert "divide SFT's by these sizes" in by_sgd.answer
    size = float(made(*groups).tokens.pull[2].sum() / made(*groups).tokens.pull[0].sum())
    assert f"dft {size:.2g}" in by_sgd.answer


def test_a_bad_run_is_explained_by_what_was_found():
    both = told(made((1e-3, "end of turn", 1), (0.01, "word", 5), LIKELY), "came out worse")
    assert "(1) answers run on" in both.answer
    assert "(2) rare targets get" in both.answer
    neither = told(made((0.6, "word", 5), LIKELY), "came out worse").answer
    assert "run on" not in neither
    assert "rare targets" not in neither
    by_sgd = made((0.01, "word", 5), LIKELY, plan=Plan(optimizer="sgd"))
    assert "of SFT's, and the learning rate was not raised" in told(by_sgd, "came out worse").answer


def test_with_sft_alone_everything_still_has_an_answer():
    d = made((0.01, "word", 5), LIKELY, chosen=(sft,))
    assert "hardly matters" in told(d, "SFT or another").answer
    assert not any("came out worse" in a.question for a in advise(d))
    lines(d)
    results.encode(as_json(d), where="here")


def test_claims_exist_and_confidence_is_one_of_four():
    for d in (made(LIKELY), made((1e-4, "end of turn", 1), (1e-4, "word", 1), LIKELY)):
        for a in advise(d):
            assert set(a.claims) <= set(claims)
            assert a.confidence in get_args(Confidence)
            assert a.evidence


# --- the screen and the data ----------------------------------------------------------------------

MEASURABLE = [
    o
    for o in OBJECTIVES
    if o.level != "group" and not {"advantage", "sampled"} & set(o.needs) and o.name != "dense-path"
]


@pytest.mark.parametrize("count", [1, 3, 12, len(MEASURABLE)])
def test_the_terminal_holds_it(count):
    d = made(
        (1e-6, "end of turn", 1),
        (1e-5, "format", 2),
        (1e-4, "word", 3),
        (0.3, "arithmetic", 3),
        LIKELY,
        chosen=(sft, *(o for o in MEASURABLE[:count] if o is not sft)),
        coherence=(agreed(0.1, RARE_TOKENS), agreed(0.1)),
    )
    found = lines(d)
    assert len(found) <= HEIGHT
    assert max(map(len, found)) <= WIDTH + 20  # names of objectives may be long
    assert any(line.startswith("SFT or another?") for line in found)
    results.encode(as_json(d), where="here")  # strict JSON: no infinity, no NaN


def test_the_terminal_says_what_will_be_printed():
    d = made((0.01, "word", 5), LIKELY)
    text = printed(d)
    assert f"Your NLL is {d.tokens.nll:.3g} nats" in text
    assert f"DFT (token) will print about {d.tokens.losses[2]:.2g}" in text
    assert "tokenizer" not in text
    assert "is this tokenizer the model's?" in printed(made((1e-3, "word", 5)))


def test_what_is_starved_is_listed_by_text_and_kind():
    d = replace(made((1e-3, "end of turn", 1), LIKELY), texts={0: "<|end|>"})
    line = diagnosis_text.starving_line(d, 2)
    assert line.startswith("Almost no gradient under DFT")
    assert "kinds are guessed from the text" in line
    assert "4 of 4 end of turn ('<|end|>')" in line
    assert "Every token" in diagnosis_text.starving_line(d, 0)


def test_at_most_eight_ids_are_named_most_frequent_first():
    d = made((1e-3, "end of turn", 12), (0.95, "word", 200), rows=2)
    ids = torch.cat([torch.cat([torch.tensor([9, 9]), torch.arange(10)]), torch.zeros(200).long()])
    d = replace(d, tokens=replace(d.tokens, ids=ids.repeat(2)))
    found = told(d, "A floor")
    assert f"token_ids={[9, *range(7)]}" in found.answer
    assert "2 more token ids" in found.evidence


def test_the_two_rows_of_steps_are_bounds():
    rare = (1e-4, "word", 5), LIKELY
    assert "the truth lies between the two rows" in printed(made(*rare, pace=1.0))
    assert "rarest 1 %, p 1e-04 to 1/2" in printed(made(*rare, pace=1.0))
    assert "between the two rows" not in printed(made(*rare))


def test_a_shared_part_is_explained_and_copies_are_counted():
    d = made(LIKELY, coherence=(agreed(0.1),))
    assert "0 is chance" in diagnosis_text.coherence_line(d)
    assert "word for word" not in diagnosis_text.coherence_line(d)
    line = diagnosis_text.coherence_line(replace(d, copies=3))
    assert "word for word raise it: 3 of 4" in line
    assert as_json(replace(d, copies=3))["identical_responses"] == 3


def test_the_data_hold_every_number():
    d = made((1e-3, "end of turn", 1), (0.01, "word", 5), LIKELY, coherence=(agreed(0.1),))
    found = as_json(d)
    assert sum(found["tokens_by_bin"]) == found["tokens"] == len(d.tokens)
    assert len(found["bins"]) == 13
    for effect in found["objectives"].values():
        assert sum(effect["gradient_by_bin"]) == pytest.approx(1)
        assert sum(effect["weight_by_bin"]) == pytest.approx(1)
    assert found["objectives"]["dft"]["without_gradient"]["count"] == 4
    assert found["coherence"][0]["shared"] == pytest.approx(0.1)
    assert found["advice"] == [asdict(a) | {"claims": a.claims} for a in advise(d)]
    assert set(found["regime"]) == {"greedy", "sampled"}


def test_agreement_that_was_not_measured_says_why():
    assert "not measured; gradients" in diagnosis_text.coherence_line(made(LIKELY))
    few = coherence(torch.eye(2), of="x", tokens=2, generator=generator(0, "halves"))
    d = made(LIKELY, coherence=(few,))
    assert "x in too few demonstrations (2)" in diagnosis_text.coherence_line(d)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (float("inf"), "never"), (3.456, "3.5"), (1234.0, "1,234"), (2e7, "2.0e+07")],
)
def test_numbers_in_words(value, text):
    assert number(value) == text


def test_shares_in_words():
    assert [percent(x) for x in (0.0, 0.0512, 0.0996, 0.5)] == ["0 %", "5.1 %", "10 %", "50 %"]
