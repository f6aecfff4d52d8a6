"""What a release rests on: one version, and a public surface that CHANGELOG knows."""

import difflib
import importlib.metadata
import re
from pathlib import Path

import api_surface
import pytest

import spmix_aug

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_in_one_place(pyproject):
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["hatch"]["version"] == {"path": "spmix_aug/__init__.py"}
    for file in ("CITATION.cff", "docs/conf.py"):
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        assert not re.findall(r"(?m)^(?:version|release)\b.*\d.*$", text), file


def test_what_is_installed_has_this_version():
    assert importlib.metadata.version("spmix-aug") == spmix_aug.__version__


def test_the_oldest_python_is_the_same_wherever_it_is_stated(pyproject):
    oldest = pyproject["project"]["requires-python"].removeprefix(">=")
    stated = re.findall(r"Python :: (3\.\d+)", " ".join(pyproject["project"]["classifiers"]))
    assert stated[0] == oldest
    assert pyproject["tool"]["mypy"]["python_version"] == oldest


def test_the_public_surface_is_the_one_written_down():
    written, found = api_surface.SNAPSHOT.read_text(encoding="utf-8"), api_surface.surface()
    changes = difflib.unified_diff(
        written.splitlines(), found.splitlines(), "written down", "found", lineterm=""
    )
    assert found == written, (
        "The public surface changed. Say how under [Unreleased] in CHANGELOG.md, together with the "
        "line that `python -m tests.api_surface` prints as it writes the new one down.\n"
        + "\n".join(changes)
    )


def test_the_changelog_knows_the_public_surface():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"API surface: `(\w+)`", changelog)[:1]
    expected = api_surface.digest(api_surface.SNAPSHOT.read_text(encoding="utf-8"))
    assert newest == [expected], (
        "The public surface was written down anew: say under [Unreleased] in CHANGELOG.md what "
        f"changed for users, and give its line there the digest: API surface: `{expected}`"
    )
