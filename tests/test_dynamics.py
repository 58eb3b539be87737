"""Closed forms of the softmax bandit against quadrature, integration, autograd and each other."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from dft_theory import dynamics
from dft_theory.dynamics import (
    escape_law,
    escape_time,
    fixed_point,
    flow,
    reach,
    separatrix,
    speed,
    spread,
    symmetric_start,
    velocity,
)
from dft_theory.logprobs import TokenStats, target_stats
from dft_theory.objectives import (
    OBJECTIVES,
    SumOver,
    deft_renyi,
    dft,
    eaft,
    idft,
    power,
    sft,
    talr,
    thresholded,
)
from dft_theory.seeding import generator

QUICK = settings(max_examples=40, deadline=None, derandomize=True)
probability = st.floats(1e-5, 0.999)
exponent = st.sampled_from((0.0, 0.3, 0.5, 1.0, 1.7, 2.0, 3.0))
vocabulary = st.integers(2, 60)


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_logits(vocab: int, seed: int = 0, scale: float = 1.5) -> torch.Tensor:
    g = generator(seed, "test-dynamics", vocab)
    return scale * torch.randn(vocab, dtype=torch.float64, generator=g)


@QUICK
@given(probability, probability, exponent, vocabulary)
def test_escape_time_is_the_integral_of_one_over_speed(
    a: float, b: float, alpha: float, vocab: int
) -> None:
    p0, p1 = sorted((a, b))
    if p1 - p0 < 1e-3 * p0:
        return

    def slowness(p: float) -> float:
        probs = torch.full((vocab,), (1 - p) / (vocab - 1), dtype=torch.float64)
        probs[0] = p
        return 1 / float(speed(probs, 0, alpha=alpha))

    # In ln p, so that the quadrature sees a smooth integrand down to p0 = 1e-5.
    area, bar = quad(
        lambda x: math.exp(x) * slowness(math.exp(x)), math.log(p0), math.log(p1), limit=200
    )
    assert escape_time(p0, p1, alpha=alpha, vocab=vocab) == pytest.approx(
        area, rel=1e-9, abs=2 * bar
    )


@QUICK
@given(st.lists(probability, min_size=3, max_size=3, unique=True), exponent, vocabulary)
def test_escape_times_add_up(ps: list[float], alpha: float, vocab: int) -> None:
    a, b, c = sorted(ps)
    whole = escape_time(a, c, alpha=alpha, vocab=vocab)
    parts = [escape_time(p, q, alpha=alpha, vocab=vocab) for p, q in ((a, b), (b, c))]
    assert sum(parts) == pytest.approx(whole, rel=1e-9)
    assert min(parts) >= -1e-9 * whole


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_closed_form_is_the_limit_of_the_quadrature(alpha: float) -> None:
    # A neighbouring alpha takes the other branch; the time is analytic in alpha.
    h = 1e-5
    around = [escape_time(1e-3, 0.7, alpha=alpha + s * h, vocab=7) for s in (-1, 1)]
    here = escape_time(1e-3, 0.7, alpha=alpha, vocab=7)
    assert sum(around) / 2 == pytest.approx(here, rel=1e-8)


@pytest.mark.parametrize(
    ("p0", "t_sft", "t_dft"), [(0.1, 1.54, 6.64), (0.01, 2.79, 54.1), (0.001, 3.95, 506)]
)
def test_two_token_times_to_one_half(p0: float, t_sft: float, t_dft: float) -> None:
    assert escape_time(p0, 0.5, alpha=0, vocab=2) == pytest.approx(t_sft, rel=3e-3)
    assert escape_time(p0, 0.5, alpha=1, vocab=2) == pytest.approx(t_dft, rel=3e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0, 2.0])
def test_escape_law_is_the_leading_term(alpha: float) -> None:
    ratios = [
        escape_time(p0, 0.5, alpha=alpha, vocab=10) / escape_law(p0, alpha=alpha, vocab=10)
        for p0 in (1e-2, 1e-4, 1e-8)
    ]
    gaps = [abs(r - 1) for r in ratios]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < (0.06 if alpha == 0 else 0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocab", [2, 5, 50])
def test_speed_is_the_derivative_of_p_along_the_flow(alpha: float, vocab: int) -> None:
    z = random_logits(vocab).requires_grad_(True)
    p = torch.softmax(z, -1)[0]
    (gradient,) = torch.autograd.grad(p, z)
    onehot = torch.eye(vocab, dtype=torch.float64)[0]
    rate = gradient @ velocity(power(alpha), z.detach(), onehot)
    probs = torch.softmax(z.detach(), -1)
    torch.testing.assert_close(speed(probs, 0, alpha=alpha), rate, rtol=1e-12, atol=0)


def test_speed_does_not_cancel_near_certainty() -> None:
    # 1 - p is 1e-17 here: 1 - probs[0] would be exactly 0.
    probs = doubles(1.0, 5e-18, 5e-18)
    assert float(speed(probs, 0, alpha=1.0)) == pytest.approx(1.5e-34, rel=1e-12)


@QUICK
@given(st.integers(2, 12), exponent, st.integers(0, 5))
def test_speed_lies_between_even_rivals_and_one(vocab: int, alpha: float, seed: int) -> None:
    probs = torch.softmax(random_logits(vocab, seed, 4.0), -1)
    size = probs[0] ** (1 + alpha) * probs[1:].sum() ** 2
    assert spread(vocab) * size * (1 - 1e-12) <= speed(probs, 0, alpha=alpha)
    assert speed(probs, 0, alpha=alpha) <= 2 * size * (1 + 1e-12)


@pytest.mark.parametrize(
    "objective", [o for o in OBJECTIVES if o.is_function_of_p], ids=lambda o: o.name
)
def test_velocity_is_minus_the_gradient_of_the_population_surrogate(objective) -> None:
    theta, r = random_logits(5), torch.softmax(random_logits(5, 1), -1)
    z = theta.clone().requires_grad_(True)
    logp = torch.log_softmax(z, -1).unsqueeze(-1)  # a batch with every response once
    stats = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    weighted = lambda terms, mask: (r.unsqueeze(-1) * terms).sum()  # noqa: E731
    (gradient,) = torch.autograd.grad(objective.surrogate(stats, reduction=weighted), z)
    torch.testing.assert_close(velocity(objective, theta, r), -gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("objective", [sft, dft, power(0.5)], ids=lambda o: o.name)
def test_velocity_descends_the_potential(objective) -> None:
    theta, r = random_logits(6), torch.softmax(random_logits(6, 1), -1)
    z = theta.clone().requires_grad_(True)
    logp = torch.log_softmax(z, -1).unsqueeze(-1)
    stats = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
    loss = (r.unsqueeze(-1) * objective.potential(stats)).sum()
    assert objective.potential_value(stats, reduction=SumOver()).isfinite()
    torch.testing.assert_close(
        velocity(objective, theta, r), -torch.autograd.grad(loss, z)[0], rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("rtol", [1e-6, 1e-8, 1e-10])
def test_reach_is_as_accurate_as_its_tolerance(rtol: float) -> None:
    start = symmetric_start(0.01, vocab=5)
    time, theta = reach(dft, start=start, target=0, p1=0.8, rtol=rtol)
    assert time == pytest.approx(escape_time(0.01, 0.8, alpha=1, vocab=5), rel=10 * rtol)
    assert float(torch.softmax(theta, -1)[0]) == pytest.approx(0.8, abs=1e-10)


def test_reach_and_flow_agree() -> None:
    start = random_logits(4)
    time, theta = reach(sft, start=start, target=2, p1=0.95)
    demos = doubles(0, 0, 1, 0)
    path = flow(sft, start=start, demos=demos, times=doubles(time / 2, time))
    torch.testing.assert_close(path[1], theta, rtol=1e-8, atol=1e-8)
    p = torch.softmax(path, -1)[:, 2]
    assert torch.softmax(start, -1)[2] < p[0] < p[1]


def test_flow_preserves_the_sum_of_logits_and_starts_at_the_start() -> None:
    start, demos = random_logits(5), torch.softmax(random_logits(5, 1), -1)
    path = flow(dft, start=start, demos=demos, times=doubles(0.0, 1.0, 100.0))
    torch.testing.assert_close(path[0], start, rtol=0, atol=0)
    torch.testing.assert_close(path.sum(-1), start.sum().expand(3), rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.9])
def test_velocity_vanishes_at_the_inner_fixed_point(alpha: float) -> None:
    r = torch.softmax(random_logits(6), -1)
    p = fixed_point(r, alpha=alpha)
    assert float(p.sum()) == pytest.approx(1)
    torch.testing.assert_close(
        velocity(power(alpha), p.log(), r), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_fixed_points_are_optima_of_their_potentials() -> None:
    r, g = torch.softmax(random_logits(5), -1), generator(0, "perturb")
    for alpha, objective in ((0.0, sft), (0.5, power(0.5)), (1.0, dft)):
        best = fixed_point(r, alpha=alpha).clamp_min(1e-300)

        def loss(p: torch.Tensor, o=objective) -> float:
            logp = p.log().unsqueeze(-1)
            stats = TokenStats(logp=logp, mask=torch.ones_like(logp, dtype=torch.bool))
            return float((r.unsqueeze(-1) * o.potential(stats)).sum())

        for _ in range(50):
            q = torch.softmax(torch.randn(5, dtype=torch.float64, generator=g), -1)
            for mix in (0.01, 0.5, 1.0):
                assert loss((1 - mix) * best + mix * q) > loss(best)


def test_fixed_point_tends_to_the_mode_as_alpha_tends_to_one() -> None:
    r = doubles(0.2, 0.5, 0.3)
    far = [1 - float(fixed_point(r, alpha=a)[1]) for a in (0.0, 0.5, 0.9, 0.97)]
    assert all(x > y for x, y in itertools.pairwise(far))
    assert far[-1] < 1e-6
    assert fixed_point(r, alpha=1.0).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("alpha", [1.5, 2.0, 4.0])
def test_separatrix_is_a_repelling_zero_of_the_velocity(alpha: float) -> None:
    r = doubles(0.7, 0.3)
    middle = math.log(separatrix(r, alpha=alpha))

    def drift(x: float) -> float:
        return float(velocity(power(alpha), doubles(x, 0.0), r)[0])

    assert drift(middle) == pytest.approx(0, abs=1e-16)
    assert drift(middle - 0.1) < 0 < drift(middle + 0.1)


def test_frozen_token_is_reported() -> None:
    start = symmetric_start(0.01, vocab=3)
    with pytest.raises(ValueError, match="never lifts this token"):
        reach(thresholded(0.2), start=start, target=0, p1=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: escape_time(0.0, 0.5, alpha=0, vocab=2), "strictly between 0 and 1"),
        (lambda: escape_time(0.1, 1.0, alpha=0, vocab=2), "strictly between 0 and 1"),
        (lambda: escape_time(math.nan, 0.5, alpha=0, vocab=2), "strictly between 0 and 1"),
        (lambda: escape_time(0.5, 0.5, alpha=0, vocab=2), "must exceed p0"),
        (lambda: escape_time(0.1, 0.5, alpha=0, vocab=1), "at least 2 tokens"),
        (lambda: escape_time(0.1, 0.5, alpha=math.inf, vocab=2), "alpha must be finite"),
        (lambda: escape_law(1.5, alpha=1, vocab=2), "strictly between 0 and 1"),
        (lambda: escape_law(0.1, alpha=-1, vocab=2), "alpha >= 0"),
        (lambda: fixed_point(doubles(0.5, 0.6), alpha=0), "sum to 1"),
        (lambda: fixed_point(doubles(1.5, -0.5), alpha=0), "non-negative"),
        (lambda: fixed_point(doubles(math.nan, 1.0), alpha=0), "non-negative"),
        (lambda: fixed_point(doubles(0.6, 0.4), alpha=2), "the start decides"),
        (lambda: fixed_point(doubles(0.4, 0.4, 0.2), alpha=1), "equally frequent"),
        (lambda: separatrix(doubles(0.6, 0.3, 0.1), alpha=2), "two demonstrated tokens"),
        (lambda: separatrix(doubles(1.0, 0.0), alpha=2), "two demonstrated tokens"),
        (lambda: separatrix(doubles(0.6, 0.4), alpha=1), "alpha > 1"),
        (lambda: speed(doubles(0.6, 0.6), 0, alpha=0), "sum to 1"),
        (lambda: speed(doubles(0.6, 0.4), 2, alpha=0), "not one of the 2"),
        (lambda: symmetric_start(1.0, vocab=2), "strictly between 0 and 1"),
        (lambda: reach(sft, start=doubles(0, 0), target=2, p1=0.9), "not a token"),
        (lambda: reach(sft, start=doubles(0, 0), target=0, p1=0.4), "must exceed"),
        (lambda: reach(sft, start=doubles(0, 0), target=0, p1=1.0), "strictly between 0 and 1"),
        (
            lambda: flow(sft, start=doubles(0, 0), demos=doubles(1, 0), times=doubles(2, 1)),
            "increasing",
        ),
        (
            lambda: flow(sft, start=doubles(0, 0, 0), demos=doubles(1, 0), times=doubles(1)),
            "start has shape",
        ),
    ],
)
def test_bad_input_gets_a_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_module_names_no_random_state() -> None:
    state = torch.random.get_rng_state()
    reach(dft, start=dynamics.symmetric_start(0.2, vocab=3), target=0, p1=0.6)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("objective", [eaft(), idft(), deft_renyi], ids=lambda o: o.name)
def test_velocity_of_a_state_weight_is_minus_its_population_gradient(objective) -> None:
    theta, r = random_logits(5), torch.softmax(random_logits(5, 1), -1)
    z = theta.clone().requires_grad_(True)
    t = target_stats(z.expand(5, 1, 5), torch.arange(5).unsqueeze(-1), needs=objective.needs)
    weight = objective.weight(t.detach()).squeeze(-1)
    gradient = torch.autograd.grad(-(r * weight * t.logp.squeeze(-1)).sum(), z)[0]
    torch.testing.assert_close(velocity(objective, theta, r), -gradient, rtol=1e-12, atol=1e-15)


def test_velocity_refuses_weights_that_compare_tokens_of_a_batch() -> None:
    with pytest.raises(ValueError, match="batch"):
        velocity(talr, random_logits(3), torch.full((3,), 1 / 3, dtype=torch.float64))
