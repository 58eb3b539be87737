"""What other packages compute, each called through its own released code.

An adapter converts call conventions and nothing else: it flattens, or shifts for a callee that
leaves the shift to its caller. Kernels that take hidden states get the logits as hidden states and
an identity matrix as head, so their logits are the logits of the check. Where a package returns
token losses only, the rest is ours and `composed` says so.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module, metadata
from types import SimpleNamespace
from typing import Any, Optional

import torch
import torch.nn.functional as F
import wheels
from torch import Tensor, nn
from wheels import Absent

from dft_theory.logprobs import IGNORE_INDEX, TokenStats, align, token_stats
from dft_theory.objectives import MicrobatchTokenMean, Objective, Reduction, TokenMean, dft, sft
from dft_theory.objectives.asft import asft
from dft_theory.objectives.eaft import eaft

Loss = Callable[..., Tensor]
TORCH = {"torch": torch, "nn": nn, "F": F, "Optional": Optional}
TOKEN_MEAN = TokenMean()
# A function sees one micro-batch at a time: all it is given.
PER_CALL = MicrobatchTokenMean(size=2**31)
IDENTITY_HEAD = {
    "masked-vocabulary": "-inf times 0 in an identity head is NaN before the loss is reached",
    "impossible-target": "-inf times 0 in an identity head is NaN before the loss is reached",
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One implementation: where it comes from, how it is called, and what it is held to.

    `load()` returns f(logits, labels, N) or raises Absent. `wheel` pins the version of a package
    that is read and not imported. `outside` names checks that do not apply, with the reason.
    """

    name: str
    package: str
    called: str
    load: Callable[[], Loss]
    wheel: str = ""
    claims_to_be: Objective = dft
    reduction: Reduction = TOKEN_MEAN
    composed: str = ""
    outside: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def version(self) -> str:
        """The version that is called. Raises: Absent."""
        if self.wheel:
            return wheels.version_of(wheels.find(self.package, self.wheel))
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            raise Absent(f"{self.package} is not installed: run `make peers`") from None


