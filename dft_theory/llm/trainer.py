r"""Training a language model on an objective: TRL's `SFTTrainer` with another loss.

Formats of data, chat template, completion mask, packing and adapters are TRL's. The loss is ours:
the model's own forward, where sharded weights are whole, ends in the chunked head of `chunked.py`,
so no logits stand there whole and every objective of the package can be trained. What is seen of
the tokens on the way is logged: NLL and surrogate side by side, and how the weights are spread.
"""

import copy
import math
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from trl import SFTConfig, SFTTrainer

from dft_theory.llm.chunked import Head, Reference, Result, chunked
from dft_theory.llm.recipe import OF_DEMONSTRATIONS, PEAK, Accumulation
from dft_theory.logprobs import IGNORE_INDEX, upcast
from dft_theory.objectives import Objective, sft

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

PEAKS = {"H100": PEAK, "H200": PEAK, "A100": 312e12}  # dense bfloat16 operations a second
SHARED_BATCH = (
    "processes that hold parts of a layer or of a stack (tensor, expert, pipeline parallelism) "
    "share a batch, and its loss would count once for each: set the size to 1 and shard the "
    "weights instead (FSDP2)"
)
PROBED = 64  # positions at which the distance to the base model is measured, at most


class StoppedError(ArithmeticError):
    """A run that cannot go on; the message says at which step and why."""


class NotFiniteError(StoppedError):
    """A loss or a gradient that is no number; the message names the step and the batch."""


# --- the forward pass ---------------------------------------------------------------------------


