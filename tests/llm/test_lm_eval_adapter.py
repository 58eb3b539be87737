"""lm-eval, on our models and problems: the same log-probabilities, texts and verdicts as ours.

`make engines` installs lm-eval and runs this.
"""

from importlib.util import find_spec

import pytest
import torch

from dft_theory.llm import load_pretrained
from dft_theory.llm.generate import Sampling, TransformersEngine
from dft_theory.llm.lm_eval_adapter import lm_eval_model, lm_eval_task
from dft_theory.llm.problems import load_problems
from dft_theory.logprobs import IGNORE_INDEX, token_stats

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs `make engines`")
# Other people's code may warn as it likes.
pytestmark = [pytest.mark.real_model, pytest.mark.filterwarnings("ignore")]

PAIRS = [("The capital of France is", " Paris, on the Seine."), ("2 + 3 =", " 5"), ("Yes", " no")]


@pytest.fixture(scope="module")
def source():
    return load_pretrained()


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_without_lm_eval_it_says_what_to_install(source):
    with pytest.raises(ImportError, match="pip install"):
        lm_eval_model(source)


@needs_lm_eval
def test_log_likelihoods_are_our_log_probabilities(source):
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, pair, 0) for pair in PAIRS]
    for (context, text), (found, _) in zip(
        PAIRS, lm_eval_model(source).loglikelihood(asked), strict=True
    ):
        start = len(source.tokenizer(context).input_ids)
        ids = torch.tensor([source.tokenizer(context + text).input_ids])
        labels = ids.clone()
        labels[:, :start] = IGNORE_INDEX
        with torch.no_grad():
            ours = token_stats(source.model(ids).logits, labels).sequence_logp()
        assert found == pytest.approx(float(ours), abs=1e-3)


@needs_lm_eval
def test_a_shared_token_is_left_out_by_lm_eval(source):
    # "AB" is one token: lm-eval scores " c d" after "A", a text that was not asked for.
    from lm_eval.api.instance import Instance

    joined = source.tokenizer("AB c d").input_ids
    assert source.tokenizer("AB").input_ids == joined[:1]
    model = lm_eval_model(source)
    pairs = [("A", "B c d"), ("A", " c d"), ("AB", " c d")]
    (asked, without, right), _ = zip(
        *model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs]),
        strict=True,
    )
    assert asked == pytest.approx(without, abs=1e-4)
    assert abs(asked - right) > 0.1


@needs_lm_eval
def test_a_task_gives_the_prompts_and_texts_of_our_engine(source):
    import lm_eval

    problems = load_problems("sample", limit=2)
    task = lm_eval_task(problems, source, max_new_tokens=24)
    found = lm_eval.simple_evaluate(
        model=lm_eval_model(source), tasks=[task], apply_chat_template=True
    )
    engine = TransformersEngine(source)
    sampling = Sampling(samples=1, temperature=0.0, max_new_tokens=24)
    prompts = [engine.chat(p.question + sampling.instruction) for p in problems]
    for row, prompt, (ours,) in zip(
        found["samples"][problems.name], prompts, engine.draw(prompts, sampling, 0), strict=True
    ):
        asked, _ = row["arguments"][0]
        assert source.tokenizer(asked, add_special_tokens=False).input_ids == prompt
        assert row["resps"] == [[ours.text]]


@needs_lm_eval
def test_solved_is_our_judges_share_and_a_saved_folder_is_read_as_it_is(source, tiny_folder):
    import lm_eval

    problems = load_problems("sample", limit=3)
    task = lm_eval_task(problems, source, max_new_tokens=4)
    right = {p.question for p in problems.items[:2]}
    task["process_results"] = lambda row, texts: {
        "solved": (
            row["answer"],
            f"\\boxed{{{row['answer'] if row['question'].split(chr(10))[0] in right else -7}}}",
        )
    }
    settings = {"pretrained": str(tiny_folder), "dtype": "float32", "device": "cpu"}
    found = lm_eval.simple_evaluate(
        model="hf", model_args=settings, tasks=[task], apply_chat_template=True
    )
    assert found["results"][problems.name]["solved,none"] == pytest.approx(2 / 3)
    assert found["config"]["model_num_parameters"] == sum(
        p.numel() for p in load_pretrained(str(tiny_folder)).model.parameters()
    )
