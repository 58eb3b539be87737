"""A stack of K is K toy transformers: logits, gradients, updates, and whose data each one sees."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import token_stats
from dft_theory.objectives import TokenMean, dft, objectives, sft
from dft_theory.policies import ToyTransformer
from dft_theory.toys.stacked import Recipe, Run, Stack, order, train

KINDS = list(itertools.product(("rotary", "learned"), (True, False)))
V, P, T = 5, 2, 3


def policies(n: int, positions: str = "rotary", tied: bool = True) -> list[ToyTransformer]:
    return [
        ToyTransformer.random(
            vocab=V, length=T, seed=k, layers=2, positions=positions, tied=tied, scale=0.5
        )
        for k in range(n)
    ]


def demos(seed: int, n: int = 7) -> torch.Tensor:
    return torch.randint(V, (n, P + T), generator=torch.Generator().manual_seed(seed))


def alone(policy: ToyTransformer, run: Run, recipe: Recipe) -> ToyTransformer:
    """Torch's own optimiser, schedule and clipping on one policy."""
    before = copy.deepcopy(policy)
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[recipe.optimizer]
    decay = recipe.decay if recipe.optimizer == "adamw" else 0.0
    optimizer = make(policy.parameters(), lr=run.rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    for index in order(len(run.demos), recipe, run.seed):
        tokens = run.demos[index]
        labels = tokens.clone()
        labels[:, :P] = -100
        stats = token_stats(
            policy.logits(tokens),
            labels,
            needs=run.objective.needs,
            ref_logits=before.logits(tokens),
            old_logits=before.logits(tokens),
        )
        optimizer.zero_grad()
        (recipe.scale * run.objective.surrogate(stats, reduction=TokenMean())).backward()
        if math.isfinite(recipe.clip):
            torch.nn.utils.clip_grad_norm_(policy.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
    return policy


def parameters(policy: ToyTransformer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


@pytest.mark.parametrize(("positions", "tied"), KINDS)
def test_logits_are_those_of_each_policy_and_may_begin_anywhere(positions, tied):
    each = policies(3, positions, tied)
    tokens = torch.stack([demos(k) for k in range(3)])
    for first in (0, 1, 3):
        found = Stack.of(each).logits(tokens, first=first)
        expected = torch.stack([p.logits(x)[:, first:] for p, x in zip(each, tokens, strict=True)])
        assert_close(found, expected)


GRID = [
    *(("sft", 0.3), ("dft", 0.1), ("dft", 0.3), ("dft-sequence", 0.2), ("eaft", 0.1)),
    *(("asft-0.05", 0.1), ("iw-sft-sequence", 0.1), ("psft-0.2-0.28", 0.1)),
]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(steps=5, batch=4, optimizer="adamw", decay=0.1),
        Recipe(steps=5, batch=4, optimizer="sgd"),
        Recipe(steps=5, batch=4, optimizer="adamw", clip=0.02),
        Recipe(steps=5, batch=4, optimizer="sgd", clip=0.02),
        Recipe(steps=5, batch=4, optimizer="adamw", clip=1.0, scale=8.0),
    ],
    ids=str,
)
def test_five_steps_are_those_of_each_policy_under_torch(recipe):
    each = policies(len(GRID))
    runs = [
        Run(objective=objectives[name], rate=rate, demos=demos(k, 6 + k), seed=k)
        for k, (name, rate) in enumerate(GRID)
    ]
    start = Stack.of(each)
    found = train(start, runs, recipe).last
    for row, (policy, run) in enumerate(zip(each, runs, strict=True)):
        before = parameters(policy)
        after = parameters(alone(policy, run, recipe))
        assert_close(found.flat[row], after, rtol=1e-8, atol=1e-9)
        assert (after - before).norm() > 1e-3
        assert torch.equal(start.flat[row], before)  # the start is left alone


def test_an_objective_that_compares_its_batch_sees_one_run_only():
    o = next(o for o in objectives.values() if o.level == "batch" and set(o.needs) <= {"entropy"})
    each, recipe = policies(3), Recipe(steps=2, batch=4)
    runs = [Run(objective=o, rate=0.1, demos=demos(k), seed=k) for k in range(3)]
    found = train(Stack.of(each), runs, recipe).last
    for row, (policy, run) in enumerate(zip(each, runs, strict=True)):
        assert_close(found.flat[row], parameters(alone(policy, run, recipe)))


def test_an_objective_that_needs_advantages_is_refused():
    run = Run(objective=objectives["reinforce"], rate=0.1, demos=demos(0), seed=0)
    with pytest.raises(ValueError, match="do not contain advantage"):
        train(Stack.of(policies(1)), [run], Recipe(steps=1, batch=2))


def test_parameters_and_moments_without_a_master_copy_are_bfloat16():
    [policy] = policies(1)
    rate = 1e-3  # below what bfloat16 can add to most parameters
    recipe = Recipe(steps=5, batch=4)
    run = Run(objective=sft, rate=rate, demos=demos(0), seed=0)
    start = Stack.of([policy.bfloat16().double()])
    low = train(start, [run], replace(recipe, precision="bfloat16")).last.flat
    assert torch.equal(low, low.bfloat16().double())
    lost = (low == start.flat).double().mean()
    assert 0.2 < lost < 1
    assert (train(start, [run], recipe).last.flat == start.flat).double().mean() < 0.05


def test_the_best_state_on_validation_is_kept_for_each_run():
    each, recipe = policies(2), Recipe(steps=12, batch=4)
    runs = [Run(objective=sft, rate=0.1, demos=demos(0), seed=k) for k in range(2)]
    seen: list[torch.Tensor] = []
    wanted = [torch.tensor([1.0, 9.0]), *(torch.tensor([float(k), -k]) for k in (5, 7, 7))]

    def validate(stack: Stack) -> torch.Tensor:
        seen.append(stack.flat.clone())
        return wanted[len(seen) - 1]

    found = train(Stack.of(each), runs, recipe, validate=validate, every=5)
    assert found.best_step.tolist() == [10, 0]  # a tie is no progress
    assert torch.equal(found.best.flat[0], seen[2][0])
    assert torch.equal(found.best.flat[1], Stack.of(each).flat[1])
    assert torch.equal(found.last.flat, seen[3])
    assert torch.equal(found.scores, torch.stack(wanted))


def test_without_validation_the_end_is_the_best():
    run = Run(objective=dft, rate=0.1, demos=demos(0), seed=0)
    found = train(Stack.of(policies(1)), [run], Recipe(steps=3, batch=2))
    assert torch.equal(found.best.flat, found.last.flat)
    assert found.best_step.tolist() == [3]


def test_runs_that_do_not_match_the_stack_are_refused():
    run = Run(objective=sft, rate=0.1, demos=demos(0), seed=0)
    with pytest.raises(ValueError, match="2 runs do not fit a stack of 3"):
        train(Stack.of(policies(3)), [run, run], Recipe())


def test_inputs_beyond_the_context_are_refused():
    with pytest.raises(ValueError, match="33 tokens exceed the context of 32"):
        Stack.of(policies(1)).logits(torch.zeros(1, 1, 33, dtype=torch.long))


def test_an_epoch_shows_each_demonstration_once():
    index = order(12, Recipe(steps=9, batch=4), seed=3).reshape(3, 12)
    assert all(sorted(epoch.tolist()) == list(range(12)) for epoch in index)
    assert not torch.equal(index[0], index[1])
    assert order(5, Recipe(steps=2, batch=4), seed=3).shape == (2, 4)


def test_a_row_is_a_policy_of_its_own():
    each = policies(3)
    stack = Stack.of(each)
    assert torch.equal(parameters(stack.policy(1)), stack.flat[1])
    assert torch.equal(stack[[2, 2, 0]].flat, stack.flat[[2, 2, 0]])
    assert len(stack[[2, 2, 0]]) == 3


def test_statistics_are_the_policies_own():
    each, tokens = policies(2), demos(4)
    stack = Stack.of(each)
    found = stack.stats(tokens, needs=("entropy", "log_probs"))
    labels = tokens.clone()
    labels[:, :P] = -100
    for row, policy in enumerate(each):
        expected = token_stats(policy.logits(tokens), labels, needs=("entropy", "log_probs"))
        rows = slice(row * len(tokens), (row + 1) * len(tokens))
        assert_close(found.logp[rows], expected.logp[:, P - 1 :])
        assert_close(found.entropy[rows], expected.entropy[:, P - 1 :])


def test_samples_follow_each_policy():
    stack, n = Stack.of(policies(2)), 20_000
    prompts = torch.tensor([[1, 4], [0, 2]]).unsqueeze(1).expand(2, n, P)
    drawn = stack.sample(prompts, generator=torch.Generator().manual_seed(0))
    for row, prompt in enumerate(([1, 4], [0, 2])):
        policy = stack.policy(row)
        every = policy.responses()
        probs = policy.log_probs(torch.tensor(prompt), every).sum(-1).exp()
        place = (drawn[row, :, P:] * torch.tensor([V**2, V, 1])).sum(-1)
        counts = torch.bincount(place, minlength=len(every))
        chi2 = ((counts - n * probs).square() / (n * probs)).sum().item()
        assert chi2 < len(every) + 6 * math.sqrt(2 * len(every))
    assert torch.equal(drawn[:, :, :P], prompts)


def test_fresh_policies_depend_on_their_seed_and_begin_with_gain_one():
    like = policies(1)[0]
    stack = Stack.fresh(like, (3, 4, 3))
    assert torch.equal(stack.flat[0], stack.flat[2])
    assert not torch.equal(stack.flat[0], stack.flat[1])
    w = dict(stack.policy(0).named_parameters())
    assert bool((w["norm.weight"] == 1).all())
    assert bool((w["blocks.1.up.bias"] == 0).all())
    assert w["blocks.0.down.weight"].std().item() == pytest.approx(32**-0.5, rel=0.15)