class Ask:
    """What a model's forward shall find instead of logits.

    With an `objective` its `Result`, else the hidden states and the head as a `Reference`.
    `denominator` None is the batch's own number of targets. No dataclass, on purpose: FSDP2's mixed
    precision casts every tensor that it can see in arguments, and 257 targets would be 256.
    """

    def __init__(
        self,
        *,
        objective: Objective | None = None,
        denominator: Tensor | float | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.objective = objective
        self.denominator = denominator
        self.reference = reference

    def of(self, model: Any, **inputs: Any) -> Any:
        """What a model, wrapped or not, answers: a `Result` or a `Reference`."""
        loss, answer = model(**inputs, ask=self)
        if loss is None:
            return answer.found
        # The gradient goes through what the wrappers have seen, the value is what it was before
        # they rounded it.
        exact = loss + (answer.found.loss - loss).detach()
        return replace(answer.found, loss=exact)


class Answer:
    """What a forward has found, as closed to FSDP2 as `Ask` is; the loss it sees in a tuple."""

    def __init__(self, found: Result | Reference) -> None:
        self.found = found


def add_objective_head(model: "PreTrainedModel") -> None:
    """From here on `Ask(...).of(model, ..., labels=)` answers with statistics, not logits.

    Without `ask` the forward is what it was. Body and head are looked up at each call: sharding and
    adapters replace them. Labels `[B, T]` unshifted, or `shift_labels` at their places.
    """
    before = model.forward

    def forward(self: Any, *args: Any, ask: Ask | None = None, **given: Any) -> Any:
        if ask is None:
            return before(*args, **given)
        labels, shifted = given.pop("labels", None), given.pop("shift_labels", None)
        given.pop("num_items_in_batch", None)
        given["use_cache"] = False
        hidden = self.base_model(*args, **given).last_hidden_state
        if shifted is None:
            hidden, targets = hidden[:, :-1], labels[:, 1:]
        else:
            targets = shifted
        head, kind = head_of(self), hidden.device.type
        if torch.is_autocast_enabled(kind):
            hidden = hidden.to(torch.get_autocast_dtype(kind))
        hidden = hidden.to(head.weight.device)
        if ask.objective is None:
            return None, Answer(Reference(hidden=hidden, head=head))
        targets = targets.to(hidden.device)
        count = (targets != IGNORE_INDEX).sum() if ask.denominator is None else ask.denominator
        found = chunked(
            ask.objective,
            hidden,
            targets,
            head,
            denominator=torch.as_tensor(count, device=hidden.device).clamp_min(1),
            reference=ask.reference,
        )
        return found.loss, Answer(found)

    model.forward = types.MethodType(forward, model)


def head_of(model: "PreTrainedModel") -> Head:
    """The head with its scale and cap, under the names that model families give them.

    Shards are gathered. Raises: ValueError for a model whose output is no plain linear layer.
    """
    layer: Any = model.get_output_embeddings()
    if layer is None:
        raise ValueError(f"{type(model).__name__} has no output layer of its own: nothing to train")
    if isinstance(layer, FSDPModule):  # sharded on its own, and its forward, never called, gathers
        layer.unshard()
    text = model.config.get_text_config()
    scale = next(
        (
            float(value)
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (value := getattr(text, name, None)) is not None
        ),
        1.0,
    )
    if (divided := getattr(text, "logits_scaling", None)) is not None:
        scale = float(divided) if text.model_type == "hyperclovax" else 1 / float(divided)
    return Head(
        weight=_whole(layer.weight),
        bias=None if layer.bias is None else _whole(layer.bias),
        scale=scale,
        cap=getattr(text, "final_logit_softcapping", None),
    )


def log_probs(states: Reference, mask: Tensor) -> Tensor:
    """All log-probabilities `[N, V]` at the positions of a mask `[B, T]`; no graph."""
    kept = states.kept(mask)
    rows, width = len(kept.hidden), len(kept.head.weight)
    out = kept.hidden.new_empty(rows, width, dtype=upcast(kept.hidden[:0]).dtype)
    return kept.head.logits(kept.hidden, out).log_softmax(-1)


def _whole(weight: Tensor) -> Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


# --- what is seen -------------------------------------------------------------------------------


@dataclass
class Seen:
    """Sums over target tokens since the last log, in float64; no number leaves the device."""

    tokens: Tensor
    nll: Tensor
    surrogate: Tensor
    weight: Tensor
    squared: Tensor
    p: Tensor
    below_1: Tensor
    below_10: Tensor
    entropy: Tensor
    inputs: Tensor

    @classmethod
    def nothing(cls, device: torch.device) -> "Seen":
        """All sums 0."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(*(zero for _ in fields(cls)))

    def add(self, found: Result, inputs: Mapping[str, Tensor], scale: Tensor | float) -> None:
        """One micro-batch, whose surrogate was divided by `scale`."""
        stats, mask = found.stats, found.stats.mask
        p = stats.logp[mask].exp()
        weight = found.weight[mask].double()
        here = {
            "tokens": mask.sum(),
            "nll": -stats.logp[mask].double().sum(),
            "surrogate": found.loss.detach().double() * scale,
            "weight": weight.sum(),
            "squared": weight.square().sum(),
            "p": p.double().sum(),
            "below_1": (p < 0.01).sum(),
            "below_10": (p < 0.1).sum(),
            "entropy": mask.new_zeros(()).double()
            if stats.entropy is None
            else stats.entropy[mask].double().sum(),
            "inputs": inputs["attention_mask"].sum()
            if "attention_mask" in inputs
            else torch.tensor(inputs["input_ids"].numel(), device=mask.device),
        }
        for name, value in here.items():
            setattr(self, name, getattr(self, name) + value)

    def logged(self, gather: Callable[[Tensor], Tensor], *, entropy: bool) -> dict[str, float]:
        """Means over target tokens of all processes; nothing where none was seen."""
        sums = gather(torch.stack([getattr(self, f.name) for f in fields(self)])[None]).sum(0)
        n, nll, surrogate, weight, squared, p, below_1, below_10, h, inputs = sums.tolist()
        if n == 0:
            return {}
        found = {
            "nll": nll / n,
            "surrogate": surrogate / n,
            "mean_p": p / n,
            "mean_weight": weight / n,
            "effective_share": weight**2 / squared / n if squared > 0 else 0.0,
            "share_p_below_0.01": below_1 / n,
            "share_p_below_0.1": below_10 / n,
            "targets": n,
            "inputs": inputs,
        }
        return found | ({"entropy": h / n} if entropy else {})


# --- the trainer --------------------------------------------------------------------------------


class Guarded:
    """What every trainer here does otherwise than `Trainer`, whose methods these take the place of.

    No step is taken with a gradient that is no number, and weight decay is of all parameters, as in
    the paper's code.
    """

    state: Any
    accelerator: Any

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()  # who calls it whole must know that all have written

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm before clipping. Raises: NotFiniteError before such a step is taken."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        if not math.isfinite(float(norm)):
            raise NotFiniteError(
                f"step {self.state.global_step + 1}: the gradient's norm is {float(norm):g}, and "
                "the loss is finite; the step was not taken"
            )
        return norm

    def where(self) -> str:
        """The step that is being taken."""
        return f"step {self.state.global_step + 1}"

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """All: the paper's optimizer decays norms and biases as well."""
        return [name for name, _ in model.named_parameters()]


class ObjectiveTrainer(Guarded, SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` whose loss is an objective's surrogate.

    `accumulation` "token" divides by the targets of the whole step, over all micro-batches and
    devices. "micro-batch-sum" adds the token means of micro-batches: `micro_batches` of them on
    each device in the run that is imitated (default: as many as here). Objectives with a reference
    get a frozen copy of the model as it is given, or the base under its adapter. The evaluation
    loss is the mean NLL of all target tokens, whatever the objective and the size of batches.
    `probe` demonstrations, held out if there are such, say how far the model has moved:
    KL(model || base) in nats a token, at evaluations.

    Raises: ValueError at construction for what would train something else in silence.
    """

    _tag_names = ("trl", "sft", "dft-theory")

    def __init__(
        self,
        model: "PreTrainedModel",
        args: SFTConfig,
        *,
        objective: Objective,
        train_dataset: "Dataset",
        processing_class: "PreTrainedTokenizerBase",
        eval_dataset: "Dataset | None" = None,
        accumulation: Accumulation = "token",
        micro_batches: int | None = None,
        probe: int = 0,
        callbacks: "list[TrainerCallback] | None" = None,
        peft_config: "PeftConfig | None" = None,
    ) -> None:
        _check(args, objective, accumulation)
        self.objective = objective
        self.accumulation = accumulation
        self.adapted = peft_config is not None
        self.anchored = bool({"ref_logp", "ref_log_probs"} & set(objective.needs))
        self.reference: Any = None
        _check_parts(model, copied=self.anchored and not self.adapted)
        if self.anchored and not self.adapted:
            self.reference = copy.deepcopy(model).eval().requires_grad_(False)
            add_objective_head(self.reference)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        if self.aux_loss_enabled:
            raise ValueError(
                "the model adds a loss of its own that balances its experts, and no objective has "
                "it: set router_aux_loss_coef=0.0"
            )
        # Trainer counts the targets of a step for losses that divide by them, and leaves them be.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True
        here = args.gradient_accumulation_steps
        self._of_sum = here / (here if micro_batches is None else micro_batches)
        base = self.model.get_base_model() if self.adapted else self.model
        add_objective_head(base)
        head_of(base)  # a head that cannot be trained is refused here
        if self.reference is not None:
            self.reference.to(self.args.device)
        self._seen = Seen.nothing(self.args.device)
        self._since = time.perf_counter()
        self._trained: Mapping[str, Any] | None = None  # the micro-batch, for where a fault lies
        self._probe = self._probed(probe) if probe else None

    # --- loss ---

    def objective_loss(
        self, model: Any, inputs: Mapping[str, Any], count: Tensor | int | None
    ) -> Result:
        """The objective on one micro-batch, divided by what `accumulation` says; see `chunked`.

        `count` is the number of targets of the whole step, None for the micro-batch's own.
        """
        reference = self.frozen(model, inputs) if self.anchored else None
        divisor = self.divisor(inputs, count)
        ask = Ask(objective=self.objective, denominator=divisor, reference=reference)
        return ask.of(model, **inputs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The step's share of the loss in training; the batch's mean NLL in evaluation.

        Raises: NotFiniteError where the loss is no number.
        """
        if return_outputs:
            raise ValueError(
                "no logits are made here: set prediction_loss_only=True and leave out "
                "compute_metrics; completions are scored with dft_theory.llm.evaluation"
            )
        if not self.model.training:
            found = Ask(objective=sft).of(model, **inputs)
            self._tally(found)
            return found.loss
        several = self.args.gradient_accumulation_steps > 1 or self.args.world_size > 1
        if num_items_in_batch is None and several and self.accumulation == "token":
            raise ValueError(
                "Trainer did not count the targets of the step: it needs labels in every batch and "
                "a newer transformers"
            )
        self._trained = inputs
        try:
            found = self.objective_loss(model, inputs, num_items_in_batch)
        except ValueError as error:
            if "hold NaN" not in str(error):
                raise
            raise NotFiniteError(f"{self.where()}: {error}") from error
        if not math.isfinite(float(found.loss.detach())):
            raise NotFiniteError(f"{self.where()}: the loss is {float(found.loss):g}")
        self._seen.add(found, inputs, self.divisor(inputs, num_items_in_batch))
        over_devices = (
            self.accumulation == "token"
            and self.args.average_tokens_across_devices
            and num_items_in_batch is not None
        )
        return found.loss * (self.accelerator.num_processes if over_devices else 1)

    def divisor(self, inputs: Mapping[str, Any], count: Tensor | int | None) -> Tensor | float:
        """What the micro-batch's sum over targets is divided by."""
        if self.accumulation == "token" and count is not None:
            return count
        labels = inputs["labels"][:, 1:] if "shift_labels" not in inputs else inputs["shift_labels"]
        own = (labels != IGNORE_INDEX).sum().clamp_min(1)
        return own * self._of_sum if self.accumulation == "micro-batch-sum" else own

    def frozen(self, model: Any, inputs: Mapping[str, Any]) -> Reference:
        """Hidden states of the reference, and its head."""
        with torch.no_grad(), self.accelerator.autocast():
            if self.reference is not None:
                return Ask().of(self.reference, **inputs)
            with self.accelerator.unwrap_model(model).disable_adapter():
                return Ask().of(model, **inputs)

    # --- numbers that are logged ---

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was seen since the last log. NLL is always SFT's, `surrogate` what was trained.

        `effective_share` is the effective number of tokens (sum w)^2 / sum w^2 over their number;
        tokens a second count the whole input, padding left out.
        """
        if self.model.training:
            found = self._seen.logged(
                self.accelerator.gather, entropy="entropy" in self.objective.needs
            )
            if found:
                seconds = time.perf_counter() - self._since
                logs |= found | {"tokens_per_second": found["inputs"] / seconds}
                logs |= self._utilisation(found["inputs"] / seconds)
            if "grad_norm" in logs:
                norm, clip = float(logs["grad_norm"]), self.args.max_grad_norm
                scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
                logs |= {"grad_norm": norm, "grad_norm_clipped": norm * scale}
            self._seen = Seen.nothing(self.args.device)
            self._since = time.perf_counter()
        super().log(logs, start_time)

    def _utilisation(self, speed: float) -> dict[str, float]:
        """Share of the device's peak: 6 operations a weight and token; nothing on unknown ones."""
        if self.args.device.type != "cuda":
            return {}
        name = torch.cuda.get_device_name(self.args.device)
        peak = next((peak for known, peak in PEAKS.items() if known in name), None)
        if peak is None:
            return {}
        weights = sum(p.numel() for p in self.model.parameters())
        return {"mfu": 6 * weights * speed / (peak * self.accelerator.num_processes)}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer` has it, with the mean over target tokens as loss, and the distance moved."""
        prefix, started = kwargs.get("metric_key_prefix", "eval"), time.perf_counter()
        self._totals: list[Tensor] = []
        output = super().evaluation_loop(*args, **kwargs)
        nll, count = torch.cat(self._totals).sum(0).tolist()
        if count:
            output.metrics[f"{prefix}_loss"] = nll / count
        if self._probe is not None:
            output.metrics[f"{prefix}_kl_to_base"] = self.kl_to_base()
        self._since += time.perf_counter() - started  # no time of training
        return output

    def _tally(self, found: Result) -> None:
        """NLL and targets `[B, 2]` of each sequence, of all devices, without repeated ones."""
        each = torch.stack([-found.stats.logp.double().sum(-1), found.stats.mask.sum(-1)], -1)
        self._totals.append(self.accelerator.gather_for_metrics(each))

    def kl_to_base(self) -> float:
        """KL(model || base) in nats a token, over the probe's positions.

        Raises: ValueError for a trainer without a probe.
        """
        if self._probe is None:
            raise ValueError("the distance to the base needs a probe: give probe=4 or so")
        batch, mask, base = self._probe
        now = self._log_probs(self.model_wrapped, batch, mask)
        return float((now.exp() * (now - base)).sum(-1).mean())

    def _probed(self, rows: int) -> tuple[dict[str, Any], Tensor, Tensor]:
        """A batch, positions spread over its targets, and log-probabilities before training."""
        data: Any = self.eval_dataset if self.eval_dataset is not None else self.train_dataset
        batch = self.batch([data[i] for i in range(min(rows, len(data)))])
        places = (batch["labels"][:, 1:] != IGNORE_INDEX).nonzero()
        chosen = torch.linspace(0, len(places) - 1, min(PROBED, len(places))).long()
        mask = torch.zeros_like(batch["labels"][:, 1:], dtype=torch.bool)
        mask[tuple(places[chosen.to(places.device)].T)] = True
        return batch, mask, self._log_probs(self.model, batch, mask)

    def _log_probs(self, model: Any, batch: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Log-probabilities `[n, V]` at the positions of a mask, as in evaluation."""
        training = self.model.training
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            states = Ask().of(model, **batch)
        self.model.train(training)
        return log_probs(states, mask)

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Rows of the prepared data set, collated, on the device."""
        return self._prepare_inputs(self.data_collator(list(rows)))

    # --- what stops ---

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer` has it, of shards: a forward without backward leaves the root whole."""
        _reshard(self.model)
        return super().create_optimizer(*args, **kwargs)

    def where(self) -> str:
        """The step, and which demonstrations were being trained on."""
        if self._trained is None:
            return super().where()
        inputs = self._trained
        ids = inputs["input_ids"]
        kept = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        held = {tuple(row[k].tolist()) for row, k in zip(ids, kept, strict=True)}
        data: Any = self.train_dataset
        rows = [i for i, row in enumerate(data["input_ids"]) if tuple(row) in held]
        text = self.processing_class.decode(ids[0][kept[0]][:40], skip_special_tokens=True)
        named = f"demonstrations {', '.join(map(str, rows))}" if rows else f"{len(ids)} rows"
        return f"{super().where()}, {named} ({' '.join(text.split())[:80]} ...)"


def _check_parts(model: Any, *, copied: bool) -> None:
    """Raises: ValueError for a model that was taken apart in a way that cannot be trained here."""
    split = getattr(model.config, "distributed_config", None)
    for name in ("tp_size", "pp_size", "ep_size"):
        if (size := getattr(split, name, None) or 1) > 1:
            raise ValueError(f"the model was loaded with {name}={size}: {SHARED_BATCH}")
    if copied and _sharded(model):
        raise ValueError(
            "the objective needs a frozen copy of the model, and one that is sharded already "
            "cannot be copied: load it whole and let the trainer shard it (fsdp=True), or take an "
            "adapter, whose base is the reference"
        )


def _sharded(model: Any) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _reshard(model: Any) -> None:
    for module in _sharded(model):
        module.reshard()


def _check(args: SFTConfig, objective: Objective, accumulation: Accumulation) -> None:
    """Raises: ValueError for the first setting that would train something else."""
    outside = sorted(set(objective.needs) - OF_DEMONSTRATIONS)
    several = args.gradient_accumulation_steps > 1 or args.world_size > 1
    packed = args.packing or args.padding_free
    split = args.parallelism_config
    if outside or objective.level == "group":
        needed = ", ".join(outside) or "responses that are compared in groups"
        raise ValueError(
            f"{objective.name} needs {needed}, and demonstrations alone do not have it: call "
            "dft_theory.llm.chunked with what your sampler knows"
        )
    if objective.level == "batch" and several:
        raise ValueError(
            f"{objective.name} compares the tokens of a whole batch, and a step here has several "
            "micro-batches: set gradient_accumulation_steps=1 on one device"
        )
    if objective.level in ("sequence", "geometric-mean") and packed:
        raise ValueError(
            f"{objective.name} weights a response by its own probability, and packing puts several "
            "into one row: set packing=False and padding_free=False"
        )
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor={args.label_smoothing_factor:g} would be ignored: smoothed "
            "labels are an objective of their own, label-smoothing-0.1. Set it to 0"
        )
    if args.loss_type != "nll":
        raise ValueError(f"loss_type={args.loss_type!r} is a second objective: leave it out")
    if args.use_liger_kernel:
        raise ValueError("use_liger_kernel would replace the forward that ends in our head: unset")
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} devices in one process mean nn.DataParallel, where a step has no one "
            "count of its targets: launch one process a device (torchrun), or show one device "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    if args.deepspeed_plugin is not None:
        raise ValueError(
            "DeepSpeed keeps weights where our head, which reads them without calling their layer, "
            "does not find them (ZeRO-3), and nothing here was tried with it: leave out deepspeed "
            "and shard with FSDP2, fsdp=True and fsdp_config={'version': 2}"
        )
    if split is not None and split.tp_size > 1:
        raise ValueError(f"tp_size={split.tp_size}: {SHARED_BATCH}")
    if split is not None and max(split.cp_size, split.sp_size) > 1:
        raise ValueError(
            "sequences would be split over devices (context parallelism, Ulysses): set cp_size and "
            "sp_size to 1 and shard the weights instead (FSDP2)"
        )
    if args.world_size > 1 and not args.average_tokens_across_devices and accumulation == "token":
        raise ValueError(
            "each process would divide by its own number of targets: set "
            "average_tokens_across_devices=True"
        )
