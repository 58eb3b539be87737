"""The launcher's files: accelerate reads them, and they ask for what they say."""

import os
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "accelerate"
SECOND_OF_TWO = [
    *("--num_machines", "2", "--num_processes", "16", "--machine_rank", "1"),
    *("--main_process_ip", "192.0.2.1", "--main_process_port", "29500"),
]


def launched(name, *options):
    """The launcher's arguments, and the environment of the processes that it would start."""
    program = ["-m", "dft_theory.cli", "train", "smoke"]
    given = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, *program]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    return arguments, prepare_multi_gpu_env(arguments)


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    """The launcher writes into the environment; nothing of it is left behind."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.parametrize("name", ["fsdp2_8gpu", "ddp_8gpu"])
def test_eight_processes_on_each_machine(name):
    for options, processes in (([], 8), (SECOND_OF_TWO, 16)):
        arguments, _ = launched(name, *options)
        assert (arguments.num_processes, arguments.nproc_per_node) == (processes, "8")
        assert arguments.use_fsdp == (name == "fsdp2_8gpu")
        assert arguments.multi_gpu == (name == "ddp_8gpu")


def test_no_launcher_overrides_a_recipe_s_precision():
    for name in ("fsdp2_8gpu", "ddp_8gpu"):
        assert launched(name)[1]["ACCELERATE_MIXED_PRECISION"] == "no"


def test_ddp_shards_nothing():
    assert "ACCELERATE_USE_FSDP" not in launched("ddp_8gpu")[1]


def test_fsdp2_shards_layers_and_leaves_the_head_in_the_root(monkeypatch):
    _, environment = launched("fsdp2_8gpu")
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    for key, value in environment.items():
        if key.startswith("FSDP_"):
            monkeypatch.setitem(os.environ, key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading is False
    assert plugin.activation_checkpointing is False