def imported(module: str, name: str = "") -> Any:
    """A module, or a name in it. Raises: Absent with the error of the import."""
    try:
        found = import_module(module)
        return getattr(found, name) if name else found
    except (ImportError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise Absent(f"{module} does not import: {type(error).__name__}: {reason}") from error


def flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[B(T-1), V]` beside their targets: the caller's shift."""
    z, y = align(logits, labels)
    return z.flatten(0, 1), y.flatten()


def count(labels: Tensor, n: Any) -> Any:
    """N, or the targets of this call."""
    return (labels[:, 1:] != IGNORE_INDEX).sum().clamp_min(1) if n is None else n


def identity(logits: Tensor) -> Tensor:
    """The head under which hidden states are logits."""
    return torch.eye(logits.shape[-1], dtype=logits.dtype)


def weighted(nll: Tensor) -> Tensor:
    """Our part of a composed loss: sg(exp(-nll)) nll."""
    return (-nll).exp().detach() * nll


# --- TRL -----------------------------------------------------------------------------------------


def trl_trainer(loss_type: str, folder: str) -> Any:
    """A real SFTTrainer of a tiny random Llama: one step of plain SGD on four micro-batches."""
    trainer, config = imported("trl", "SFTTrainer"), imported("trl", "SFTConfig")
    model, rows, tokenizer = tiny_llama(), token_rows(), tiny_tokenizer()
    table = imported("datasets.table", "InMemoryTable").from_pydict(rows)
    options = config(
        output_dir=folder,
        loss_type=loss_type,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(rows["labels"]),
        max_steps=1,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    data = imported("datasets", "Dataset")(table, fingerprint="rows")
    return trainer(model, args=options, train_dataset=data, processing_class=tokenizer)


def token_rows() -> dict[str, list[list[int]]]:
    """Four sequences of different lengths, with prompts of different lengths."""
    ids = [[3, 4, 3, 5, 6, 7], [4, 5, 9, 8], [5, 6, 7, 8, 10], [6, 7, 8]]
    prompts = (1, 2, 1, 1)
    labels = [[IGNORE_INDEX] * n + row[n:] for n, row in zip(prompts, ids, strict=True)]
    return {"input_ids": ids, "labels": labels}


def tiny_llama() -> Any:
    """A Llama of one layer and 11 tokens, randomly initialised."""
    config = imported("transformers", "LlamaConfig")
    model = imported("transformers", "LlamaForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return model(
            config(
                vocab_size=11,
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=32,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=1,
                initializer_range=0.4,
            )
        )


def tiny_tokenizer() -> Any:
    """A tokenizer that a trainer asks for and this one never uses."""
    tokenizer = imported("tokenizers", "Tokenizer")
    words = imported("tokenizers.models", "WordLevel")(
        {"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"
    )
    fast = imported("transformers", "PreTrainedTokenizerFast")
    return fast(tokenizer_object=tokenizer(words), pad_token="<pad>", eos_token="<eos>")


class Backbone(nn.Module):
    """A backbone whose hidden states are given, and its identity head."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.config = imported("transformers", "LlamaConfig")()
        self.hidden = hidden

    @property
    def base_model(self) -> Callable[..., Any]:
        return lambda *_, **__: SimpleNamespace(last_hidden_state=self.hidden)

    def forward(self) -> None:
        """Never called: the fused head replaces it."""

    def get_output_embeddings(self) -> Any:
        return SimpleNamespace(weight=identity(self.hidden), bias=None)


def trl_fused(loss_type: str) -> Loss:
    """`SFTTrainer.compute_loss` on TRL's fused head, which is given hidden states."""
    add_head = imported("trl.trainer.utils", "add_fused_lm_head")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(loss_type, folder)

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        model = Backbone(logits)
        add_head(model, outputs=("log_probs", "entropy", "is_top1"))
        inputs = {"input_ids": labels, "labels": labels, "attention_mask": torch.ones_like(labels)}
        found: Tensor = trainer.compute_loss(model, inputs, num_items_in_batch=n)
        return found

    return loss


def trl_step() -> float:
    """Distance of the gradient of one real SFTTrainer step from ours, relative to its norm.

    The step accumulates four micro-batches of different lengths; ours is that of the whole batch,
    in float64. Raises: Absent.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer("dft", folder)
        before = [p.detach().double().clone() for p in trainer.model.parameters()]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its metrics
            trainer.train()
        after = [p.detach().double() for p in trainer.model.parameters()]
    model, rows = tiny_llama().double(), token_rows()
    longest = max(map(len, rows["input_ids"]))
    ids, labels = (
        torch.tensor([row + [fill] * (longest - len(row)) for row in rows[name]])
        for name, fill in (("input_ids", 0), ("labels", IGNORE_INDEX))
    )
    logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    dft.surrogate(token_stats(logits, labels), reduction=TOKEN_MEAN).backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    theirs = torch.cat([(b - a).flatten() for b, a in zip(before, after, strict=True)])
    return float((theirs - ours).norm() / ours.norm())


def trl_function(version: str) -> Loss:
    """`dft_loss(outputs, labels, N)` as it was until 1.14, with the selection it calls."""
    wheel = wheels.find("trl", version)
    # None is what this module finds where TRL's optional GPU kernels are not installed.
    given = {**TORCH, "_fused_logprob_entropy": None}
    select = wheels.function(wheel, "trl/trainer/utils.py", "selective_log_softmax", given=given)
    given = {**TORCH, "selective_log_softmax": select}
    return wheels.function(wheel, "trl/trainer/sft_trainer.py", "dft_loss", given=given)


# --- Liger, cut cross-entropy ---------------------------------------------------------------------


def interpreted() -> None:
    """Raises: Absent unless Triton runs its kernels in Python."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise Absent("Triton's kernels need a GPU, or TRITON_INTERPRET=1 before Python starts")


def liger_fused() -> Loss:
    """`LigerForCausalLMLoss(hidden, head, labels, N)` with token scaling, interpreted."""
    interpreted()
    fused = imported("liger_kernel.transformers.model.loss_utils", "LigerForCausalLMLoss")

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        head, size = identity(logits), logits.shape[-1]
        found: Tensor = fused(logits, head, labels, size, n, use_token_scaling=True)
        return found

    return loss


def liger_scaled() -> Loss:
    """Token losses of Liger's scaled cross-entropy, whose CPU path is torch; we weight and sum."""
    scaled = imported("liger_kernel.ops", "LigerFusedLinearScaledCrossEntropyFunction")

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        z, y = flat(logits, labels)
        return weighted(scaled.apply(z, identity(z), y)).sum() / count(labels, n)

    return loss


def cut_cross_entropy() -> Loss:
    """Token losses of the torch implementation inside cut-cross-entropy; we weight and sum.

    Run without compiling it: a minute less, and no C++ compiler needed.
    """
    linear = imported("cut_cross_entropy", "linear_cross_entropy")

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        z, y = flat(logits, labels)
        with torch.compiler.set_stance("force_eager"):
            nll = linear(z, identity(z), y, impl="torch_compile", reduction="none")
        return weighted(nll).sum() / count(labels, n)

    return loss


# --- ms-swift, twinkle ----------------------------------------------------------------------------


def swift_trainer() -> Loss:
    """`Seq2SeqTrainer.compute_loss` on a stand-in trainer: one process, no MoE, no packing."""
    compute = imported("swift.trainers.seq2seq_trainer", "Seq2SeqTrainer").compute_loss

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        template = SimpleNamespace(
            compute_sft_loss=lambda *_, **__: SimpleNamespace(logits=logits),
            sequence_parallel_size=1,
            padding_free=False,
        )
        args = SimpleNamespace(
            enable_dft_loss=True,
            enable_channel_loss=False,
            use_liger_kernel=False,
            average_tokens_across_devices=False,
            tuner_backend="peft",
            acc_strategy="token",
        )
        model = SimpleNamespace(training=True, model_info=SimpleNamespace(is_moe_model=False))
        stand_in = SimpleNamespace(
            template=template,
            args=args,
            model=model,
            label_smoother=None,
            accelerator=SimpleNamespace(
                unwrap_model=lambda _: SimpleNamespace(_get_name=lambda: "")
            ),
            _compute_acc=lambda *_, **__: None,
        )
        found: Tensor = compute(stand_in, model, {"labels": labels}, num_items_in_batch=n)
        return found

    return loss


def twinkle(name: str, *chunk: int) -> Loss:
    """The sum that twinkle's loss returns, over N or the count it returns; we shift for it."""
    made = imported("twinkle.loss", name)(*chunk, dft=True, reduction="sum")

    def loss(logits: Tensor, labels: Tensor, n: Any) -> Tensor:
        z, y = flat(logits, labels)
        found = made({"labels": y}, {"logits": z})
        total: Tensor = found["loss"] / (found["num_tokens"] if n is None else n)
        return total

    return loss


# --- LLaMA-Factory, axolotl -----------------------------------------------------------------------


def llama_factory(name: str, *helpers: str) -> Loss:
    """A loss function of LLaMA-Factory's trainer, which takes outputs, labels and N."""
    wheel = wheels.find("llamafactory")
    return wheels.function(
        wheel, "llamafactory/train/trainer_utils.py", name, *helpers, given=TORCH
    )


def llama_factory_asft() -> Loss:
    """`asft_loss_func` with reference logits 0: a uniform reference."""
    fn = llama_factory(
        "asft_loss_func", "_asft_cross_entropy", "_dft_cross_entropy", "_kl_divergence"
    )
    return lambda outputs, labels: fn(outputs, labels, torch.zeros_like(outputs["logits"]), 0.1)


def llama_factory_eaft() -> Loss:
    """`eaft_loss_func` with 20 impossible tokens added: it refuses a vocabulary below 20."""
    fn = llama_factory("eaft_loss_func", "_eaft_cross_entropy")
    return lambda z, labels, n: fn({"logits": F.pad(z, (0, 20), value=-1e30)}, labels, n)


def axolotl(name: str) -> Loss:
    """`dft_loss` or `eaft_loss` of axolotl, which take outputs, labels and N."""
    member = f"axolotl/monkeypatch/loss/{name.removesuffix('_loss')}.py"
    return wheels.function(wheels.find("axolotl"), member, name, given=TORCH)


def towards_uniform(objective: Objective) -> Objective:
    """An anchored objective whose reference is the uniform distribution."""

    def told(t: TokenStats) -> TokenStats:
        assert t.log_probs is not None
        return replace(t, ref_log_probs=torch.zeros_like(t.log_probs).log_softmax(-1))

    target, potential = objective.target, objective.potential
    assert target is not None
    assert potential is not None
    return replace(
        objective,
        needs=("log_probs",),
        weight=lambda t: objective.weight(told(t)),
        target=lambda t: target(told(t)),
        potential=lambda t: potential(told(t)),
    )


# --- MLX ------------------------------------------------------------------------------------------


def mlx() -> Loss:
    """`dft_loss(model, batch, lengths)`; its masks are spans, so each target gets a row."""
    mx = imported("mlx.core")
    given = {"mx": mx, "nn": imported("mlx.nn")}
    member = "mlx_lm_lora/trainer/sft_trainer.py"
    wheel = wheels.find("mlx-lm-lora")
    fn = wheels.function(wheel, member, "dft_loss", "_find_cache_offset", given=given)
    kinds = {torch.float64: mx.float64, torch.float32: mx.float32, torch.bfloat16: mx.bfloat16}

    class FromMLX(torch.autograd.Function):
        """A loss whose gradient is MLX's own."""

        @staticmethod
        def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
            b, t = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
            spans = torch.stack([t + 1, t + 1], 1)
            if not len(b):
                b, spans = torch.zeros(1, dtype=torch.long), torch.tensor([[labels.shape[1], 0]])
            rows = mx.array(b.numpy())
            tokens = mx.array(labels.clamp_min(0)[b].numpy())
            held = mx.array(logits.detach().double().numpy(), dtype=kinds[logits.dtype])
            lengths = mx.array(spans.numpy())

            def value(z: Any) -> Any:
                return fn(lambda _, cache: z[rows][:, :-1], tokens, lengths)[0]

            found, gradient = mx.value_and_grad(value)(held)
            ctx.save_for_backward(to_torch(gradient).to(logits.dtype))
            return torch.tensor(found.item())

        @staticmethod
        def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, None]:
            (gradient,) = ctx.saved_tensors
            return gradient * upstream[0], None

    def to_torch(x: Any) -> Tensor:
        return torch.tensor(x.astype(mx.float64).tolist(), dtype=torch.float64)

    return lambda logits, labels: FromMLX.apply(logits, labels)


# --- torch, transformers: SFT ---------------------------------------------------------------------


def causal_lm_loss() -> Loss:
    """The loss that every causal language model of transformers applies to its logits."""
    fn = imported("transformers.loss.loss_utils", "ForCausalLMLoss")
    return lambda z, labels, n: fn(z, labels, z.shape[-1], num_items_in_batch=n)


def torch_cross_entropy() -> Loss:
    """`F.cross_entropy` with its mean; we shift for it."""
    return lambda z, labels: F.cross_entropy(*flat(z, labels))


def torch_linear_cross_entropy() -> Loss:
    """`F.linear_cross_entropy` in chunks, with its mean; we shift for it."""
    linear = imported("torch.nn.functional", "linear_cross_entropy")
    options = imported("torch.nn", "LinearCrossEntropyOptions")()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        z, y = flat(logits, labels)
        found: Tensor = linear(z, identity(z), y, options=options)
        return found

    return loss


PEERS = (
    Peer(
        name="TRL trainer",
        package="trl",
        called='`SFTTrainer.compute_loss`, `loss_type="dft"`, with its fused head',
        load=partial(trl_fused, "dft"),
        outside=IDENTITY_HEAD,
    ),
    Peer(
        name="TRL trainer, SFT",
        package="trl",
        called='`SFTTrainer.compute_loss`, `loss_type="nll"`',
        load=partial(trl_fused, "nll"),
        claims_to_be=sft,
        outside=IDENTITY_HEAD,
    ),
    Peer(
        name="TRL function, last",
        package="trl",
        wheel="1.14.2",
        called="`dft_loss`, which 1.16 no longer has",
        load=partial(trl_function, "1.14.2"),
    ),
    Peer(
        name="TRL function, early",
        package="trl",
        wheel="0.24.0",
        called="`dft_loss`",
        load=partial(trl_function, "0.24.0"),
    ),
    Peer(
        name="Liger fused head",
        package="liger-kernel",
        called="`LigerForCausalLMLoss(use_token_scaling=True)`, interpreted",
        load=liger_fused,
        note="its weights are probabilities rounded to bfloat16",
        outside=IDENTITY_HEAD,
    ),
    Peer(
        name="Liger scaled cross-entropy",
        package="liger-kernel",
        called="`LigerFusedLinearScaledCrossEntropyFunction`, its CPU path",
        load=liger_scaled,
        composed="shift, weight, sum",
        outside=IDENTITY_HEAD,
    ),
    Peer(
        name="cut-cross-entropy",
        package="cut-cross-entropy",
        called='`linear_cross_entropy(impl="torch_compile")`, not compiled',
        load=cut_cross_entropy,
        composed="shift, weight, sum",
        outside=IDENTITY_HEAD,
    ),
    Peer(
        name="twinkle",
        package="twinkle-kit",
        called="`CrossEntropyLoss(dft=True)`",
        load=partial(twinkle, "CrossEntropyLoss"),
        composed="shift, division",
    ),
    Peer(
        name="twinkle, chunked",
        package="twinkle-kit",
        called="`ChunkedCrossEntropyLoss(dft=True)`",
        load=partial(twinkle, "ChunkedCrossEntropyLoss", 4),
        composed="shift, division",
    ),
    Peer(
        name="LLaMA-Factory DFT",
        package="llamafactory",
        wheel="0.9.5",
        called="`dft_loss_func`",
        load=partial(llama_factory, "dft_loss_func", "_dft_cross_entropy"),
        note="backward raises, so one truncated batch ends the run",
    ),
    Peer(
        name="LLaMA-Factory ASFT",
        package="llamafactory",
        wheel="0.9.5",
        called="`asft_loss_func`, uniform reference, alpha 0.1",
        load=llama_factory_asft,
        claims_to_be=towards_uniform(asft(0.1)),
        note="it takes no N; the reference's logits are what is not upcast",
        outside={
            "masked-vocabulary": "the reference holds the masked token likely: the KL is infinite",
            "value": "it adds the KL itself, our surrogate the cross-entropy: the reference's "
            "entropy, a constant, apart",
        },
    ),
    Peer(
        name="LLaMA-Factory EAFT",
        package="llamafactory",
        wheel="0.9.5",
        called="`eaft_loss_func`",
        load=llama_factory_eaft,
        claims_to_be=eaft(),
        composed="20 impossible tokens",
        note="backward raises; so does a vocabulary below 20 tokens",
    ),
    Peer(
        name="axolotl DFT",
        package="axolotl",
        wheel="0.21.0",
        called="`dft_loss`",
        load=partial(axolotl, "dft_loss"),
    ),
    Peer(
        name="axolotl EAFT",
        package="axolotl",
        wheel="0.21.0",
        called="`eaft_loss`",
        load=partial(axolotl, "eaft_loss"),
        claims_to_be=eaft(),
    ),
    Peer(
        name="axolotl EAFT, without its constant",
        package="axolotl",
        wheel="0.21.0",
        called="`eaft_loss`",
        load=partial(axolotl, "eaft_loss"),
        claims_to_be=eaft(nats=1.0),
    ),
    Peer(
        name="mlx-lm-lora",
        package="mlx-lm-lora",
        wheel="5.10.2",
        called="`dft_loss`, with MLX's own gradient",
        load=mlx,
        composed="a row for each target",
        note="its trainer averages micro-batches; MLX's CPU kernels cost the float32 digits",
    ),
    Peer(
        name="transformers, SFT",
        package="transformers",
        called="`ForCausalLMLoss`",
        load=causal_lm_loss,
        claims_to_be=sft,
    ),
    Peer(
        name="torch, SFT",
        package="torch",
        called="`cross_entropy`",
        load=torch_cross_entropy,
        claims_to_be=sft,
        reduction=PER_CALL,
        composed="shift",
    ),
    Peer(
        name="torch fused head, SFT",
        package="torch",
        called="`linear_cross_entropy`, chunked",
        load=torch_linear_cross_entropy,
        claims_to_be=sft,
        reduction=PER_CALL,
        composed="shift",
        outside=IDENTITY_HEAD,
    ),
    # Last: its import changes the Trainer of transformers for the whole process.
    Peer(
        name="ms-swift",
        package="ms-swift",
        called="`Seq2SeqTrainer.compute_loss`, `enable_dft_loss=True`",
        load=swift_trainer,
        composed="stand-in trainer",
        note="the first only where a template leaves the first label valid",
    ),
)
