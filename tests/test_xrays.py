"""An X-ray recovers what a loss is from its gradient, and says so when it is none."""

import json
import math
import time
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F

from dft_theory import cli
from dft_theory.figures import fingerprint
from dft_theory.figures.xray import draw, save
from dft_theory.objectives import OBJECTIVES, Objective, objectives, power
from dft_theory.xrays import XRay, xray
from dft_theory.xrays.wrong_forms import WRONG_FORMS

PLAIN = [o for o in OBJECTIVES if set(o.needs) <= {"entropy", "log_probs"} and o.level != "group"]
OF_P = [o for o in PLAIN if o.is_function_of_p]


seen = lru_cache(xray)  # two tests read each


def name(value):
    return getattr(value, "name", getattr(value, "__name__", value))


# --- losses as people write them ------------------------------------------------------------------


def logp(logits, labels):
    """Log-probabilities and mask of the shifted targets."""
    targets = labels[:, 1:]
    found = F.log_softmax(logits[:, :-1], -1).gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return found, targets != -100


def not_detached(logits, labels):
    lp, mask = logp(logits, labels)
    return (-(lp.exp() * lp) * mask).sum() / mask.sum()


def library(logits, labels, num_items_in_batch=None):
    lp, mask = logp(logits.float(), labels)
    return (-(lp.exp().detach() * lp) * mask).sum() / num_items_in_batch


def tempered(logits, labels):
    lp, mask = logp(logits, labels)
    return (-0.5 * (lp.detach() / 3).exp() * lp * mask).sum()


def averaged_first(logits, labels):
    lp, mask = logp(logits, labels)
    loss = -(lp * mask).sum() / mask.sum()
    return loss * (-loss.detach()).exp()


def per_response(logits, labels):
    lp, mask = logp(logits, labels)
    return -((lp * mask).sum(-1) / mask.sum(-1).clamp_min(1)).mean()


def upward(logits, labels):
    lp, mask = logp(logits, labels)
    return (lp.exp().detach() * lp * mask).sum()


def confident(logits, labels):
    """Weight exp(-H): depends on the whole softmax and has no potential."""
    lp, mask = logp(logits, labels)
    rows = F.log_softmax(logits[:, :-1], -1)
    entropy = -(rows.exp() * rows).sum(-1)
    return -((-2 * entropy).exp().detach() * lp * mask).sum()


def masked_nothing(logits, labels):
    lp, _ = logp(logits, labels)
    return -lp.sum()


def raw_logits(logits, labels):
    _, mask = logp(logits, labels)
    found = logits[:, :-1].gather(-1, labels[:, 1:].clamp_min(0)[..., None])[..., 0]
    return -(found * mask).sum()


def later_counts_more(logits, labels):
    lp, mask = logp(logits, labels)
    return -(torch.arange(1, lp.shape[1] + 1) * lp * mask).sum()


def in_bfloat16(logits, labels):
    lp, mask = logp(logits.bfloat16(), labels)
    return -(lp * mask).sum()


# --- the catalogue --------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", PLAIN, ids=name)
def test_each_objective_is_itself(objective: Objective):
    x = seen(objective)
    assert x.nearest.name == objective.name
    assert x.nearest.exact
    assert x.nearest.factor == pytest.approx(1, abs=1e-9)
    assert x.level == objective.level
    assert x.adds_target == (objective.target is not None)
    assert x.potential or objective.potential is None
    assert not x.remarks


