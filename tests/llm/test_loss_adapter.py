"""The loss of a Hugging Face Trainer: conformance, refusals, and steps of a real Trainer."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from dft_theory.llm.data import Encoded, collate
from dft_theory.llm.hf_policy import HFPolicy
from dft_theory.llm.loss_adapter import loss_function
from dft_theory.objectives import (
    MicrobatchTokenMean,
    SequenceMean,
    SumOver,
    TokenMean,
    dft,
    objectives,
    sft,
)
from dft_theory.seeding import generator
from dft_theory.testing import check_loss_function

VOCAB = 11


@pytest.mark.parametrize("name", ["sft", "dft", "dft-sequence", "eaft", "gem-0.7", "talr"])
def test_it_conforms(name):
    report = check_loss_function(loss_function(objectives[name]), claims_to_be=objectives[name])
    assert report.conforms, report


@pytest.mark.parametrize(
    "reduction", [SequenceMean(), SumOver(5.0), MicrobatchTokenMean(size=2**31)], ids=str
)
def test_it_conforms_under_other_reductions(reduction):
    loss = loss_function(dft, reduction)
    report = check_loss_function(loss, claims_to_be=dft, reduction=reduction)
    assert report.conforms, report


def demonstrations(count):
    """Rows of uneven lengths, so that no mean of means can pass for a mean."""
    g = generator(0, "test", "loss-adapter")
    rows = []
    for index in range(count):
        ids = torch.randint(VOCAB, (4 + 3 * index,), generator=g)
        labels = ids.clone()
        labels[: 1 + index] = -100
        rows.append(Encoded(input_ids=ids, labels=labels))
    return rows


def arguments(folder, **changed):
    fixed = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**(fixed | changed))


def stepped(folder, objective, **batches):
    """How far one SGD step of a real Trainer moves each parameter: -0.5 times its gradient."""
    model = HFPolicy.tiny_llama(vocab=VOCAB, length=4, seed=0).model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    args = arguments(folder, **batches)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    Trainer(
        model=model,
        args=args,
        train_dataset=demonstrations(4),
        data_collator=lambda rows: collate(rows, pad_id=0),
        compute_loss_func=loss_function(objective, args=args),
        optimizers=(optimizer, schedule),
    ).train()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def gradients(objective):
    """The same by the objective's surrogate alone, on the joined batch."""
    model = HFPolicy.tiny_llama(vocab=VOCAB, length=4, seed=0).model
    batch = collate(demonstrations(4), pad_id=0)
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    labels = batch["labels"]
    count = int((labels[:, 1:] != -100).sum())
    logp = torch.log_softmax(logits[:, :-1], -1)
    y = labels[:, 1:]
    at = logp.gather(-1, y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    weight = at.exp().detach() if objective is dft else torch.ones_like(at)
    ((-weight * at).masked_fill(y == -100, 0.0).sum() / count).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("objective", [sft, dft], ids=lambda o: o.name)
@pytest.mark.parametrize(("micro", "accumulated"), [(4, 1), (2, 2), (1, 4)])
def test_a_step_of_trainer_is_the_objective_s_however_the_batch_is_cut(
    tmp_path, objective, micro, accumulated
):
    moved = stepped(
        tmp_path,
        objective,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
    )
    wanted = gradients(objective)
    for name, gradient in wanted.items():
        torch.testing.assert_close(moved[name], -0.5 * gradient, rtol=1e-9, atol=1e-12)
    assert sum(float(g.norm()) for g in wanted.values()) > 1e-3


def test_trainer_evaluates_with_it(tmp_path):
    model = HFPolicy.tiny_llama(vocab=VOCAB, length=4, seed=0).model
    args = arguments(tmp_path, per_device_eval_batch_size=4)
    rows = demonstrations(4)
    trainer = Trainer(
        model=model,
        args=args,
        eval_dataset=rows,
        data_collator=lambda rows: collate(rows, pad_id=0),
        compute_loss_func=loss_function(sft, args=args),
    )
    found = trainer.evaluate()["eval_loss"]
    batch = collate(rows, pad_id=0)
    with torch.no_grad():
        assert found == pytest.approx(float(model(**batch).loss), rel=1e-6)


class TestRefused:
    labels = torch.tensor([[-100, 1, 2]])

    def logits(self):
        return torch.zeros(1, 3, 4, requires_grad=True)

    def test_outputs_without_logits(self):
        with pytest.raises(ValueError, match=r"returned no logits: a fused head \(Liger"):
            loss_function(dft)({"loss": torch.tensor(1.0)}, self.labels)

    def test_outputs_that_are_no_mapping(self):
        with pytest.raises(TypeError, match="return_dict=True"):
            loss_function(dft)((self.logits(),), self.labels)

    def test_a_batch_without_labels(self):
        with pytest.raises(ValueError, match="the batch has no labels"):
            loss_function(dft)({"logits": self.logits()}, None)

    @pytest.mark.parametrize("shape", [(2, 1), (2,)])
    def test_counts_of_several_devices(self, shape):
        with pytest.raises(ValueError, match=r"num_items_in_batch holds 2 .* nn.DataParallel"):
            loss_function(dft)({"logits": self.logits()}, self.labels, torch.full(shape, 9))

    def test_losses_of_several_devices(self):
        outputs = {"logits": self.logits(), "loss": torch.zeros(2)}
        with pytest.raises(ValueError, match=r"loss holds 2 numbers, .* launch one process"):
            loss_function(dft)(outputs, self.labels, 9)

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("asft-0.05", "ref_log_probs"),
            ("reinforce", "advantage"),
            ("psft-0.2-0.28", "old_logp"),
            ("dpo-0.1", "ref_logp"),
        ],
    )
    def test_objectives_that_need_more_than_logits_and_labels(self, name, what):
        with pytest.raises(ValueError, match=f"{name} needs .*{what}"):
            loss_function(objectives[name])

    def test_label_smoothing(self, tmp_path):
        args = arguments(tmp_path, label_smoothing_factor=0.1)
        with pytest.raises(ValueError, match=r"label_smoothing_factor=0.1 would be ignored"):
            loss_function(dft, args=args)

    def test_objectives_of_a_whole_batch_under_accumulation(self, tmp_path):
        args = arguments(tmp_path, gradient_accumulation_steps=2)
        with pytest.raises(ValueError, match="talr reads the statistics of a whole batch"):
            loss_function(objectives["talr"], args=args)
        assert loss_function(objectives["talr"], args=arguments(tmp_path)).objective.name == "talr"

    @pytest.mark.parametrize("reduction", [SequenceMean(), MicrobatchTokenMean(size=1)], ids=str)
    def test_means_that_do_not_add_up(self, tmp_path, reduction):
        args = arguments(tmp_path, gradient_accumulation_steps=2)
        with pytest.raises(ValueError, match="means do not add up"):
            loss_function(dft, reduction, args=args)
        loss_function(dft, reduction, args=arguments(tmp_path))

    @pytest.mark.parametrize(
        "reduction", [TokenMean(), SumOver(3.0), MicrobatchTokenMean(size=1, accumulate="sum")]
    )
    def test_sums_are_not(self, tmp_path, reduction):
        args = arguments(tmp_path, gradient_accumulation_steps=2)
        assert loss_function(dft, reduction, args=args).reduction == reduction

    def test_several_devices_by_their_settings(self, tmp_path, monkeypatch):
        args = arguments(tmp_path)
        args._n_gpu = 2
        with pytest.raises(ValueError, match="nn.DataParallel over 2 devices"):
            loss_function(dft, args=args)
        args = arguments(tmp_path, average_tokens_across_devices=False)
        monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
        with pytest.raises(ValueError, match="average_tokens_across_devices=True"):
            loss_function(dft, args=args)

    def test_sequences_that_are_split_over_devices(self, tmp_path):
        class Split:
            cp_size, sp_size = 2, 1

        args = arguments(tmp_path)
        args.parallelism_config = Split()
        with pytest.raises(ValueError, match="targets at the borders would be lost"):
            loss_function(dft, args=args)


def test_a_total_of_its_own_replaces_n():
    logits = torch.randn(1, 3, 4, generator=generator(0, "total"))
    labels = torch.tensor([[-100, 1, 2]])
    own = loss_function(dft, TokenMean(total=8))({"logits": logits}, labels, 100)
    told = loss_function(dft)({"logits": logits}, labels, torch.tensor(8))
    assert own == told
