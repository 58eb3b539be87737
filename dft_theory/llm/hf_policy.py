"""A Hugging Face causal language model as a Policy, so that the claims run on it unchanged."""

from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from dft_theory.policies.base import Policy, with_prompt
from dft_theory.seeding import generator

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HFPolicy(Policy):
    """pi(y|x) of a causal language model for responses of `length` tokens.

    Prompts and responses are token ids of the model's own vocabulary; the model is used as it is
    (no dropout in `eval` mode, no cache), and its parameters are the policy's.
    """

    def __init__(self, model: "PreTrainedModel", *, length: int) -> None:
        super().__init__()
        self.model = model.eval()
        self.vocab, self.length = int(model.get_input_embeddings().num_embeddings), length

    @classmethod
    def tiny_llama(cls, *, vocab: int, length: int, seed: int, scale: float = 0.3) -> Self:
        """A random two-layer Llama of width 8 in float64, real architecture and real code.

        Transformers' RMSNorm computes in float32 whatever the model's dtype, which would hide an
        identity behind 1e-7 of noise, so it is replaced by torch's, with the same mathematics.
        """
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
        model = LlamaForCausalLM(config).double()
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child).__name__ == "LlamaRMSNorm":
                    norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
                    setattr(module, name, norm.double())
        return cls(model, length=length).initialise(generator(seed, "policy", "llama"), scale)

    def teacher_forced(self, prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, P+T, V]` and unshifted labels `[N, P+T]`."""
        tokens, labels = with_prompt(prompt, responses)
        return self._logits(tokens), labels

    def next_logits(self, prompt: Tensor, prefixes: Tensor) -> Tensor:
        """Logits `[N, V]` after each prefix `[N, t]`."""
        return self._logits(with_prompt(prompt, prefixes)[0])[:, -1]

    def _logits(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return out
