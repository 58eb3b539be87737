"""Scenarios are what they say: bases, demonstrations, and gradients by an independent way."""

from pathlib import Path

import pytest
import torch

from dft_theory.diagnostics import KINDS, RARE
from dft_theory.diagnostics.regime import predict
from dft_theory.registry import UnknownNameError
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.scenarios import (
    GRID,
    HELD_OUT,
    SCENARIOS,
    Scenario,
    named,
    setting,
    unknown,
)
from dft_theory.toys.worlds import World, exact

CACHE = Path(__file__).resolve().parents[2] / ".cache"
FRESH = 11  # a world that no fit has seen
TINY = Pretraining(trunk=3, branch=2, batch=4)


def tiny(scenario: str | Scenario, *seeds: int):
    found = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
    return setting(found, seeds or (3,), held_out=4, how=TINY)


def test_the_grid_and_enough_scenarios_of_other_kinds():
    assert len(GRID) == 24
    assert len(HELD_OUT) >= 12
    assert {s.expected for s in HELD_OUT} == {"dft leads", "sft leads", "alike"}
    cells = {(s.p0, s.eps) for s in GRID}
    plain = [s for s in HELD_OUT if (s.p0, s.eps) in cells]
    for s in plain:  # each differs from the cell in something else
        assert (
            s.novel
            or s.error != "uniform"
            or s.demos != 48
            or not s.shifted
            or s.format
            or (s.own or s.rehearsed)
        )


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownNameError, match="novel-half"):
        named("novel-hal")


def test_a_cell_of_the_grid_is_that_of_the_continuum():
    """Same bases and same demonstrations: the gaps of that record are of these statistics."""
    found = tiny("p0=0.6,eps=0.3", 3)
    world = World.of(3, held_out=4)
    assert torch.equal(found.demos[0], world.taught(0.3))
    assert torch.equal(found.worlds[0].test, world.test)


@pytest.mark.parametrize("name", [s.name for s in HELD_OUT])
def test_every_scenario_can_be_set_up_and_measured(name):
    found = tiny(name, 3, 4)
    s = found.scenario
    assert len(found.base) == len(found.demos) == 2
    assert all(len(d) == s.demos for d in found.demos)
    told = found.case(1).measured()
    assert len(told) == 14
    assert 0 < told["mean p"] < 1
    assert found.case(1).evidence().shared == pytest.approx(told["shared content"])


@pytest.mark.parametrize(("share", "facts"), [(0.5, 15), (8 / 30, 8)])
def test_unknown_facts_are_a_share_of_the_taught_ones(share, facts):
    assert int(unknown(share).sum()) == facts
    assert not bool(unknown(share)[chain.UNSEEN].any())


def test_a_base_can_lose_half_of_what_it_knew():
    """On what it is to lack, and there only, its probability of right states falls."""
    how = Pretraining(trunk=100, branch=100, batch=16)
    s = SCENARIOS["novel-half"]
    found = setting(s, (3,), held_out=4, how=how)
    before = setting(SCENARIOS["noisy-half"], (3,), held_out=4, how=how)
    assert not torch.equal(found.base.flat, before.base.flat)
    world = found.worlds[0]
    clean = world.taught(0.0)
    asked = clean[:, 2:5] - chain.OPERATOR
    states = torch.cat([clean[:, 1:2], clean[:, chain.PROMPT :][:, chain.CONTENT]], dim=1)
    new = unknown(s.novel)[asked, states[:, :-1]]
    p = found.base.stats(clean).logp.exp()[:, chain.CONTENT]
    assert float(p[new].mean()) < float(p[~new].mean())


