"""The diagnosis of a small random model: against autograd, and where it refuses."""

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dft_theory import cli
from dft_theory.diagnostics import CONTENT_TOKENS, DEFAULT, KINDS
from dft_theory.diagnostics.escape import PAPER, Plan
from dft_theory.diagnostics.text import HEIGHT
from dft_theory.llm import diagnose as module
from dft_theory.llm import memory, own_data
from dft_theory.llm.data import Demonstration, Demonstrations, encode
from dft_theory.llm.diagnose import diagnose, load
from dft_theory.llm.head_gradients import head_gram
from dft_theory.llm.memory import Size, TooLargeError
from dft_theory.llm.pretrained import Pretrained
from dft_theory.llm.token_kinds import kind_of_text
from dft_theory.logprobs import token_stats
from dft_theory.objectives import SumOver, objectives, sft

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERS = ("2 + 3 = 5\n#### 5", "It is\n9.", "seven", "One, two; 3 x 4 = 12 $")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and the ChatML marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(m, special=True) for m in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>",
        chat_template=CHATML,
    )  # fmt: skip


SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 200,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def tiny(vocab: int = 258, *, cap: bool = False) -> Pretrained:
    """A random model in float64: Llama, or Gemma 2, which caps the logits behind its head."""
    if cap:
        config = Gemma2Config(vocab_size=vocab, head_dim=8, final_logit_softcapping=0.5, **SHAPE)
        model = Gemma2ForCausalLM(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **SHAPE))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g) if p.dim() > 1 else torch.ones(p.shape))
    return Pretrained(model=model.double().eval(), tokenizer=tokenizer(), name="tiny", revision="")


def demonstrations(*answers: str) -> Demonstrations:
    items = [
        Demonstration(question=f"Q{i}?", solution=a, answer="", id=f"d{i}")
        for i, a in enumerate(answers)
    ]
    return Demonstrations(
        items=tuple(items), source="mine", split="train", licence="", sha256="", rows=len(items)
    )


@pytest.fixture(scope="module")
def source() -> Pretrained:
    return tiny()


