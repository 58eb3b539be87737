"""Settings of the chain task in which DFT may lead SFT or trail it: a base, and demonstrations.

GRID spans the prior p0 and the share eps of noise, to fit a predictor on. HELD_OUT was written
down, with what theory expects of each, before a predictor was chosen, and is to judge it by.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dft_theory.diagnostics import CERTAIN, KINDS, RARE
from dft_theory.diagnostics.coherence import Coherence, coherence
from dft_theory.diagnostics.regime import Evidence, Name
from dft_theory.dynamics import escape_time
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import sft
from dft_theory.objectives.parts import given
from dft_theory.provenance import source_hash
from dft_theory.registry import Registry
from dft_theory.results import write_bytes
from dft_theory.seeding import generator
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining, bases
from dft_theory.toys.chain import BASE_STYLE, NEW, OPERATORS, PROMPT, STATES, TEACHER_STYLE, Error
from dft_theory.toys.stacked import Recipe, Run, Stack, train
from dft_theory.toys.worlds import World, own_samples

SLOT = 4  # the place in a response of the last style, where a new format token stands
REHEARSAL = 1e-3, 60  # learning rate and steps of SFT on clean demonstrations, before the rest


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the base knows, and who teaches it what; `expected` is what theory says of it.

    The base follows the right rule with probability p0, but on a share `novel` of the taught facts
    never; `rehearsed`, it has been trained by SFT on clean demonstrations. The teacher errs at rate
    eps, in his own style if it is `shifted`, with an unknown token in place of the last style if
    the `format` is new; `own`, the base itself is the teacher. A share `disguised` of his labels is
    wrong, and as improbable to the base as right ones are to a base without so many of the facts.
    """

    name: str
    about: str
    expected: Name
    p0: float
    eps: float = 0.0
    novel: float = 0.0
    error: Error = "uniform"
    demos: int = 48
    shifted: bool = True
    format: bool = False
    own: bool = False
    disguised: float = 0.0
    rehearsed: bool = False


PRIORS = (0.0, 0.02, 0.1, 0.3, 0.6, 0.9)
NOISE = (0.0, 0.15, 0.3, 0.5)


def _cell(p0: float, eps: float) -> Scenario:
    expected: Name = "dft leads" if eps else "alike" if p0 >= 0.1 else "sft leads"
    about = f"prior {p0:g}, {100 * eps:.0f} % of the states drawn at random"
    return Scenario(name=f"p0={p0:g},eps={eps:g}", about=about, expected=expected, p0=p0, eps=eps)


GRID = tuple(_cell(p0, eps) for p0 in PRIORS for eps in NOISE)

