"""Training on own samples: rewards, the law of samples, single policies, expected gradients."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from dft_theory.logprobs import token_stats
from dft_theory.objectives import objectives
from dft_theory.objectives.grpo import group_advantages
from dft_theory.policies import ToyTransformer
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.online import (
    Critic,
    OnlineRun,
    accepted,
    answered,
    outcome,
    pairs,
    preferred,
    process,
    reinforced,
)
from dft_theory.toys.stacked import Recipe, Run, Stack, order
from dft_theory.toys.worlds import World

V, P, T = 4, 2, 3
GRPO = objectives["grpo-0.2-0.2"]


def policies(n: int) -> list[ToyTransformer]:
    return [ToyTransformer.random(vocab=V, length=T, seed=k, layers=2, scale=0.5) for k in range(n)]


def prompts(seed: int, n: int = 5) -> torch.Tensor:
    return torch.randint(V, (n, P), generator=torch.Generator().manual_seed(seed))


def reward(tokens: torch.Tensor) -> torch.Tensor:
    """1.0 where the last token is the first of the prompt."""
    return (tokens[:, -1] == tokens[:, 0]).double()


def labels(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full_like(tokens[:, :P], -100), tokens[:, P:]], dim=1)


def parameters(policy: ToyTransformer) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach()


# --- rewards ------------------------------------------------------------------------------------


def test_the_outcome_is_the_last_state_and_the_process_all_of_them():
    world = World.of(3, demos=20, held_out=4)
    tokens = world.taught(0.5)
    for row, last, every in zip(
        tokens, outcome(world.chain, tokens), process(world.chain, tokens), strict=True
    ):
        start, *operators = row[1:5].tolist()
        states = [start]
        for operator in operators:
            states.append(world.chain.right[operator - chain.OPERATOR, states[-1]].item())
        written = row[chain.PROMPT :][chain.CONTENT].tolist()
        assert last == float(written[-1] == states[-1])
        assert every == float(written == states[1:])
    assert process(world.chain, tokens).sum() < outcome(world.chain, tokens).sum()


def test_a_token_that_is_no_state_is_no_answer():
    world = World.of(3, demos=6, held_out=4)
    tokens = world.taught(0.0)
    tokens[:, -1] = chain.NEW
    assert not outcome(world.chain, tokens).any()
    assert not process(world.chain, tokens).any()


# --- samples ------------------------------------------------------------------------------------


def test_samples_follow_the_policy_and_their_log_probabilities_are_its():
    (policy,) = policies(1)
    asked = prompts(0, 1).expand(10_000, -1)
    noise = torch.rand(1, len(asked), T, generator=torch.Generator().manual_seed(1))
    tokens, logp = answered(Stack.of([policy]), asked.unsqueeze(0), noise)
    told = token_stats(policy.logits(tokens[0]), labels(tokens[0])).logp[:, P - 1 :]
    assert_close(logp[0], told)
    every = policy.responses()
    law = policy.log_probs(asked[0], every).sum(-1).exp()
    place = (tokens[0, :, P:] * torch.tensor([V**2, V, 1])).sum(-1)
    seen = torch.bincount(place, minlength=len(every)) / len(asked)
    assert_close(seen.double(), law, atol=0.015, rtol=0)


def test_what_a_run_does_depends_on_no_other_run():
    stack = Stack.of(policies(3))
    runs = [
        OnlineRun(rate=0.1, prompts=prompts(0), reward=reward, seed=4, group=4),
        OnlineRun(rate=0.2, prompts=prompts(1), reward=reward, seed=5, group=1),
        OnlineRun(rate=0.1, prompts=prompts(2), reward=reward, seed=5, group=4),
    ]
    recipe = Recipe(steps=3, batch=8)
    every = reinforced(stack, runs, recipe)
    for row, run in enumerate(runs):
        alone = reinforced(stack[[row]], [run], recipe)
        assert_close(every.last.flat[[row]], alone.last.flat)
        assert_close(every.rewards[:, [row]], alone.rewards)


# --- GRPO and PPO -------------------------------------------------------------------------------


def by_hand(policy: ToyTransformer, run: OnlineRun, recipe: Recipe, parts: int) -> ToyTransformer:
    """Torch's own optimiser on one policy, the clipped loss as its paper has it."""
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[recipe.optimizer]
    optimizer = make(policy.parameters(), lr=run.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    dice, critic = generator(run.seed, "toys", "online"), Critic.of(run)
    turns = order(len(run.prompts), replace(recipe, batch=recipe.batch // run.group), run.seed)
    for turn in turns:
        asked = turn.repeat_interleave(run.group)
        noise = torch.rand(recipe.batch, T, generator=dice).unsqueeze(0)
        tokens, old = answered(Stack.of([policy]), run.prompts[asked].unsqueeze(0), noise)
        tokens, old = tokens[0], old[0]
        earned = run.reward(tokens)
        if run.group == 1:
            advantage = critic.advantages(asked, earned)
        else:
            advantage = group_advantages(earned, run.group)
        for rows in torch.arange(recipe.batch).chunk(parts):
            stats = token_stats(policy.logits(tokens[rows]), labels(tokens[rows]))
            ratio, a = (stats.logp[:, P - 1 :] - old[rows]).exp(), advantage[rows]
            loss = -torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
            optimizer.zero_grad()
            (recipe.scale * loss).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), recipe.clip)
            optimizer.step()
        schedule.step()
    return policy


GRID = list(itertools.product((1, 4), ("sgd", "adamw"), (1, 2)))


@pytest.mark.parametrize(("group", "optimizer", "parts"), GRID)
def test_one_run_is_torchs_own_optimiser_on_the_clipped_loss(group, optimizer, parts):
    (policy,) = policies(1)
    run = OnlineRun(rate=0.3, prompts=prompts(0), reward=reward, seed=2, group=group)
    recipe = Recipe(steps=4, batch=8, optimizer=optimizer, scale=2.0, clip=1.5)
    found = reinforced(Stack.of([policy]), [run], recipe, parts=parts).last
    expected = by_hand(copy.deepcopy(policy), run, recipe, parts)
    assert_close(found.flat[0], parameters(expected), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found.flat[0], parameters(policy), atol=1e-3)


def test_the_clip_acts_once_the_policy_has_moved():
    (policy,) = policies(1)
    run = OnlineRun(rate=0.3, prompts=prompts(0), reward=reward, seed=2, group=4)
    found = {
        (parts, eps): reinforced(
            Stack.of([policy]),
            [run],
            Recipe(steps=1, batch=8),
            objective=objectives["grpo-0.2-0.2"] if eps else objectives["reinforce"],
            parts=parts,
        ).last.flat
        for parts in (1, 2)
        for eps in (True, False)
    }
    assert_close(found[1, True], found[1, False])
    assert not torch.allclose(found[2, True], found[2, False])


@pytest.mark.parametrize("group", [1, 12_000])
def test_the_expected_update_is_the_gradient_of_the_expected_reward(group):
    """Summed over all V^T responses; GRPO's is divided by the reward's deviation."""
    (policy,) = policies(1)
    asked = prompts(3, 1)
    every = policy.responses()
    paid = reward(torch.cat([asked.expand(len(every), -1), every], dim=1))
    for p in policy.parameters():
        p.requires_grad_()
    expected = (policy.log_probs(asked[0], every).sum(-1).exp() * paid).sum()
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(expected, list(policy.parameters()))]
    )
    deviation = 1.0 if group == 1 else (expected * (1 - expected)).sqrt().item()
    run = OnlineRun(rate=1.0, prompts=asked, reward=reward, seed=0, group=group)
    recipe = Recipe(steps=1, batch=12_000, optimizer="sgd")
    last = reinforced(Stack.of([policy]), [run], recipe, parts=1).last
    moved = (last.flat[0] - parameters(policy)) * T * deviation  # a mean over T tokens
    assert torch.cosine_similarity(moved, gradient, dim=0) > 0.98
    assert (moved.norm() / gradient.norm()).item() == pytest.approx(1, abs=0.15)


