"""Steps of a rare token: the quadrature against closed forms and against optimizers that run."""

import math

import pytest
import torch

from dft_theory.diagnostics.escape import PAPER, Plan, escape_steps, ratio_by_sgd
from dft_theory.dynamics import escape_time
from dft_theory.logprobs import token_stats
from dft_theory.objectives import TokenMean, dft, objectives, power, sft, thresholded

SGD = Plan(lr=0.1, optimizer="sgd")


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("p0", [1e-4, 0.02, 0.3])
def test_by_sgd_it_is_the_closed_form(alpha, p0):
    objective = sft if alpha == 0 else power(alpha)
    wanted = escape_time(p0, 0.5, alpha=alpha, vocab=30) / 0.1
    assert escape_steps(objective, p0, plan=SGD, vocab=30) == pytest.approx(wanted, rel=1e-4)
    assert escape_steps(objective, p0, plan=SGD, vocab=30, pace=4.0) == pytest.approx(
        wanted / 4, rel=1e-4
    )


@pytest.mark.parametrize("objective", [sft, dft], ids=lambda o: o.name)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimizer_takes_as_many_steps(objective, name):
    vocab, p0, lr = 5, 0.03, 0.02
    logits = torch.zeros(1, 2, vocab, dtype=torch.float64)
    logits[..., 0] = math.log(p0 / (1 - p0) * (vocab - 1))
    logits.requires_grad_()
    # Without averages over time Adam is what the prediction takes it for: the sign.
    optimizer = (
        torch.optim.SGD([logits], lr=lr)
        if name == "sgd"
        else torch.optim.Adam([logits], lr=lr, betas=(0.0, 0.0), eps=1e-30)
    )
    steps, labels = 0, torch.tensor([[-100, 0]])
    while logits.detach().softmax(-1)[0, 0, 0] < 0.5:
        optimizer.zero_grad()
        objective.surrogate(token_stats(logits, labels), reduction=TokenMean()).backward()
        optimizer.step()
        steps += 1
    plan = Plan(lr=lr, optimizer=name)
    assert escape_steps(objective, p0, plan=plan, vocab=vocab) == pytest.approx(steps, rel=0.03)


def test_adam_makes_every_positive_weight_alike_and_sgd_does_not():
    assert escape_steps(sft, 1e-4, plan=PAPER, vocab=9) == escape_steps(
        dft, 1e-4, plan=PAPER, vocab=9
    )
    assert ratio_by_sgd(sft, 1e-4, vocab=9) == 1
    assert ratio_by_sgd(dft, 1e-4, vocab=9) > 500


def test_a_token_with_no_weight_on_its_way_never_gets_there():
    never = thresholded(0.2, ">=")
    for plan in (SGD, PAPER):
        assert escape_steps(never, 0.01, plan=plan, vocab=9) == math.inf
    assert ratio_by_sgd(never, 0.01, vocab=9) == math.inf


@pytest.mark.parametrize("name", ["eaft", "dft-sequence", "talr", "gem-0.7", "dft-geometric"])
def test_none_where_the_weight_reads_more_than_p(name):
    assert escape_steps(objectives[name], 0.01, plan=SGD, vocab=9) is None
    assert ratio_by_sgd(objectives[name], 0.01, vocab=9) is None


def test_what_is_likely_is_there():
    assert escape_steps(dft, 0.6, plan=SGD, vocab=9) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"p0": 0.0}, "strictly between"),
        ({"p0": 0.1, "p1": 1.0}, "strictly between"),
        ({"p0": 0.1, "pace": 0.0}, "pace must be positive"),
        ({"p0": 0.1, "vocab": 1}, "at least 2 tokens"),
    ],
)
def test_bad_input_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        escape_steps(sft, **{"plan": SGD, "vocab": 9, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lr": 0.0}, "learning rate"),
        ({"lr": math.inf}, "learning rate"),
        ({"batch": 0}, "batch"),
        ({"steps": 0}, "at least one step"),
    ],
)
def test_a_run_that_cannot_be_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Plan(**bad)
