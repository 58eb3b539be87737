"""One process and two, DDP and FSDP2 on the CPU: the same objective, the same trajectory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dft_theory.results import Run

WORKER = Path(__file__).with_name("distributed_worker.py")
NAMES = ("sft", "dft", "asft-0.05", "iw-sft-geometric-mean-clamp-0-16")
ALONE = "1x8x1"  # processes x micro-batches of a step x demonstrations of a micro-batch
CLOSE = 2e-5  # relative; float32 has 6e-8, sums of thousands of numbers in other orders


@pytest.fixture(scope="module")
def base(tiny_folder, tmp_path_factory):
    """The tiny model, less undecided: its probabilities differ from token to token."""
    folder = tmp_path_factory.mktemp("decided")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        model.model.norm.weight *= 4
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def out(base, sums, tmp_path_factory):
    """What one process and two processes left behind."""
    folder = tmp_path_factory.mktemp("distributed")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    running = [
        subprocess.Popen(
            [sys.executable, *launch, str(WORKER), str(base), str(sums), str(folder), str(count)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for count, launch in ((1, []), (2, launcher))
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=250)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.terminate()  # and, of the launcher, what it started
    return folder


def load(out, name, rank=0):
    return torch.load(out / f"{name}.{rank}.pt")


def flat(weights):
    return torch.cat([w.flatten() for w in weights.values()]).double()


def assert_same_trajectory(found, expected, base):
    for name in ("loss", "nll", "surrogate", "grad_norm", "mean_p", "effective_share", "targets"):
        ours, theirs = ([step[name] for step in run["steps"]] for run in (found, expected))
        assert len(ours) == 3
        assert ours == pytest.approx(theirs, rel=CLOSE), name
    ours, theirs = found["evaluation"], expected["evaluation"]
    assert ours["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=CLOSE)
    if "eval_kl_to_base" in ours:
        assert ours["eval_kl_to_base"] == pytest.approx(theirs["eval_kl_to_base"], rel=1e-3)
    start = AutoModelForCausalLM.from_pretrained(base)
    moved = flat(expected["weights"]) - flat(dict(start.named_parameters())).detach()
    assert moved.norm() > 0.02
    assert (flat(found["weights"]) - flat(expected["weights"])).norm() < CLOSE * moved.norm()


@pytest.mark.parametrize("split", ["1x1x8", "2x4x1"])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_may_be_split_over_micro_batches_and_processes(out, base, name, split):
    found, expected = load(out, f"{name}.{split}"), load(out, f"{name}.{ALONE}")
    assert_same_trajectory(found, expected, base)


def test_the_objectives_go_different_ways(out):
    """Else the tests above would compare little: each objective moves the weights elsewhere."""
    ends = [flat(load(out, f"{name}.{ALONE}")["weights"]) for name in NAMES]
    for i, a in enumerate(ends):
        for b in ends[:i]:
            assert (a - b).norm() > 1e-3


def test_the_mean_is_over_the_tokens_of_all_processes(out):
    """The two processes have different numbers of targets at every step, together all of them."""
    ranks = [load(out, "dft.2x4x1", rank)["targets"] for rank in (0, 1)]
    alone = load(out, f"dft.{ALONE}")["targets"]
    for step in range(3):
        first, second = (sum(rank[4 * step : 4 * step + 4]) for rank in ranks)
        assert first != second
        assert first + second == sum(alone[8 * step : 8 * step + 8])


def test_both_processes_end_with_the_same_weights(out):
    first, second = (load(out, "asft-0.05.2x4x1", rank)["weights"] for rank in (0, 1))
    assert torch.equal(flat(first), flat(second))


def test_sums_of_micro_batch_means_imitate_the_official_run_on_two_devices(out, base):
    assert_same_trajectory(load(out, "sum.2x4x1"), load(out, f"sum.{ALONE}"), base)


@pytest.mark.parametrize(("name", "steps"), [("run", 4), ("adapter", 2)])
def test_a_recipe_is_the_same_run_on_two_processes(out, name, steps):
    alone, together = (Run(out / f"{name}-{count}") for count in (1, 2))
    assert together.manifest()["processes"] == 2
    assert together.manifest()["gradient_check"]["holds"] is True
    assert together.summary()["steps"] == steps
    assert together.summary()["weights_sha256"] == alone.summary()["weights_sha256"]
    for one, two in zip(alone.metrics(), together.metrics(), strict=True):
        for name in one.keys() & {"step", "loss", "nll", "grad_norm", "eval_loss"}:
            assert two[name] == pytest.approx(one[name], rel=CLOSE), name


@pytest.mark.parametrize("name", ["sft", "dft"])
def test_the_trainer_on_sharded_weights(out, base, name):
    assert_same_trajectory(load(out, f"{name}.sharded"), load(out, f"{name}.{ALONE}"), base)


def test_the_trainer_on_sharded_weights_with_a_probe(out, base):
    assert_same_trajectory(load(out, "dft.sharded.probed"), load(out, f"dft.{ALONE}"), base)


def test_the_trainer_on_sharded_weights_with_a_head_of_their_own(out):
    found, expected = load(out, "untied.sharded"), load(out, f"untied.{ALONE}")
    assert "lm_head.weight" in found["weights"]
    assert_same_trajectory(found, expected, out / "untied-1")


@pytest.mark.parametrize("name", NAMES)
def test_the_head_in_a_sharded_model(out, name):
    found = json.loads((out / "sharded.0.json").read_text())[name]
    assert found["loss"][1] == pytest.approx(found["loss"][0], rel=CLOSE)
    assert found["gradients"] < CLOSE
    assert found["step"] < CLOSE


def test_a_head_sharded_on_its_own_is_trained_right(out):
    found = json.loads((out / "sharded.0.json").read_text())["alone"]
    assert found["gradients"] < CLOSE
    assert found["step"] < CLOSE
    for expected, ours in (found["loss"], found["later"]):
        assert ours == pytest.approx(expected, rel=CLOSE)
    assert found["later"][0] != pytest.approx(found["loss"][0], rel=100 * CLOSE)


def test_a_reference_of_sharded_weights_is_refused(out):
    assert "load it whole and let the trainer shard it" in (out / "copied.0.txt").read_text()


def test_the_number_of_targets_is_not_rounded_to_bfloat16(out):
    """Gradients times the count they were divided by do not depend on it."""
    at_256, at_257 = json.loads((out / "sharded.0.json").read_text())["counts"]
    assert at_257 == pytest.approx(at_256, rel=1e-3)
