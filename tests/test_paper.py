"""The paper's numbers: averages follow from cells, and what does not is exactly what is flagged."""

import pytest

from dft_theory import paper

NAMES = ("1", "2", "2-v1", "3", "5", "6", "8", "9", "nq")


@pytest.mark.parametrize("name", NAMES)
def test_every_average_is_that_of_its_cells_or_a_known_misprint(name):
    found = {(r.model, r.method) for r in paper.table(name).rows if r.misprinted}
    known = {
        ("LLaMA-3.2-3B", "sft"),
        ("Qwen2.5-Math-1.5B", "sft"),
        ("Qwen2.5-Math-1.5B", "dft"),
    }
    assert found == (known if name == "9" else set())


def test_the_misprints_of_table_9_are_all_of_0_40():
    wrong = [r for r in paper.table("9").rows if r.misprinted]
    assert [round(r.average - r.recomputed, 2) for r in wrong] == [0.40] * 3


def test_dft_is_above_sft_is_above_the_base_on_the_average_of_every_model():
    main = paper.table("1")
    for model in {r.model for r in main.rows}:
        base, sft, dft = (main.row(model, m).average for m in ("base", "sft", "dft"))
        assert base < sft < dft


def test_tables_agree_where_they_print_the_same_run():
    for model, method, tables in (
        ("Qwen2.5-Math-1.5B", "base", ("1", "5")),
        ("Qwen2.5-Math-1.5B", "dft", ("1", "5")),
    ):
        first, second = (paper.table(t).row(model, method) for t in tables)
        assert (first.cells, first.average) == (second.cells, second.average)
    same = paper.table("6").row("Qwen2.5-Math-1.5B", "iw-sft")
    assert (
        same.cells == paper.table("2-v1").row("Qwen2.5-Math-1.5B", "iw-sft on demonstrations").cells
    )


def test_one_setting_was_printed_with_two_results():
    old, new = paper.table("2-v1"), paper.table("1")
    model = "Qwen2.5-Math-1.5B"
    assert new.row(model, "sft").average - old.row(model, "sft").average == pytest.approx(1.20)
    spread = new.row(model, "dft").average - old.row(model, "dft on demonstrations").average
    assert spread == pytest.approx(0.91)


def test_one_of_six_numbers_in_the_text_is_that_of_the_table():
    said = {(s.statement[:5], s.model): s for s in paper.text()}
    right = [k for k, s in said.items() if abs(s.printed - s.recomputed) < 0.01]
    assert right == [("DFT's", "LLaMA-3.1-8B")]
    ratios = {m: round(s.recomputed, 2) for (kind, m), s in said.items() if kind == "DFT's"}
    assert ratios["Qwen2.5-Math-1.5B"] == 7.49
    assert ratios["Qwen2.5-Math-7B"] == 6.71
    assert said[("SFT m", "Qwen2.5-Math-7B")].recomputed == pytest.approx(-1.87)


def test_what_was_only_drawn_has_no_values():
    for name in ("1", "2", "3"):
        assert paper.figure(name)["values"] is None
        assert paper.figure(name)["why"]
    assert len(paper.figure("1")["checkpoints"]) == 12
    assert len(paper.figure("2")["edges"]) == 14


def test_unknown_tables_and_rows_are_named():
    with pytest.raises(KeyError, match="there are 1, 2"):
        paper.table("7")
    with pytest.raises(KeyError, match="has no row GPT base"):
        paper.table("1").row("GPT", "base")