# A draw from all states is right one time in ten: a share x of wrong ones is eps = x / 0.9.
HELD_OUT = (
    Scenario(
        name="novel-half",
        about="half of the facts are new to the base, all labels right",
        expected="sft leads",
        p0=0.9,
        novel=15 / 30,
    ),
    Scenario(
        name="noisy-half",
        about="the base knows all facts, half of the labels are wrong",
        expected="dft leads",
        p0=0.9,
        eps=15 / 30 / 0.9,
    ),
    Scenario(
        name="novel-quarter",
        about="a quarter of the facts are new to the base, all labels right",
        expected="sft leads",
        p0=0.9,
        novel=8 / 30,
    ),
    Scenario(
        name="noisy-quarter",
        about="the base knows all facts, a quarter of the labels are wrong",
        expected="dft leads",
        p0=0.9,
        eps=8 / 30 / 0.9,
    ),
    Scenario(
        name="novel-and-noisy",
        about="half of the facts are new to the base, 30 % of the states random",
        expected="dft leads",
        p0=0.9,
        novel=15 / 30,
        eps=0.3,
    ),
    Scenario(
        name="novel-and-a-little-noisy",
        about="a quarter of the facts are new to the base, 10 % of the states random",
        expected="dft leads",
        p0=0.9,
        novel=8 / 30,
        eps=0.1,
    ),
    Scenario(
        name="systematic",
        about="30 % of the states by another rule that the base does not have",
        expected="dft leads",
        p0=0.6,
        eps=0.3,
        error="systematic",
    ),
    Scenario(
        name="aligned",
        about="30 % of the states by the wrong rule that the base itself believes",
        expected="alike",
        p0=0.6,
        eps=0.3,
        error="aligned",
    ),
    Scenario(
        name="aligned-weak",
        about="30 % of the states by the wrong rule that the base believes nine times in ten",
        expected="alike",
        p0=0.1,
        eps=0.3,
        error="aligned",
    ),
    Scenario(
        name="few-noisy",
        about="12 demonstrations, 30 % of the states random",
        expected="dft leads",
        p0=0.6,
        eps=0.3,
        demos=12,
    ),
    Scenario(
        name="few-novel",
        about="12 demonstrations of rules that the base does not have",
        expected="sft leads",
        p0=0.02,
        demos=12,
    ),
    Scenario(
        name="many-noisy",
        about="142 demonstrations, 30 % of the states random",
        expected="dft leads",
        p0=0.6,
        eps=0.3,
        demos=142,
    ),
    Scenario(
        name="many-novel",
        about="142 demonstrations of rules that the base does not have",
        expected="sft leads",
        p0=0.02,
        demos=142,
    ),
    Scenario(
        name="same-style-noisy",
        about="the teacher writes in the base's style, 30 % of the states random",
        expected="dft leads",
        p0=0.6,
        eps=0.3,
        shifted=False,
    ),
    Scenario(
        name="same-style-novel",
        about="the teacher writes in the base's style, of rules that the base does not have",
        expected="sft leads",
        p0=0.02,
        shifted=False,
    ),
    Scenario(
        name="new-format",
        about="a token that the base has never seen before the last state, all labels right",
        expected="sft leads",
        p0=0.6,
        format=True,
    ),
    Scenario(
        name="own-samples",
        about="the base's own samples: nothing to learn",
        expected="alike",
        p0=0.6,
        own=True,
    ),
    Scenario(
        name="after-sft-noisy",
        about="a weak base after SFT on clean demonstrations, then 30 % of the states random",
        expected="dft leads",
        p0=0.1,
        eps=0.3,
        rehearsed=True,
    ),
)


# Written after the others had been run: uniform errors are rarer still than new facts.
ADDED = (
    Scenario(
        name="disguised-half",
        about="the base knows all facts, half of the labels are wrong, and no rarer than new facts",
        expected="dft leads",
        p0=0.9,
        disguised=15 / 30,
    ),
)

SCENARIOS = Registry("scenario", (*HELD_OUT, *ADDED, *GRID))


# --- bases and demonstrations -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Setting:
    """A scenario in several worlds: a row of `base` and demonstrations `[N, P+T]` for each."""

    scenario: Scenario
    worlds: tuple[World, ...]
    base: Stack
    demos: tuple[Tensor, ...]

    def case(self, i: int) -> "Case":
        """What there is to diagnose in one world."""
        return Case(self.scenario, self.worlds[i], self.base[[i]], self.demos[i])


def setting(
    s: Scenario,
    seeds: Sequence[int],
    *,
    held_out: int = 64,
    how: Pretraining = Pretraining(),  # noqa: B008 (frozen)
    cache: Path | None = None,
) -> Setting:
    """Worlds of those seeds; bases are kept in the folder `cache`, if there is one."""
    worlds = [World.of(seed, demos=s.demos, held_out=held_out) for seed in seeds]
    known = base = bases(seeds, (s.p0,), how, cache=cache)
    if s.novel or s.disguised:
        base = without(known, worlds, s.p0, s.novel, how, cache)
    if s.rehearsed:
        clean = [w.taught(0.0) for w in worlds]
        base = _trained(base, clean, worlds, REHEARSAL[0], Recipe(steps=REHEARSAL[1]))
    style = TEACHER_STYLE if s.shifted else BASE_STYLE
    demos = [w.taught(s.eps, s.error, style) for w in worlds]
    if s.own:
        demos = own_samples(base, worlds, 1)
    if s.disguised:
        lacks = without(known, worlds, s.p0, s.disguised, how, cache)
        for i, w in enumerate(worlds):
            likes = Case(s, w, lacks[[i]], demos[i]).rare_logp()
            demos[i] = _disguised(base[[i]], w, demos[i], likes, s.disguised)
    if s.format:
        demos = [_new_format(d) for d in demos]
        worlds = [
            replace(w, validation=_new_format(w.validation), test=_new_format(w.test))
            for w in worlds
        ]
    return Setting(s, tuple(worlds), base, tuple(demos))


