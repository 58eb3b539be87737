"""A model that trains in a second: a random Llama of width 32 that reads bytes."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dft_theory.seeding import generator

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The model and its tokenizer, as `load_pretrained` reads them."""
    folder = tmp_path_factory.mktemp("tiny")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    chance = generator(0, "test", "tiny-llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=chance)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    """A file of 130 demonstrations of unequal lengths."""
    file = tmp_path_factory.mktemp("sums") / "sums.jsonl"
    rows = [
        {"question": f"{a}+{b}", "answer": f"{'well, ' * (a % 4)}it is {a + b}\n#### {a + b}"}
        for b in range(10)
        for a in range(13)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
