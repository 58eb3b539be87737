"""What an objective does to tokens, against autograd and against counting by hand."""

import math
from dataclasses import replace

import pytest
import torch

from dft_theory.diagnostics.bins import BINS, bin_index, bin_labels, distance, share_by_bin
from dft_theory.diagnostics.coherence import coherence
from dft_theory.diagnostics.escape import PAPER, Plan, escape_steps
from dft_theory.diagnostics.measures import (
    CONTENT_TOKENS,
    DEFAULT,
    KINDS,
    Diagnosis,
    join,
    measure,
    with_baseline,
    with_reference,
)
from dft_theory.logprobs import IGNORE_INDEX, TokenStats, target_stats
from dft_theory.objectives import SumOver, dft, objectives, sft
from dft_theory.seeding import generator

NEEDS = ("entropy", "log_probs", "targets")


def batch(rows: int = 3, width: int = 5, vocab: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator(0, "diagnostics")
    logits = 3 * torch.randn(rows, width, vocab, generator=g, dtype=torch.float64)
    targets = torch.randint(vocab, (rows, width), generator=g)
    targets[0, 3:] = IGNORE_INDEX
    return logits, targets


def stats(logits: torch.Tensor, targets: torch.Tensor) -> TokenStats:
    t = target_stats(logits, targets, needs=NEEDS)
    other = target_stats(logits.detach().roll(1, -1), targets, needs=NEEDS)
    return with_reference(t, other)


@pytest.mark.parametrize(
    "name", ["sft", "dft", "power-0.5", "dft-sequence", "eaft", "sft-kl-0.1", "gem-0.7"]
)
def test_pull_and_weight_are_those_of_the_gradient(name):
    objective = objectives[name]
    logits, targets = batch()
    logits.requires_grad_()
    loss = objective.surrogate(stats(logits, targets), reduction=SumOver())
    (grad,) = torch.autograd.grad(loss, logits)
    kept = targets >= 0
    found = measure(stats(logits, targets), [objective])
    torch.testing.assert_close(found.pull[0], grad[kept].norm(dim=-1))
    away = -torch.softmax(logits.detach(), -1)[kept]
    away[torch.arange(len(away)), targets[kept]] += 1
    along = -(grad[kept] * away).sum(-1) / away.square().sum(-1)
    torch.testing.assert_close(found.weight[0], along)
    assert found.losses[0] == pytest.approx(loss.item() / int(kept.sum()))


def test_what_is_told_of_each_token():
    logits, targets = batch()
    kept, logp = targets >= 0, logits.log_softmax(-1)
    kind = torch.full_like(targets, KINDS.index("word"))
    kind[:, 0] = KINDS.index("format")
    found = measure(stats(logits, targets), DEFAULT, kind)
    wanted = logp[kept].gather(-1, targets[kept][:, None]).squeeze(-1)
    torch.testing.assert_close(found.logp, wanted)
    torch.testing.assert_close(found.entropy, -(logp.exp() * logp).sum(-1)[kept])
    assert found.nll == pytest.approx(float(-wanted.mean()))
    assert found.row.tolist() == [0] * 3 + [1] * 5 + [2] * 5
    assert found.demonstrations == 3
    assert found.content.tolist() == [k != 0 for k in (0, 1, 2, *range(5), *range(5))]
    assert torch.equal(found.conflicts, (found.p < 0.1) & (found.entropy < 1))


def test_starved_tokens_are_rare_and_below_a_hundredth_of_the_mean_weight():
    p = torch.tensor([[1e-3, 0.3, 0.9, 0.99]], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], -1)
    t = target_stats(logits, torch.zeros(1, 4, dtype=torch.long), needs=NEEDS)
    found = measure(t, DEFAULT)
    assert [found.starved(i).tolist() for i in (0, 2)] == [[False] * 4, [True] + [False] * 3]


def test_batches_join_and_demonstrations_are_numbered_through():
    logits, targets = batch()
    whole = measure(stats(logits, targets), DEFAULT)
    parts = [measure(stats(logits[i : i + 1], targets[i : i + 1]), DEFAULT) for i in range(3)]
    together = join(parts)
    for name in ("logp", "ids", "row", "kind", "weight", "pull", "printed"):
        torch.testing.assert_close(getattr(together, name), getattr(whole, name))


def test_a_batch_that_cannot_be_measured_says_why():
    logits, targets = batch()
    with pytest.raises(ValueError, match="ask for them"):
        measure(target_stats(logits, targets), DEFAULT)
    with pytest.raises(ValueError, match="there is no answer"):
        measure(stats(logits, torch.full_like(targets, IGNORE_INDEX)), DEFAULT)
    with pytest.raises(ValueError, match="no demonstrations"):
        join([])
    parts = [measure(stats(logits, targets), [o]) for o in (sft, dft)]
    with pytest.raises(ValueError, match="different objectives"):
        join(parts)