def whole(source: Pretrained, e, objective=sft) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log p of the targets, the surrogate, and its gradient in the head, by autograd."""
    source.model.zero_grad()
    stats = token_stats(source.model(input_ids=e.input_ids[None]).logits, e.labels[None])
    loss = objective.surrogate(stats, reduction=SumOver())
    (grad,) = torch.autograd.grad(loss, source.model.get_output_embeddings().weight)
    return stats.logp[stats.mask].detach(), loss.detach(), grad


# --- the numbers ----------------------------------------------------------------------------------


def test_tokens_are_those_of_a_plain_forward_pass(source):
    found = diagnose(source, demonstrations(*ANSWERS)).tokens
    each = [whole(source, encode(d, source.tokenizer)) for d in demonstrations(*ANSWERS)]
    torch.testing.assert_close(found.logp, torch.cat([e[0] for e in each]))
    assert found.losses[0] == pytest.approx(float(sum(e[1] for e in each)) / len(found))
    assert found.demonstrations == len(ANSWERS)
    assert [o.name for o in found.objectives] == ["sft", "power-0.5", "dft"]


def test_the_gram_is_that_of_the_gradients_in_the_head(source, monkeypatch):
    # Slices of the vocabulary are cut so that a target lies in each of several.
    monkeypatch.setattr("dft_theory.llm.head_gradients.ENTRIES", 4 * 16 * 50)
    d = diagnose(source, demonstrations(*ANSWERS))
    found = next(c for c in d.coherence if c.of == CONTENT_TOKENS)
    each = []
    for i, demonstration in enumerate(demonstrations(*ANSWERS)):
        e = encode(demonstration, source.tokenizer)
        where = (e.labels >= 0).nonzero().squeeze(-1)
        e.labels[where[~d.tokens.content[d.tokens.row == i]]] = -100
        each.append(whole(source, e)[2].flatten())
    g = torch.stack(each)
    own = g.square().sum()
    pairs = g.sum(0).square().sum() - own
    assert found.shared == pytest.approx(float(pairs / 3 / own), rel=1e-6)
    assert (found.demonstrations, found.tokens) == (4, int(d.tokens.content.sum()))


def test_a_bias_of_the_head_counts():
    g = torch.Generator().manual_seed(1)
    hidden, head, bias = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((6, 4), (9, 4), (9,))
    )
    targets, row = torch.tensor([0, 8, 3, 3, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 2])
    logits = hidden @ head.T + bias
    residual = torch.nn.functional.one_hot(targets, 9) - logits.softmax(-1)
    each = torch.stack([(residual[row == k].T @ hidden[row == k]).flatten() for k in range(3)])
    found = head_gram(hidden, head, bias, logits.logsumexp(-1), targets, row, 3)
    torch.testing.assert_close(found, each @ each.T)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_pace_is_that_of_one_step_of_the_head(source, optimizer):
    both = demonstrations("a", "b")
    found = diagnose(source, both, plan=Plan(optimizer=optimizer, batch=1))
    states = []
    for e in (encode(d, source.tokenizer) for d in both):
        with torch.no_grad():
            hidden = source.model.base_model(input_ids=e.input_ids[None]).last_hidden_state
        states.append(hidden[0, :-1][e.labels[1:] >= 0])
    h = torch.cat(states)  # two tokens each: what one of them moves, of the mean over two
    wanted = h.abs().sum(-1) if optimizer == "adam" else h.square().sum(-1) / 2
    assert found.pace == pytest.approx(float(wanted.mean()))
    assert found.steps(sft, 0.01) > 0


def test_a_model_that_caps_its_logits_is_measured_by_them_and_not_compared():
    capped = tiny(cap=True)
    found = diagnose(capped, demonstrations(*ANSWERS))
    e = encode(demonstrations(*ANSWERS).items[0], capped.tokenizer)
    logp = whole(capped, e)[0]
    torch.testing.assert_close(found.tokens.logp[: len(logp)], logp, atol=1e-6, rtol=1e-6)
    assert (found.coherence, found.pace) == ((), None)
    assert "a cap, a scale" in found.incoherent


def test_kinds_of_tokens(source):
    found = diagnose(source, demonstrations("Hi, 2 + 3\n", "no 4"))
    kinds = [KINDS[k] for k in found.tokens.kind[found.tokens.row == 0].tolist()]
    word, form, sign = "word", "format", "arithmetic"
    # The text is stripped nowhere: H i , _ 2 _ + _ 3 newline end
    assert kinds == [
        word, word, form, form, sign, form, sign, form, sign, form, "end of turn"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [(" cat", "word"), ("42", "arithmetic"), (" +", "arithmetic"), (".\n", "format"),
     ("####", "format"), ("½", "arithmetic"), ("東京", "word"), (" ", "format")],
)  # fmt: skip
def test_kinds_of_text(text, kind):
    assert kind_of_text(text) == kind


def test_the_model_as_its_own_reference_is_not_pulled_and_another_is(source):
    chosen = [objectives["sft-kl-0.1"], objectives["psft-0.2-0.28"]]
    same = diagnose(source, demonstrations(*ANSWERS), chosen, reference=source).tokens
    torch.testing.assert_close(same.pull[1], same.pull[0])
    other = tiny()
    with torch.no_grad():
        other.model.get_output_embeddings().weight.mul_(-1)
    pulled = diagnose(source, demonstrations(*ANSWERS), chosen, reference=other).tokens
    assert not torch.allclose(pulled.pull[1], pulled.pull[0], rtol=1e-3)


@pytest.mark.parametrize("sample", [None, 3])
def test_the_worst_conflicts_are_found_where_they_stand(source, monkeypatch, sample):
    monkeypatch.setattr("dft_theory.diagnostics.measures.CERTAIN", 99.0)
    given = demonstrations(*ANSWERS)
    d = diagnose(source, given, sample=sample)
    rare = d.tokens.p[d.tokens.conflicts].sort().values
    assert [c.p for c in d.worst] == pytest.approx(rare[:10].tolist())
    for c in d.worst:
        e = encode(next(x for x in given if x.id == c.demonstration), source.tokenizer)
        logits = source.model(input_ids=e.input_ids[None]).logits[0].detach()
        at = [
            i
            for i in range(5, len(e.input_ids))
            if source.tokenizer.decode(e.input_ids[i - 5 : i]) == c.before
            and source.tokenizer.decode(e.input_ids[i : i + 1]) == c.target
        ]
        told = [logits[i - 1].softmax(-1) for i in at]
        assert any(float(p.max()) == pytest.approx(c.p_expected, rel=1e-5) for p in told)
        assert c.expected in [source.tokenizer.decode([int(p.argmax())]) for p in told]


def test_responses_that_repeat_are_counted(source):
    assert diagnose(source, demonstrations("a", "b", "a", "a")).copies == 2


def test_a_sample_of_tokens_is_a_part_of_all(source):
    every = diagnose(source, demonstrations(*ANSWERS)).tokens
    some = diagnose(source, demonstrations(*ANSWERS), sample=3).tokens
    assert torch.bincount(some.row).tolist() == [3] * 4
    for i in range(4):
        left = every.logp[every.row == i]
        for x in some.logp[some.row == i]:
            assert (left - x).abs().min() < 1e-9


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [(), ("one",)])
def test_too_few_demonstrations(source, answers):
    with pytest.raises(ValueError, match="at least two, better 64"):
        diagnose(source, demonstrations(*answers))


def test_a_tokenizer_of_another_model():
    with pytest.raises(ValueError, match="the tokenizer does not belong to the model"):
        diagnose(tiny(vocab=100), demonstrations(*ANSWERS))


def test_a_demonstration_longer_than_the_context(source):
    with pytest.raises(ValueError, match="the model reads 200: shorten it"):
        diagnose(source, demonstrations("a" * 300, "b"))


def test_a_reference_of_another_vocabulary(source):
    with pytest.raises(ValueError, match="a reference of the same family"):
        diagnose(source, demonstrations(*ANSWERS), reference=tiny(vocab=300))


@pytest.mark.parametrize(
    ("names", "sample", "message"),
    [
        (["dft-sequence"], 3, "reads whole responses: leave out --tokens"),
        (["dft"], 0, "at least one token"),
        (["sft-kl-0.1"], None, "--reference self"),
        (["dpo-0.1"], None, "ask for the objective that it applies"),
    ],
)
def test_objectives_that_cannot_be_measured(source, names, sample, message):
    chosen = [objectives[n] for n in names]
    with pytest.raises(ValueError, match=message):
        diagnose(source, demonstrations(*ANSWERS), chosen, sample=sample)


def test_long_responses_are_refused_before_they_run(source, monkeypatch):
    monkeypatch.setattr(module, "free", lambda _: 100_000)
    with pytest.raises(TooLargeError, match=r"give --tokens \d+ .* with --limit"):
        diagnose(source, demonstrations(*ANSWERS))
    diagnose(source, demonstrations(*ANSWERS), sample=2)


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(source, tmp_path) -> Path:
    path = tmp_path / "model"
    source.model.float().save_pretrained(path)
    source.tokenizer.save_pretrained(path)
    source.model.double()
    return path


def test_the_size_is_read_from_the_header(source, folder):
    wanted = sum(p.numel() for p in source.model.parameters())
    assert memory.size_of_named(str(folder)) == Size(parameters=wanted, vocab=258)
    assert Size(parameters=10, vocab=7).weights(torch.bfloat16) == 20
    assert memory.size_of_named("smollm2-135m-instruct") is None


def test_a_damaged_header_is_no_model(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(ValueError, match="damaged or incomplete"):
        memory.size_of(folder)


def test_a_model_too_large_is_refused_before_it_is_loaded(folder, monkeypatch):
    def never(*_args, **_kwargs):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(module, "load_pretrained", never)
    monkeypatch.setattr(module, "free", lambda _: 1000)
    with pytest.raises(TooLargeError, match=r"billion parameters take .* --dtype bfloat16 takes"):
        load([str(folder)], device="cpu", dtype=torch.float32)
    with pytest.raises(TooLargeError, match=r"are free: choose another --device"):
        load([str(folder)], device="cpu", dtype=torch.bfloat16)


def test_memory_that_nobody_knows_is_not_refused():
    memory.check_weights([Size(parameters=10**12, vocab=1)], torch.float32, available=None)
    memory.check_logits(Size(parameters=0, vocab=10**9), 10**6, available=None, demonstrations=2)
    assert memory.free(torch.device("meta")) is None
    assert memory.free(torch.device("cpu")) != 0


@pytest.mark.parametrize(
    ("device", "message"), [("cuda", "sees no CUDA"), ("mps", "cpu or cuda"), ("meta", "float64")]
)
def test_a_device_that_will_not_do(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        load(["x"], device=device, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["of the client", "of the system"])
def test_a_hub_that_is_out_of_reach_is_a_sentence(kind, tmp_path, monkeypatch, capsys):
    class LostError(memory.network_error() if kind == "of the client" else OSError):
        pass

    def nobody(*_args, **_kwargs):
        raise LostError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", nobody)
    monkeypatch.setattr("huggingface_hub.snapshot_download", nobody)
    two = lines(tmp_path / "two.jsonl", *[{"prompt": "Q?", "completion": "A"}] * 2)
    assert cli.main(["diagnose", "--model", "nosuch/model", "--data", two]) == 2
    wanted = "cannot reach the hub for 'nosuch/model': check the name and the network, or give a"
    assert wanted in capsys.readouterr().err


def test_equal_names_are_one_model(folder):
    one, two = load([str(folder)] * 2, device="cpu", dtype=torch.float32)
    assert one is two


# --- demonstrations as people keep them -----------------------------------------------------------


def lines(path: Path, *rows: object) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return str(path)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "answer": "A"},
        {"prompt": "Q", "completion": "A", "more": 1},
        {"prompt": "Q", "response": "A"},
        {"instruction": "Q", "output": "A"},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
    ],
)
def test_usual_forms_are_read(row, tmp_path):
    (found,) = own_data.demonstrations(lines(tmp_path / "a.jsonl", row), limit=None, seed=None)
    assert (found.question, found.solution) == ("Q", "A")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q"}, "line 2: no question with an answer"),
        ({"question": "Q", "answer": " "}, "line 2: the answer is empty"),
        ({"question": 3, "answer": "A"}, "line 2: the question is empty or no text"),
        ({"messages": []}, "line 2: messages must be one user's"),
        ("{", "line 2: not JSON"),
        ("[]", "line 2: expected an object"),
    ],
)
def test_a_line_without_an_answer_is_named(row, message, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"question": "Q", "answer": "A"}, row)
    with pytest.raises(ValueError, match=message):
        own_data.demonstrations(path, limit=None, seed=None)


def test_files_that_are_no_demonstrations(tmp_path):
    with pytest.raises(ValueError, match="holds no rows"):
        own_data.demonstrations(lines(tmp_path / "a.jsonl", ""), limit=None, seed=None)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        own_data.demonstrations(str(tmp_path / "b.jsonl"), limit=None, seed=None)
    (tmp_path / "c.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        own_data.demonstrations(str(tmp_path / "c.jsonl"), limit=None, seed=None)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        own_data.demonstrations(str(tmp_path / "a.jsonl"), limit=0, seed=None)


def test_the_help_names_every_form_and_the_limit_says_how_to_take_all(capsys):
    with pytest.raises(SystemExit):
        cli.main(["diagnose", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for pair in own_data.PAIRS:
        assert all(f'"{name}"' in text for name in pair)
    assert '"messages"' in text
    for source in ("sample", "gsm8k"):
        with pytest.raises(ValueError, match="got 0; a large one takes every row"):
            own_data.demonstrations(source, limit=0, seed=None)


def test_a_seed_draws_and_a_limit_cuts(tmp_path):
    rows = [{"question": f"Q{i}", "answer": "A"} for i in range(9)]
    path = lines(tmp_path / "a.jsonl", *rows)
    first, drawn = (own_data.demonstrations(path, limit=4, seed=s) for s in (None, 0))
    assert [d.question for d in first] == ["Q0", "Q1", "Q2", "Q3"]
    assert len({d.question for d in drawn}) == 4
    assert [d.question for d in drawn] != ["Q0", "Q1", "Q2", "Q3"]
    assert len(own_data.demonstrations("sample", limit=3, seed=None)) == 3


# --- the command ----------------------------------------------------------------------------------


def test_the_command_prints_one_screen_and_writes_both_files(folder, tmp_path, capsys):
    rows = [{"prompt": "Q?", "completion": a} for a in ANSWERS]
    data = lines(tmp_path / "mine.jsonl", *rows)
    command = ["diagnose", "--model", str(folder), "--data", data, "--objective", "dft"]
    command += ["--objective", "asft-0.05", "--reference", "self", "--optimizer", "sgd"]
    command += ["--json", str(tmp_path / "d.json"), "--html", str(tmp_path / "d.html")]
    assert cli.main(command) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) <= HEIGHT
    assert "4 demonstrations of mine.jsonl" in out[0]
    found = json.loads((tmp_path / "d.json").read_text())
    assert set(found["objectives"]) == {"sft", "dft", "asft-0.05"}
    assert found["plan"]["optimizer"] == "sgd"
    assert "</html>" in (tmp_path / "d.html").read_text()


def test_the_command_refuses_in_a_sentence(folder, tmp_path, capsys):
    one = lines(tmp_path / "one.jsonl", {"prompt": "Q?", "completion": "A"})
    two = lines(tmp_path / "two.jsonl", *[{"prompt": "Q?", "completion": "A"}] * 2)
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    for arguments, message in (
        (["--model", str(folder), "--data", one], "at least two"),
        (["--model", str(folder), "--data", two, "--objective", "sft-kl-0.1"], "--reference self"),
        (["--model", str(folder), "--data", two, "--lr", "0"], "must be positive"),
        (["--model", str(folder), "--data", two, "--objective", "dtf"], "Did you mean"),
        (["--model", str(tmp_path / "none"), "--data", two], "there is no folder"),
        (["--model", str(plain), "--data", two], "no chat template"),
        (["--model", "toy:noisy-hal"], "noisy-half"),
    ):
        assert cli.main(["diagnose", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_defaults_are_those_of_the_paper():
    assert (PAPER.lr, PAPER.optimizer, PAPER.batch) == (5e-5, "adam", 256)
    assert [o.name for o in DEFAULT] == ["sft", "power-0.5", "dft"]
