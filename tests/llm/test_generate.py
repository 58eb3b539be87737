"""The real engine on a real model: what a batch changes, what a seed repeats, when a text ends."""

import json

import pytest
import torch

from dft_theory import cli
from dft_theory.llm import load_pretrained
from dft_theory.llm.data import end_of_turn
from dft_theory.llm.generate import Sampling, TransformersEngine, _Race, generate
from dft_theory.llm.problems import load_problems

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def source():
    return load_pretrained()


def ask(source, questions, batch, seed=1, **sampling):
    settings = Sampling(**{"samples": 1, "max_new_tokens": 6, "instruction": ""} | sampling)
    engine = TransformersEngine(source, batch=batch)
    return engine.draw([engine.chat(q) for q in questions], settings, seed)


QUESTIONS = ["What is 2 + 3?", "Name the capital of France, in one word."]


def test_greedy_answers_are_those_of_one_prompt_alone_and_of_a_plain_loop(source):
    together = ask(source, QUESTIONS, batch=2, temperature=0.0)
    assert together == [ask(source, [q], batch=1, temperature=0.0)[0] for q in QUESTIONS]
    ids = source.chat(QUESTIONS[0])
    start = len(ids)
    with torch.no_grad():
        for _ in range(6):
            logits = source.model(torch.tensor([ids])).logits[0, -1]
            if (token := int(logits.argmax())) == end_of_turn(source.tokenizer):
                break
            ids.append(token)
    assert together[0][0].text == source.tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert together[0][0].tokens == len(ids) - start


def test_samples_differ_and_a_seed_repeats_them_in_any_batch(source):
    before = torch.random.get_rng_state()
    first = ask(source, QUESTIONS[:1], batch=4, samples=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len({d.text for d in first[0]}) > 1
    assert ask(source, QUESTIONS[:1], batch=3, samples=4) == first
    assert ask(source, QUESTIONS[:1], batch=4, samples=4, seed=2) != first


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_the_race_has_the_law_of_the_softmax(top_p):
    n, temperature = 20_000, 0.7
    logits = torch.tensor([0.3, 1.1, -0.5, 2.0, 0.9])
    race = _Race(Sampling(temperature=temperature, top_p=top_p), range(n))
    won = race(torch.zeros(n, 1, dtype=torch.long), logits.expand(n, -1)).argmax(-1)
    law = torch.softmax(logits / temperature, -1)
    if top_p < 1:
        order = law.argsort(descending=True)
        kept = law[order].cumsum(0) - law[order] < top_p
        law[order[~kept]] = 0
        law /= law.sum()
    assert (torch.bincount(won, minlength=5) / n - law).abs().max() < 0.015
    assert (torch.bincount(won, minlength=5)[law == 0] == 0).all()


def test_a_text_that_ended_by_itself_is_told_from_one_that_was_cut(source):
    short, long = "Reply with the single word yes.", "Write a long story about a fox."
    cut = ask(source, [long], batch=1, temperature=0.0)[0][0]
    assert (cut.tokens, cut.finished) == (6, False)
    ended = ask(source, [short], batch=1, temperature=0.0, max_new_tokens=40)[0][0]
    assert ended.finished
    assert "<|im_end|>" not in ended.text


def test_a_folder_holds_what_is_needed_to_grade(source, tmp_path):
    problems = load_problems("sample", limit=2)
    sampling = Sampling(samples=2, max_new_tokens=4)
    found = generate(TransformersEngine(source), problems, sampling, tmp_path)
    assert [c.answer for c in found] == [p.answer for p in problems for _ in range(2)]
    assert all(c.tokens <= 4 for c in found)
    assert generate(TransformersEngine(source), problems, sampling, tmp_path) == found


def test_the_command_line_draws_grades_and_compares(tmp_path, capsys):
    how = ["--limit", "2", "--samples", "2", "--max-new-tokens", "4"]
    assert cli.main(["evaluate", *how, "--out", str(tmp_path / "hot")]) == 0
    said = capsys.readouterr().out
    assert "4 completions in" in said
    assert "2 problems x 2: average 0.000 [0.000, 0.000]  pass@2 0.000" in said
    found = json.loads((tmp_path / "hot" / "evaluation.json").read_text())
    assert found["truncated"] == 1.0
    cold = [*how[:2], "--samples", "1", *how[4:], "--temperature", "0"]
    assert cli.main(["generate", *cold, "--out", str(tmp_path / "cold")]) == 0
    assert cli.main(["grade", str(tmp_path / "cold"), "--against", str(tmp_path / "none")]) == 2
    assert "not graded yet" in capsys.readouterr().err
    assert cli.main(["grade", str(tmp_path / "cold"), "--against", str(tmp_path / "hot")]) == 0
    assert "0.000 [0.000, 0.000], p = 1, paired" in capsys.readouterr().out
