"""Our models and problems inside lm-eval, the harness that many published scores come from.

A trained model is a plain folder, and lm-eval reads it as it is:

    lm_eval run --model hf --model_args pretrained=runs/smoke/model,dtype=float32 --tasks gsm8k

Here a model in memory is handed to it, and a problem set of ours, which asks for no network and is
graded by our first judge. The extra `lm-eval` installs what is needed.
"""

from collections.abc import Sequence
from typing import Any

from dft_theory.llm.data import end_of_turn
from dft_theory.llm.generate import BOXED
from dft_theory.llm.grade import grade
from dft_theory.llm.pretrained import Pretrained
from dft_theory.llm.problems import ProblemSet


def lm_eval_model(source: Pretrained, *, batch: int = 8) -> Any:
    """The model as lm-eval's `HFLM`; its log-likelihoods are sums of our log p.

    That is so where a continuation begins with a token of its own. One that shares a token with the
    end of its context is scored by lm-eval without that token.
    Raises: ImportError without lm-eval.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError("lm-eval is not installed: pip install 'lm-eval[hf]'") from error
    return HFLM(pretrained=source.model, tokenizer=source.tokenizer, batch_size=batch)


def lm_eval_task(
    problems: ProblemSet, source: Pretrained, *, instruction: str = BOXED, max_new_tokens: int
) -> dict[str, Any]:
    """A task for `lm_eval.simple_evaluate(tasks=[...], apply_chat_template=True)`.

    Prompts, greedy decoding and the end of a text are those of `TransformersEngine`; `solved` is
    the share of problems that math-verify finds solved.
    """
    from datasets import Dataset

    rows = [{"question": p.question + instruction, "answer": p.answer} for p in problems]
    return {
        "task": problems.name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": lambda row: row["question"],
        "doc_to_target": lambda row: row["answer"],
        "generation_kwargs": {
            "until": [source.tokenizer.decode([end_of_turn(source.tokenizer)])],
            "max_gen_toks": max_new_tokens,
            "do_sample": False,
        },
        "process_results": lambda row, texts: {"solved": (row["answer"], texts[0])},
        "metric_list": [{"metric": "solved", "aggregation": _solved, "higher_is_better": True}],
    }


def _solved(pairs: Sequence[tuple[str, str]]) -> float:
    return sum(each["math-verify"].right for each in grade(pairs, ("math-verify",))) / len(pairs)
