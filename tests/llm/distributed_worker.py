"""One process of a distributed run: trains a tiny model, and leaves what it saw in a folder.

Started alone it makes the runs of one process, under `torch.distributed.run` its share of the
others. Arguments: folder of the model, file of the demonstrations, folder for the results, and the
number of processes that there must be.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from trl import SFTConfig

from dft_theory.llm.corpus import conversations, load
from dft_theory.llm.pretrained import load_pretrained
from dft_theory.llm.recipe import Corpus, Recipe
from dft_theory.llm.trainer import Ask, ObjectiveTrainer, add_objective_head
from dft_theory.llm.training import checkpointing, train
from dft_theory.objectives import objectives
from dft_theory.seeding import generator

RATES = {"sft": 0.05, "dft": 2.0, "asft-0.05": 2.0, "iw-sft-geometric-mean-clamp-0-16": 0.05}
BATCH, STEPS, HELD = 8, 3, 5


class Watched(ObjectiveTrainer):
    """The trainer, and how many targets each micro-batch of this process had."""

    def objective_loss(self, model, inputs, count):
        self.targets.append(int((inputs["labels"][:, 1:] != -100).sum()))
        return super().objective_loss(model, inputs, count)


def trained(model, name, *, size, times, **ours):
    """A trainer after its steps. SGD without clipping: Adam would hide a wrong scale."""
    config = SFTConfig(
        output_dir=str(OUT / "unused"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **checkpointing(SFTConfig, False),
        per_device_train_batch_size=size,
        per_device_eval_batch_size=2,
        gradient_accumulation_steps=times,
        max_steps=STEPS,
        learning_rate=RATES[name],
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        ddp_find_unused_parameters=False,
    )
    pairs = load(Corpus(source=str(DATA), rows=BATCH * STEPS + HELD))
    trainer = Watched(
        model,
        config,
        objective=objectives[name],
        train_dataset=conversations(pairs[HELD:]),
        eval_dataset=conversations(pairs[:HELD]),
        processing_class=load_pretrained(str(FOLDER)).tokenizer,
        **ours,
    )
    trainer.targets = []
    trainer.train()
    assert trainer.accelerator.num_processes == PROCESSES
    return trainer


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def keep(trainer, name):
    """Losses, numbers of targets, the evaluation and the final weights, for the comparison."""
    found = {
        "steps": [record for record in trainer.state.log_history if "nll" in record],
        "targets": trainer.targets,
        "weights": {n: whole(p.detach()) for n, p in trainer.model.named_parameters()},
        "evaluation": trainer.evaluate(),  # the last, for it leaves some shards gathered
    }
    torch.save(found, OUT / f"{name}.{RANK}.pt")


def replicated(splits):
    """Every objective at every split of a batch, on copies of the whole model (DDP)."""
    for times, size in splits:
        assert PROCESSES * times * size == BATCH
        how = f"{PROCESSES}x{times}x{size}"
        for name in RATES:
            model = load_pretrained(str(FOLDER)).model
            trainer = trained(model, name, size=size, times=times, probe=3)
            assert isinstance(trainer.model_wrapped, DistributedDataParallel) == (PROCESSES > 1)
            keep(trainer, f"{name}.{how}")
        if size == 1:  # as the official code would have it on two devices
            official = {"accumulation": "micro-batch-sum", "micro_batches": 4}
            model = load_pretrained(str(FOLDER)).model
            keep(trained(model, "dft", size=1, times=times, **official), f"sum.{how}")
            if PROCESSES == 1:
                model = AutoModelForCausalLM.from_pretrained(untied())
                keep(trained(model, "dft", size=1, times=times, probe=3), f"untied.{how}")


def untied():
    """A folder of the same model with a head of its own."""
    model = load_pretrained(str(FOLDER)).model
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    folder = OUT / f"untied-{PROCESSES}"
    model.save_pretrained(folder)  # by the first process
    if PROCESSES > 1:
        dist.barrier()
    return folder


def recipe():
    """A recipe as the command line runs it, from the data to the record."""
    few = Recipe(
        name="sums",
        title="sums",
        model=str(FOLDER),
        corpus=Corpus(source=str(DATA), rows=18),
        objective="asft-0.05",
        rate=1e-2,
        batch=4,
        micro_batch=2,
        gpus=PROCESSES,
        compute="float32",
        checkpointing=False,
    )
    train(few, OUT / f"run-{PROCESSES}")
    train(replace(few, lora_rank=2), OUT / f"adapter-{PROCESSES}", max_steps=2)


def assert_halved(model):
    """Every parameter is sharded, and a half of it is here."""
    assert isinstance(model, FSDPModule)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.device_mesh.size() == PROCESSES, name
        assert parameter.placements == (Shard(0),), name
        here = parameter.to_local().shape
        assert (here[0] * PROCESSES, *here[1:]) == parameter.shape, name


def sharded_when_loaded():
    """The trainer on a model that Transformers shards (FSDP2) while it loads it."""
    own = untied()
    for kept, name, folder, probe in (
        ("sft.sharded", "sft", FOLDER, 0),
        ("dft.sharded", "dft", FOLDER, 0),
        ("dft.sharded.probed", "dft", FOLDER, 3),
        ("untied.sharded", "dft", own, 3),
    ):
        model = AutoModelForCausalLM.from_pretrained(
            folder, distributed_config=DistributedConfig(fsdp_size=PROCESSES)
        )
        assert_halved(model)
        assert isinstance(model.lm_head, FSDPModule) == (folder == own)
        trainer = trained(model, name, size=1, times=4, probe=probe)
        assert_halved(trainer.model)
        keep(trainer, kept)
    try:
        trained(model, "asft-0.05", size=1, times=4)
    except ValueError as refused:
        (OUT / f"copied.{RANK}.txt").write_text(str(refused))


def distance(found, expected):
    gap, size = 0.0, 0.0
    for a, b in zip(found, expected, strict=True):
        gap += float((whole(a.detach()) - b).double().square().sum())
        size += float(b.double().square().sum())
    return (gap / size) ** 0.5


class Sharded:
    """A model sharded as accelerate's plugin does it, beside the same model whole."""

    def __init__(self, *, alone=False, tied=True, **policy):
        self.whole, self.split = self.model(tied), self.model(tied)
        mesh = torch.distributed.init_device_mesh("cpu", (PROCESSES,))
        parts = [*self.split.model.layers, *([self.split.lm_head] if alone else []), self.split]
        for part in parts:
            fully_shard(part, mesh=mesh, reshard_after_forward=True, **policy)
        assert_halved(self.split)
        self.ids = torch.randint(250, (4, 9), generator=generator(0, "test", "sharded"))
        self.labels = self.ids.clone()
        self.labels[:, :3] = self.labels[0, 3:6] = -100
        self.count = int((self.labels[:, 1:] != -100).sum())

    @staticmethod
    def model(tied):
        found = load_pretrained(str(FOLDER)).model
        if not tied:
            found.lm_head.weight = torch.nn.Parameter(found.lm_head.weight.detach().clone())
            found.config.tie_word_embeddings = False
        add_objective_head(found)
        return found

    def reference(self, rows):
        """States of a model that is not quite the trained one."""
        frozen, chance = self.model(tied=True), generator(0, "test", "reference")
        with torch.no_grad():
            for parameter in frozen.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=chance)
            return Ask().of(frozen, input_ids=self.ids[rows], labels=self.labels[rows])

    def losses(self, name, count=None):
        """The loss of all sequences on the whole model, and of this process's on the other."""
        mine = slice(RANK * len(self.ids) // PROCESSES, (RANK + 1) * len(self.ids) // PROCESSES)
        found = []
        for model, rows in ((self.whole, slice(None)), (self.split, mine)):
            ask = Ask(
                objective=objectives[name],
                denominator=self.count if count is None else count,
                reference=self.reference(rows) if "sft-" in name else None,
            )
            result = ask.of(model, input_ids=self.ids[rows], labels=self.labels[rows])
            assert result.stats.logp.dtype == result.loss.dtype == torch.float32
            if torch.is_grad_enabled():
                (result.loss * (PROCESSES if model is self.split else 1)).backward()
            found.append(result.loss.detach())
        dist.all_reduce(found[1])
        return [float(loss) for loss in found]

    def gradients(self):
        """How far the gradients are apart."""
        return distance(
            [p.grad for p in self.split.parameters()], [p.grad for p in self.whole.parameters()]
        )

    def step(self):
        """How far the models are apart, in steps of AdamW; sharded moments are sharded."""
        before = [p.detach().clone() for p in self.whole.parameters()]
        for model in (self.whole, self.split):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4)
            optimizer.step()
            moments = [s["exp_avg"] for s in optimizer.state.values()]
            assert all(isinstance(m, DTensor) == (model is self.split) for m in moments)
        after = [
            whole(p.detach()) - b for p, b in zip(self.split.parameters(), before, strict=True)
        ]
        moved = [p.detach() - b for p, b in zip(self.whole.parameters(), before, strict=True)]
        return distance(after, moved)


