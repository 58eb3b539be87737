"""The check before the first step: right losses pass by every path, broken ones are named."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dft_theory.llm.chunked import Head, chunked
from dft_theory.llm.gradient_check import WrongGradientError, check_first_step
from dft_theory.llm.hf_policy import HFPolicy
from dft_theory.llm.loss_adapter import loss_function
from dft_theory.logprobs import token_stats
from dft_theory.objectives import SequenceMean, SumOver, dft, objectives, sft
from dft_theory.seeding import generator

VOCAB = 13


def tiny():
    """A random Llama in float64, and two sequences of 6 and 3 targets, one of them padded."""
    model = HFPolicy.tiny_llama(vocab=VOCAB, length=4, seed=1).model
    ids = torch.randint(VOCAB, (2, 9), generator=generator(0, "test", "gradient-check"))
    labels = ids.clone()
    labels[0, :3] = labels[1, :4] = labels[1, 7:] = -100
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    return model, {"input_ids": ids, "attention_mask": mask, "labels": labels}


def called(model, fn):
    """A loss of (outputs, labels, N) as a Trainer calls it."""

    def loss(inputs, count):
        labels = inputs.pop("labels")
        return fn(model(**inputs), labels, count)

    return loss


def broken(*, detach=True, shift=1, divide=lambda terms, mask, n: terms.sum() / n):
    """DFT written by hand, with one thing changed."""

    def loss(outputs, labels, n):
        logits, y = outputs.logits[:, :-shift], labels[:, shift:]
        logp = -F.cross_entropy(logits.transpose(1, 2), y.clamp_min(0), reduction="none")
        weight = logp.exp().detach() if detach else logp.exp()
        mask = y != -100
        return divide((-weight * logp).masked_fill(~mask, 0.0), mask, n)

    return loss


@pytest.mark.parametrize("name", ["sft", "dft", "dft-sequence", "eaft", "gem-0.7", "talr"])
def test_the_logits_path_holds(name):
    model, batch = tiny()
    loss = called(model, loss_function(objectives[name]))
    verdict = check_first_step(model, loss, batch, objectives[name])
    assert verdict.holds
    assert verdict.deviation < 1e-12
    assert (verdict.targets, verdict.count) == (9, 27)
    assert str(verdict).startswith(f"the loss has the gradient of {name}, TokenMean")


def through_the_chunks(model, objective, *, shift=1, denominator=lambda count, labels: count):
    """The same without logits: body, hidden states, chunked head."""

    def loss(inputs, count):
        labels = inputs.pop("labels")
        hidden = model.get_decoder()(**inputs).last_hidden_state
        head = Head(weight=model.get_output_embeddings().weight)
        states, targets = hidden[:, :-shift], labels[:, shift:]
        over = denominator(count, labels)
        return chunked(objective, states, targets, head, denominator=over, entries=4 * VOCAB).loss

    return loss


@pytest.mark.parametrize("name", ["sft", "dft", "dft-sequence", "eaft", "gem-0.7", "talr"])
def test_the_chunked_path_holds(name):
    model, batch = tiny()
    loss = through_the_chunks(model, objectives[name])
    assert check_first_step(model, loss, batch, objectives[name]).deviation < 1e-12


def test_a_broken_chunked_path_is_stopped_and_named():
    model, batch = tiny()
    for changed, diagnosis in (
        ({"shift": 2}, "labels shifted twice"),
        ({"denominator": lambda count, labels: labels.numel()}, "counts masked tokens"),
    ):
        with pytest.raises(WrongGradientError, match=diagnosis):
            check_first_step(model, through_the_chunks(model, dft, **changed), batch, dft)


@pytest.mark.parametrize("reduction", [SequenceMean(), SumOver(4.0)], ids=str)
def test_other_reductions_hold_and_are_told_apart(reduction):
    model, batch = tiny()
    loss = called(model, loss_function(dft, reduction))
    assert check_first_step(model, loss, batch, dft, reduction).holds
    with pytest.raises(WrongGradientError):
        check_first_step(model, loss, batch, dft)


def test_dft_written_by_hand_holds():
    model, batch = tiny()
    assert check_first_step(model, called(model, broken()), batch, dft).holds


@pytest.mark.parametrize(
    ("loss", "diagnosis"),
    [
        (broken(detach=False), "missing detach"),
        (broken(shift=2), "labels shifted twice"),
        (broken(divide=lambda x, m, n: x.sum() / m.sum()), "micro-batch mean"),
        (broken(divide=lambda x, m, n: x.sum() / x.numel()), "counts masked tokens"),
        (
            broken(divide=lambda x, m, n: (x.sum(-1) / m.sum(-1)).mean()),
            "mean of sequence means",
        ),
        (broken(divide=lambda x, m, n: 8 * x.sum() / n), "scaled by 8"),
        (lambda outputs, labels, n: loss_function(sft)(outputs, labels, n), "plain SFT"),
        (
            lambda outputs, labels, n: -broken()(outputs, labels, n),
            "sign reversed",
        ),
        (
            lambda outputs, labels, n: broken()(outputs, labels, n).detach(),
            "no gradient reaches the hidden states",
        ),
        (
            lambda outputs, labels, n: (
                broken()(outputs, labels, n) + outputs.logits.square().mean()
            ),
            "none of the known forms",
        ),
        (
            lambda outputs, labels, n: broken()(outputs, labels, n) * torch.nan,
            "not finite",
        ),
    ],
)
def test_a_broken_loss_is_stopped_and_named(loss, diagnosis):
    model, batch = tiny()
    with pytest.raises(WrongGradientError, match="Training was not begun") as caught:
        check_first_step(model, called(model, loss), batch, dft)
    verdict = caught.value.verdict
    assert not verdict.holds
    assert diagnosis in verdict.diagnosis
    assert diagnosis in str(caught.value)


def test_a_cap_between_head_and_softmax_is_the_model_s_own():
    model, batch = tiny()
    plain = model.forward

    def capped(**inputs):
        outputs = plain(**inputs)
        outputs["logits"] = 2 * torch.tanh(outputs.logits / 2)
        return outputs

    model.forward = capped
    loss = called(model, loss_function(dft))
    assert check_first_step(model, loss, batch, dft).deviation < 1e-12


def test_what_an_objective_needs_from_elsewhere_is_added():
    model, batch = tiny()
    with torch.no_grad():
        reference = HFPolicy.tiny_llama(vocab=VOCAB, length=4, seed=2).model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
    asft = objectives["asft-0.05"]

    def loss(inputs, count):
        labels = inputs.pop("labels")
        stats = token_stats(
            model(**inputs).logits, labels, needs=asft.needs, ref_logits=reference.logits
        )
        return asft.surrogate(stats, reduction=SumOver(float(count)))

    def complete(stats):
        return replace(stats, ref_log_probs=reference.logits[:, :-1].log_softmax(-1))

    assert check_first_step(model, loss, batch, asft, complete=complete).holds


def test_the_loss_meets_a_model_in_training_and_no_dropout():
    model, batch = tiny()
    for layer in model.get_decoder().layers:
        layer.self_attn.attention_dropout = 0.5
    plain = called(model, loss_function(dft))

    def loss(inputs, count):
        assert model.training
        return plain(inputs, count)

    assert check_first_step(model, loss, batch, dft).deviation < 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model, batch = tiny()
    model.train(training)
    model.get_decoder().layers[1].train(not training)
    flags = [module.training for module in model.modules()]
    check_first_step(model, called(model, loss_function(dft)), batch, dft)
    assert [module.training for module in model.modules()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_decoder()._forward_hooks
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_sequences_that_hide_a_wrong_normaliser_are_refused():
    model, batch = tiny()
    loss = called(model, loss_function(dft))
    one = {name: x[:1] for name, x in batch.items()}
    twice = {name: x.repeat(2, 1) for name, x in one.items()}
    for same in (one, twice):
        with pytest.raises(ValueError, match="at least two that differ in their number"):
            check_first_step(model, loss, same, dft)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_has_its_own_tolerance(dtype):
    model, batch = tiny()
    model = model.to(dtype)
    verdict = check_first_step(model, called(model, loss_function(dft)), batch, dft)
    assert verdict.tolerance == pytest.approx(torch.finfo(dtype).eps ** 0.5)
    assert verdict.holds
    with pytest.raises(WrongGradientError, match="missing detach"):
        check_first_step(model, called(model, broken(detach=False)), batch, dft)


@pytest.mark.parametrize("depth", [70, 78, 84, 200])
def test_a_sequence_s_weight_that_underflows_raises_no_alarm(depth):
    """Weights of 1e-39 and less: float32 holds them with few digits (subnormal), or as 0."""
    model, batch = tiny()
    model = model.float()
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head *= depth / head.abs().max()
    objective = objectives["dft-sequence"]
    for loss in (
        called(model, loss_function(objective)),
        through_the_chunks(model, objective),  # divides by N last, where the digits are gone
    ):
        assert check_first_step(model, loss, batch, objective).holds
    with pytest.raises(WrongGradientError, match="plain SFT"):
        check_first_step(model, called(model, loss_function(sft)), batch, objective)
