"""The explorer computes in the browser what the package computes here, and shows that."""

import itertools
import json
import math
import re
from typing import Any

import pytest
import torch

from dft_theory import dynamics, explorer, pages
from dft_theory.objectives import power

Found = dict[str, Any]
# Positions of the sliders: log10 p0, alpha, noise, log2 V.
GRID = list(itertools.product((-4, -1), (0, 0.5, 0.8, 1, 1.5), (0, 0.1, 0.7), (1, 10)))
RTOL = 1e-6
FLOW = 1e-5  # of probabilities and times, against the integrated flow

# Each breaks one formula; the comparison must notice every one.
MUTANTS = {
    "weight": ("weight: setting.p0 ** alpha", "weight: setting.p0 ** (alpha + 0.01)"),
    "reward": ("reward: setting.p0 ** alpha / setting.p0", "reward: setting.p0 ** alpha"),
    "k": ("(vocab / (vocab - 1)) * pull", "pull"),
    "right labels": ("(1 - noise) * p ** alpha * rest", "p ** alpha * rest"),
    "wrong labels": ("noise * p * q ** alpha", "noise * p * p ** alpha"),
    "rest": ("return odds / (1 - alpha)", "return odds * (1 - alpha)"),
    "mode": ("odds > 0 ? Infinity : -Infinity;\n    const", "Infinity;\n    const"),
    "separatrix": ("-odds / (alpha - 1)", "odds / (alpha - 1)"),
    "quadrature": ("0.568888888888889", "0.5688"),
    "half": ("const HALF = 0", "const HALF = 0.01"),
}
# What the page is asked for: through its sliders, or of `compute` alone.
BY_SLIDER = """
const at = (name, value) => {
  const slider = document.getElementById(name);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
};
const found = grid.map((row) => {
  ["p0", "alpha", "noise", "vocab"].forEach((name, i) => at(name, row[i]));
  const shown = {...explorer.shown};
  shown.text = Object.fromEntries(
    [...document.querySelectorAll("table [id], output")].map((e) => [e.id || e.htmlFor.value,
                                                                    e.textContent]));
  return shown;
});
"""
BY_COMPUTE = """
const found = variants.map((text) => {
  const script = document.createElement("script");
  script.textContent = text.replace("explorer.start();", "");
  document.body.append(script);
  return grid.map(([p0, alpha, noise, vocab]) =>
    explorer.compute({p0: 10 ** p0, alpha, noise, vocab: 2 ** vocab}));
});
"""


def given(program: str, **data: object) -> str:
    """The program with constants of these names in front."""
    return "".join(f"const {name} = {json.dumps(value)};" for name, value in data.items()) + program


def labels(setting: Found) -> torch.Tensor:
    """The law of the labels, right ones of token 0."""
    noise, vocab = setting["noise"], int(setting["vocab"])
    r = torch.full((vocab,), noise / (vocab - 1), dtype=torch.float64)
    r[0] = 1 - noise
    return r


def near(a: float | None, b: float, rtol: float = RTOL) -> bool:
    return a is not None and math.isclose(a, b, rel_tol=rtol, abs_tol=1e-12)


