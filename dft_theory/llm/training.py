"""A recipe, run: data and model loaded, the loss checked, every number recorded, and resumable.

The folder of a run holds `manifest.json`, `metrics.jsonl`, `summary.json` (when it is done),
`checkpoints/` and `model/`, the trained weights and tokenizer.
"""

import hashlib
import importlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from trl import SFTConfig

from dft_theory import provenance
from dft_theory.llm import checkpoints
from dft_theory.llm.corpus import Row, conversations, fit, rows
from dft_theory.llm.gradient_check import GradientVerdict, WrongGradientError, check_first_step
from dft_theory.llm.pretrained import Pretrained, load_pretrained
from dft_theory.llm.recipe import Recipe
from dft_theory.llm.trainer import ObjectiveTrainer, StoppedError, log_probs
from dft_theory.logprobs import IGNORE_INDEX, TokenStats
from dft_theory.objectives import Objective, Reduction, SumOver, TokenMean
from dft_theory.results import RecordError, Run, encode, write_json, write_text
from dft_theory.seeding import numpy_generator

SAVES = 10  # checkpoints a run, besides those that the recipe names,
APART = 20  # steps apart at least
LINES = 200  # records of a run, about: they stay small enough for version control
HELD_OUT = 64  # demonstrations for the evaluation loss, at most
PROBE = 4  # of them, for the distance to the base model

# For base models, whose tokenizers have no chat template; the paper does not say what it took.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}User: {{ m['content'] }}"
    "\n\nAssistant:{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    objective: Objective | None = None,
    resume: bool = False,
    gradient_check: bool = True,
    max_steps: int | None = None,
    report_to: Sequence[str] = (),
    command: Sequence[str] = (),
) -> Run:
    """Train a recipe of one seed into the folder `out`; `each_seed` makes them of several.

    `objective` takes the place of the recipe's. `max_steps` makes a shorter run of it, schedule
    and all. With `resume`, goes on from the newest complete checkpoint: on one device with the same
    threads, to the very weights of a run that was never interrupted; a finished run stays as it is.
    Without `gradient_check` the manifest says so. `report_to` names integrations of `Trainer`, such
    as "tensorboard", that get every number too.

    What stops a run is left in `stopped-<process>.json`, by each process that it stops, with the
    step and the demonstrations. Raises: WrongGradientError before the first step; StoppedError
    where loss or gradient are no numbers (NotFiniteError), memory does not suffice or nothing is
    learned, with the last good checkpoint kept; RecordError for a folder that holds another run or
    a damaged checkpoint; ValueError for what the recipe or the trainer refuse.
    """
    if len(recipe.seeds) != 1:
        raise ValueError(
            f"{recipe.name} has seeds {', '.join(map(str, recipe.seeds)) or 'of no number'}, and a "
            "run has one: take each_seed(recipe, out)"
        )
    run, loss = Run(Path(out)), objective or recipe.loss
    source, way = _loaded(recipe), _way(recipe)
    room = 1 if recipe.rollouts is None else recipe.rollouts.tokens
    kept, found = fit(rows(recipe.corpus), source.tokenizer, recipe.max_length, room)
    trained, held = _split(recipe, kept)
    planned = recipe.steps(len(trained))
    steps = planned if max_steps is None else min(planned, max_steps)
    what = {
        "recipe": asdict(recipe),
        "objective": {"name": loss.name, "source": provenance.source_hash(loss)},
        "model": {"name": recipe.model, "revision": source.revision},
        "data": {
            "sha256": _digest(kept),
            "fit": str(found),
            "trained": len(trained),
            "held_out": len(held),
            "left_out": found.rows - len(trained) - len(held),
        },
        "template": source.tokenizer.chat_template,
        "steps": steps,
        "warmup_steps": math.floor(recipe.warmup * steps),
    }
    identity = hashlib.sha256(encode(what, where="the run").encode()).hexdigest()
    if resume:
        _check_same(run, identity)
        if run.finished:
            return run
    start = _resumed(run, identity) if resume else None
    trainer = way.trainer(recipe, loss, source, trained, held, run, steps)
    trainer.remove_callback(PrinterCallback)
    for callback in get_reporting_integration_callbacks(list(report_to)):
        try:
            trainer.add_callback(callback)
        except RuntimeError as error:  # what it needs is not installed
            raise ImportError(f"reporting to {', '.join(report_to)}: {error}") from error
    trainer.add_callback(_Recorder(run, identity, recipe.checkpoints, steps, trainer))
    checked: dict[str, Any] | str = "switched off"
    wrong = None
    if gradient_check:
        try:
            verdict = way.first_step(trainer)
        except WrongGradientError as error:
            verdict, wrong = error.verdict, error
        except Exception as error:
            raise _exhausted(error, trainer) or error from error.__cause__
        checked = asdict(verdict) | {"holds": verdict.holds}
    if trainer.is_world_process_zero() and not (resume and (run.folder / "manifest.json").exists()):
        extra = what | {
            "identity": identity,
            "gradient_check": checked,
            "processes": trainer.args.world_size,
            "accumulation_here": trainer.args.gradient_accumulation_steps,
        }
        run.start(provenance.manifest(list(command), seeds=recipe.seeds[:1], extra=extra))
    if wrong is not None:
        raise wrong
    started = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except Exception as error:
        stopped = _exhausted(error, trainer) or error
        text = (
            str(stopped) if isinstance(stopped, StoppedError) else f"{trainer.where()}: {error!r}"
        )
        process = trainer.args.process_index
        record = {"step": trainer.state.global_step, "process": process, "stopped": text}
        write_json(run.folder / f"stopped-{process}.json", record)
        raise stopped from error.__cause__ if stopped is error else error
    last = {}
    if isinstance(trainer, ObjectiveTrainer) and not held:
        last["eval_kl_to_base"] = trainer.kl_to_base()
    for record in trainer.state.log_history:  # evaluated at every checkpoint and at the last step
        last |= record
    _saved(trainer, run.folder / "model")
    if trainer.is_world_process_zero():
        logged = [m for m in run.metrics() if "loss" in m]
        run.finish(
            {
                "data": str(found),
                "steps": trainer.state.global_step,
                "seconds": round(time.perf_counter() - started, 3),
                "resumed_at": None if start is None else int(start.name.rpartition("-")[2]),
                **{k: last[k] for k in ("eval_loss", "eval_kl_to_base") if k in last},
                "first": logged[0] if logged else None,
                "last": logged[-1] if logged else None,
                "weights_sha256": _sha256(run.folder / "model"),
            }
        )
        checkpoints.prune(run.folder / "checkpoints", recipe.checkpoints, newest=0)
    return run


