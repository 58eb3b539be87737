"""The diagnosis of a Hugging Face model and demonstrations, before any training.

One forward pass a demonstration, no backward pass.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dft_theory.diagnostics.escape import PAPER, Plan
from dft_theory.diagnostics.measures import (
    DEFAULT,
    OWN,
    REFERENCE,
    Conflict,
    Diagnosis,
    Tokens,
    join,
    measure,
    with_baseline,
    with_reference,
)
from dft_theory.llm.data import Demonstrations, Encoded, encode
from dft_theory.llm.head_gradients import States, compared, pace
from dft_theory.llm.memory import (
    Size,
    check_logits,
    check_weights,
    free,
    network_error,
    size_of_named,
)
from dft_theory.llm.pretrained import MissingModelError, Pretrained, load_pretrained
from dft_theory.llm.token_kinds import kinds
from dft_theory.logprobs import TokenStats, align, target_stats
from dft_theory.objectives import Objective
from dft_theory.seeding import generator

WORST, BEFORE = 10, 5  # conflicts that are shown where they stand, and tokens before each


def load(names: Sequence[str], *, device: str, dtype: torch.dtype) -> list[Pretrained]:
    """Models by name, on a device, after a look at their sizes; equal names are one model.

    Raises: TooLargeError before anything is loaded; ValueError for a device that is not there;
    MissingModelError for a model that is nowhere.
    """
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch sees no CUDA device here: leave out --device, or repair torch")
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"the device is cpu or cuda, got {device}: float64 is needed")
    different = list(dict.fromkeys(names))
    known = [size for size in map(size_of_named, different) if size is not None]
    if known:
        check_weights(known, dtype, available=free(where))
    loaded = {name: _loaded(name, dtype) for name in different}
    for source in loaded.values():
        source.model.to(where)
    return [loaded[name] for name in names]


def diagnose(
    source: Pretrained,
    demonstrations: Demonstrations,
    chosen: Sequence[Objective] = DEFAULT,
    *,
    reference: Pretrained | None = None,
    plan: Plan = PAPER,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Diagnosis:
    """What each objective would do to the model, where it stands, on these demonstrations.

    `reference` (the model itself, for anchors before training) also stands for the earlier policy
    of objectives that name one. Objectives that read the whole batch read one demonstration.
    `sample`: measure so many random tokens of each longer response. Memory: `memory.COPIES` times
    tokens of a response x vocabulary in float64, and the hidden states of all responses.
    `progress` is called after each demonstration.

    Raises: ValueError for fewer than two demonstrations, one that does not fit the model's
    vocabulary or context, and objectives that cannot be measured (`with_baseline`);
    TooLargeError for responses that do not fit the memory.
    """
    wanted = with_baseline(chosen, reference=reference is not None)
    if len(demonstrations) < 2:
        raise ValueError(
            f"there is {len(demonstrations)} demonstration: whether demonstrations agree takes at "
            "least two, better 64; give more, or raise --limit"
        )
    whole = [o.name for o in wanted if o.level != "token"]
    if sample is not None and (sample < 1 or whole):
        raise ValueError(
            f"{whole[0]} reads whole responses: leave out --tokens"
            if whole
            else f"at least one token of each response is measured, got --tokens {sample}"
        )
    encoded = [encode(d, source.tokenizer) for d in demonstrations]
    vocab = _fits(source, demonstrations, encoded)
    if reference is not None and _vocabulary(reference) != vocab:
        raise ValueError(
            f"the reference has {_vocabulary(reference)} tokens and the model {vocab}: take a "
            "reference of the same family"
        )
    longest = max(int((e.labels >= 0).sum()) for e in encoded)
    check_logits(
        Size(parameters=0, vocab=vocab),
        longest if sample is None else min(sample, longest),
        available=free(source.model.device),
        demonstrations=len(encoded),
    )
    plain = _ends_in_its_head(source, encoded[0])
    purpose = kinds(source.tokenizer, {int(i) for e in encoded for i in e.labels if i >= 0})
    parts, states, places, guesses = [], [], [], []
    for stats, held, where in _stream(source, reference, encoded, wanted, plain, sample, seed):
        assert stats.targets is not None
        assert stats.log_probs is not None
        kind = torch.tensor([[purpose[i] for i in stats.targets[0].tolist()]])
        parts.append(measure(stats, wanted, kind))
        states.append(held)
        places.append(where)
        guesses.append(stats.log_probs[0].max(-1))
        progress()
    tokens = join(parts)
    return Diagnosis(
        model=source.name,
        data=f"{demonstrations.source} ({demonstrations.split})",
        tokens=tokens,
        texts={i: source.tokenizer.decode([i]) for i in tokens.ids.unique().tolist()},
        worst=_worst(source, demonstrations, encoded, tokens, torch.cat(places), guesses),
        copies=len(demonstrations) - len({d.solution for d in demonstrations}),
        coherence=compared(source, tokens, states, seed) if plain else (),
        incoherent="between head and softmax this model does something that the gradient in the "
        "head's weights does not know (a cap, a scale)",
        vocab=vocab,
        plan=plan,
        pace=pace(states, plan) if plain else None,
    )


def _loaded(name: str, dtype: torch.dtype) -> Pretrained:
    """The model, or a sentence where the hub was asked for it in vain."""
    try:
        return load_pretrained(name, dtype=dtype)
    except MissingModelError as error:
        if "/" not in name or not isinstance(error.__cause__, OSError):
            raise
        cause: Exception = error
    except network_error() as error:
        cause = error
    raise MissingModelError(
        f"cannot reach the hub for {name!r}: check the name and the network, or give a local folder"
    ) from cause


def _vocabulary(source: Pretrained) -> int:
    return int(source.model.get_output_embeddings().weight.shape[0])


def _fits(source: Pretrained, demonstrations: Demonstrations, encoded: Sequence[Encoded]) -> int:
    """The size of the vocabulary, if every demonstration fits it and the context."""
    vocab = _vocabulary(source)
    rows = min(vocab, int(source.model.get_input_embeddings().weight.shape[0]))
    context = getattr(source.model.config, "max_position_embeddings", None)
    for demonstration, e in zip(demonstrations, encoded, strict=True):
        highest = int(e.input_ids.max())
        if highest >= rows:
            raise ValueError(
                f"demonstration {demonstration.id} has token {highest}, and the model's vocabulary "
                f"ends at {rows - 1}: the tokenizer does not belong to the model"
            )
        if context is not None and len(e.input_ids) > context:
            raise ValueError(
                f"demonstration {demonstration.id} has {len(e.input_ids)} tokens, and the model "
                f"reads {context}: shorten it or leave it out"
            )
    return vocab


def _worst(
    source: Pretrained,
    demonstrations: Demonstrations,
    encoded: Sequence[Encoded],
    tokens: Tokens,
    places: Tensor,
    guesses: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Conflict, ...]:
    """The confident conflicts of least p, each with its demonstration and what came before."""
    logp, ids = (torch.cat([g[k].cpu() for g in guesses]) for k in (0, 1))
    clashing = tokens.conflicts.nonzero().squeeze(-1)
    found = []
    for i in clashing[tokens.logp[clashing].argsort()][:WORST].tolist():
        row, place = int(tokens.row[i]), int(places[i])
        read = encoded[row].input_ids[: place + 1][-BEFORE:]
        found.append(
            Conflict(
                demonstration=demonstrations.items[row].id,
                before=str(source.tokenizer.decode(read)),
                target=str(source.tokenizer.decode([int(tokens.ids[i])])),
                p=float(tokens.p[i]),
                expected=str(source.tokenizer.decode([int(ids[i])])),
                p_expected=float(logp[i].exp()),
            )
        )
    return tuple(found)


def _hidden(source: Pretrained, e: Encoded) -> Tensor:
    ids = e.input_ids[None].to(source.model.device)
    with torch.no_grad():
        found: Tensor = source.model.base_model(input_ids=ids).last_hidden_state
    return found


def _ends_in_its_head(source: Pretrained, e: Encoded) -> bool:
    """Whether the model's logits are its head applied to the last hidden states."""
    hidden = _hidden(source, e)
    with torch.no_grad():
        whole = source.model(input_ids=e.input_ids[None].to(hidden.device)).logits
        ours = source.model.get_output_embeddings()(hidden)
    slack = 100 * torch.finfo(whole.dtype).eps
    return bool((whole - ours).abs().max() <= slack * whole.abs().max().clamp_min(1.0))


