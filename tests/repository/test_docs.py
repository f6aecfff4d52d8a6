"""The site's code runs and names all that there is; `make docs` sees to links and pictures."""

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest

import spmix_aug
from spmix_aug import SaliencyPatchMix, saliency, viz

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("gallery")
    sys.modules.pop("gallery")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda p: p.stem)
def test_code_runs_in_its_order(page):
    names = {"__name__": page.stem}
    for block in blocks_of(page):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_text_alternatives(page):
    for text in re.findall(r"!\[([^\]]*)\]", page.read_text()):
        assert len(text) > 20


def test_the_reference_has_every_public_name():
    text = (DOCS / "api.md").read_text()
    documented = set(re.findall(r"auto\w+:: ([\w.]+)", text))
    names = [f"spmix_aug.{name}" for name in spmix_aug.__all__] + ["spmix_aug.transform.BoundMix"]
    names += [f"spmix_aug.saliency.{name}" for name in saliency.__all__ if name != "PROVIDERS"]
    names += [
        f"spmix_aug.viz.{name}"
        for name, value in vars(viz).items()
        if callable(value) and value.__module__ == "spmix_aug.viz" and name[0] != "_"
    ]
    assert documented == set(names)


def test_the_table_of_saliency_is_complete():
    rows = re.findall(r'^\| `"(\w+)"` \| (yes|no) \|', (DOCS / "saliency.md").read_text(), re.M)
    needs = {
        name: "yes" if make().needs_model else "no" for name, make in saliency.PROVIDERS.items()
    }
    assert dict(rows) == needs


def test_the_gallery_draws_every_model_free_provider(gallery):
    drawn = {type(provider).__name__ for provider in gallery.MODEL_FREE.values()}
    free = {type(make()).__name__ for make in saliency.PROVIDERS.values() if not make().needs_model}
    assert drawn == free


def test_the_gallerys_own_pairing_is_the_one_of_the_page():
    page, script = (DOCS / "pairing.md").read_text(), (DOCS / "gallery.py").read_text()
    body = re.search(r"def other_class\(.*?\):\n(.*?)\n\n", page, re.DOTALL)[1]
    assert body in script


def test_the_notebook_is_the_script_and_was_run_in_order():
    folder = DOCS / "notebooks"
    script = (folder / "first_look.py").read_text(encoding="utf-8")
    text = (folder / "first_look.ipynb").read_text(encoding="utf-8")
    cells = []
    for cell in script.split("# %%")[1:]:
        kind, _, body = cell.partition("\n")
        told = "markdown" if "[markdown]" in kind else "code"
        lines = body.strip().splitlines()
        cells.append(
            (told, [re.sub("^# ?", "", x) for x in lines] if told == "markdown" else lines)
        )
    notebook = json.loads(text)
    kept = [(one["cell_type"], "".join(one["source"]).splitlines()) for one in notebook["cells"]]
    assert kept == cells, "run `make notebook`"
    code = [one for one in notebook["cells"] if one["cell_type"] == "code"]
    assert [one["execution_count"] for one in code] == list(range(1, len(code) + 1))
    outputs = [output for one in code for output in one["outputs"]]
    assert {one["output_type"] for one in outputs} == {"stream", "execute_result"}
    assert {one.get("name", "stdout") for one in outputs} == {"stdout"}  # no warnings
    pictures = [kind for one in outputs for kind in one.get("data", {}) if "image" in kind]
    assert len(pictures) == 2
    # What differs from machine to machine, or from run to run.
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert set(notebook["metadata"]["language_info"]) == {"name"}
    assert all(one["metadata"] == {} for one in notebook["cells"])
    assert not re.search(r"/(home|root|tmp|usr|work|Users)/|site-packages|object at 0x", text)
    assert len(text) < 400_000


def test_the_settings_in_its_table_are_the_defaults():
    defaults = inspect.signature(SaliencyPatchMix).parameters
    rows = [
        row for row in (DOCS / "method.md").read_text().splitlines() if re.match(r"\| `\w+=", row)
    ]
    assert len(rows) >= 8
    for name, value in re.findall(r"`(\w+)=([^`]+)`", " ".join(row.split("|")[1] for row in rows)):
        assert repr(defaults[name].default) == value.replace('"', "'")


def test_every_promise_has_its_tests():
    text = (DOCS / "promises.md").read_text()
    rows = [row for row in text.splitlines() if re.search(r"\| `(\w+/)?test_\w+\.py", row)]
    assert len(rows) >= 13
    for file, names in re.findall(r"`((?:\w+/)?test_\w+\.py)((?:::\w+)*)`", " ".join(rows)):
        source = (REPOSITORY / "tests" / file).read_text(encoding="utf-8")
        for name in names.removeprefix("::").split("::"):
            assert re.search(rf"(def|class) {name or 'test_'}", source), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_are_plain_markdown_that_github_shows(page):
    text = page.read_text()
    assert len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()) > 9
    assert page.stem == "api" or not re.search(r"^```{", text, re.MULTILINE)
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (DOCS / target).exists(), target
