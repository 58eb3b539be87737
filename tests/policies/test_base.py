"""What every policy owes: two routes to one distribution, causality, and samples that follow it."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from dft_theory import enumeration
from dft_theory.logprobs import IGNORE_INDEX
from dft_theory.policies import (
    AutoregressivePolicy,
    NotEnumerableError,
    Policy,
    TabularPolicy,
    ToyTransformer,
)
from dft_theory.policies.base import ENUMERABLE, digits, with_prompt
from dft_theory.seeding import generator


def transformer(positions: str, tied: bool) -> ToyTransformer:
    return ToyTransformer.random(
        vocab=3, length=3, seed=1, scale=0.5, layers=2, positions=positions, tied=tied
    )


POLICIES: dict[str, Policy] = {
    "table": TabularPolicy.random(vocab=4, length=3, seed=1),
    "one token": TabularPolicy.random(vocab=5, length=1, seed=1),
    "autoregressive": AutoregressivePolicy.random(vocab=3, length=3, seed=1),
    "rotary tied": transformer("rotary", True),
    "rotary untied": transformer("rotary", False),
    "learned tied": transformer("learned", True),
    "learned untied": transformer("learned", False),
}
POLICIES |= {
    f"{name} float32": type(POLICIES[name])
    .random(vocab=3, length=2, seed=2)
    .float()
    for name in ("table", "autoregressive", "rotary tied")
}  # fmt: skip
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 1e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-13},
}
EVERY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
PROMPT = torch.tensor([1])


def close(policy: Policy, found: torch.Tensor, expected: torch.Tensor) -> None:
    assert_close(found, expected, **TOLERANCE[next(policy.parameters()).dtype])


# --- the distribution ---------------------------------------------------------------------------


@EVERY
def test_responses_are_all_words_in_counting_order(policy):
    words = list(itertools.product(range(policy.vocab), repeat=policy.length))
    assert policy.responses().tolist() == [list(word) for word in words]


@EVERY
def test_probabilities_of_all_responses_sum_to_one(policy):
    probs = enumeration.probabilities(policy, PROMPT)
    close(policy, probs.sum(), torch.ones((), dtype=probs.dtype))
    assert bool((probs > 0).all())


@EVERY
def test_generative_route_is_teacher_forced_route_for_every_response(policy):
    walked = enumeration.probabilities(policy, PROMPT)
    read = policy.log_probs(PROMPT, policy.responses()).sum(-1).exp()
    assert walked.dtype == read.dtype
    close(policy, walked, read)


@EVERY
def test_generative_route_is_teacher_forced_route_token_by_token(policy):
    responses = policy.responses()
    read = policy.log_probs(PROMPT, responses)
    for t in range(policy.length):
        step = policy.next_logits(PROMPT, responses[:, :t]).log_softmax(-1)
        close(policy, step.gather(-1, responses[:, t : t + 1]).squeeze(-1), read[:, t])


@EVERY
def test_the_two_routes_have_one_gradient(policy):
    c = torch.linspace(-1, 1, policy.vocab**policy.length, dtype=next(policy.parameters()).dtype)
    walked = (c * enumeration.probabilities(policy, PROMPT)).sum()
    read = (c * policy.log_probs(PROMPT, policy.responses()).sum(-1).exp()).sum()
    close(policy, enumeration.gradient(walked, policy), enumeration.gradient(read, policy))


@EVERY
def test_a_later_token_does_not_change_earlier_log_probabilities(policy):
    responses = policy.responses()
    logp = policy.log_probs(PROMPT, responses)
    for t in range(policy.length):
        changed = responses.clone()
        changed[:, t] = (changed[:, t] + 1) % policy.vocab
        other = policy.log_probs(PROMPT, changed)
        close(policy, other[:, :t], logp[:, :t])
        assert not torch.allclose(other[:, t], logp[:, t], rtol=1e-3)


@EVERY
def test_an_earlier_token_changes_later_log_probabilities_unless_tokens_are_independent(policy):
    if policy.length == 1:
        assert policy.responses().shape == (policy.vocab, 1)  # nothing comes later
        return
    responses = policy.responses()
    changed = responses.clone()
    changed[:, 0] = (changed[:, 0] + 1) % policy.vocab
    before, after = (policy.log_probs(PROMPT, y)[:, 1:] for y in (responses, changed))
    assert torch.allclose(before, after, rtol=1e-3) == isinstance(policy, TabularPolicy)


@EVERY
def test_the_prompt_matters(policy):
    first, second = (enumeration.probabilities(policy, torch.tensor([k])) for k in (0, 1))
    assert not torch.allclose(first, second, rtol=1e-2)


@EVERY
def test_stats_hold_the_response_tokens_and_mask_the_prompt(policy):
    responses = policy.responses()
    logits, labels = policy.teacher_forced(PROMPT, responses)
    assert logits.shape == (len(responses), 1 + policy.length, policy.vocab)
    assert torch.equal(labels[:, 1:], responses)
    assert bool((labels[:, 0] == IGNORE_INDEX).all())
    stats = policy.stats(PROMPT, responses)
    assert bool(stats.mask.all())
    assert torch.equal(stats.logp, policy.log_probs(PROMPT, responses))


# --- sampling -----------------------------------------------------------------------------------


def bernstein(p: torch.Tensor, n: int, alpha: float) -> torch.Tensor:
    """Bound on |frequency - p| that fails with probability alpha, from the variance p (1 - p)."""
    log = math.log(2 / alpha)
    return log / (3 * n) + (log**2 / (9 * n**2) + 2 * p * (1 - p) * log / n).sqrt()


def frequencies(policy: Policy, drawn: torch.Tensor) -> torch.Tensor:
    powers = torch.tensor([policy.vocab**k for k in reversed(range(policy.length))])
    return torch.bincount((drawn * powers).sum(-1), minlength=policy.vocab**policy.length) / len(
        drawn
    )


@EVERY
def test_sampling_frequencies_are_the_exact_probabilities(policy):
    n = 20_000
    drawn = policy.sample(n, prompt=PROMPT, generator=generator(0, "sampling"))
    assert drawn.shape == (n, policy.length)
    found = frequencies(policy, drawn)
    exact = enumeration.probabilities(policy, PROMPT).detach()
    room = bernstein(exact, n, alpha=1e-9)
    assert bool(((found - exact).abs() <= room).all())
    # And the bound is tight enough to tell temperature 1/2 from temperature 1.
    wrong = exact**2 / exact.square().sum()
    assert bool(((found - wrong).abs() > bernstein(wrong, n, alpha=1e-9)).any())


def test_a_token_of_probability_zero_is_never_drawn():
    theta = torch.zeros(1, 2, 3, dtype=torch.float64)
    theta[0, :, 1] = -torch.inf
    policy = TabularPolicy(theta, 2)
    drawn = policy.sample(500, prompt=torch.tensor([0]), generator=generator(0, "zero"))
    assert not bool((drawn == 1).any())


@EVERY
def test_sampling_repeats_with_its_generator_and_leaves_the_global_one_alone(policy):
    before = torch.get_rng_state()
    first, second, third = (
        policy.sample(50, prompt=PROMPT, generator=generator(k, "repeat")) for k in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.requires_grad


@EVERY
def test_random_policies_repeat_with_their_seed(policy):
    kind = type(policy)
    before = torch.get_rng_state()
    first, second, third = (kind.random(vocab=3, length=2, seed=s) for s in (0, 0, 1))
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert not all(map(torch.equal, first.parameters(), third.parameters()))
    assert {p.dtype for p in first.parameters()} == {torch.float64}
    if kind is not ToyTransformer:  # torch's own layers draw their first values globally
        assert torch.equal(torch.get_rng_state(), before)


def test_initialise_draws_every_parameter_at_the_scale_asked_for():
    policy = ToyTransformer(vocab=11, length=2, width=32, positions="learned", tied=False)
    assert policy.double().initialise(generator(0, "scale"), 0.2) is policy
    for name, parameter in policy.named_parameters():
        # Norm of n normals of scale 0.2: 0.2 sqrt(n), to within five standard deviations.
        n = parameter.numel()
        assert abs(float(parameter.detach().norm()) / 0.2 - math.sqrt(n)) < 5, name


# --- what cannot be enumerated ------------------------------------------------------------------


def test_too_many_responses_are_refused_with_their_number_and_the_ways_out():
    policy = TabularPolicy(torch.zeros(1, 9, 10), 9)
    with pytest.raises(
        NotEnumerableError,
        match=r"10\^9 = 1\.00e\+09 responses .*smaller vocabulary or length.*token by token"
        r".*`sample`",
    ):
        policy.responses()
    assert policy.sample(3, prompt=torch.tensor([0]), generator=generator(0, "x")).shape == (3, 9)


def test_the_largest_enumerable_support_is_allowed_and_the_next_one_is_not():
    exponent = int(math.log2(ENUMERABLE))
    assert len(TabularPolicy(torch.zeros(1, exponent, 2), exponent).responses()) == 2**exponent
    with pytest.raises(NotEnumerableError):
        TabularPolicy(torch.zeros(1, exponent + 1, 2), exponent + 1).responses()


# --- small parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "length"), [(2, 5), (3, 3), (10, 2), (7, 1), (4, 0)])
def test_digits_are_those_of_counting(base, length):
    expected = list(itertools.product(range(base), repeat=length))
    found = digits(torch.arange(base**length), base, length)
    assert found.shape == (base**length, length)
    assert [tuple(row) for row in found.tolist()] == expected


def test_with_prompt_puts_the_prompt_before_each_response_and_hides_it_from_the_labels():
    tokens, labels = with_prompt(torch.tensor([7, 8]), torch.tensor([[1, 2], [3, 4]]))
    assert tokens.tolist() == [[7, 8, 1, 2], [7, 8, 3, 4]]
    assert labels.tolist() == [[-100, -100, 1, 2], [-100, -100, 3, 4]]
