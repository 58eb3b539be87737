"""The toy transformer against a second one in plain numpy, and its positions and parameters."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.testing import assert_close

from dft_theory import enumeration
from dft_theory.policies import ToyTransformer
from dft_theory.policies.transformer import rotate

KINDS = list(itertools.product(("rotary", "learned"), (True, False)))


def make(positions: str, tied: bool, *, layers: int = 2) -> ToyTransformer:
    return ToyTransformer.random(
        vocab=5, length=3, seed=3, scale=0.5, layers=layers, positions=positions, tied=tied
    )


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary embedding `[L, D]` with complex numbers: pair (k, k + D/2) times e^(i pos rate)."""
    half = x.shape[1] // 2
    z = x[:, :half] + 1j * x[:, half:]
    z = z * np.exp(1j * np.arange(len(x))[:, None] * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag], axis=1)


def numpy_logits(policy: ToyTransformer, tokens: list[int]) -> np.ndarray:
    """Logits `[L, V]`, one sequence, one head and one query at a time."""
    w = {k: v.detach().numpy() for k, v in policy.named_parameters()}
    eps = np.finfo(np.float64).eps

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embed.weight"][tokens]
    if "place.weight" in w:
        x = x + w["place.weight"][: len(tokens)]
    width, heads = x.shape[1], 2
    size = width // heads
    for layer in range(len(policy.blocks)):
        at = f"blocks.{layer}"
        qkv = linear(norm(x, f"{at}.norm_attention"), f"{at}.qkv")
        out = np.zeros_like(x)
        for head in range(heads):
            q, k, v = (
                qkv[:, part * width + head * size : part * width + (head + 1) * size]
                for part in range(3)
            )
            if "place.weight" not in w:
                q, k = turned(q), turned(k)
            for t in range(len(tokens)):
                share = softmax(q[t] @ k[: t + 1].T / np.sqrt(size))
                out[t, head * size : (head + 1) * size] = share @ v[: t + 1]
        x = x + linear(out, f"{at}.out")
        h = linear(norm(x, f"{at}.norm_mlp"), f"{at}.up")
        x = x + linear(h * (1 + erf(h / np.sqrt(2))) / 2, f"{at}.down")
    head_weight = w.get("head.weight", w["embed.weight"])
    return norm(x, "norm") @ head_weight.T


@pytest.mark.parametrize(("positions", "tied"), KINDS)
def test_logits_are_those_of_a_plain_numpy_transformer(positions, tied):
    policy = make(positions, tied)
    tokens = [[4, 0, 2, 1, 1, 3], [0, 0, 0, 3, 2, 4]]
    found = policy.logits(torch.tensor(tokens)).detach().numpy()
    expected = np.stack([numpy_logits(policy, row) for row in tokens])
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("positions", "tied"), KINDS)
@pytest.mark.parametrize("prompt", [[0], [4, 1], [2, 2, 0, 3]])
def test_generative_route_is_teacher_forced_route_for_prompts_of_any_length(
    positions, tied, prompt
):
    policy, x = make(positions, tied), torch.tensor(prompt)
    read = policy.log_probs(x, policy.responses()).sum(-1).exp()
    assert_close(enumeration.probabilities(policy, x), read)
    assert_close(read.sum().item(), 1.0)


@pytest.mark.parametrize(("positions", "tied"), KINDS)
def test_the_order_of_the_prompt_matters(positions, tied):
    policy = make(positions, tied)
    one, other = (
        enumeration.probabilities(policy, torch.tensor(p)) for p in ([3, 1, 2], [1, 3, 2])
    )
    assert not torch.allclose(one, other, rtol=1e-3)


def test_rotation_keeps_norms_and_leaves_position_zero_alone():
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned_x = rotate(x)
    assert_close(turned_x.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned_x[..., 0, :], x[..., 0, :])
    assert not torch.allclose(turned_x[..., 1, :], x[..., 1, :], rtol=1e-3)


def test_rotated_inner_products_depend_on_the_distance_of_positions_only():
    g = torch.Generator().manual_seed(1)
    q, k = (
        torch.randn(6, dtype=torch.float64, generator=g).expand(1, 1, 9, 6) for _ in range(2)
    )  # fmt: skip
    product = (rotate(q) @ rotate(k).transpose(-1, -2))[0, 0]
    for offset in range(-8, 9):
        diagonal = product.diagonal(offset)
        assert_close(diagonal, diagonal[0].expand_as(diagonal))
    assert product[0].unique().numel() > 1


def test_tying_shares_the_embedding_with_the_head_and_learned_positions_add_a_table():
    names = {kind: dict(make(*kind).named_parameters()) for kind in KINDS}
    assert "head.weight" not in names["rotary", True]
    assert names["rotary", False]["head.weight"].shape == (5, 8)
    assert "place.weight" not in names["rotary", True]
    assert names["learned", True]["place.weight"].shape == (32, 8)
    assert names["rotary", True]["blocks.0.up.weight"].shape == (4 * 8, 8)


def test_every_parameter_has_a_part_in_the_distribution():
    policy = make("learned", False, layers=1)
    value = policy.log_probs(torch.tensor([1]), torch.tensor([[2, 0, 3]])).sum()
    grads = torch.autograd.grad(value, list(policy.parameters()))
    for (name, _), grad in zip(policy.named_parameters(), grads, strict=True):
        assert bool((grad != 0).any()), name


@pytest.mark.parametrize(
    ("width", "heads", "positions"), [(10, 4, "rotary"), (10, 4, "learned"), (6, 2, "rotary")]
)
def test_a_width_that_the_heads_cannot_split_is_refused(width, heads, positions):
    with pytest.raises(ValueError, match=f"{heads} heads cannot split a width of {width} evenly"):
        ToyTransformer(vocab=3, length=2, width=width, heads=heads, positions=positions)


def test_learned_positions_split_where_rotary_ones_cannot():
    policy = ToyTransformer(vocab=3, length=2, width=6, heads=2, positions="learned")
    assert policy.logits(torch.tensor([[0, 1]])).shape == (1, 2, 3)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_inputs_beyond_the_context_are_refused(positions):
    policy = ToyTransformer(vocab=3, length=2, context=4, positions=positions)
    assert policy.logits(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 3)
    with pytest.raises(ValueError, match="5 tokens exceed the context of 4"):
        policy.logits(torch.zeros(1, 5, dtype=torch.long))
