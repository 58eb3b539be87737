"""What an objective will do to *this* policy and *these* demonstrations, before any training.

Everything is a statistic of the first gradient: token by token, the probability of the target, the
weight an objective gives it, and the length of its gradient in the logits. None of it knows whether
a demonstration is right: a fact that the policy lacks and an error in the data look alike here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from dft_theory.diagnostics.coherence import Coherence
from dft_theory.diagnostics.escape import PAPER, Plan, escape_steps
from dft_theory.diagnostics.regime import Evidence
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import Objective, SumOver, dft, power, sft

RARE = 0.1  # a target below this probability is called rare
CERTAIN = 1.0  # nats: a next-token distribution of less entropy is called certain
STARVED = 0.01  # of the mean weight: less than this is called almost no gradient

# What a target token is for. A policy without a tokenizer has words only.
KINDS = ("end of turn", "special", "format", "arithmetic", "word")
STRUCTURE = KINDS[:3]
RARE_TOKENS, CONTENT_TOKENS = f"rare tokens (p < {RARE:g})", "words and arithmetic"

DEFAULT = (sft, power(0.5), dft)
OWN = ("entropy", "log_probs", "targets")  # statistics that a policy and targets have by themselves
REFERENCE = ("ref_logp", "ref_log_probs", "old_logp")
CONTENT = (KINDS.index("arithmetic"), KINDS.index("word"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """Target tokens of demonstrations under one policy, and what O objectives do to each.

    Shapes `[N]`: `logp` and `entropy` of the next token in nats; token `ids`;
    `row`, the demonstration; `kind`, an index into KINDS. Shapes `[O, N]`: `weight`,
    how hard the gradient pushes along e_y - pi (the objective's weight, where it has no target over
    the vocabulary); `pull`, the norm of its gradient in the logits. `printed` `[O]`: the sum over
    tokens of the surrogate's value, which trainers print.
    """

    objectives: tuple[Objective, ...]
    logp: Tensor
    entropy: Tensor
    ids: Tensor
    row: Tensor
    kind: Tensor
    weight: Tensor
    pull: Tensor
    printed: Tensor

    def __len__(self) -> int:
        return len(self.logp)

    @property
    def demonstrations(self) -> int:
        """How many demonstrations the tokens are of."""
        return int(self.row.max()) + 1

    @property
    def p(self) -> Tensor:
        """Probability of each target, `[N]`."""
        return self.logp.exp()

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, nats per token."""
        return float(-self.logp.mean())

    @property
    def losses(self) -> list[float]:
        """What a trainer prints under each objective, per token."""
        return [float(x) / len(self) for x in self.printed]

    @property
    def rare(self) -> Tensor:
        """Targets with p < RARE, `[N]`."""
        return self.p < RARE

    @property
    def conflicts(self) -> Tensor:
        """Confident conflicts `[N]`: the target is rare, and the policy certain of another."""
        return self.rare & (self.entropy < CERTAIN)

    @property
    def content(self) -> Tensor:
        """Words and arithmetic, `[N]`: neither format nor the end."""
        return torch.isin(self.kind, torch.tensor(CONTENT))

    def starved(self, index: int) -> Tensor:
        """Targets `[N]` with p < 1/2 whose weight under an objective is < STARVED of its mean."""
        weight = self.weight[index]
        return (self.p < 0.5) & (weight < STARVED * weight.abs().mean())


def with_baseline(chosen: Sequence[Objective], *, reference: bool) -> tuple[Objective, ...]:
    """SFT and then the objectives, each once, checked to be measurable on demonstrations alone.

    Raises: ValueError for an objective that needs a reference where there is none, and for one
    that reads sampled, rewarded or compared responses.
    """
    for objective in chosen:
        chance = [need for need in objective.needs if need not in (*OWN, *REFERENCE)]
        if chance or objective.level == "group":
            what = ", ".join(chance) or "responses to compare"
            raise ValueError(
                f"{objective.name} needs {what}: nothing is sampled, rewarded or ranked before "
                "training, so there is nothing to diagnose; ask for the objective that it applies "
                "to demonstrations, often sft or dft"
            )
        if set(objective.needs) & set(REFERENCE) and not reference:
            raise ValueError(
                f"{objective.name} needs a reference: give --reference self for the model itself "
                "before training, or another model of the same vocabulary"
            )
    return (sft, *(o for o in dict.fromkeys(chosen) if o.name != sft.name))


def with_reference(t: TokenStats, reference: TokenStats) -> TokenStats:
    """The same, with what a reference says of the same targets; it is the earlier policy too."""
    return replace(
        t,
        ref_logp=reference.logp,
        ref_log_probs=reference.log_probs,
        old_logp=reference.logp,
    )


