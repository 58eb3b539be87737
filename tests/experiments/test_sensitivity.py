"""The sensitivity's rows at a tiny size, what each change replaces, judgements on made-up rows."""

import importlib.util
import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, dft
from dft_theory.toys import chain
from dft_theory.toys.bases import Pretraining
from dft_theory.toys.stacked import Recipe

FILE = Path(__file__).resolve().parents[2] / "experiments" / "sensitivity.py"


def load():
    spec = importlib.util.spec_from_file_location("sensitivity", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


experiment = load()
TINY = replace(
    experiment.FULL,
    changes={
        "reference": ("strong", "weak"),
        "p^alpha": ("weak",),
        "SGD": ("weak",),
        "weights of mean 1": ("weak",),
        "N = 12": ("weak",),
    },
    rates=(1e-3, 1e-2),
    sgd_rates=(0.1, 0.3),
    seeds=(0, 1),
    steps=2,
    held_out=4,
    pretraining=Pretraining(trunk=3, branch=2, batch=4),
)
START = experiment.Setting(p0=0.6, eps=0.3, rates=(1e-3,), recipe=Recipe(steps=10))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment.CACHE = tmp_path_factory.mktemp("cache")
    return experiment.measure(TINY)


def test_there_is_a_row_for_each_change_cell_and_objective(rows):
    both = ("sft", "dft")
    expected = [("reference", cell, o) for cell in ("strong", "weak") for o in both]
    expected += [("p^alpha", "weak", f"power-{a}") for a in (0.25, 0.5, 0.75)]
    expected += [(c, "weak", o) for c in ("SGD", "weights of mean 1", "N = 12") for o in both]
    assert [(r["change"], r["cell"], r["objective"]) for r in rows] == expected
    assert json.loads(json.dumps(rows)) == rows


def test_each_objective_takes_the_best_rate_of_the_grid_of_its_change(rows):
    for row in rows:
        grid = TINY.sgd_rates if row["change"] == "SGD" else TINY.rates
        best = max(range(2), key=lambda i: row["validation"][i])
        assert row["rate"] == grid[best]
        assert len(row["sampled"]) == len(TINY.seeds)


def test_a_change_changes_the_results(rows):
    def found(change, objective):
        cells = [r for r in rows if (r["change"], r["cell"]) == (change, "weak")]
        (row,) = [r for r in cells if r["objective"] == objective]
        return row["validation"]

    for change in ("SGD", "N = 12"):
        assert found(change, "sft") != found("reference", "sft")
    assert found("weights of mean 1", "sft") == found("reference", "sft")
    assert found("weights of mean 1", "dft") != found("reference", "dft")


@pytest.mark.parametrize(
    ("change", "replaced"),
    [
        ("reference", set()),
        ("p^alpha", {"objectives"}),
        ("aligned errors", {"error"}),
        ("systematic errors", {"error"}),
        ("N = 12", {"demos"}),
        ("N = 400", {"demos"}),
        ("0.3 x steps", {"recipe"}),
        ("4 x steps", {"recipe"}),
        ("SGD", {"recipe", "rates"}),
        ("weights of mean 1", {"objectives"}),
        ("style not shifted", {"style"}),
        ("low rates", {"rates"}),
        ("p0 = 0.9", {"p0"}),
        ("p0 = 0.9, low rates", {"p0", "rates"}),
    ],
)
def test_a_change_replaces_what_its_name_says_and_nothing_else(change, replaced):
    assert change in experiment.FULL.changes
    now = experiment.changed(START, change, experiment.FULL)
    found = {f.name for f in fields(now) if getattr(now, f.name) != getattr(START, f.name)}
    assert found == replaced


def test_steps_are_multiples_and_low_rates_come_on_top():
    for change, steps in (("0.3 x steps", 3), ("4 x steps", 40), ("SGD", 30)):
        assert experiment.changed(START, change, experiment.FULL).recipe.steps == steps
    assert experiment.changed(START, "low rates", experiment.FULL).rates == (3e-5, 1e-4, 1e-3)
    unshifted = experiment.changed(START, "style not shifted", experiment.FULL)
    assert unshifted.style == chain.BASE_STYLE
    with pytest.raises(KeyError):
        experiment.changed(START, "nonsense", experiment.FULL)


def test_weights_of_mean_one_are_those_of_dft_up_to_one_factor():
    logp = torch.tensor([[-0.1, -2.0, 0.0], [-1.0, -3.0, -0.5]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    leaf = logp.clone().requires_grad_()
    t = TokenStats(logp=leaf, mask=mask)
    w = experiment.of_mean_one(t)
    assert w[mask].mean().item() == pytest.approx(1.0)
    grads = [
        torch.autograd.grad(o.surrogate(t, reduction=SumOver(1)), leaf)[0]
        for o in (experiment.NORMALISED, dft)
    ]
    assert torch.allclose(grads[0] * logp.exp()[mask].mean(), grads[1])


# --- judgements ---------------------------------------------------------------------------------


def made(gap: float, accuracy: float = 0.5) -> list[dict[str, object]]:
    """Rows of every cell and change in which DFT leads SFT by one gap everywhere."""
    rows = []
    for change, cells in experiment.FULL.changes.items():
        for cell in cells:
            names = {"sft": 0.0, "dft": 1.0}
            if change == "p^alpha":
                names = {f"power-{a:g}": a for a in experiment.BETWEEN}
            for name, share in names.items():
                value = accuracy + share * gap
                each = {m: [value, value + 0.01] for m in ("sampled", "greedy", "early_greedy")}
                chosen = {"rate": 0.1, "validation": [0.1, 0.2]}
                rows.append({"cell": cell, "change": change, "objective": name} | each | chosen)
    return rows


def held(rows) -> set[str]:
    return {name for name, now in experiment.EXPERIMENT.outcome(rows).items() if now["holds"]}


def test_every_prediction_can_fail():
    """None is true of no gap, of a lead, of a deficit, and of a lead under changes only."""
    changed = [r for r in made(0.4) if r["change"] != "reference"]
    changed += [r for r in made(0.0) if r["change"] == "reference"]
    assert not held(made(0.0)) & held(made(0.4)) & held(made(-0.4)) & held(changed)
    assert {"reference-lead", "sgd-lead", "alpha", "lead-stays"} <= held(made(0.4))
    assert {"reference-deficit", "alpha-weak", "deficit-stays"} <= held(made(-0.4))
    assert {"mean-1", "style", "low-rates", "early-stopping"} <= held(made(0.0))


def edited(rows, change, cell, factor):
    """The same rows with another gap in one place."""
    return [
        r | {m: [0.5 + factor * 0.4] * 2 for m in ("sampled", "greedy", "early_greedy")}
        if (r["change"], r["cell"], r["objective"]) == (change, cell, "dft")
        else r
        for r in rows
    ]


@pytest.mark.parametrize(
    ("name", "change", "cell", "good", "bad"),
    [
        ("aligned", "aligned errors", "middle", (0.2, -0.5), (0.6,)),
        ("systematic", "systematic errors", "strong", (0.6, 1.2), (0.4, -1.0)),
        ("few", "N = 12", "strong", (0.3,), (0.6,)),
        ("many", "N = 400", "middle", (1.2,), (0.8,)),
        ("short-greedy", "0.3 x steps", "strong", (0.7,), (1.1,)),
        ("low-rates-strongest", "p0 = 0.9, low rates", "strong", (0.4,), (0.6,)),
        ("mean-1", "weights of mean 1", "weak", (1.1,), (1.4, 0.6)),
        ("lead-stays", "SGD", "middle", (0.1,), (-0.1,)),
        ("lead-stays", "aligned errors", "middle", (-0.1,), ()),
    ],
)
def test_a_share_or_shift_is_judged_in_every_cell(name, change, cell, good, bad):
    rows = made(0.4)
    for c in experiment.FULL.changes[change]:
        rows = edited(rows, change, c, good[0])
    for factor in good:
        assert name in held(edited(rows, change, cell, factor))
    for factor in bad:
        assert name not in held(edited(rows, change, cell, factor))


def test_a_share_of_a_deficit_has_the_sign_of_the_deficit():
    rows = made(-0.4)
    assert "long" not in held(rows)
    assert "long" in held(edited(rows, "4 x steps", "weak", -0.4))
    assert "long" in held(edited(rows, "4 x steps", "weak", 1.0))  # it became a lead


def test_rates_are_judged_where_they_are_chosen():
    rows = made(0.4)
    assert not {"sgd-rates", "low-rates-nothing"} & held(rows)
    for row in rows:
        if row["change"] == "SGD" and row["objective"] == "dft":
            row["rate"] = 0.3
        row["validation"] = [0.2, 0.1]
    assert {"sgd-rates", "low-rates-nothing"} <= held(rows)


def test_rows_without_the_case_are_no_success():
    for p in experiment.PREDICTIONS:
        with pytest.raises(ValueError, match=r"cell|hold no"):
            p.judge([])