def disagreements(found: Found) -> list[str]:
    """What the page's numbers at one setting have against the package's."""
    setting = found["setting"]
    p0, vocab, r = setting["p0"], int(setting["vocab"]), labels(setting)
    start = dynamics.symmetric_start(p0, vocab=vocab)
    wrong = []
    for who in ("sft", "own", "dft"):
        m = found[who]
        alpha, times, p = m["alpha"], m["t"], m["p"]
        objective = power(alpha)
        at = torch.tensor([p0], dtype=torch.float64)
        if not near(m["weight"], float(objective.weight_at(at)), 1e-12):
            wrong.append(f"{who} weight")
        if not near(m["reward"], float(objective.implied_reward(at)), 1e-12):
            wrong.append(f"{who} reward")
        try:
            fixed: float | None = float(dynamics.fixed_point(r, alpha=alpha)[0])
        except ValueError:
            # Beyond 1 none is declared; at 1 several wrong labels may be equally most frequent.
            fixed = 0.0 if alpha == 1 and r[0] < r[1] else None
        if not (m["fixed"] is None if fixed is None else near(m["fixed"], fixed)):
            wrong.append(f"{who} fixed point {m['fixed']} for {fixed}")
        if any(a >= b for a, b in itertools.pairwise(times)):
            wrong.append(f"{who} runs backwards")
            continue
        if setting["noise"] == 0:
            half = dynamics.escape_time(p0, 0.5, alpha=alpha, vocab=vocab)
            if not near(m["half"], half):
                wrong.append(f"{who} half time {m['half']} for {half}")
            for i in range(40, len(p), 40):
                if not near(times[i], dynamics.escape_time(p0, p[i], alpha=alpha, vocab=vocab)):
                    wrong.append(f"{who} path {i}")
            continue
        # With noise nothing is in closed form but the end: the flow itself is integrated.
        marks = {times[i]: p[i] for i in (60, 120)} | ({m["half"]: 0.5} if m["half"] else {})
        when = torch.tensor(sorted(marks), dtype=torch.float64)
        logits = dynamics.flow(objective, start=start, demos=r, times=when, rtol=1e-8)
        for t, theta in zip(when.tolist(), logits, strict=True):
            probs, moving = torch.softmax(theta, -1), dynamics.velocity(objective, theta, r)
            rate = float(probs[0] * (moving[0] - probs @ moving))
            if abs(float(probs[0]) - marks[t]) > FLOW * (1 + t * abs(rate)):
                wrong.append(f"{who} at {t}: {marks[t]} for {probs[0]}")
        upwards = float(probs[0]) > p0
        if alpha <= 1 and (m["half"] is not None) != (fixed is not None and fixed > 0.5):
            wrong.append(f"{who} passes 1/2: {m['half']}")
        if alpha > 1 and (m["ends"] > 0.5) != upwards:
            wrong.append(f"{who} ends at {m['ends']}")
    return wrong


@pytest.fixture(scope="module")
def found(browse) -> list[Found]:
    return browse(explorer.render(), given(BY_SLIDER, grid=GRID))[0]


def test_every_number_at_every_setting_is_the_packages(found: list[Found]) -> None:
    assert len(found) == len(GRID) >= 40
    wrong = {str(f["setting"]): disagreements(f) for f in found}
    assert not {setting: what for setting, what in wrong.items() if what}


def test_a_broken_formula_is_noticed(browse) -> None:
    source = explorer.script()
    for text, _ in MUTANTS.values():
        assert source.count(text) == 1, text
    variants = [source, *(source.replace(*change) for change in MUTANTS.values())]
    few = [(-1, 0.5, 0, 1), (-1, 0.8, 0.1, 10), (-1, 1.5, 0.1, 1), (-4, 1, 0.7, 1)]
    program = given(BY_COMPUTE, grid=few, variants=variants)
    whole, *broken = browse(explorer.render(), program)[0]
    assert not [d for f in whole for d in disagreements(f)]
    kept = [n for n, f in zip(MUTANTS, broken, strict=True) if not any(map(disagreements, f))]
    assert not kept, f"not noticed: {kept}"


def test_the_table_says_the_numbers_in_words(found: list[Found]) -> None:
    for f in found:
        for who in ("sft", "own", "dft"):
            for key in ("weight", "reward", "half", "fixed"):
                value, text = f[who][key], f["text"][f"{who}-{key}"]
                if key == "half" and value is None:
                    assert text == "never"
                elif key == "fixed" and value is None:
                    assert text == "the start decides"
                else:
                    assert near(number(text), value, 0.05), (who, key, value, text)
        assert number(f["text"]["p0"]) == pytest.approx(f["setting"]["p0"], rel=0.05)
        assert number(f["text"]["vocab"]) == f["setting"]["vocab"]


def number(text: str) -> float:
    """What a number in the page's words is."""
    if text.startswith("1 − "):
        return 1 - number(text.removeprefix("1 − "))
    times, mark, power = text.replace(",", "").rpartition("10")
    raised = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
    if not mark or not set(power) <= set("⁰¹²³⁴⁵⁶⁷⁸⁹⁻") or not power:
        return float(text.replace(",", ""))
    return float(times.removesuffix(" × ") or 1) * 10.0 ** int(power.translate(raised))