def test_sft_comes_first_and_once():
    assert [o.name for o in with_baseline([dft, sft, dft], reference=False)] == ["sft", "dft"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grpo-0.2-0.2", "advantage: nothing is sampled"),
        ("one-token-rollout-0", "sampled: nothing is sampled"),
        ("dpo-0.1", "responses to compare: nothing"),
        ("sft-kl-0.1", "--reference self"),
        ("psft-0.2-0.28", "--reference self"),
    ],
)
def test_objectives_that_cannot_be_diagnosed_say_what_to_do(name, message):
    with pytest.raises(ValueError, match=message):
        with_baseline([objectives[name]], reference=False)


def test_an_anchor_at_the_model_itself_does_not_pull():
    logits, targets = batch()
    t = target_stats(logits, targets, needs=NEEDS)
    found = measure(with_reference(t, t), [sft, objectives["sft-kl-0.1"]])
    torch.testing.assert_close(found.pull[1], found.pull[0])
    torch.testing.assert_close(found.weight[1], torch.ones_like(found.weight[1]))


# --- bins ---------------------------------------------------------------------------------------


def test_the_bins_are_the_paper_s():
    assert (len(BINS), BINS[:5], BINS[-1]) == (14, (0, 1e-4, 1e-3, 0.01, 0.1), 1)
    assert bin_labels()[:4] == ["0-0.0001", "0.0001-0.001", "0.001-0.01", "0.01-0.1"]
    p = torch.tensor([0.0, 5e-5, 1e-4, 0.05, 0.1, 0.95, 1.0], dtype=torch.float64)
    assert bin_index(p).tolist() == [0, 0, 1, 3, 4, 12, 12]
    share = share_by_bin(torch.tensor([1.0, 3.0]), torch.tensor([0.05, 0.95]))
    assert (share[3], share[12], share.sum()) == (0.25, 0.75, 1)
    assert share_by_bin(torch.zeros(2), torch.ones(2)).sum() == 0


def test_the_distance_is_the_part_that_would_have_to_move():
    a, b = torch.tensor([2.0, 2.0]), torch.tensor([0.0, 5.0])
    assert (distance(a, a), distance(a, b), distance(a, 0 * b)) == (0, 0.5, 1)


# --- what the prediction reads --------------------------------------------------------------------


def diagnosis(p: torch.Tensor, kind: torch.Tensor, **more: object) -> Diagnosis:
    logits = torch.stack([p.log(), (1 - p).log()], -1)
    t = target_stats(logits, torch.zeros_like(kind), needs=NEEDS)
    return Diagnosis(model="m", data="d", tokens=measure(t, DEFAULT, kind), vocab=2, **more)


def test_the_evidence_is_that_of_content_tokens():
    p = torch.tensor([[0.2, 0.4, 0.01], [0.6, 0.8, 0.01]], dtype=torch.float64)
    kind = torch.tensor([[KINDS.index(k) for k in ("word", "arithmetic", "end of turn")]] * 2)
    plan = Plan(lr=0.1, optimizer="sgd", steps=100)
    agreed = coherence(
        torch.eye(9) + 1, of=CONTENT_TOKENS, tokens=4, generator=generator(0, "halves")
    )
    d = diagnosis(p, kind, plan=plan, pace=2.0, coherence=(agreed,))
    found = d.evidence()
    assert (found.demonstrations, found.shared) == (9, agreed.shared)
    assert (found.mean_p, found.least_p) == pytest.approx((0.5, 0.01))
    assert found.escape == pytest.approx([d.steps(o, 0.01) / 100 for o in (sft, dft)])
    alone = replace(d, coherence=(), plan=Plan()).evidence()
    assert (alone.demonstrations, alone.shared, alone.escape) == (2, None, None)


def test_starts_are_low_percentiles_below_a_half():
    kind = torch.full((1, 101), KINDS.index("word"))
    d = diagnosis(torch.linspace(0.3, 0.9, 101, dtype=torch.float64)[None], kind)
    assert d.starts() == pytest.approx({"rarest 1 %": 0.306, "rarest 5 %": 0.33})
    assert not diagnosis(torch.full((1, 101), 0.7, dtype=torch.float64), kind).starts()
    assert d.steps(sft, 0.01) is None
    known = replace(d, pace=2.0)
    assert known.steps(sft, 0.01) == escape_steps(sft, 0.01, plan=PAPER, vocab=2, pace=2.0)
    assert known.steps(sft, 0.0) < math.inf
