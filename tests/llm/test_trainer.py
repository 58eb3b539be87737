"""The trainer against full logits: gradients, numbers, refusals, at every split into batches."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    TrainerCallback,
)
from trl import SFTConfig

from dft_theory.llm.corpus import conversations, load
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.recipe import Corpus
from dft_theory.llm.trainer import Ask, NotFiniteError, ObjectiveTrainer, add_objective_head
from dft_theory.llm.training import checkpointing, first_step
from dft_theory.logprobs import token_stats
from dft_theory.objectives import MicrobatchTokenMean, TokenMean, objectives
from dft_theory.seeding import generator


@pytest.fixture
def build(tiny_folder, sums, tmp_path):
    """A trainer on the first `rows` sums; settings over the plain ones."""

    def make(name="dft", *, rows=8, size=4, steps=1, held=0, peft_config=None, ours=None, **given):
        pairs = load(Corpus(source=str(sums), rows=rows + held))
        source = load_pretrained(str(tiny_folder))
        settings = {
            "per_device_train_batch_size": size,
            "max_steps": steps,
            "learning_rate": 1e-2,
            "max_grad_norm": 0.0,
            **checkpointing(SFTConfig, False),
            **given,
        }
        config = SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            lr_scheduler_type="constant",
            **settings,
        )
        return ObjectiveTrainer(
            source.model,
            config,
            objective=objectives[name],
            train_dataset=conversations(pairs[:rows]),
            eval_dataset=conversations(pairs[rows:]) if held else None,
            processing_class=source.tokenizer,
            peft_config=peft_config,
            **(ours or {}),
        )

    return make


class Held(TrainerCallback):
    """The gradient of the last step, before it is taken."""

    def __init__(self):
        self.gradient = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradient = [p.grad.clone() for p in model.parameters() if p.grad is not None]


def trained_gradient(trainer):
    held = Held()
    trainer.add_callback(held)
    trainer.train()
    return torch.cat([g.flatten() for g in held.gradient])


def gradient_of_logits(trainer, source, reduction):
    """The same from full logits of all rows at once, by autograd."""
    model, frozen = source.model, load_pretrained(source.name).model
    batch = trainer.batch([trainer.train_dataset[i] for i in order(trainer)])
    labels = batch.pop("labels")
    needs = trainer.objective.needs
    with torch.no_grad():
        other = frozen(**batch).logits if trainer.anchored else None
    stats = token_stats(model(**batch).logits, labels, needs=needs, ref_logits=other)
    trainer.objective.surrogate(stats, reduction=reduction).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def order(trainer):
    """The rows in the order in which they are trained on."""
    batches = trainer.get_train_dataloader()
    texts = [tuple(x) for x in trainer.train_dataset["input_ids"]]
    found = []
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            found.append(texts.index(tuple(ids[mask.bool()].tolist())))
    return found


def distance(a, b):
    return float(((a - b).norm() / b.norm()).detach())


NAMES = ["sft", "dft", "dft-geometric", "eaft", "gem-0.7", "asft-0.05", "f-divergence-kl-1"]


@pytest.mark.parametrize("size", [8, 2], ids=["one batch", "four micro-batches"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_has_the_gradient_of_the_full_logits(build, tiny_folder, name, size):
    trainer = build(name, size=size, gradient_accumulation_steps=8 // size)
    expected = gradient_of_logits(trainer, load_pretrained(str(tiny_folder)), TokenMean())
    assert distance(trained_gradient(trainer), expected) < 1e-5


@pytest.mark.parametrize("imitated", [4, 8])
def test_micro_batches_add_up_as_in_the_official_code(build, tiny_folder, imitated):
    ours = {"accumulation": "micro-batch-sum", "micro_batches": imitated}
    trainer = build(size=2, gradient_accumulation_steps=4, ours=ours)
    reduction = MicrobatchTokenMean(2, accumulate="sum")
    expected = gradient_of_logits(trainer, load_pretrained(str(tiny_folder)), reduction)
    assert distance(trained_gradient(trainer), expected * imitated / 4) < 1e-5
    mean = gradient_of_logits(trainer, load_pretrained(str(tiny_folder)), TokenMean())
    assert distance(expected, 4 * mean) > 1e-3  # the two reductions differ by more than a factor


def test_activations_may_be_computed_twice(build):
    plain = trained_gradient(build("eaft"))
    assert distance(trained_gradient(build("eaft", **checkpointing(SFTConfig, True))), plain) < 1e-6


@pytest.mark.parametrize("name", ["sft", "dft"])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_evaluation_loss_is_the_mean_nll_of_all_targets(build, name, size):
    trainer = build(name, held=5, per_device_eval_batch_size=size)
    batch = trainer.batch([trainer.eval_dataset[i] for i in range(5)])
    labels = batch.pop("labels")
    with torch.no_grad():
        stats = token_stats(trainer.model(**batch).logits, labels)
    nll = float(-stats.logp.sum() / stats.mask.sum())
    assert trainer.evaluate()["eval_loss"] == pytest.approx(nll, rel=1e-5)


def test_what_is_logged_is_what_was_seen(build, tiny_folder):
    trainer = build("eaft", size=2, gradient_accumulation_steps=4, max_grad_norm=1e-4)
    rows = order(trainer)
    trainer.train()
    logged = trainer.state.log_history[0]
    batch = trainer.batch([trainer.train_dataset[i] for i in rows])
    labels, inputs = batch.pop("labels"), int(batch["attention_mask"].sum())
    with torch.no_grad():
        logits = load_pretrained(str(tiny_folder)).model(**batch).logits
    t = token_stats(logits, labels, needs=("entropy", *trainer.objective.needs))
    p, w = t.logp[t.mask].exp(), trainer.objective.weight(t).expand_as(t.logp)[t.mask]
    n = len(p)
    expected = {
        "nll": -t.logp.sum() / n,
        "surrogate": trainer.objective.surrogate(t, reduction=TokenMean()),
        "loss": trainer.objective.surrogate(t, reduction=TokenMean()),
        "mean_p": p.mean(),
        "mean_weight": w.mean(),
        "effective_share": w.sum() ** 2 / w.square().sum() / n,
        "share_p_below_0.01": (p < 0.01).float().mean(),
        "share_p_below_0.1": (p < 0.1).float().mean(),
        "targets": n,
        "inputs": inputs,
        "grad_norm_clipped": 1e-4,
    }
    for name, value in expected.items():
        assert logged[name] == pytest.approx(float(value), rel=1e-3), name
    assert logged["grad_norm"] > 1e-3
    assert logged["tokens_per_second"] > 0
    assert "entropy" not in logged  # this objective takes its own from the probabilities


def test_entropy_is_logged_where_the_objective_has_it(build):
    trainer = build("idft-1")
    trainer.train()
    assert 0 < trainer.state.log_history[0]["entropy"] < 6


def test_utilisation_is_operations_over_the_peak_of_a_known_device(monkeypatch):
    weights = [torch.zeros(10**6), torch.zeros(5 * 10**5)]
    trainer = SimpleNamespace(
        args=SimpleNamespace(device=torch.device("cuda")),
        model=SimpleNamespace(parameters=lambda: weights),
        accelerator=SimpleNamespace(num_processes=2),
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    found = ObjectiveTrainer._utilisation(trainer, 1e6)
    assert found["mfu"] == pytest.approx(6 * 1.5e6 * 1e6 / (2 * 312e12))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "another")
    assert ObjectiveTrainer._utilisation(trainer, 1e6) == {}


def test_distance_to_the_base_is_zero_before_and_positive_after(build):
    trainer = build("sft", steps=3, ours={"probe": 4})
    assert trainer.kl_to_base() == pytest.approx(0, abs=1e-6)
    trainer.train()
    assert trainer.kl_to_base() > 1e-3


def test_the_reference_does_not_move(build, tiny_folder):
    trainer = build("asft-0.05", steps=3)
    before = {n: p.clone() for n, p in trainer.reference.named_parameters()}
    trainer.train()
    base = load_pretrained(str(tiny_folder)).model.state_dict()
    assert all(torch.equal(p, before[n]) for n, p in trainer.reference.named_parameters())
    assert all(torch.equal(p, base[n]) for n, p in trainer.reference.named_parameters())
    moved = trainer.model.state_dict()
    assert not torch.equal(moved["model.norm.weight"], base["model.norm.weight"])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's
def test_under_an_adapter_the_base_is_the_reference(build, tiny_folder):
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = build("asft-0.05", steps=3, peft_config=adapter)
    assert trainer.reference is None
    trainer.train()
    batch = trainer.batch([trainer.train_dataset[0]])
    frozen, moved = trainer.frozen(trainer.model, batch), Ask().of(trainer.model, **batch)
    base = load_pretrained(str(tiny_folder)).model.model(input_ids=batch["input_ids"])
    expected = base.last_hidden_state[:, :-1]
    assert distance(frozen.hidden, expected) < 1e-5
    assert distance(moved.hidden, expected) > 1e-3


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama, a head of its own": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "gemma 2, capped": Gemma2Config(**SMALL, final_logit_softcapping=2.0),
    "granite, divided": GraniteConfig(**SMALL, logits_scaling=3.0),
    "cohere, multiplied": CohereConfig(**SMALL, logit_scale=0.25),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_s_head_is_read_right(family):
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    chance = generator(0, "test", "families")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=chance)
    ids = torch.randint(3, 40, (2, 7), generator=chance)
    labels = ids.clone()
    labels[:, :2] = -100
    expected = token_stats(model(input_ids=ids).logits, labels)
    add_objective_head(model)
    ask = Ask(objective=objectives["sft"])
    found = ask.of(model, input_ids=ids, labels=labels)
    assert torch.allclose(found.stats.logp, expected.logp, atol=1e-4)
    shifted = torch.cat([labels[:, 1:], torch.full((2, 1), -100)], 1)
    same = ask.of(model, input_ids=ids, shift_labels=shifted)
    assert torch.allclose(same.loss, found.loss)
    assert torch.equal(model(input_ids=ids).logits.argmax(-1), model(ids).logits.argmax(-1))


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("grpo-0.2-0.2", {}, "demonstrations alone do not have it"),
        ("one-token-rollout-0", {}, "sampled"),
        ("dpo-0.1", {}, "compared in groups"),
        ("talr", {"gradient_accumulation_steps": 2}, "compares the tokens of a whole batch"),
        ("dft-sequence", {"packing": True}, "packing puts several"),
        ("dft", {"label_smoothing_factor": 0.1}, "an objective of their own"),
        ("dft", {"loss_type": "dft"}, "a second objective"),
        ("dft", {"use_liger_kernel": True}, "would replace the forward"),
    ],
)
def test_what_would_train_something_else_is_refused(build, name, settings, reason):
    with pytest.raises(ValueError, match=reason):
        build(name, **settings)


def test_several_devices_in_one_process_are_refused(build, monkeypatch):
    monkeypatch.setattr(SFTConfig, "n_gpu", property(lambda self: 2))
    with pytest.raises(ValueError, match="launch one process a device"):
        build()


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("parallelism_config", SimpleNamespace(tp_size=1, cp_size=2, sp_size=1), "context"),
        ("parallelism_config", SimpleNamespace(tp_size=2, cp_size=1, sp_size=1), "share a batch"),
        ("deepspeed_plugin", object(), "leave out deepspeed and shard with FSDP2"),
    ],
)
def test_what_splits_sequences_or_hides_weights_is_refused(
    build, monkeypatch, setting, value, reason
):
    before = SFTConfig.__post_init__

    def with_it(self):
        before(self)
        setattr(self, setting, value)

    monkeypatch.setattr(SFTConfig, "__post_init__", with_it)
    with pytest.raises(ValueError, match=reason):
        build()


@pytest.mark.parametrize("size", ["tp_size", "pp_size", "ep_size"])
def test_a_model_whose_parts_share_a_batch_is_refused(build, monkeypatch, size):
    split = SimpleNamespace(**{size: 2})
    monkeypatch.setattr(LlamaConfig, "distributed_config", split, raising=False)
    with pytest.raises(ValueError, match=f"{size}=2: .* share a batch"):
        build()


def test_logits_are_not_pretended(build):
    trainer = build(held=2)
    batch = trainer.batch([trainer.train_dataset[0]])
    with pytest.raises(ValueError, match="no logits are made"):
        trainer.compute_loss(trainer.model, batch, return_outputs=True)


def test_a_loss_that_is_no_number_names_step_and_demonstrations(build):
    trainer = build(size=2)

    def poisoned(inputs, *_):
        with torch.no_grad():
            trainer.model.model.norm.weight.fill_(float("nan"))

    trainer.model.register_forward_pre_hook(poisoned)
    with pytest.raises(NotFiniteError, match=r"step 1, demonstrations \d, \d .*user.*hold NaN"):
        trainer.train()


def test_a_gradient_that_is_no_number_is_not_applied(build):
    trainer = build(max_grad_norm=1.0)
    before = trainer.model.model.norm.weight.detach().clone()
    trainer.model.model.norm.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(NotFiniteError, match="step 1: the gradient's norm is (nan|inf)"):
        trainer.train()
    assert torch.equal(trainer.model.model.norm.weight, before)


@pytest.mark.parametrize("long", [3, 1])
def test_the_gradient_check_passes_over_responses_of_one_token(build, long):
    """Of two of them none would be left where the numbers of targets are made unequal."""
    trainer = build(rows=8)
    ids = trainer.train_dataset["input_ids"]
    cut = sorted(range(8), key=lambda i: len(ids[i]))[: 8 - long]

    def shortened(row, i):
        labels = row["labels"]
        return {"labels": [-100] * (len(labels) - 1) + labels[-1:] if i in cut else labels}

    trainer.train_dataset = trainer.train_dataset.map(shortened, with_indices=True)
    if long == 1:
        with pytest.raises(ValueError, match="two demonstrations with at least two target tokens"):
            first_step(trainer)
    else:
        assert first_step(trainer).holds