def test_the_pictures_draw_the_numbers_and_the_address_sets_the_sliders(browse) -> None:
    query = "?p0=0.01&alpha=0.5&noise=0.2&vocab=16"
    f, shown = browse(explorer.render(), "const found = explorer.shown", query)
    assert f["setting"] == {"p0": 0.01, "alpha": 0.5, "noise": 0.2, "vocab": 16}
    pictures = dict(re.findall(r'<svg id="(\w+)".*?>(.*?</svg>.*?)</svg>', shown, re.DOTALL))
    assert set(pictures) == {"weight", "reward", "path", "rest"}
    p = torch.logspace(-6, 0, 121, dtype=torch.float64)
    for name, values in {
        "weight": power(0.5).weight_at(p),
        "reward": power(0.5).implied_reward(p),
    }.items():
        drawn = [(math.log10(x), math.log10(y)) for x, y in curve(pictures[name], True, True)]
        told = list(zip(p.log10().tolist(), values.log10().tolist(), strict=True))
        assert all(
            abs(a - c) + abs(b - d) < 0.02 for (a, b), (c, d) in zip(drawn, told, strict=True)
        )
    run = curve(pictures["path"], True, False)[1:-1]
    for (x, y), t, q in zip(run, f["own"]["t"][1:], f["own"]["p"][1:], strict=True):
        assert x == pytest.approx(t, rel=0.02)
        assert y == pytest.approx(q, abs=0.005)
    for noise, learned in curve(pictures["rest"], False, False):
        if noise > 1e-3:
            setting = {"noise": noise, "vocab": 16}
            fixed = float(dynamics.fixed_point(labels(setting), alpha=0.5)[0])
            assert learned == pytest.approx(fixed, abs=0.01)


def curve(svg: str, log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    """The points of the reader's own curve, read off the axes as a reader would."""
    ticks = re.findall(r'<text class="(mid|end)" x="([\d.]+)" y="([\d.]+)">([^<p]+)</text>', svg)
    across = [(float(x), number(v)) for kind, x, _, v in ticks if kind == "mid" and v[0].isdigit()]
    up = [(float(y) - 3, number(v)) for kind, _, y, v in ticks if kind == "end"]
    (track,) = re.findall(r'<path class="curve own" d="M([^"]+)"', svg)
    points = [tuple(map(float, point.split())) for point in track.split("L")]
    return [(on_axis(x, across, log_x), on_axis(y, up, log_y)) for x, y in points]


def on_axis(at: float, ticks: list[tuple[float, float]], log: bool) -> float:
    """The value at a place between, or beyond, the first and the last tick."""
    (a, low), (b, high) = ticks[0], ticks[-1]
    share = (at - a) / (b - a)
    return low * (high / low) ** share if log else low + (high - low) * share


def test_settings_that_make_no_sense_are_left_out(browse) -> None:
    query = "?p0=-1&alpha=x&noise=7&vocab=16"
    program = "const found = [explorer.shown.setting, innerWidth, document.body.scrollWidth]"
    (setting, width, needed), _ = browse(explorer.render(), program, query)
    assert needed <= width
    assert setting == {"p0": 0.001, "alpha": 0.5, "noise": 0.9, "vocab": 16}


def test_the_page_runs_under_its_own_policy_and_no_other_program_does(browse) -> None:
    stranger = "<script>document.title = 'stranger'</script></body>"
    _, shown = browse(explorer.render().replace("</body>", stranger))
    assert 'class="curve own"' in shown
    assert "<title>stranger" not in shown


def test_nothing_is_requested_and_every_slider_has_its_label() -> None:
    page = explorer.render()
    rest, _, end = page.rpartition("<script>")
    assert pages.requests(rest + end.split("</script>")[1]) == []
    assert end.startswith(explorer.script())
    assert not re.search(r"fetch\(|XMLHttp|import\b|WebSocket|https?:|\.src\b", explorer.script())
    assert "default-src 'none'" in page
    for name, *_ in explorer.SLIDERS:
        assert f'<label for="{name}">' in page
        assert f'<output for="{name}">' in page
        assert f'<input type="range" id="{name}"' in page


def test_the_program_stays_small() -> None:
    assert len(explorer.script().splitlines()) <= 250