def test_the_critic_expects_what_it_has_seen():
    run = OnlineRun(rate=0.1, prompts=prompts(0, 3), reward=reward, seed=0, group=1)
    critic = Critic.of(run)
    first = critic.advantages(torch.tensor([0, 2]), torch.tensor([1.0, 0.0]))
    assert first.tolist() == [[1.0], [0.0]]
    assert critic.value.tolist() == pytest.approx([0.2, 0.0, 0.0])
    again = critic.advantages(torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    assert again.flatten().tolist() == pytest.approx([0.8, -0.2])
    assert critic.value[0].item() == pytest.approx(0.8 * (0.8 * 0.2 + 0.2))


def test_rewards_rise_where_reward_is_learned():
    (policy,) = policies(1)
    runs = [
        OnlineRun(rate=0.03, prompts=prompts(0), reward=reward, seed=0, group=g) for g in (8, 1)
    ]
    found = reinforced(Stack.of([policy] * 2), runs, Recipe(steps=40, batch=64))
    assert bool((found.rewards[-5:].mean(0) > found.rewards[:5].mean(0) + 0.2).all())


def test_groups_and_rows_that_do_not_fit_are_refused():
    run = OnlineRun(rate=0.1, prompts=prompts(0), reward=reward, seed=0, group=3)
    with pytest.raises(ValueError, match="2 runs do not fit a stack of 1"):
        reinforced(Stack.of(policies(1)), [run, run], Recipe(batch=8))
    with pytest.raises(ValueError, match="8 samples a step do not make 2 parts"):
        reinforced(Stack.of(policies(1)), [run], Recipe(batch=8))


# --- from samples -------------------------------------------------------------------------------


def test_accepted_are_the_rewarded_ones_in_their_order():
    samples = torch.cat([prompts(0, 20), prompts(1, 20)], dim=1)
    kept = accepted(samples, reward)
    assert kept.tolist() == [r for r in samples.tolist() if r[-1] == r[0]]
    with pytest.raises(ValueError, match="none of 3 samples is rewarded"):
        accepted(samples[:3], lambda tokens: torch.zeros(len(tokens)))


def test_pairs_are_of_one_prompt_chosen_first_each_sample_once():
    asked = torch.tensor([[0, 1], [1, 2], [2, 2]]).repeat(10, 1)
    answers = torch.randint(V, (30, T), generator=torch.Generator().manual_seed(5))
    samples = torch.cat([asked, answers], dim=1)
    found = pairs(samples, 3, reward)
    chosen, rejected = found[::2], found[1::2]
    assert bool(reward(chosen).all())
    assert not reward(rejected).any()
    assert torch.equal(chosen[:, :P], rejected[:, :P])
    good = reward(samples)
    for i in range(3):
        right = int(good[i::3].sum())
        assert int((chosen[:, 0] == i).sum()) == min(right, 10 - right)
    with pytest.raises(ValueError, match="no prompt has both"):
        pairs(samples, 3, lambda tokens: torch.ones(len(tokens)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_dpo_is_torchs_own_optimiser_on_the_published_loss(optimizer):
    start = policies(2)
    demos = [torch.randint(V, (10, P + T), generator=generator(k, "pairs")) for k in range(2)]
    runs = [
        Run(objective=objectives["dpo-0.1"], rate=0.3, demos=d, seed=k) for k, d in enumerate(demos)
    ]
    recipe = Recipe(steps=4, batch=3, optimizer=optimizer)
    found = preferred(Stack.of(start), runs, recipe)
    make = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    for row, run in enumerate(runs):
        policy, before = copy.deepcopy(start[row]), start[row]
        optimizer_ = make(policy.parameters(), lr=run.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer_, recipe.steps)
        for index in order(5, recipe, run.seed):
            margins = []
            for offset in (0, 1):
                tokens = run.demos[2 * index + offset]
                now, then = (
                    token_stats(m.logits(tokens), labels(tokens)).logp.sum(-1)
                    for m in (policy, before)
                )
                margins.append(now - then.detach())
            loss = -torch.nn.functional.logsigmoid(0.1 * (margins[0] - margins[1])).mean()
            optimizer_.zero_grad()
            (loss / (2 * T)).backward()  # a mean over tokens, of two responses a pair
            optimizer_.step()
            schedule.step()
        assert_close(found.flat[row], parameters(policy), atol=1e-6, rtol=1e-5)


def test_preferred_refuses_rows_that_do_not_fit():
    run = Run(objective=objectives["dpo-0.1"], rate=0.3, demos=prompts(0, 4), seed=0)
    with pytest.raises(ValueError, match="1 runs do not fit a stack of 2"):
        preferred(Stack.of(policies(2)), [run], Recipe())
