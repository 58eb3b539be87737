"""The report is written whole, with the explorer beside it."""

from pathlib import Path

import pytest

from dft_theory import explorer, reproduction


def test_the_report_and_the_explorer_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "draw_all", list)
    monkeypatch.setattr(reproduction, "real_model", lambda: "<p>measured <b>now</b></p>")
    page = reproduction.write_report([], tmp_path / "report")
    assert sorted(p.name for p in page.parent.iterdir()) == ["explorer.html", "index.html"]
    text = page.read_text(encoding="utf-8")
    assert 'href="explorer.html"' in text
    assert "<p>measured <b>now</b></p>" in text
    assert str(tmp_path) not in text
    assert (page.parent / "explorer.html").read_text(encoding="utf-8") == explorer.render()


def test_without_the_libraries_the_page_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reproduction.importlib.util, "find_spec", lambda name: None)
    assert "install the extra <code>dft-theory[llm]</code>" in reproduction.real_model()
