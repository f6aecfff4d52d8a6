"""The site's code runs and names all that there is; `make docs` sees to links and pictures."""

import importlib
import re
import sys
from pathlib import Path

import pytest

import spmix_aug
from spmix_aug import saliency, viz

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
