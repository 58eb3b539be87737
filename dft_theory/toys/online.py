"""Training on a policy's own responses: outcome rewards, what they accept, and preferred pairs.

Prompts are answered by the policy itself and a reward says which responses count. Weights are the
catalogue's: the clipped ratio of GRPO and PPO, the margin of DPO; SFT, DFT or iw-SFT train on
accepted responses as on demonstrations. All runs of a grid go through one `Stack`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from dft_theory.logprobs import target_stats
from dft_theory.objectives import Objective, SumOver, objectives
from dft_theory.objectives.grpo import group_advantages
from dft_theory.seeding import generator
from dft_theory.toys.chain import OPERATOR, STEPS, Chain
from dft_theory.toys.stacked import (
    UPDATES,
    Recipe,
    Run,
    Stack,
    Update,
    order,
    summed_loss,
    together,
)

Reward = Callable[[Tensor], Tensor]  # responses with their prompts `[N, P+T]` to numbers `[N]`


def outcome(rules: Chain, tokens: Tensor) -> Tensor:
    """1.0 where the last state is right, whatever led to it, `[N]`."""
    state = tokens[:, 1]
    for t in range(STEPS):
        state = rules.right[tokens[:, 2 + t] - OPERATOR, state]
    return (tokens[:, -1] == state).float()


def process(rules: Chain, tokens: Tensor) -> Tensor:
    """1.0 where every state is right, `[N]`."""
    return rules.follows(tokens, rules.right).all(-1).float()


def answered(stack: Stack, prompts: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Responses drawn at temperature 1, `[K, N, P+T]`, and log-probabilities of theirs `[K, N, T]`.

    Uniform `noise [K, N, T]` decides, so what a row writes does not depend on the other rows.
    """
    tokens, told = prompts, []
    with torch.no_grad():
        for u in noise.unbind(-1):
            logits = stack.logits(tokens, first=tokens.shape[-1] - 1).squeeze(2)
            logp = torch.log_softmax(logits, -1)
            below = logp.exp().cumsum(-1) < u.unsqueeze(-1)
            drawn = below.sum(-1, keepdim=True).clamp_max(stack.like.vocab - 1)
            tokens = torch.cat([tokens, drawn], dim=-1)
            told.append(logp.gather(-1, drawn))
    return tokens, torch.cat(told, dim=-1)


# --- GRPO and PPO -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OnlineRun:
    """A learning rate, prompts `[N, P]`, what counts, and how many samples a prompt stand together.

    Of a `group` of samples GRPO's advantage is the reward within the group, in deviations. With
    one sample a prompt it is PPO's, the reward minus a critic: a table of one value a prompt.
    """

    rate: float
    prompts: Tensor
    reward: Reward
    seed: int
    group: int = 8


@dataclass
class Critic:
    """The running mean of each prompt's rewards, `[N]`; nothing is expected at the start."""

    value: Tensor
    memory: float = 0.8

    @classmethod
    def of(cls, run: OnlineRun) -> Self:
        """One that has seen nothing."""
        return cls(torch.zeros(len(run.prompts)))

    def advantages(self, asked: Tensor, rewards: Tensor) -> Tensor:
        """Reward minus what was expected before it was seen, `[B, 1]`, for prompts `[B]`."""
        surprise = rewards - self.value[asked]
        for prompt, reward in zip(asked.tolist(), rewards.tolist(), strict=True):
            self.value[prompt] += (1 - self.memory) * (reward - self.value[prompt])
        return surprise.unsqueeze(1)


@dataclass(frozen=True)
class Reinforced:
    """The end of training, and the mean reward of each run's samples at each step `[steps, K]`."""

    last: Stack
    rewards: Tensor