def _trained(
    start: Stack, demos: Sequence[Tensor], worlds: Sequence[World], rate: float, recipe: Recipe
) -> Stack:
    pairs = zip(demos, worlds, strict=True)
    runs = [Run(objective=sft, rate=rate, demos=d, seed=w.seed) for d, w in pairs]
    return train(start, runs, recipe).last


def _new_format(tokens: Tensor) -> Tensor:
    out = tokens.clone()
    out[:, PROMPT + SLOT] = NEW
    return out


@torch.no_grad()
def _disguised(base: Stack, world: World, clean: Tensor, likes: Tensor, share: float) -> Tensor:
    """Wrong states of a chance, each the one whose log p is nearest to one drawn from `likes`."""
    g = generator(world.seed, "toys", "disguised", str(share))
    out, state = clean.clone(), clean[:, 1]
    for t in range(chain.STEPS):
        at = PROMPT + 2 * t + 1
        logits = base.logits(out[None, :, :at], first=at - 1)[0, :, 0]
        logp = torch.log_softmax(logits, -1)[:, :STATES].double()
        right = world.chain.right[out[:, 2 + t] - chain.OPERATOR, state]
        drawn = likes[torch.randint(len(likes), (len(out),), generator=g)]
        away = (logp - drawn[:, None]).abs().scatter(1, right[:, None], float("inf"))
        wrong = torch.rand(len(out), generator=g) < share
        state = torch.where(wrong, away.argmin(1), right)
        out[:, at] = state
    return out


def unknown(share: float) -> Tensor:
    """Which facts `[operators, states]` a base lacks: a share of those taught, rule by rule."""
    taught = (OPERATORS - 1) * STATES
    order = torch.arange(OPERATORS * STATES).view(OPERATORS, STATES)
    return order < round(share * taught)


def without(
    base: Stack,
    worlds: Sequence[World],
    p0: float,
    novel: float,
    how: Pretraining,
    cache: Path | None,
) -> Stack:
    """Bases trained on with the wrong rule for what is to be new; for none, as long as for some."""
    made_by = (chain, _unlearned, unknown, torch.__version__, how, p0, novel)
    key = source_hash((made_by, [w.seed for w in worlds], source_hash(bases)))
    file = None if cache is None else cache / f"without-{key[:16]}.npy"
    if file is None or not file.exists():
        made = _unlearned(base, worlds, p0, novel, how)
        if file is None:
            return made
        buffer = io.BytesIO()
        np.save(buffer, made.flat.numpy())
        write_bytes(file, buffer.getvalue())
    return Stack(torch.from_numpy(np.load(file)), base.like)


def _unlearned(
    base: Stack, worlds: Sequence[World], p0: float, novel: float, how: Pretraining
) -> Stack:
    new = unknown(novel)[..., None]
    read = []
    for world in worlds:
        g = generator(world.seed, "toys", "unlearned", str(p0), str(novel))
        every, n = chain.prompts(), how.branch * how.batch
        asked = every[torch.randint(len(every), (n,), generator=g)]
        rules = world.chain
        law = torch.where(new, rules.law("aligned", 1.0), rules.law("aligned", 1 - p0))
        ours = chain.write(asked, law, BASE_STYLE, g)
        other = torch.rand(n, 1, generator=g) < how.copies
        read.append(torch.where(other, chain.copies(n, BASE_STYLE, g), ours))
    recipe = Recipe(steps=how.branch, batch=how.batch)
    return _trained(base, read, worlds, how.branch_rate, recipe)


