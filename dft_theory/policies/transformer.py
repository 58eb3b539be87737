"""A toy GPT: the smallest policy in which responses share parameters nonlinearly."""

from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dft_theory.policies.base import Policy, with_prompt
from dft_theory.seeding import generator

Positions = Literal["rotary", "learned"]


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding of `[N, heads, L, D]`: pairs turned by angle position * rate."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype).outer(rate)
    a, b = x.split(half, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


class Block(nn.Module):
    """Pre-norm causal self-attention and a four times wider GELU layer."""

    def __init__(self, width: int, heads: int, positions: Positions) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.norm_attention, self.norm_mlp = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, L, width]` to the same."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        if self.positions == "rotary":
            q, k = rotate(q), rotate(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm_mlp(x))))
        return out


class ToyTransformer(Policy):
    """Decoder-only transformer over `vocab` tokens, prompts and responses alike.

    Parameters: `context` is the longest prompt plus response, in tokens; `positions` rotary or
    learned; `tied` shares the embedding with the output head.
    Raises: ValueError for a width that the heads cannot split, and for inputs beyond `context`.
    """

    def __init__(
        self,
        *,
        vocab: int,
        length: int,
        context: int = 32,
        width: int = 16,
        heads: int = 2,
        layers: int = 2,
        positions: Positions = "rotary",
        tied: bool = True,
    ) -> None:
        super().__init__()
        if width % heads or (positions == "rotary" and width // heads % 2):
            raise ValueError(
                f"{heads} heads cannot split a width of {width} evenly for {positions}"
            )
        self.vocab, self.length, self.context = vocab, length, context
        self.embed = nn.Embedding(vocab, width)
        self.place = nn.Embedding(context, width) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(width, heads, positions) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = None if tied else nn.Linear(width, vocab, bias=False)

    @classmethod
    def random(
        cls,
        *,
        vocab: int,
        length: int,
        seed: int,
        scale: float = 0.3,
        width: int = 8,
        layers: int = 1,
        positions: Positions = "rotary",
        tied: bool = True,
    ) -> Self:
        """A small one in float64 with parameters from N(0, scale^2)."""
        policy = cls(
            vocab=vocab, length=length, width=width, layers=layers, positions=positions, tied=tied
        )
        return policy.double().initialise(generator(seed, "policy", "transformer"), scale)

    def logits(self, tokens: Tensor) -> Tensor:
        """Next-token logits `[N, L, V]` at every position of `tokens [N, L]`."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"{length} tokens exceed the context of {self.context}")
        x = self.embed(tokens)
        if self.place is not None:
            x = x + self.place(torch.arange(length))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        out: Tensor = x @ self.embed.weight.T if self.head is None else self.head(x)
        return out

    def teacher_forced(self, prompt: Tensor, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, P+T, V]` and unshifted labels `[N, P+T]`."""
        tokens, labels = with_prompt(prompt, responses)
        return self.logits(tokens), labels

    def next_logits(self, prompt: Tensor, prefixes: Tensor) -> Tensor:
        """Logits `[N, V]` after each prefix `[N, t]`."""
        return self.logits(with_prompt(prompt, prefixes)[0])[:, -1]