def reinforced(
    start: Stack,
    runs: Sequence[OnlineRun],
    recipe: Recipe,
    *,
    objective: Objective = objectives["grpo-0.2-0.2"],
    parts: int = 2,
) -> Reinforced:
    """Train row k of `start` on its own samples as run k says, `recipe.batch` samples a step.

    Samples of a step are gone through once, in `parts` updates: from the second on, the policy is
    no longer the one that drew them, and the ratio and its clip matter. Losses are means over
    tokens. Raises: ValueError where runs, rows, groups and parts do not fit together.
    """
    if len(runs) != len(start):
        raise ValueError(f"{len(runs)} runs do not fit a stack of {len(start)}")
    for run in runs:
        if run.group < 1 or recipe.batch % (run.group * parts):
            raise ValueError(
                f"{recipe.batch} samples a step do not make {parts} parts of whole groups of "
                f"{run.group}: make the batch a multiple of both"
            )
    flat = start.flat.detach().clone()
    now = Stack(flat, start.like)
    update = UPDATES[recipe.optimizer](flat, recipe)
    rates = torch.tensor([run.rate for run in runs], dtype=flat.dtype).unsqueeze(1)
    turns = [
        order(len(r.prompts), replace(recipe, batch=recipe.batch // r.group), r.seed) for r in runs
    ]
    dice = [generator(run.seed, "toys", "online") for run in runs]
    critics = [Critic.of(run) for run in runs]
    size, rewards = (recipe.batch, start.like.length), []
    for step in range(recipe.steps):
        asked = [turn[step].repeat_interleave(r.group) for turn, r in zip(turns, runs, strict=True)]
        prompts = torch.stack([run.prompts[i] for run, i in zip(runs, asked, strict=True)])
        noise = torch.stack([torch.rand(size, generator=g) for g in dice])
        tokens, old = answered(now, prompts, noise)
        earned = torch.stack([run.reward(tokens[k]) for k, run in enumerate(runs)])
        rewards.append(earned.mean(1))
        advantage = torch.stack(
            [
                critics[k].advantages(asked[k], earned[k])
                if run.group == 1
                else group_advantages(earned[k], run.group)
                for k, run in enumerate(runs)
            ]
        )  # [K, batch, 1]
        for part in torch.arange(recipe.batch).chunk(parts):
            flat.requires_grad_()
            logits, targets = now.aligned(tokens[:, part])
            stats = replace(
                target_stats(logits.flatten(0, 1), targets.flatten(0, 1)),
                old_logp=old[:, part].flatten(0, 1),
                advantage=advantage[:, part].expand_as(targets).flatten(0, 1),
            )
            loss = objective.surrogate(stats, reduction=SumOver(targets[0].numel()))
            descend(loss, flat, update, rates * recipe.rate(step), recipe)
    return Reinforced(now, torch.stack(rewards))


# --- from samples without further sampling ------------------------------------------------------


def accepted(samples: Tensor, reward: Reward) -> Tensor:
    """The rewarded ones of samples `[N, P+T]`: demonstrations for rejection fine-tuning.

    Raises: ValueError where there are none.
    """
    kept = samples[reward(samples) > 0]
    if not len(kept):
        raise ValueError(f"none of {len(samples)} samples is rewarded: draw more")
    return kept


def pairs(samples: Tensor, prompts: int, reward: Reward) -> Tensor:
    """Rewarded and unrewarded samples of the same prompt in turn, `[2n, P+T]`, each used once.

    Samples answer so many prompts, over and over in the same order. Raises: ValueError where no
    prompt has both.
    """
    good = reward(samples) > 0
    found = []
    for i in range(prompts):
        mine, right = samples[i::prompts], good[i::prompts]
        found += [torch.stack(both) for both in zip(mine[right], mine[~right], strict=False)]
    if not found:
        raise ValueError("no prompt has both a rewarded and an unrewarded sample: draw more")
    return torch.cat(found)


def preferred(start: Stack, runs: Sequence[Run], recipe: Recipe) -> Stack:
    """Train on pairs: demonstrations alternate chosen, rejected, and `recipe.batch` counts pairs.

    The start is the reference. Raises: ValueError where runs and rows do not match.
    """
    if len(runs) != len(start):
        raise ValueError(f"{len(runs)} runs do not fit a stack of {len(start)}")
    batches = torch.stack(
        [r.demos.unflatten(0, (-1, 2))[order(len(r.demos) // 2, recipe, r.seed)] for r in runs],
        dim=1,
    ).flatten(2, 3)  # [steps, K, 2 * batch, P+T]
    flat = start.flat.detach().clone()
    now, groups = Stack(flat, start.like), together(runs)
    update = UPDATES[recipe.optimizer](flat, recipe)
    rates = torch.tensor([r.rate for r in runs], dtype=flat.dtype).unsqueeze(1)
    for step, tokens in enumerate(batches):
        flat.requires_grad_()
        loss = summed_loss(now, start, tokens, groups)
        descend(loss, flat, update, rates * recipe.rate(step), recipe)
    return now


def descend(loss: Tensor, flat: Tensor, update: Update, rates: Tensor, recipe: Recipe) -> None:
    """One update of parameters `flat [K, P]` from the sum of their losses, as in `train`."""
    (grad,) = torch.autograd.grad(loss, flat)
    flat.requires_grad_(False)
    grad *= recipe.scale
    if math.isfinite(recipe.clip):
        grad *= (recipe.clip / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp_max(1.0)
    update(grad, rates)