def sharded():
    """Raw FSDP2 around the forward that ends in our head."""
    found = {}
    for name in RATES:
        both = Sharded()
        loss = both.losses(name)
        found[name] = {"loss": loss, "gradients": both.gradients(), "step": both.step()}
    both = Sharded(alone=True, tied=False)
    loss = both.losses("dft")
    found["alone"] = {"loss": loss, "gradients": both.gradients(), "step": both.step()}
    with torch.no_grad():
        both.losses("dft")  # leaves the head gathered, as an evaluation does
    found["alone"]["later"] = both.losses("dft")  # of the weights after the step
    found["counts"] = []
    for count in (256.0, 257.0):  # the second is no number of bfloat16
        half = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.bfloat16
        )
        both = Sharded(mp_policy=half)
        both.losses("dft", torch.tensor(count))
        norm = torch.stack([whole(p.grad).norm() for p in both.split.parameters()]).norm()
        found["counts"].append(float(norm) * count)
    (OUT / f"sharded.{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER, DATA, OUT, PROCESSES = (*map(Path, sys.argv[1:4]), int(sys.argv[4]))
    RANK = 0
    if PROCESSES == 1:
        replicated([(8, 1), (1, 8)])
        recipe()
    else:
        dist.init_process_group("gloo")
        RANK = dist.get_rank()
        assert dist.get_world_size() == PROCESSES
        replicated([(4, 1)])
        recipe()
        sharded_when_loaded()
        sharded()
        dist.destroy_process_group()