# --- what can be measured before training -------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """A base, `Stack` of one row, and the demonstrations `[N, P+T]` it is to be trained on."""

    scenario: Scenario
    world: World
    base: Stack
    demos: Tensor

    def stats(self) -> TokenStats:
        """Statistics `[N, T]` of the demonstrated tokens, with all that a diagnosis reads."""
        with torch.no_grad():
            return self.base.stats(self.demos, needs=("entropy", "log_probs", "targets"))

    def rare_logp(self) -> Tensor:
        """Log p of the states that are improbable, in nats, `[n]`."""
        logp = self.stats().logp[self.content()].double()
        return logp[logp.exp() < RARE]

    def kind(self) -> Tensor:
        """What each token is for, `[N, T]`, as an index into `diagnostics.KINDS`."""
        found = torch.full((len(self.demos), chain.LENGTH), KINDS.index("format"))
        found[:, chain.CONTENT] = KINDS.index("arithmetic")
        return found

    def content(self) -> Tensor:
        """Which tokens are states, `[N, T]`."""
        return self.kind() == KINDS.index("arithmetic")

    def gram(self, kept: Tensor, *, head: bool = False) -> Tensor:
        """Inner products `[N, N]` of demonstrations' gradients of log p, on the tokens `kept`.

        In all parameters, or in the output head alone.
        """
        found = self.in_head(kept) if head else self.in_all(kept)
        return found @ found.T

    def in_all(self, kept: Tensor) -> Tensor:
        """Gradient of each demonstration in all parameters, `[N, parameters]`, float64."""
        flat = self.base.flat.detach().repeat(len(self.demos), 1).requires_grad_()
        logits, targets = Stack(flat, self.base.like).aligned(self.demos.unsqueeze(1))
        logp = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        (grad,) = torch.autograd.grad(logp[:, 0][kept].sum(), flat)
        return grad.double()

    @torch.no_grad()
    def in_head(self, kept: Tensor) -> Tensor:
        """sum_t (e_y - pi) h^T of each demonstration, `[N, V * width]`, float64."""
        policy, states = self.base.policy(0), list[Tensor]()
        policy.norm.register_forward_hook(lambda _module, _in, out: states.append(out))
        logits = policy.logits(self.demos[:, :-1])[:, PROMPT - 1 :].double()
        residual = -torch.softmax(logits, -1)
        targets = self.demos[:, PROMPT:, None]
        residual.scatter_add_(-1, targets, torch.ones_like(targets, dtype=residual.dtype))
        hidden = states[0][:, PROMPT - 1 :].double()
        outer = torch.einsum("ntv,nth->nvh", residual * kept[..., None], hidden)
        return outer.flatten(1)

    def agreement(self, kept: Tensor, of: str, *, head: bool = False) -> Coherence:
        """Coherence of the demonstrations on the tokens `kept`."""
        chance = generator(self.world.seed, "halves", of)
        gram = self.gram(kept, head=head)
        return coherence(gram, of=of, tokens=int(kept.sum()), generator=chance)

    def measured(self) -> dict[str, float]:
        """Every statistic that might tell who wins; those of p are of the states.

        NaN where there are too few tokens.
        """
        t, content = self.stats(), self.content()
        p, entropy = t.logp.exp()[content].double(), given(t.entropy)[content]
        low = p < RARE
        found = dict[str, float]()
        rare = content & (t.logp.exp() < RARE)
        for name, kept in (("content", content), ("rare", rare)):
            for where, head in (("", False), ("head ", True)):
                c = self.agreement(kept, name, head=head)
                values = {"cosine": c.cosine, "shared": c.shared}
                found |= {
                    f"{where}{k} {name}": float("nan") if v is None else v
                    for k, v in values.items()
                }
        times = [
            escape_time(max(x, 1e-12), 0.5, alpha=1.0, vocab=chain.VOCAB) if x < 0.5 else 0.0
            for x in p.tolist()
        ]
        return found | {
            "mean p": float(p.mean()),
            "rare": float(low.double().mean()),
            "nll": float(-p.log().mean()),
            "ess": float(p.sum() ** 2 / (len(p) * p.square().sum())),
            "conflict": float((low & (entropy < CERTAIN)).double().mean()),
            "escape": float(np.log10(1e-3 + np.mean(times))),
        }

    def evidence(self) -> Evidence:
        """What `regime.predict` reads; calibrated, because this is the task it was fitted on."""
        p = self.stats().logp.exp()
        content = self.content()
        return Evidence(
            demonstrations=len(self.demos),
            shared=self.agreement(content, "content").shared,
            mean_p=float(p[content].double().mean()),
            least_p=float(p.min()),
            calibrated=True,
        )


def named(name: str, *, seed: int = 0, cache: Path | None = None) -> Case:
    """A scenario in one world, ready to be diagnosed: seconds, without `cache`.

    Raises: UnknownNameError.
    """
    return setting(SCENARIOS[name], [seed], cache=cache).case(0)