@pytest.mark.parametrize("objective", OF_P, ids=name)
def test_the_weight_is_recovered(objective: Objective):
    x = seen(objective)
    p = torch.tensor(x.p, dtype=torch.float64)
    assert x.depends_on == ()
    assert x.p[0] == pytest.approx(1e-6, rel=1e-4)
    assert x.p[-1] == pytest.approx(1 - 1e-6, abs=1e-10)
    for found, true in ((x.weight, objective.weight_at), (x.reward, objective.implied_reward)):
        # Rounding in log p, and in 1 - p at p near 1, is relative to 1.
        torch.testing.assert_close(
            torch.tensor(found, dtype=p.dtype), true(p), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("objective", WRONG_FORMS, ids=name)
def test_each_wrong_form_is_named_with_what_is_wrong(objective: Objective):
    x = seen(objective)
    found = {r.name: r for r in x.relatives if r.exact}
    assert found[objective.name].wrong == objective.note
    assert objective.note in " ".join(str(x).split())


@pytest.mark.parametrize("needed", ["sft-kl-0.1", "asft-0.05"])
def test_an_objective_with_a_reference_is_given_one(needed):
    x = xray(needed)
    assert x.given == "a reference near the policy"
    assert x.adds_target
    assert x.potential
    assert not x.nearest.exact
    assert "given a reference near the policy" in str(x)


# --- losses ---------------------------------------------------------------------------------------


def test_a_forgotten_detach_is_named():
    x = xray(not_detached)
    assert "nearest relative: DFT without stop-gradient; sign flips at p = 0.368\n" in str(x)
    assert x.sign_changes == (pytest.approx(1 / math.e, abs=1e-7),)
    assert x.nearest.exact
    assert x.nearest.reduction == "mean over targets"
    assert x.at_zero.drifts
    assert (x.at_one.power, x.at_one.coefficient) == (0, pytest.approx(1))
    assert x.potential


def test_float32_is_seen_and_its_noise_is_not_structure():
    x = xray(library)
    assert x.precision == "float32"
    assert (x.nearest.name, x.nearest.exact) == ("dft", True)
    assert (x.depends_on, x.adds_target, x.level, x.potential) == ((), False, "token", True)
    assert (x.at_zero.power, x.at_one.power) == (1, 0)
    assert max(x.p) == pytest.approx(0.999, abs=1e-5)


def test_bfloat16_is_seen():
    x = xray(in_bfloat16)
    assert x.precision == "half"
    assert (x.nearest.name, x.nearest.exact) == ("sft", True)
    assert x.at_zero is None
    assert "beyond half precision" in str(x)


def test_a_family_is_fitted():
    x = xray(tempered)
    assert x.nearest.exact
    assert x.nearest.factor == pytest.approx(0.5)
    assert x.nearest.title.startswith("p^0.33333")
    assert x.at_zero.power == pytest.approx(1 / 3, abs=1e-6)
    assert xray(power(0.7)).nearest.name == "power-0.7"


@pytest.mark.parametrize(
    ("loss", "relative", "factor", "reduction", "level"),
    [
        (upward, "dft", -1, "sum over targets", "token"),
        (averaged_first, "dft-batch-loss", 1, "mean over targets", "batch"),
        (per_response, "sft", 1, "mean over responses of the means over their targets", "token"),
    ],
    ids=name,
)
def test_factor_reduction_and_level(loss, relative, factor, reduction, level):
    x = xray(loss)
    assert (x.nearest.name, x.nearest.exact) == (relative, True)
    assert x.nearest.reduction == reduction
    assert x.level == level
    if relative != "sft":
        assert x.nearest.factor == pytest.approx(factor)


def test_a_weight_of_the_whole_softmax_has_no_potential():
    x = xray(confident)
    assert not x.potential
    assert x.asymmetry > 1e3 * x.asymmetry_error
    assert x.depends_on == ("how the rest is spread over the rivals",)
    assert not x.adds_target
    assert not x.nearest.exact
    assert "is no known objective" in str(x)


def test_label_smoothing_adds_a_target():
    x = xray(lambda z, y: F.cross_entropy(z[:, :-1].mT, y[:, 1:], label_smoothing=0.2))
    assert x.adds_target
    assert x.potential
    assert "adds a target over the vocabulary" in str(x)
    assert x.sign_changes == (pytest.approx(0.8 + 0.2 / 8, abs=1e-6),)  # where p has its target


def test_faults_beside_the_weight():
    assert xray(masked_nothing).remarks == ("positions without a target (-100) receive a gradient",)
    assert "the logits beyond their softmax" in xray(raw_logits).depends_on
    assert "its position" in xray(later_counts_more).depends_on
    weights = torch.linspace(1, 2, 8, dtype=torch.float64)

    def of_class(z, y):
        return F.cross_entropy(z[:, :-1].mT, y[:, 1:], weight=weights, reduction="sum")

    assert "which token the target is" in xray(of_class).depends_on


# --- what is refused ------------------------------------------------------------------------------


def noisy():
    calls = iter(range(10_000))
    return lambda z, y: not_detached(z, y) * (1 + 0.1 * next(calls))


def fails_on_pairs(logits, labels):
    return not_detached(logits.view(1, *logits.shape[1:]), labels)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda z, y: F.cross_entropy(z.flatten(0, 1), y.flatten()), "labels come unshifted"),
        (lambda z, y: -logp(z, y)[0], "not a scalar: reduce"),
        (lambda z, y: not_detached(z.detach(), y), "has no graph"),
        (lambda z, y: not_detached(z, y) * 0, "is 0 at every state"),
        (lambda z, y: torch.zeros((), requires_grad=True), "does not depend on the logits"),
        (lambda z, y: not_detached(z[:, :2], y), "raises RuntimeError"),
        (lambda z, y: not_detached(z, y) / 0, "is not finite"),
        (lambda z, y, n, ref_logits: not_detached(z, y), "fit neither"),
        (noisy(), "not deterministic"),
        (objectives["dpo-0.1"], "compares responses"),
        (torch.nn.CrossEntropyLoss, "is a class: name an instance"),
        (
            fails_on_pairs,
            r"fails on logits \[3, 6, 8\] and labels \[3, 6\]: it raises RuntimeError",
        ),
        ("dft_theory:__version__", "of type str, no objective and no loss"),
    ],
)
def test_what_is_no_such_loss_is_refused_with_the_reason(loss, says):
    with pytest.raises(ValueError, match=says):
        xray(loss)


