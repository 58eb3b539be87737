"""The chain task: three operators applied to a state, where the prior and the data are laws.

Prompt `A s0 o1 o2 o3 =`, response `f s1 f s2 f s3` with s_t = sigma_{o_t}(s_{t-1}); f is one of
four synonyms, the style. A second rule tau disagrees with sigma everywhere and is coherent: whoever
follows it is wrong in the same way each time. Whoever writes, writes from a law P(s'|o, s): the
base follows sigma with probability p0 and tau otherwise, so p0 is exact; the teacher follows
sigma with probability 1 - eps. Wrong states stay in the chain: the next one follows from what
stands there. Everything measured is exact: probabilities along right responses, nothing sampled.
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from dft_theory.logprobs import TokenStats
from dft_theory.objectives.parts import given, one_of
from dft_theory.seeding import generator

STATES, OPERATORS, STYLES, STEPS = 10, 4, 4, 3
# Token ids: states from 0 on, then operators and styles; NEW is a token that no base has seen.
OPERATOR, STYLE = STATES, STATES + OPERATORS
CHAIN, COPY, EQUALS, NEW = range(STYLE + STYLES, STYLE + STYLES + 4)
VOCAB = NEW + 1
PROMPT, LENGTH = STEPS + 3, 2 * STEPS
STYLED, CONTENT = slice(0, None, 2), slice(1, None, 2)  # positions in a response
UNSEEN = OPERATORS - 1  # the operator of no demonstration

BASE_STYLE = (0.25, 0.25, 0.25, 0.25)
TEACHER_STYLE = (0.1, 0.2, 0.3, 0.4)

# How a writer errs: any state, the same chance each; another rule of its own; the base's own tau.
Error = Literal["uniform", "systematic", "aligned"]


@dataclass(frozen=True)
class Chain:
    """The rules of one world, each `[operators, states]`: sigma, tau and a third one.

    No two of them agree on the result of any operator in any state.
    """

    right: Tensor
    aligned: Tensor
    systematic: Tensor

    @classmethod
    def random(cls, seed: int) -> Self:
        """Random permutations; tau and the third rule are sigma after a random cycle, or two."""
        g = generator(seed, "toys", "chain")
        right, order = (
            torch.stack([torch.randperm(STATES, generator=g) for _ in range(OPERATORS)])
            for _ in range(2)
        )

        def after(turns: int) -> Tensor:
            cycle = torch.empty_like(order).scatter_(1, order, order.roll(-turns, 1))
            return right.gather(1, cycle)

        return cls(right, after(1), after(2))

    def law(self, error: Error = "uniform", rate: float = 0.0) -> Tensor:
        """P(s'|o, s) `[operators, states, states]` of a writer who errs at that rate.

        "uniform" draws from all states, the right one among them. Raises: ValueError.
        """
        one_of(get_args(Error), error, "Chain.law(error=)")
        if not 0 <= rate <= 1:
            raise ValueError(f"a rate of errors lies in [0, 1], got {rate}")
        wrong = torch.full((OPERATORS, STATES, STATES), 1 / STATES)
        if error != "uniform":
            rule = self.aligned if error == "aligned" else self.systematic
            wrong = torch.nn.functional.one_hot(rule, STATES).float()
        return (1 - rate) * torch.nn.functional.one_hot(self.right, STATES) + rate * wrong

    def follows(self, tokens: Tensor, rule: Tensor) -> Tensor:
        """Whether each state of `[N, P+T]` is what `rule` makes of the one before, `[N, 3]`.

        Nothing follows from a token that is no state.
        """
        states = torch.cat([tokens[:, 1:2], tokens[:, PROMPT:][:, CONTENT]], dim=1)
        before, after = states[:, :-1], states[:, 1:]
        made = rule[tokens[:, 2 : 2 + STEPS] - OPERATOR, before.clamp_max(STATES - 1)]
        return (made == after) & (before < STATES)


def prompts() -> Tensor:
    """All 640 of the task, `[640, P]`."""
    start = torch.arange(STATES)
    operator = OPERATOR + torch.arange(OPERATORS)
    body = torch.cartesian_prod(start, *[operator] * STEPS)
    return _framed(CHAIN, body)


def _framed(task: int, body: Tensor) -> Tensor:
    ends = torch.tensor([task, EQUALS]).expand(len(body), 2)
    return torch.cat([ends[:, :1], body, ends[:, 1:]], dim=1)


@dataclass(frozen=True)
class Split:
    """Disjoint prompts `[., P]`; only `unseen` hold the operator of no demonstration."""

    train: Tensor
    validation: Tensor
    test: Tensor
    unseen: Tensor

    @classmethod
    def random(cls, seed: int, *, train: int = 48, held_out: int = 64) -> Self:
        """`held_out` prompts each for validation, test and unseen; training repeats beyond 142.

        Raises: ValueError where too few prompts would be left to train on.
        """
        g = generator(seed, "toys", "split")
        every = prompts()[torch.randperm(STATES * OPERATORS**STEPS, generator=g)]
        new = (every == OPERATOR + UNSEEN).any(-1)
        known, unseen = every[~new], every[new]
        if not 0 < held_out <= len(known) // 3:
            raise ValueError(f"held_out lies in [1, {len(known) // 3}], got {held_out}")
        pool = known[2 * held_out :]
        return cls(
            train=pool[torch.arange(train) % len(pool)],
            validation=known[:held_out],
            test=known[held_out : 2 * held_out],
            unseen=unseen[:held_out],
        )


def write(asked: Tensor, law: Tensor, style: tuple[float, ...], g: torch.Generator) -> Tensor:
    """Prompts `[N, P]` with responses drawn from a law and a style, `[N, P+T]`."""
    state, out = asked[:, 1], [asked]
    manner = _styles(len(asked), style, g)
    for t in range(STEPS):
        chances = law[asked[:, 2 + t] - OPERATOR, state]
        state = torch.multinomial(chances, 1, generator=g).squeeze(1)
        out += [manner[:, t : t + 1], state.unsqueeze(1)]
    return torch.cat(out, dim=1)


def copies(n: int, style: tuple[float, ...], g: torch.Generator) -> Tensor:
    """The other task, `[n, P+T]`: `B a b c d = f d f c f b`."""
    body = torch.randint(STATES, (n, PROMPT - 2), generator=g)
    pairs = torch.stack([_styles(n, style, g), body.flip(1)[:, :STEPS]], dim=-1)
    return torch.cat([_framed(COPY, body), pairs.flatten(1)], dim=1)


def _styles(n: int, law: tuple[float, ...], g: torch.Generator) -> Tensor:
    drawn = torch.multinomial(torch.tensor(law), n * STEPS, replacement=True, generator=g)
    return STYLE + drawn.view(n, STEPS)


# --- what a policy makes of right responses -----------------------------------------------------
#
# All take the statistics `[B, T]` of responses and give a number for each of them, `[B]`. Styles
# are given: what is asked is whether the states are right after any right prefix.


def content_logp(t: TokenStats) -> Tensor:
    """Log of the probability, in nats, that every state sampled at T = 1 is the given one."""
    return t.logp[:, CONTENT].sum(-1)


def greedy(t: TokenStats) -> Tensor:
    """1.0 where every given state is the likeliest token, else 0.0. Needs log_probs."""
    best = given(t.log_probs).argmax(-1)
    return (best == given(t.targets))[:, CONTENT].all(-1).float()


def pass_at_k(logp: Tensor, k: int) -> Tensor:
    """Probability that one of k independent samples is right: 1 - (1 - p)^k.

    Raises: ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"pass@k needs at least one sample, got k = {k}")
    return -torch.expm1(k * torch.log1p(-logp.exp()))


def divergence(t: TokenStats, base: TokenStats) -> Tensor:
    """KL(pi || base) of the next token in nats at each position, `[B, T]`. Need log_probs."""
    mine = given(t.log_probs)
    return (mine.exp() * (mine - given(base.log_probs))).sum(-1)


def summary(t: TokenStats, base: TokenStats) -> dict[str, Tensor]:
    """What experiments record of right responses `[B, T]`, each `[B]`; KL summed over tokens.

    Both statistics need log_probs and entropy.
    """
    away, entropy = divergence(t, base), given(t.entropy)
    return {
        "sampled": content_logp(t).exp(),
        "greedy": greedy(t),
        "content_p": t.logp[:, CONTENT].exp().mean(-1),
        "content_kl": away[:, CONTENT].sum(-1),
        "style_kl": away[:, STYLED].sum(-1),
        "content_entropy": entropy[:, CONTENT].mean(-1),
        "style_entropy": entropy[:, STYLED].mean(-1),
    }
