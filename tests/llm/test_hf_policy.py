"""A Hugging Face model as a policy: the same distribution by both routes."""

import torch

from dft_theory import enumeration
from dft_theory.claims import claims
from dft_theory.llm.hf_policy import HFPolicy


def test_tiny_llama_is_float64_throughout() -> None:
    policy = HFPolicy.tiny_llama(vocab=4, length=2, seed=0)
    with torch.no_grad():
        logits, _ = policy.teacher_forced(torch.tensor([1]), policy.responses())
    assert logits.dtype == torch.float64
    # A float32 step anywhere inside would leave differences of 1e-7 under a tiny perturbation.
    with torch.no_grad():
        weight = next(policy.parameters())
        weight += 1e-12
        moved, _ = policy.teacher_forced(torch.tensor([1]), policy.responses())
    assert 0 < float((moved - logits).abs().max()) < 1e-9


def test_generation_and_teacher_forcing_agree() -> None:
    policy = HFPolicy.tiny_llama(vocab=3, length=3, seed=1)
    prompt = torch.tensor([0, 2])
    tree = enumeration.probabilities(policy, prompt)
    forced = policy.log_probs(prompt, policy.responses()).sum(-1).exp()
    torch.testing.assert_close(tree, forced, rtol=1e-12, atol=1e-15)
    assert abs(float(tree.sum().detach()) - 1) < 1e-12


def test_the_identity_holds_on_llama() -> None:
    policy = HFPolicy.tiny_llama(vocab=3, length=2, seed=2)
    verdict = claims["sft-is-policy-gradient"].verify(policy)
    assert verdict.holds, verdict
    assert verdict.cases == 18
