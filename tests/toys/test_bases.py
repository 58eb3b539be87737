"""Bases: what they read, that they learn, and that a cache holds what was asked for."""

import pytest
import torch

from dft_theory.seeding import generator
from dft_theory.toys import bases, chain
from dft_theory.toys.bases import Pretraining, pretrain, text
from dft_theory.toys.chain import Chain

TINY = Pretraining(trunk=3, branch=2, batch=4)


def test_a_base_reads_both_tasks_and_both_rules():
    world = Chain.random(0)
    read = text(world, 0.7, 20_000, 0.25, generator(0, "test"))
    other = read[:, 0] == chain.COPY
    assert other.float().mean().item() == pytest.approx(0.25, abs=0.02)
    right, wrong = (world.follows(read[~other], r) for r in (world.right, world.aligned))
    assert bool((right ^ wrong).all())
    assert right.float().mean().item() == pytest.approx(0.7, abs=0.01)


def test_rows_are_seeds_by_priors_and_do_not_depend_on_their_company():
    both = pretrain((0, 1), (0.1, 0.6), TINY)
    assert len(both) == 4
    torch.testing.assert_close(both.flat[3], pretrain((1,), (0.6,), TINY).flat[0])
    assert len(both.flat.unique(dim=0)) == 4


def test_the_cache_answers_the_same_question_only(tmp_path, monkeypatch):
    first = bases.bases((0,), (0.1,), TINY, cache=tmp_path)
    other = bases.bases((0,), (0.2,), TINY, cache=tmp_path)
    assert not torch.equal(first.flat, other.flat)
    monkeypatch.setattr(bases, "train", None)  # from here on nothing can be trained
    assert torch.equal(bases.bases((0,), (0.1,), TINY, cache=tmp_path).flat, first.flat)


def test_pretraining_learns_the_chain():
    """From 1/22 a token to which tokens stand where: 1/10 for a state, 1/4 for a style."""
    how = Pretraining(trunk=120, branch=1, batch=32, copies=0.0)
    stack, world = pretrain((0,), (0.9,), how), Chain.random(0)
    asked = chain.prompts()[::8]
    tokens = chain.write(asked, world.law(), chain.BASE_STYLE, generator(0, "test"))
    t = stack.stats(tokens)
    assert t.logp[:, chain.CONTENT].exp().mean() > 0.08
    assert t.logp[:, chain.STYLED].exp().mean() > 0.23
