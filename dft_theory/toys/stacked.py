"""Many toy transformers trained together: one tensor operation is a step of all of them.

A run of 26,000 parameters spends its time between operations, not in them. Here the K runs of a
grid (seeds x learning rates x objectives) are a row each of one matrix of parameters, and go
through batched matrix products. Losses are summed over runs, so a run's gradient is its own. The
model is `ToyTransformer`, the losses are the objectives' own surrogates, the updates torch's.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dft_theory.logprobs import TokenStats, target_stats
from dft_theory.objectives import Objective, SumOver
from dft_theory.policies import ToyTransformer
from dft_theory.policies.transformer import Block, rotate
from dft_theory.seeding import generator


@dataclass(frozen=True)
class Stack:
    """K toy transformers of the shape of `like`: parameters `flat [K, P]`, in its order."""

    flat: Tensor
    like: ToyTransformer

    @classmethod
    def of(cls, policies: Sequence[ToyTransformer]) -> Self:
        """Copies of given ones, all of one shape."""
        rows = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in policies]
        return cls(torch.stack(rows), policies[0])

    @classmethod
    def fresh(cls, like: ToyTransformer, seeds: Sequence[int]) -> Self:
        """One for each seed: weights from N(0, 1 / columns), gains 1, biases 0."""
        rows = []
        for seed in seeds:
            g = generator(seed, "toys", "fresh")
            parts = []
            for name, p in like.named_parameters():
                flat = torch.full_like(p, float(not name.endswith("bias")))
                if p.dim() == 2:
                    flat.normal_(0.0, p.shape[1] ** -0.5, generator=g)
                parts.append(flat.flatten())
            rows.append(torch.cat(parts))
        return cls(torch.stack(rows), like)

    def __len__(self) -> int:
        return len(self.flat)

    def __getitem__(self, rows: Sequence[int]) -> "Stack":
        return Stack(self.flat[torch.as_tensor(rows)], self.like)

    def policy(self, row: int) -> ToyTransformer:
        """One of them, as a policy of its own."""
        policy = copy.deepcopy(self.like)
        torch.nn.utils.vector_to_parameters(self.flat[row].detach().clone(), policy.parameters())
        return policy

    def logits(self, tokens: Tensor, *, first: int = 0) -> Tensor:
        """Next-token logits `[K, N, L - first, V]` from position `first` on, for `[K, N, L]`.

        The last block skips what stands before `first`. Raises: ValueError beyond the context.
        """
        runs, rows, length = tokens.shape
        like, width = self.like, self.like.embed.embedding_dim
        if length > like.context:
            raise ValueError(f"{length} tokens exceed the context of {like.context}")
        shapes = {name: p.shape for name, p in like.named_parameters()}
        # One split, not a slice for each: its gradient is a single concatenation.
        parts = self.flat.split([shape.numel() for shape in shapes.values()], dim=1)
        pairs = zip(shapes, parts, strict=True)
        w: dict[str, Tensor] = {name: part.unflatten(1, shapes[name]) for name, part in pairs}

        def linear(x: Tensor, name: str) -> Tensor:
            weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
            return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

        def norm(x: Tensor, name: str) -> Tensor:
            return F.rms_norm(x, (width,)) * w[f"{name}.weight"].unsqueeze(1)

        own = like.vocab * torch.arange(runs).view(-1, 1, 1)  # K tables of embeddings in one
        x = F.embedding(tokens + own, w["embed.weight"].flatten(0, 1))
        if like.place is not None:
            x = x + w["place.weight"][:, None, :length]
        x = x.flatten(1, 2)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        causal = torch.zeros(length, length, dtype=x.dtype).masked_fill(hidden, -math.inf)
        for layer, block in enumerate(like.blocks):
            assert isinstance(block, Block)
            at, heads = f"blocks.{layer}", block.heads
            qkv = linear(norm(x, f"{at}.norm_attention"), f"{at}.qkv")
            qk, v = qkv.view(runs * rows, length, 3 * heads, -1).split([2 * heads, heads], dim=2)
            qk, v = qk.transpose(1, 2), v.transpose(1, 2)
            q, k = (qk if block.positions == "learned" else rotate(qk)).split(heads, dim=1)
            skip = first if layer == len(like.blocks) - 1 else 0
            mixed = F.scaled_dot_product_attention(q[:, :, skip:], k, v, attn_mask=causal[skip:])
            x = x.view(runs * rows, length, width)[:, skip:].reshape(runs, -1, width)
            x = x + linear(mixed.transpose(1, 2).reshape(x.shape), f"{at}.out")
            up = F.gelu(linear(norm(x, f"{at}.norm_mlp"), f"{at}.up"))
            x = x + linear(up, f"{at}.down")
        head = w["embed.weight"] if like.head is None else w["head.weight"]
        out = norm(x, "norm") @ head.transpose(1, 2)
        return out.view(runs, rows, length - first, like.vocab)

    def stats(self, tokens: Tensor, *, needs: Sequence[str] = ()) -> TokenStats:
        """Statistics `[K*N, T]` of the responses in `[K, N, P+T]`, or in the same `[N, P+T]`."""
        tokens = tokens.expand(len(self), -1, -1)
        logits, targets = self.aligned(tokens)
        return target_stats(logits.flatten(0, 1), targets.flatten(0, 1), needs=needs)

    def aligned(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[K, N, T, V]` at their targets `[K, N, T]`."""
        prompt = tokens.shape[-1] - self.like.length
        return self.logits(tokens[..., :-1], first=prompt - 1), tokens[..., prompt:]

    @torch.no_grad()
    def sample(self, prompts: Tensor, *, generator: torch.Generator) -> Tensor:
        """Prompts `[K, N, P]` with responses drawn at temperature 1, `[K, N, P+T]`."""
        tokens = prompts
        for _ in range(self.like.length):
            logits = self.logits(tokens, first=tokens.shape[-1] - 1)
            probs = torch.softmax(logits, -1).flatten(0, 2)
            drawn = torch.multinomial(probs, 1, generator=generator)
            tokens = torch.cat([tokens, drawn.view(*tokens.shape[:2], 1)], dim=-1)
        return tokens


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of a grid: an objective, its learning rate, and demonstrations `[N, P+T]`.

    Runs of one seed and size see their demonstrations in the same order.
    """

    objective: Objective
    rate: float
    demos: Tensor
    seed: int


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs share. The rate falls by a cosine to 0; `clip` bounds the gradient's norm.

    AdamW has torch's defaults, and `decay` is its weight decay; SGD has neither momentum nor decay.
    The gradient is multiplied by `scale` before it is clipped: 8 is what 8 accumulated batches
    give that nobody divides. In `precision` "bfloat16" parameters and moments are rounded after
    each step, and there is no master copy.
    """

    steps: int = 100
    batch: int = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    decay: float = 0.01
    clip: float = math.inf
    scale: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"

    def rate(self, step: int) -> float:
        """Share of the learning rate that is left at a step."""
        return 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Trained:
    """The end, and the best state on validation: a stack, its score and its step for each run.

    Scores `[checks, K]`; the step of the start is 0.
    """

    last: Stack
    best: Stack
    best_step: Tensor
    scores: Tensor


