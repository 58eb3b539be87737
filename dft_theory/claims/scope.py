"""The cases on which claims are checked, built once and shared between claims.

Cases come smallest first, so the first failing one is the smallest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Self

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.importance_weight import importance_weight
from dft_theory.logprobs import TokenStats, token_stats
from dft_theory.objectives import OBJECTIVES, Objective, SumOver
from dft_theory.policies import AutoregressivePolicy, Policy, TabularPolicy, ToyTransformer
from dft_theory.seeding import generator


@dataclass(frozen=True)
class PolicyCase:
    """One policy, one prompt, one demonstration y*. What is enumerated is enumerated once."""

    policy: Policy = field(repr=False)
    label: str
    prompt: Tensor = field(repr=False)
    index: int

    def __str__(self) -> str:
        y = "".join(map(str, self.demo[0].tolist()))
        return f"{self.label} prompt {self.prompt.tolist()} y* = {y}"

    @cached_property
    def responses(self) -> Tensor:
        """All responses `[N, T]` in counting order."""
        return self.policy.responses()

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return int(self.policy.vocab**self.policy.length)

    @cached_property
    def demo(self) -> Tensor:
        """The demonstration y*, `[1, T]`."""
        return self.responses[self.index : self.index + 1]

    @cached_property
    def reward(self) -> Tensor:
        """1[y = y*] for all responses, `[N]`."""
        hit = torch.zeros(self.terms, dtype=torch.float64)
        hit[self.index] = 1.0
        return hit

    @cached_property
    def probs(self) -> Tensor:
        """pi(y|x) of all responses `[N]` by the generative route, with its graph."""
        return enumeration.probabilities(self.policy, self.prompt)

    @cached_property
    def held_probs(self) -> Tensor:
        """As `probs`, detached."""
        return self.probs.detach()

    @cached_property
    def importance(self) -> Tensor:
        """1 / pi(y|x) of all responses, `[N]`."""
        return importance_weight(self.held_probs.log())

    @cached_property
    def scores(self) -> Tensor:
        """Grad log pi(y|x) of all responses by the teacher-forced route, `[N, D]`."""
        return enumeration.scores(self.policy, self.prompt, self.responses)

    @cached_property
    def stats(self) -> TokenStats:
        """Teacher-forced statistics of the demonstration."""
        return self.policy.stats(self.prompt, self.demo)

    @property
    def reference(self) -> Policy:
        """A frozen policy near this one, the same for every claim."""
        return _perturbed(self.policy, "reference", 0.3)

    def rows(self, index: Tensor) -> TokenStats:
        """Everything an objective may need of the responses `index [N]`, in the policy's graph.

        Advantages alternate between 0.75 and -0.5 over the rows; one next token is sampled from
        the reference at every position.
        """
        stats = self.policy.stats(
            self.prompt,
            self.responses[index],
            needs=NEEDS,
            reference=self.reference,
            old=_perturbed(self.policy, "old", 0.1),
        )
        return _with_chance(stats, generator(self.index, "sampled"))

    def gradient(self, value: Tensor) -> Tensor:
        """Gradient of a scalar in the policy's parameters, `[D]`, keeping the graph."""
        held = enumeration.parameters(self.policy)
        grads = torch.autograd.grad(value, held, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for g, p in zip(grads, held, strict=True)
            ]
        )

    def surrogate_gradient(self, objective: Objective) -> Tensor:
        """Gradient of the objective's surrogate on the demonstration, summed over tokens, `[D]`."""
        return self.gradient(objective.surrogate(self.stats, reduction=SumOver()))

    def on_policy(self, coefficient: Tensor) -> Tensor:
        """E_{y~pi}[c(y) grad log pi(y|x)] for c `[N]`, as grad sum_y sg(c) pi: no logarithm."""
        return self.gradient((coefficient * self.probs).sum())


# What a model, its reference and its past say of a target; see `TokenStats`.
NEEDS = ("entropy", "log_probs", "ref_logp", "ref_log_probs", "old_logp")


@lru_cache(maxsize=256)
def _perturbed(policy: Policy, name: str, size: float) -> Policy:
    return policy.perturbed(size, generator(0, "perturbed", name, policy.vocab, policy.length))


