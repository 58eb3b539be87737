"""`module:name` finds the object, and says what is wrong when it cannot."""

import sys

import pytest

from dft_theory.specs import SpecError, load, named


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("spec_good", "spec_broken", "spec_script", "spec_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "spec_good.py").write_text("class A:\n    x = 3\n")
    (tmp_path / "spec_broken.py").write_text("1 / 0\n")
    (tmp_path / "spec_script.py").write_text("raise SystemExit(2)\n")
    (tmp_path / "spec_needy.py").write_text("import no_such_package.inside\n")
    return tmp_path


def test_an_installed_module_and_a_dotted_name():
    from dft_theory.objectives import dft

    assert load("dft_theory.objectives:dft") is dft
    assert load("dft_theory.objectives:dft.name") == "dft"


def test_the_current_directory_is_importable(here):
    assert load("spec_good:A.x") == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("spec_good", "is not module:name"),
        ("spec_good:", "is not module:name"),
        ("./spec good:A", "is not module:name"),
        ("./spec_good.py:A", r"spec_good\.py is a file: name its module, as in spec_good:A"),
        ("spec_script:A", "importing spec_script failed with SystemExit: 2"),
        ("spec_good:A.y", r"spec_good\.py has no 'A\.y'"),
        ("spec_absent:A", "there is no module 'spec_absent' in {here}"),
        ("dft_theory.absent:A", r"there is no module 'dft_theory\.absent'"),
        ("spec_broken:A", "importing spec_broken failed with ZeroDivisionError: division by zero"),
        ("spec_needy:A", "spec_needy imports no_such_package, which is not there"),
    ],
)
def test_what_cannot_be_loaded_is_said_once(here, spec, says):
    with pytest.raises(SpecError, match=says.format(here=here)):
        load(spec)


def test_without_a_colon_it_is_an_objective(here):
    from dft_theory.objectives import dft

    assert named("dft") is dft
    assert named("spec_good:A.x") == 3
    with pytest.raises(SpecError, match="no objective named 'spec_good'.*module:function"):
        named("spec_good")