def test_a_loss_of_float32_only_is_called_so():
    def narrow(logits, labels):
        assert logits.dtype == torch.float32
        return library(logits, labels, 1)

    assert xray(narrow).nearest.name == "dft"


def test_every_form_of_call_is_understood():
    def of_outputs(outputs, labels, num_items_in_batch=None):
        return library(outputs.logits, labels, num_items_in_batch)

    class Loss(torch.nn.Module):
        def forward(self, logits, labels, n):
            return library(logits, labels, n)

    def masked(logits, labels, attention_mask=None):
        return not_detached(logits if attention_mask is None else logits * 0, labels)

    assert xray(of_outputs).nearest.name == "dft"
    assert xray(Loss()).nearest.reduction == "mean over targets"
    assert xray(masked).nearest.name == "dft-without-stop-gradient"


# --- command line and drawing ---------------------------------------------------------------------


def test_the_command_prints_and_writes(tmp_path, capsys):
    record, drawing = tmp_path / "x.json", tmp_path / "x.png"
    argv = ["xray", "dft", "dft_theory.xrays.wrong_forms:WRONG_FORMS.__getitem__"]
    assert cli.main([*argv[:2], "--json", str(record), "--draw", str(drawing)]) == 0
    assert capsys.readouterr().out.startswith("dft is DFT (token)\n")
    (found,) = json.loads(record.read_text())
    assert len(found["p"]) == len(found["weight"]) == len(found["reward"])
    assert found["relatives"][0]["name"] == "dft"
    assert drawing.read_bytes().startswith(b"\x89PNG")
    assert cli.main(argv) == 2
    assert "fit neither (logits, labels, N) nor (logits, labels)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "says"),
    [("dtf", "Did you mean dft"), ("no_such_module:f", "there is no module"), ("a:b:c", "is not")],
)
def test_the_command_refuses(spec, says, capsys):
    assert cli.main(["xray", spec]) == 2
    assert says in capsys.readouterr().err


def test_the_drawing_shows_curves_signs_and_references():
    x = xray(not_detached)
    weight, reward = fingerprint.fingerprint(draw([x]))["axes"]
    strokes = [line["stroke"][0] for line in weight["lines"]]
    assert strokes == ["-", "-", "-", "--", ":"]  # SFT, DFT, positive, negative, the root
    assert weight["lines"][4]["x"][0] == pytest.approx(1 / math.e, abs=1e-5)
    assert weight["texts"] == reward["texts"] == ["SFT", "DFT"]
    positive = [y is not None for y in weight["lines"][2]["y"]]
    negative = [y is not None for y in weight["lines"][3]["y"]]
    assert all(a != b for a, b in zip(positive, negative, strict=True))
    (legend,) = draw([x]).legends
    assert "DFT without stop-gradient, sign flips at p = 0.368" in legend.get_texts()[0].get_text()


def test_the_drawing_needs_a_known_ending(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png or \.pdf"):
        save([], tmp_path / "x.svg")


def test_no_two_curves_of_a_drawing_look_alike():
    x = xray("sft")
    colours = {line.get_color() for line in draw([x] * 6).axes[0].lines}
    assert len(colours) == 6 + 1  # and grey
    with pytest.raises(ValueError, match="6 X-rays at most, got 7"):
        draw([x] * 7)


def test_an_xray_takes_seconds():
    started = time.process_time()
    assert isinstance(xray(tempered), XRay)
    assert time.process_time() - started < 5