def _with_chance(stats: TokenStats, g: torch.Generator) -> TokenStats:
    """`stats` with what neither the model nor its past decides: advantages and sampled tokens."""
    assert stats.ref_log_probs is not None
    sign = torch.where(torch.arange(stats.logp.shape[0]) % 2 == 0, 0.75, -0.5).to(stats.logp)
    drawn = torch.multinomial(stats.ref_log_probs.exp().flatten(0, 1), 1, generator=g)
    return replace(
        stats,
        advantage=sign.unsqueeze(-1).expand_as(stats.logp),
        sampled=drawn.unflatten(0, stats.logp.shape),
    )


@dataclass(frozen=True)
class ObjectiveCase:
    """An objective on a policy case: on its demonstration, or on four responses.

    Four where the objective compares responses or reads statistics of the batch.
    """

    objective: Objective
    at: PolicyCase

    def __str__(self) -> str:
        return f"{self.objective.name} on {self.at}"

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def index(self) -> Tensor:
        """The responses trained on, `[1]` or `[4]`, the demonstration first."""
        n = self.terms
        together = self.objective.level in ("batch", "group")
        steps = torch.tensor([0, 1, n // 2, n - 1] if together else [0])
        return (self.at.index + steps) % n

    @cached_property
    def stats(self) -> TokenStats:
        """Everything the objective may need, in the policy's graph."""
        return self.at.rows(self.index)

    @cached_property
    def surrogate_gradient(self) -> Tensor:
        """Gradient of the objective's surrogate, summed over tokens, `[D]`."""
        return self.at.gradient(self.objective.surrogate(self.stats, reduction=SumOver()))


@dataclass(frozen=True)
class TokenCase:
    """One softmax over V tokens and a target: everything that happens at a single position."""

    logits: Tensor = field(repr=False)
    target: int
    label: str

    def __str__(self) -> str:
        return f"{self.label}, p = {float(self.p):.3g}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.logits.shape[-1]

    @cached_property
    def probs(self) -> Tensor:
        """Softmax of the logits, `[V]`."""
        return torch.softmax(self.logits, -1)

    @property
    def p(self) -> Tensor:
        """Probability of the target."""
        return self.probs[self.target]

    @cached_property
    def onehot(self) -> Tensor:
        """e_y, `[V]`."""
        return torch.eye(self.terms, dtype=self.logits.dtype)[self.target]

    @cached_property
    def rest(self) -> Tensor:
        """1 - p as the sum of the other probabilities, which does not cancel for p near 1."""
        return (self.probs * (1 - self.onehot)).sum()

    @cached_property
    def ref_logits(self) -> Tensor:
        """Logits `[V]` of a reference near this softmax."""
        return self.logits + 0.5 * self._noise("reference")

    @cached_property
    def old_logits(self) -> Tensor:
        """Logits `[V]` of an earlier policy, nearer."""
        return self.logits + 0.2 * self._noise("old")

    def _noise(self, name: str) -> Tensor:
        g = generator(self.target, name, self.label)
        return torch.randn(self.terms, dtype=torch.float64, generator=g)

    def stats(self, logits: Tensor) -> TokenStats:
        """Everything an objective may need of the target under `logits [V]`, `[1, 1]`."""
        # A leading position that predicts the target: the shift is exercised here too.
        rows, ref, old = (
            torch.stack([z, torch.zeros_like(z)]).unsqueeze(0)
            for z in (logits, self.ref_logits, self.old_logits)
        )
        labels = torch.tensor([[-100, self.target]])
        stats = token_stats(rows, labels, needs=NEEDS, ref_logits=ref, old_logits=old)
        return _with_chance(stats, generator(self.target, "sampled", self.label))

    def logit_gradient(self, objective: Objective) -> Tensor:
        """Gradient of the objective's surrogate in the logits, `[V]`."""
        z = self.logits.clone().requires_grad_(True)
        loss = objective.surrogate(self.stats(z), reduction=SumOver())
        return torch.autograd.grad(loss, z)[0]


@dataclass(frozen=True)
class ObjectiveToken:
    """An objective at a single softmax."""

    objective: Objective
    at: TokenCase

    def __str__(self) -> str:
        return f"{self.objective.name} at {self.at}"

    @property
    def terms(self) -> int:
        """Vocabulary size."""
        return self.at.terms


@dataclass(frozen=True)
class Scope:
    """Where claims are checked: policies by name, and how thoroughly."""

    policies: Mapping[str, tuple[Policy, ...]]
    demos: int = 3
    thorough: bool = False

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Only this policy, on up to 200 demonstrations."""
        return cls(policies={type(policy).__name__: (policy,)}, demos=100)

    @classmethod
    def standard(cls, *, thorough: bool = False) -> "Scope":
        """Tables, autoregressive tables and the toy transformer, several sizes and seeds."""
        return _standard(thorough)

    def extended(self, name: str, *policies: Policy) -> "Scope":
        """The same with one more family of policies."""
        return Scope({**self.policies, name: policies}, self.demos, self.thorough)

    @cached_property
    def policy_cases(self) -> tuple[PolicyCase, ...]:
        """Every policy with two prompts and `demos` demonstrations each, smallest first."""
        cases = []
        for name, family in self.policies.items():
            for policy in family:
                count = policy.vocab**policy.length
                g = generator(0, "demos", name, policy.vocab, policy.length)
                for context in range(2):
                    prompt = torch.tensor([context])
                    for index in torch.randperm(count, generator=g)[: self.demos].tolist():
                        label = f"{name} V={policy.vocab} T={policy.length}"
                        cases.append(PolicyCase(policy, label, prompt, index))
        return tuple(sorted(cases, key=lambda case: case.terms))

    @cached_property
    def objective_cases(self) -> tuple[ObjectiveCase, ...]:
        """Every objective on one demonstration of each policy and prompt."""
        first = {(id(c.policy), int(c.prompt[0])): c for c in reversed(self.policy_cases)}
        ordered = sorted(first.values(), key=lambda case: case.terms)
        return tuple(ObjectiveCase(o, c) for o in OBJECTIVES for c in ordered)

    @cached_property
    def token_cases(self) -> tuple[TokenCase, ...]:
        """Softmaxes over 2 to 97 tokens: random, peaked, nearly deterministic, two-token ties."""
        cases = []
        for vocab in (2, 3, 7, 17, 97) if self.thorough else (2, 3, 7, 17):
            for k, scale in enumerate((0.0, 0.3, 1.0, 3.0, 8.0)):
                for seed in range(8 if self.thorough else 2):
                    g = generator(seed, "token", vocab, k)
                    z = scale * torch.randn(vocab, dtype=torch.float64, generator=g)
                    target = int(torch.randint(vocab, (1,), generator=g))
                    cases.append(TokenCase(z, target, f"V={vocab} scale {scale:g}"))
            for gap in (-30.0, -10.0, -1.0, 1.0, 10.0):
                z = torch.zeros(vocab, dtype=torch.float64)
                z[0] = gap
                cases.append(TokenCase(z, 0, f"V={vocab} uniform rivals"))
                rival = torch.full((vocab,), -200.0, dtype=torch.float64)
                rival[0], rival[1] = gap, 0.0
                cases.append(TokenCase(rival, 0, f"V={vocab} one rival"))
        return tuple(cases)


@lru_cache(maxsize=2)
def _standard(thorough: bool) -> Scope:
    seeds = range(6 if thorough else 2)
    sizes = ((2, 2), (3, 2), (4, 3)) + (((5, 3), (3, 4)) if thorough else ())
    transformers = [
        ToyTransformer.random(vocab=3, length=2, seed=s, positions="learned", tied=False)
        for s in seeds
    ] + [ToyTransformer.random(vocab=4, length=3, seed=s) for s in seeds]
    return Scope(
        policies={
            "table": tuple(
                TabularPolicy.random(vocab=v, length=t, seed=s) for v, t in sizes for s in seeds
            ),
            "autoregressive": tuple(
                AutoregressivePolicy.random(vocab=v, length=t, seed=s)
                for v, t in sizes
                for s in seeds
            ),
            "transformer": tuple(transformers),
        },
        thorough=thorough,
    )
