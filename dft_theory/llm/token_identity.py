"""The identity on a real language model and real text: every response token, every next token.

One forward pass gives the hidden states; head and logits are then computed in the precision under
test, and at each target the policy gradient E_{a~pi}[1[a = y] (w/pi) grad log pi(a)] is summed over
the whole vocabulary and compared with autograd through the objective that trains.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dft_theory.claims.tolerance import Exact, excess
from dft_theory.diagnostics.bins import share_by_bin
from dft_theory.importance_weight import log10_samples_needed
from dft_theory.llm.data import Demonstration, encode
from dft_theory.llm.pretrained import Pretrained
from dft_theory.logprobs import align, target_stats
from dft_theory.objectives import Objective, SumOver

PRECISIONS = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Worst deviation over a response, as fractions of the tolerance (at most 1 conforms).

    `logits`: gradient in the logits `[T, V]`; `hidden`: in the last hidden states `[T, H]`;
    `mutant`: the same for the logits with the factor 1/pi dropped, which must exceed 1.
    """

    objective: str
    precision: str
    tokens: int
    logits: float
    hidden: float
    mutant: float

    @property
    def holds(self) -> bool:
        """Whether both gradients agree, and would not agree with the wrong weight."""
        return self.logits <= 1 and self.hidden <= 1 < self.mutant


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the model gives a real solution, token by token.

    Shapes `[T]`: `logp` in nats (float32 forward, float64 softmax); `score_norm` the norm of
    e_y - pi; `entropy` of the next token in nats.
    """

    id: str
    tokens: Tensor
    logp: Tensor
    score_norm: Tensor
    entropy: Tensor

    @property
    def log_prob(self) -> float:
        """Log pi(y*|x) of the whole solution, in nats."""
        return float(self.logp.sum())

    @property
    def float32_weight(self) -> float:
        """pi(y*|x) as float32 would hold it: the weight of sequence-level DFT."""
        return float(torch.tensor(self.log_prob, dtype=torch.float32).exp())

    @property
    def log10_samples(self) -> float:
        """log10 of the samples for a Monte Carlo check of the sequence identity to 10 %."""
        return log10_samples_needed(self.log_prob)


def hidden_and_targets(source: Pretrained, demonstration: Demonstration) -> tuple[Tensor, Tensor]:
    """Last hidden states `[T, H]` and target ids `[T]` at the response tokens."""
    encoded = encode(demonstration, source.tokenizer)
    with torch.no_grad():
        states = source.model.base_model(input_ids=encoded.input_ids[None]).last_hidden_state
    # The package's own shift decides which state predicts which token.
    aligned, targets = align(states, encoded.labels[None])
    return aligned[targets >= 0], targets[targets >= 0]


def check(
    source: Pretrained, demonstration: Demonstration, objectives: Sequence[Objective]
) -> Iterator[Check]:
    """Autograd against the sum over all next tokens, at every token, in each precision.

    The objectives must have token-level weights: sequence-level ones have no one-token form.
    Raises: ValueError for another level.
    """
    states, targets = hidden_and_targets(source, demonstration)
    head = source.model.get_output_embeddings().weight.detach()
    for dtype in PRECISIONS:
        hidden, weight = states.to(dtype), head.to(dtype)
        for objective in objectives:
            if objective.level != "token":
                raise ValueError(f"{objective.name} weights whole sequences, not tokens")
            yield _check(objective, hidden, weight, targets)


def _check(objective: Objective, hidden: Tensor, head: Tensor, targets: Tensor) -> Check:
    h = hidden.clone().requires_grad_(True)
    logits = h @ head.T
    logits.retain_grad()
    stats = target_stats(logits[None], targets[None])
    objective.surrogate(stats, reduction=SumOver()).backward()
    assert logits.grad is not None
    assert h.grad is not None
    wanted, scale = summed_over_actions(objective, logits.detach(), targets)
    # A token's gradient scales with its weight: compare in units of it, so that rare tokens count.
    # Torch sums pairwise, so rounding grows with log V and the constant alone covers it.
    unit = scale.clamp_min(torch.finfo(head.dtype).tiny)

    def deviation(found: Tensor, summed: Tensor, size: float) -> float:
        return excess(
            found / unit, summed / unit, relation="=", tolerance=Exact(), terms=1, scale=size
        )

    p = stats.logp.detach().exp().squeeze(0).unsqueeze(-1)
    return Check(
        objective=objective.name,
        precision=str(head.dtype).removeprefix("torch."),
        tokens=len(targets),
        logits=deviation(logits.grad, wanted, 1.0),
        hidden=deviation(h.grad, wanted @ head, float(head.abs().max())),
        mutant=deviation(logits.grad, wanted * p, 1.0),
    )


def summed_over_actions(
    objective: Objective, logits: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """-E_{a~pi}[1[a = y] r grad_z log pi(a)] with r = w/pi, `[T, V]`, and the weights `[T, 1]`.

    No autograd: sum_a c_a pi_a (e_a - pi) for every one of the V actions a.
    """
    probs = torch.softmax(logits, -1)
    p = probs.gather(-1, targets.unsqueeze(-1))
    reward = torch.zeros_like(probs).scatter(-1, targets.unsqueeze(-1), objective.implied_reward(p))
    mass = reward * probs
    return -(mass - mass.sum(-1, keepdim=True) * probs), objective.weight_at(p)


def responses(source: Pretrained, demonstrations: Iterable[Demonstration]) -> Iterator[Response]:
    """Token statistics of each demonstration's solution under the model."""
    head = source.model.get_output_embeddings().weight.detach()
    for demonstration in demonstrations:
        states, targets = hidden_and_targets(source, demonstration)
        log_probs = torch.log_softmax((states @ head.T).double(), -1)
        probs = log_probs.exp()
        logp = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        yield Response(
            id=demonstration.id,
            tokens=targets,
            logp=logp,
            score_norm=(probs.square().sum(-1) - 2 * logp.exp() + 1).clamp_min(0).sqrt(),
            entropy=torch.special.entr(probs).sum(-1),
        )


def gradient_share(objective: Objective, logp: Tensor, score_norm: Tensor) -> Tensor:
    """Share of the gradient mass sum_t w_t ||e_y - pi|| that falls in each bin, `[13]`."""
    p = logp.exp()
    return share_by_bin(objective.weight_at(p) * score_norm, p)