def test_labels_are_wrong_as_often_as_facts_are_new():
    found = tiny("noisy-half", *range(8))
    wrong = [
        ~w.chain.follows(d, w.chain.right) for w, d in zip(found.worlds, found.demos, strict=True)
    ]
    assert float(torch.stack(wrong).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_disguised_errors_are_as_improbable_as_what_is_new():
    """Half of the labels are wrong, and their log p is close to one of the other base's."""
    how = Pretraining(trunk=100, branch=60, batch=16)
    found, new = (
        setting(SCENARIOS[name], (3,), held_out=4, how=how)
        for name in ("disguised-half", "novel-half")
    )
    world = found.worlds[0]
    wrong = ~world.chain.follows(found.demos[0], world.chain.right)
    assert float(wrong.float().mean()) == pytest.approx(0.5, abs=0.1)
    logp = found.case(0).stats().logp[:, chain.CONTENT][wrong].double()
    likes = new.case(0).rare_logp()
    off = (logp[:, None] - likes).abs().amin(1)
    assert float(off.median()) < 0.2
    assert float((logp.mean() - likes.mean()).abs()) < 0.5


def test_a_new_format_is_in_all_that_is_taught_and_asked():
    found = tiny("new-format", 3)
    world = found.worlds[0]
    for tokens in (found.demos[0], world.validation, world.test):
        assert bool((tokens[:, chain.PROMPT + 4] == chain.NEW).all())
        assert bool((tokens[:, chain.PROMPT + 2] != chain.NEW).all())


def test_own_samples_are_the_bases_and_rehearsal_raises_what_is_right():
    own = tiny("own-samples", 3)
    assert torch.equal(own.demos[0][:, : chain.PROMPT], own.worlds[0].split.train)
    assert not torch.equal(own.demos[0], own.worlds[0].taught(0.0))
    after, plain = tiny("after-sft-noisy", 3), tiny("p0=0.1,eps=0.3", 3)
    test = [w.test for w in after.worlds]
    p = [exact(x.base, x.base, test)["content_p"].item() for x in (after, plain)]
    assert p[0] > p[1]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("novel-half", {"sft leads"}),
        ("disguised-half", {"dft leads"}),
        ("noisy-half", {"dft leads", "cannot tell"}),
        ("few-noisy", {"cannot tell"}),
        ("new-format", {"cannot tell"}),
    ],
)
def test_a_fresh_world_is_told_by_its_gradients_or_not_at_all(name, told):
    case = named(name, seed=FRESH, cache=CACHE)
    assert predict(case.evidence(), "greedy").name in told


@pytest.mark.parametrize("name", ["aligned", "own-samples"])
def test_what_the_base_believes_is_mistaken_for_noise(name):
    """The cases known to fail: little is shared, and yet DFT does not lead greedily."""
    case = named(name, seed=FRESH, cache=CACHE)
    assert predict(case.evidence(), "greedy").name == "dft leads"


# --- gradients ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case():
    return tiny("p0=0.6,eps=0.3", 3).case(0)


def gradients(case, i: int, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of one demonstration, by one backward pass through the policy itself."""
    policy = case.base.policy(0)
    logits = policy.logits(case.demos[i : i + 1, :-1])[0, chain.PROMPT - 1 :]
    logp = torch.log_softmax(logits, -1)
    target = case.demos[i, chain.PROMPT :, None]
    logp.gather(-1, target)[kept[i]].sum().backward()
    return {name: p.grad for name, p in policy.named_parameters()}


def test_gradients_of_demonstrations_are_those_of_one_at_a_time(case):
    kept = case.content() & (case.stats().logp.exp() < RARE)
    every = case.in_all(kept)
    for i in (0, 5):
        flat = torch.cat([g.flatten() for g in gradients(case, i, kept).values()])
        assert torch.allclose(every[i].float(), flat, atol=1e-5)


def test_gradients_in_the_head_are_those_of_a_head_of_its_own(case):
    kept = case.content()
    policy, found = case.base.policy(0), case.in_head(kept)
    states = []
    policy.norm.register_forward_hook(lambda _module, _in, out: states.append(out))
    policy.logits(case.demos[:, :-1])
    hidden = states[0][:, chain.PROMPT - 1 :].detach()
    for i in (0, 7):
        head = policy.embed.weight.detach().clone().requires_grad_()
        logp = torch.log_softmax(hidden[i] @ head.T, -1)
        logp.gather(-1, case.demos[i, chain.PROMPT :, None])[kept[i]].sum().backward()
        assert torch.allclose(found[i].float(), head.grad.flatten(), atol=1e-5)


def test_the_gram_matrix_is_of_inner_products(case):
    kept = case.content()
    for head, each in ((False, case.in_all(kept)), (True, case.in_head(kept))):
        gram = case.gram(kept, head=head)
        assert gram[2, 5].item() == pytest.approx(float((each[2] * each[5]).sum()))


def test_kinds_are_states_and_styles(case):
    kind = case.kind()
    assert set(kind[:, chain.CONTENT].flatten().tolist()) == {KINDS.index("arithmetic")}
    assert set(kind[:, chain.STYLED].flatten().tolist()) == {KINDS.index("format")}


def test_statistics_of_p_are_those_of_the_states(case):
    p = case.stats().logp.exp()[:, chain.CONTENT].flatten().double()
    told = case.measured()
    assert told["mean p"] == pytest.approx(p.mean().item())
    assert told["nll"] == pytest.approx(-p.log().mean().item())
    assert told["rare"] == pytest.approx((p < 0.1).double().mean().item())
    assert told["ess"] == pytest.approx((p.sum() ** 2 / (p**2).sum() / len(p)).item())
    assert 0 <= told["conflict"] <= told["rare"]