def _stream(
    source: Pretrained,
    reference: Pretrained | None,
    encoded: Sequence[Encoded],
    wanted: Sequence[Objective],
    plain: bool,
    sample: int | None,
    seed: int,
) -> Iterator[tuple[TokenStats, States, Tensor]]:
    """Statistics of the response tokens, `[1, T]`, the states behind them, and their places.

    One demonstration at a time; a place is that of the token before the target.
    """
    referred = {need for o in wanted for need in o.needs} & set(REFERENCE)
    for index, e in enumerate(encoded):
        states, labels = align(_hidden(source, e), e.labels[None])
        where = (labels[0] >= 0).nonzero().squeeze(-1)
        if sample is not None and len(where) > sample:
            drawn = torch.randperm(len(where), generator=generator(seed, "tokens", index))
            where = where[drawn[:sample].sort().values]
        targets, hidden = labels[0, where].to(states.device), states[0, where.to(states.device)]
        logits = _logits(source, e, where, hidden if plain else None)
        stats = target_stats(logits[None], targets[None], needs=OWN)
        if referred and reference is source:
            stats = with_reference(stats, stats)
        elif referred and reference is not None:
            other = _logits(reference, e, where, None).to(logits.device)
            other_stats = target_stats(other[None], targets[None], needs=OWN)
            stats = with_reference(stats, other_stats)
        log_z = logits.gather(-1, targets[:, None]).squeeze(-1) - stats.logp[0]
        yield stats, States(hidden, log_z, targets), where.cpu()


def _logits(source: Pretrained, e: Encoded, where: Tensor, hidden: Tensor | None) -> Tensor:
    """Logits `[T, V]` of the predictions at `where`, in float64: log p near 0 is asked for."""
    with torch.no_grad():
        if hidden is not None:
            found: Tensor = source.model.get_output_embeddings()(hidden)
            return found.double()
        logits = source.model(input_ids=e.input_ids[None].to(source.model.device)).logits
    return logits[0, where.to(logits.device)].double()