def order(n: int, recipe: Recipe, seed: int) -> Tensor:
    """Which of n demonstrations make up each batch, `[steps, batch]`: shuffled epochs in a row."""
    g = generator(seed, "toys", "order", n)
    epochs = -(-recipe.steps * recipe.batch // n)
    every = torch.cat([torch.randperm(n, generator=g) for _ in range(epochs)])
    return every[: recipe.steps * recipe.batch].view(recipe.steps, recipe.batch)


def train(
    start: Stack,
    runs: Sequence[Run],
    recipe: Recipe,
    *,
    validate: Callable[[Stack], Tensor] | None = None,
    every: int = 10,
) -> Trained:
    """Train row k of `start` as run k says. `validate` gives a score `[K]`: more is better.

    It is asked at the start, each `every` steps and at the end. Without it, the end is the best.
    The start is the reference, and the earlier policy, of objectives that need one.
    Raises: ValueError where runs and rows do not match, or for an objective that needs what
    neither model nor labels hold.
    """
    if len(runs) != len(start):
        raise ValueError(f"{len(runs)} runs do not fit a stack of {len(start)}")
    batches = torch.stack(
        [r.demos[order(len(r.demos), recipe, r.seed)] for r in runs], dim=1
    )  # [steps, K, batch, P+T]
    groups = together(runs)
    flat = start.flat.detach().clone()
    now = Stack(flat, start.like)
    update = UPDATES[recipe.optimizer](flat, recipe)
    rates = torch.tensor([r.rate for r in runs], dtype=flat.dtype).unsqueeze(1)
    score = validate(now) if validate else torch.zeros(len(runs))
    scores, best, best_step = [score], flat.clone(), torch.zeros(len(runs), dtype=torch.long)
    for step, tokens in enumerate(batches, start=1):
        flat.requires_grad_()
        loss = summed_loss(now, start, tokens, groups)
        (grad,) = torch.autograd.grad(loss, flat)
        flat.requires_grad_(False)
        grad *= recipe.scale
        if math.isfinite(recipe.clip):
            grad *= (recipe.clip / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp_max(1.0)
        update(grad, rates * recipe.rate(step - 1))
        if validate and (step % every == 0 or step == recipe.steps):
            score = validate(now)
            better = score > torch.stack(scores).amax(0)
            best[better], best_step[better] = flat[better], step
            scores.append(score)
    if not validate:
        best, best_step = flat, best_step + recipe.steps
    return Trained(now, Stack(best, start.like), best_step, torch.stack(scores))


def together(runs: Sequence[Run]) -> list[tuple[Objective, list[int]]]:
    """Which rows one call of a surrogate serves: all of an objective, unless batches matter."""
    groups: dict[tuple[Objective, int], list[int]] = {}
    for row, run in enumerate(runs):
        alone = run.objective.level in ("batch", "group")
        groups.setdefault((run.objective, row if alone else -1), []).append(row)
    return [(objective, rows) for (objective, _), rows in groups.items()]


def summed_loss(
    now: Stack, start: Stack, tokens: Tensor, groups: Sequence[tuple[Objective, list[int]]]
) -> Tensor:
    """Sum over runs of each one's mean surrogate over its tokens `[K, N, P+T]`."""
    logits, targets = now.aligned(tokens)
    mean = SumOver(targets[0].numel())
    losses = []
    for objective, rows in groups:
        frozen = None
        if REFERENCE & set(objective.needs):
            with torch.no_grad():
                frozen = start[rows].aligned(tokens[rows])[0].flatten(0, 1)
        stats = target_stats(
            logits[rows].flatten(0, 1),
            targets[rows].flatten(0, 1),
            needs=objective.needs,
            ref_logits=frozen,
            old_logits=frozen,
        )
        losses.append(objective.surrogate(stats, reduction=mean))
    return torch.stack(losses).sum()


REFERENCE = {"ref_logp", "ref_log_probs", "old_logp"}

Update = Callable[[Tensor, Tensor], None]  # gradients `[K, P]`, learning rates `[K, 1]`


def sgd(flat: Tensor, recipe: Recipe) -> Update:
    """Moves `flat` against the gradient."""

    def update(grad: Tensor, rates: Tensor) -> None:
        flat.sub_(rates * grad)
        rounded(recipe, flat)

    return update


def adamw(flat: Tensor, recipe: Recipe) -> Update:
    """Moves `flat` as torch.optim.AdamW would each row, with a learning rate of its own."""
    mean, square = torch.zeros_like(flat), torch.zeros_like(flat)
    count, (b1, b2), eps = 0, (0.9, 0.999), 1e-8

    def update(grad: Tensor, rates: Tensor) -> None:
        nonlocal count
        count += 1
        flat.mul_(1 - rates * recipe.decay)
        mean.lerp_(grad, 1 - b1)
        square.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        # The gradient has been used: its memory takes the step.
        scale = torch.sqrt(square, out=grad).div_(math.sqrt(1 - b2**count)).add_(eps)
        step = torch.div(mean, scale, out=grad)
        flat.addcmul_(step, -rates / (1 - b1**count))
        rounded(recipe, flat, mean, square)

    return update


def rounded(recipe: Recipe, *tensors: Tensor) -> None:
    """Leaves in each tensor what its precision can hold."""
    if recipe.precision == "bfloat16":
        for tensor in tensors:
            tensor.copy_(tensor.bfloat16())


UPDATES: dict[str, Callable[[Tensor, Recipe], Update]] = {"adamw": adamw, "sgd": sgd}