def quiet() -> None:
    """Switches off the bars of the libraries below; a run has one of its own."""
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()


# --- before -------------------------------------------------------------------------------------


def _loaded(recipe: Recipe) -> Pretrained:
    dtype = torch.bfloat16 if recipe.parameters == "bfloat16" else torch.float32
    source = load_pretrained(recipe.model, dtype=dtype)
    if source.tokenizer.chat_template is None:
        source.tokenizer.chat_template = PLAIN_TEMPLATE
    return source


def _split(recipe: Recipe, kept: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Whole batches of a seeded shuffle, and of what is left over the demonstrations held out."""
    order = numpy_generator(recipe.seeds[0], "train", recipe.corpus.source).permutation(len(kept))
    shuffled = [kept[i] for i in order]
    whole = len(kept) // recipe.batch * recipe.batch
    if not whole:
        raise ValueError(
            f"{recipe.name}: {len(kept)} {recipe.corpus.holds} make no batch of {recipe.batch}"
        )
    held = HELD_OUT if recipe.corpus.holds == "demonstrations" else 0
    return shuffled[:whole], shuffled[whole : whole + held]


class _Way(Protocol):
    """How one kind of rows is trained on: a module, this one or one beside it."""

    def trainer(
        self,
        recipe: Recipe,
        objective: Objective,
        source: Pretrained,
        trained: Sequence[Row],
        held: Sequence[Row],
        run: Run,
        steps: int,
    ) -> Any:
        """A `transformers.Trainer`, ready to train."""

    def first_step(self, trainer: Any) -> GradientVerdict:
        """The gradient check of its loss."""


def _way(recipe: Recipe) -> _Way:
    module = {"problems": "online", "pairs": "preferences"}.get(recipe.corpus.holds, "training")
    return cast(_Way, importlib.import_module(f"dft_theory.llm.{module}"))


Config = TypeVar("Config", bound=TrainingArguments)


def arguments(kind: type[Config], recipe: Recipe, run: Run, steps: int, **own: Any) -> Config:
    """What a recipe says to any of TRL's trainers, and `own` to this one.

    Raises: ValueError for a number of processes that does not divide the batch.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = recipe.micro_batch * processes
    if recipe.answers % at_once:
        raise ValueError(
            f"{recipe.name}: a batch of {recipe.answers} is no multiple of {recipe.micro_batch} "
            f"demonstrations on each of {processes} processes: start another number"
        )
    return kind(
        output_dir=str(run.folder / "checkpoints"),
        per_device_train_batch_size=recipe.micro_batch,
        per_device_eval_batch_size=recipe.micro_batch,
        max_steps=steps,
        learning_rate=recipe.rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.floor(recipe.warmup * steps),
        optim="adamw_torch",
        adam_beta1=recipe.betas[0],
        adam_beta2=recipe.betas[1],
        weight_decay=recipe.decay,
        max_grad_norm=recipe.clip,
        gradient_accumulation_steps=recipe.answers // at_once,
        **checkpointing(kind, recipe.checkpointing),
        bf16=recipe.compute == "bfloat16" and recipe.parameters == "float32",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seeds[0],
        data_seed=recipe.seeds[0],
        logging_steps=max(1, steps // LINES),
        save_strategy="steps",
        save_steps=max(APART, steps // SAVES),
        report_to=[],
        disable_tqdm=True,
        **_sharding(adapted=recipe.lora_rank is not None),
        **own,
    )


def trainer(
    recipe: Recipe,
    objective: Objective,
    source: Pretrained,
    trained: Sequence[Row],
    held: Sequence[Row],
    run: Run,
    steps: int,
) -> ObjectiveTrainer:
    """Demonstrations are trained on by our own trainer."""
    made = ObjectiveTrainer(
        source.model,
        arguments(SFTConfig, recipe, run, steps, max_length=recipe.max_length),
        objective=objective,
        train_dataset=conversations(trained),
        eval_dataset=conversations(held) if held else None,
        processing_class=source.tokenizer,
        accumulation=recipe.accumulation,
        micro_batches=recipe.micro_batches,
        probe=PROBE,
        peft_config=None if recipe.lora_rank is None else _adapter(recipe.lora_rank),
    )
    if made.adapted and made.is_fsdp_enabled:  # by accelerate's settings, not by ours
        raise ValueError(
            f"{recipe.name}: an adapter is merged by one process, which has to hold all weights: "
            "start with torchrun or experiments/accelerate/ddp_8gpu.yaml, without FSDP"
        )
    return made


def checkpointing(kind: type[TrainingArguments], on: bool) -> dict[str, bool]:
    """Whether activations are computed twice, under the name that this transformers gives it."""
    new = "activation_checkpointing"
    return {new if new in {f.name for f in fields(kind)} else "gradient_checkpointing": on}


def _sharding(*, adapted: bool) -> dict[str, Any]:
    """FSDP2 over several GPUs; DDP without GPUs and for adapters, which one process merges."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and torch.cuda.is_available() and not adapted:
        return {"fsdp": True, "fsdp_config": {"version": 2}}
    return {"ddp_find_unused_parameters": False}


def _adapter(rank: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def first_step(trainer: ObjectiveTrainer) -> GradientVerdict:
    """The gradient check on two short demonstrations of the training set.

    Raises: WrongGradientError, ValueError; see `check_first_step`.
    """
    data: Any = trainer.train_dataset
    rows = sorted((data[i] for i in range(min(256, len(data)))), key=lambda r: len(r["input_ids"]))

    def targets(batch: Mapping[str, Tensor]) -> Tensor:
        return (batch["labels"][:, 1:] != IGNORE_INDEX).sum(-1)

    # Of two targets one is left where one has to be masked.
    short = list(islice((r for r in rows if int(targets(trainer.batch([r])).sum()) > 1), 2))
    if len(short) < 2:
        raise ValueError(
            "the gradient check needs two demonstrations with at least two target tokens, and not "
            f"two of the first {len(rows)} have them: mend the data, or switch it off "
            "(gradient_check=False)"
        )
    batch = trainer.batch(short)
    labels: Tensor = batch["labels"]
    kept = targets(batch)
    if len(kept.unique()) == 1:  # normalisers show in unequal numbers of targets only
        labels[1, int((labels[1, 1:] != IGNORE_INDEX).nonzero()[0]) + 1] = IGNORE_INDEX
    reduction: Reduction = TokenMean()
    if trainer.accumulation == "micro-batch-sum":
        reduction = SumOver(float(trainer.divisor(batch, None)))

    def complete(stats: TokenStats) -> TokenStats:
        if not trainer.anchored:
            return stats
        rows = log_probs(trainer.frozen(trainer.model, batch), stats.mask)
        whole = rows.new_zeros(*stats.mask.shape, rows.shape[-1])
        whole[stats.mask] = rows
        at_target = whole.gather(-1, labels[:, 1:, None].clamp_min(0)).squeeze(-1)
        return replace(stats, ref_logp=at_target, ref_log_probs=whole)

    def loss(inputs: dict[str, Tensor], count: Tensor) -> Tensor:
        return trainer.objective_loss(trainer.model, inputs, count).loss

    return check_first_step(
        trainer.model, loss, batch, trainer.objective, reduction, complete=complete
    )


def _check_same(run: Run, identity: str) -> None:
    """Raises: RecordError where the folder holds no run, or another one."""
    if not (run.folder / "manifest.json").exists():
        raise RecordError(f"{run.folder} holds no run to resume: leave out resume")
    if run.manifest().get("identity") != identity:
        raise RecordError(
            f"{run.folder} holds another run: recipe, objective, data, model or number of steps "
            "differ from its manifest.json. Train into another folder"
        )


def _resumed(run: Run, identity: str) -> Path | None:
    """Where to go on; the records behind it are taken back. None where nothing was saved yet."""
    found = checkpoints.newest(run.folder / "checkpoints", identity)
    step = 0 if found is None else int(found.name.rpartition("-")[2])
    kept = [m for m in run.metrics() if m.get("step", 0) <= step]
    if os.environ.get("RANK", "0") == "0":
        for file in run.folder.glob("stopped-*.json"):
            file.unlink()
        lines = (encode(m, where="metrics") + "\n" for m in kept)
        write_text(run.folder / "metrics.jsonl", "".join(lines))
    return found


def _exhausted(error: Exception, trainer: Any) -> StoppedError | None:
    """What to lower where memory did not suffice; None for another fault."""
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and (
        "allocate memory" not in str(error)  # what the allocator of the processor says
    ):
        return None
    return StoppedError(
        f"{trainer.where()}: out of memory ({str(error).splitlines()[0]}). Lower micro_batch or "
        "max_length, set checkpointing=True, take an adapter (lora_rank) or more GPUs; --dry-run "
        "estimates what a recipe takes"
    )


# --- meanwhile and after ------------------------------------------------------------------------


class _Recorder(TrainerCallback):  # type: ignore[misc]
    """Every log into metrics.jsonl, every checkpoint sealed, and a bar."""

    def __init__(
        self,
        run: Run,
        identity: str,
        keep: Sequence[int],
        steps: int,
        trainer: Any,
    ) -> None:
        self.held = trainer.eval_dataset is not None
        self.run, self.identity, self.keep = run, identity, keep
        self.main = trainer.is_world_process_zero()
        self.bar = tqdm(total=steps, desc="steps", disable=None, leave=False)

    def on_log(self, _args: Any, state: Any, _control: Any, **given: Any) -> None:
        logs: Mapping[str, float] = given["logs"]
        if self.main and "train_runtime" not in logs:
            self.run.log({"step": state.global_step, **{k: float(v) for k, v in logs.items()}})
        shown = {k: f"{logs[k]:.4g}" for k in ("nll", "surrogate", "mean_p") if k in logs}
        if shown:
            self.bar.set_postfix(shown, refresh=False)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
        self.bar.update(state.global_step - self.bar.n)
        control.should_save |= (
            state.global_step in self.keep or state.global_step >= state.max_steps
        )
        control.should_evaluate = self.held and control.should_save
        return control

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        if self.main:
            root = Path(args.output_dir)
            checkpoints.seal(root / f"checkpoint-{state.global_step}", self.identity)
            checkpoints.prune(root, self.keep)

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self.bar.close()


def _saved(trainer: Any, folder: Path) -> None:
    """The trained model as a folder that `load_pretrained` reads; adapters are merged in."""
    if not (isinstance(trainer, ObjectiveTrainer) and trainer.adapted):
        trainer.save_model(str(folder))
    elif trainer.is_world_process_zero():
        trainer.model.merge_and_unload().save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that names local folders


def _digest(kept: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in kept:
        digest.update(json.dumps(astuple(row)).encode() + b"\n")
    return digest.hexdigest()


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