def measure(t: TokenStats, objectives: Sequence[Objective], kind: Tensor | None = None) -> Tokens:
    """The target tokens of a batch `[B, T]`, flat; objectives of level "batch" read just that.

    Needs `log_probs`, `entropy` and `targets` in `t`, and what the objectives need. `kind` `[B, T]`
    indexes KINDS; without it every token is a word. Results are float64, on the CPU.
    Raises: ValueError where a statistic is missing, or no token is a target.
    """
    if t.log_probs is None or t.entropy is None or t.targets is None:
        raise ValueError("the diagnosis reads log_probs, entropy and targets: ask for them")
    if not bool(t.mask.any()):
        raise ValueError("no token is a target: every label is masked, so there is no answer")
    t = t.detach()
    assert t.log_probs is not None
    assert t.entropy is not None
    assert t.targets is not None
    # The direction e_y - pi, with 1 - p summed over the rivals: subtracting cancels near p = 1.
    rest = t.log_probs.exp().scatter(-1, t.targets.unsqueeze(-1), 0.0)
    away = rest.sum(-1)
    square = away.square() + rest.square().sum(-1)
    weights, pulls, printed = [], [], []
    for objective in objectives:
        weight = objective.weight(t).expand_as(t.logp)
        if objective.target is None:
            pull = weight.abs() * square.sqrt()
        else:
            force = objective.field(t)
            own = force.gather(-1, t.targets.unsqueeze(-1)).squeeze(-1)
            along = own * away - (force * rest).sum(-1)
            weight = torch.where(square > 0, along / square, weight)
            pull = force.norm(dim=-1)
        weights.append(weight[t.mask])
        pulls.append(pull[t.mask])
        printed.append(objective.surrogate(t, reduction=SumOver()))
    kind = torch.full_like(t.targets, KINDS.index("word")) if kind is None else kind
    row = torch.arange(len(t.logp), device=t.logp.device).unsqueeze(-1).expand_as(t.logp)
    return Tokens(
        objectives=tuple(objectives),
        logp=t.logp[t.mask].double().cpu(),
        entropy=t.entropy[t.mask].double().cpu(),
        ids=t.targets[t.mask].cpu(),
        row=row[t.mask].cpu(),
        kind=kind.to(t.mask.device)[t.mask].cpu(),
        weight=torch.stack(weights).double().cpu(),
        pull=torch.stack(pulls).double().cpu(),
        printed=torch.stack(printed).double().cpu(),
    )


def join(parts: Sequence[Tokens]) -> Tokens:
    """Batches as one table; the demonstrations are numbered through.

    Raises: ValueError for no batch, or batches measured under different objectives.
    """
    if not parts:
        raise ValueError("there are no demonstrations to diagnose")
    if any(part.objectives != parts[0].objectives for part in parts):
        raise ValueError("the batches were measured under different objectives")
    first = itertools.accumulate((part.demonstrations for part in parts), initial=0)
    whole = {
        f.name: torch.cat([getattr(part, f.name) for part in parts], -1)
        for f in fields(Tokens)
        if f.name not in ("objectives", "row", "printed")
    }
    return Tokens(
        objectives=parts[0].objectives,
        row=torch.cat([part.row + start for part, start in zip(parts, first, strict=False)]),
        printed=torch.stack([part.printed for part in parts]).sum(0),
        **whole,
    )


# --- all of it ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """One confident conflict where it stands: what came before, what was asked, what expected."""

    demonstration: str
    before: str
    target: str
    p: float
    expected: str
    p_expected: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnosis:
    """All of it for one model and one set of demonstrations; the first objective is SFT.

    `texts` says what token ids stand for. `worst`: the confident conflicts of least p, where their
    places are known. `copies`: responses that repeat an earlier one. `coherence` is empty, and
    `incoherent` says why, where the gradients were not compared. `calibrated`: the task is the one
    that the prediction of the regime was fitted on. `pace`: how far one step at learning rate 1
    moves a logit per unit of weight (`escape_steps`); None where it is unknown, 1 where logits are
    parameters.
    """

    model: str
    data: str
    tokens: Tokens
    vocab: int
    plan: Plan = PAPER
    pace: float | None = None
    texts: dict[int, str] = field(default_factory=dict)
    worst: tuple[Conflict, ...] = ()
    copies: int = 0
    coherence: tuple[Coherence, ...] = ()
    incoherent: str = "gradients of demonstrations were not given"
    calibrated: bool = False

    def starts(self) -> dict[str, float]:
        """Probabilities below 1/2 from which rare tokens start: low percentiles of the targets."""
        levels = {"rarest 1 %": 0.01, "rarest 5 %": 0.05}
        q = torch.tensor(list(levels.values()), dtype=torch.float64)
        found = zip(levels, self.tokens.p.quantile(q).tolist(), strict=True)
        return {name: p for name, p in found if p < 0.5}

    def steps(self, objective: Objective, p0: float) -> float | None:
        """`escape_steps` from p0 to 1/2 under the plan; None where the pace is unknown too."""
        if self.pace is None:
            return None
        p0 = min(max(p0, 1e-300), 1 - 1e-12)
        return escape_steps(objective, p0, plan=self.plan, vocab=self.vocab, pace=self.pace)

    def evidence(self) -> Evidence:
        """What `regime.predict` reads."""
        t = self.tokens
        content = t.content if bool(t.content.any()) else torch.ones_like(t.content)
        found = [c for c in self.coherence if c.of == CONTENT_TOKENS]
        return Evidence(
            demonstrations=found[0].demonstrations if found else t.demonstrations,
            shared=found[0].shared if found else None,
            mean_p=float(t.p[content].mean()),
            least_p=float(t.p.min()),
            calibrated=self.calibrated,
            escape=self._format_in_runs(),
        )

    def _format_in_runs(self) -> tuple[float, float] | None:
        """Runs that SFT and DFT need for the rarest kind of format; None where all is likely."""
        t = self.tokens
        kinds = [t.p[t.kind == k] for k in range(len(STRUCTURE))]
        rarest = min((float(p.median()) for p in kinds if len(p)), default=1.0)
        if self.plan.steps is None or rarest >= 0.5:
            return None
        fast, slow = self.steps(sft, rarest), self.steps(dft, rarest)
        if fast is None or slow is None:
            return None
        return fast / self.plan.steps, slow / self.plan.steps
