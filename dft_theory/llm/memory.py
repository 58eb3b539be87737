"""How much memory a diagnosis takes, known before a model is loaded, and what to do if it is short.

The size of a model stands in the headers of its safetensors files and in `config.json`: a few
kilobytes, read without the weights.
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dft_theory.llm.pretrained import WHEEL_MODELS

# Copies of the logits in float64 that live at the same time while objectives are measured.
COPIES = 8
ROOM = 0.9  # of what is free may be used


class TooLargeError(ValueError):
    """More memory would be needed than there is; the message says how much, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model's number of parameters and of entries in its vocabulary (0 where it is unknown)."""

    parameters: int
    vocab: int

    def weights(self, dtype: torch.dtype) -> int:
        """Bytes of the weights, loaded as `dtype`."""
        return self.parameters * dtype.itemsize

    def logits(self, tokens: int) -> int:
        """Bytes that measuring a response of so many tokens takes."""
        return tokens * self.vocab * 8 * COPIES


def size_of(folder: Path) -> Size:
    """The size of the model in a folder with `config.json` and safetensors files.

    Raises: ValueError for files that are no such thing.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)  # a model that also sees images nests it
        parameters = sum(map(_parameters, folder.glob("*.safetensors")))
        return Size(parameters=parameters, vocab=int(config.get("vocab_size", 0)))
    except (OSError, KeyError, AttributeError, struct.error) as error:
        raise ValueError(f"{folder.name} is no model that can be read: {error}") from error


def size_of_named(name: str) -> Size | None:
    """The size of a folder's or a hub's model, without its weights; None where nobody says."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return size_of(folder)
    if name in WHEEL_MODELS or "/" not in name:
        return None
    from huggingface_hub import get_safetensors_metadata, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, NotASafetensorsRepoError

    silent = (OSError, network_error(), HFValidationError, NotASafetensorsRepoError)

    try:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return size_of(Path(cached).parent)
        counted = get_safetensors_metadata(name).parameter_count
    except silent:
        return None  # offline, or no such model: loading says which
    return Size(parameters=sum(counted.values()), vocab=0)


def network_error() -> type[Exception]:
    """What the hub's HTTP client raises where it reaches nobody, whichever client that is.

    It has changed with versions of `huggingface_hub` (requests, httpx, httpx2), whose own errors
    are always derived from the client's.
    """
    from huggingface_hub.errors import HfHubHTTPError

    found: type[Exception] = HfHubHTTPError.__bases__[0]
    return found


def _parameters(file: Path) -> int:
    """Number of entries of all tensors in a safetensors file, from its header alone."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} has no safetensors header: it is damaged or incomplete")
        header = json.loads(stream.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def free(device: torch.device) -> int | None:
    """Bytes free on the device; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        found = [line for line in lines if line.startswith("MemAvailable:")]
        return int(found[0].split()[1]) * 1024 if found else None
    return None


def check_weights(models: Sequence[Size], dtype: torch.dtype, *, available: int | None) -> None:
    """Refuse models whose weights do not fit together. Raises: TooLargeError."""
    needed = sum(size.weights(dtype) for size in models)
    if available is None or needed <= ROOM * available:
        return
    half = sum(size.weights(torch.bfloat16) for size in models)
    raise TooLargeError(
        f"{sum(size.parameters for size in models) / 1e9:.2g} billion parameters take "
        f"{_gb(needed)} as {str(dtype).removeprefix('torch.')}, and {_gb(available)} are free: "
        + (f"--dtype bfloat16 takes {_gb(half)}, or " if half < needed else "")
        + "choose another --device, or diagnose a smaller model of the same family"
    )


def check_logits(size: Size, tokens: int, *, available: int | None, demonstrations: int) -> None:
    """Refuse responses whose logits do not fit; `tokens` of the longest. Raises: TooLargeError."""
    needed = size.logits(tokens)
    if available is None or needed <= ROOM * available:
        return
    fits = max(1, int(ROOM * available / size.logits(1)))
    raise TooLargeError(
        f"the longest of {demonstrations} responses has {tokens:,} tokens and takes {_gb(needed)} "
        f"at a vocabulary of {size.vocab:,}, and {_gb(available)} are free: give --tokens {fits} "
        "to measure a sample of each response, or leave the long ones out with --limit"
    )


def _gb(count: int) -> str:
    return f"{count / 2**30:.2g} GiB"
