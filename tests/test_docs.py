"""The site's code runs, its links lead somewhere, its pictures are drawn, and it builds."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import spmix_aug
from spmix_aug import saliency, viz

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# Pages of which every line comes from elsewhere have no text of their own to check.
WRITTEN = [page for page in PAGES if not page.read_text().startswith("```{include}")]


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def docs_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield
    for name in ("conf", "gallery"):
        sys.modules.pop(name, None)


def test_the_pages_are_there():
    assert len(PAGES) >= 24
    with_code = [page.stem for page in PAGES if blocks_of(page)]
    assert {"index", "method", "saliency", "pairing", "tokens"} <= set(with_code)
    assert {"own-saliency", "recipes", "limits", "faq"} <= set(with_code)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda p: p.stem)
def test_code_runs_in_its_order(page):
    names = {"__name__": page.stem}
    for block in blocks_of(page):
        exec(compile(block, page.name, "exec"), names)


def test_the_own_saliency_has_15_lines_and_3_steps():
    text = (DOCS / "own-saliency.md").read_text()
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) == 3
    lines = [line for line in blocks_of(DOCS / "own-saliency.md")[0].splitlines() if line.strip()]
    assert len(lines) <= 15


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.stem)
def test_links_lead_somewhere(page, docs_on_path):
    made = importlib.import_module("gallery").FIGURES
    text = page.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)", text):
        if target.startswith("_generated/"):
            assert target.removeprefix("_generated/") in made, target
            continue
        linked = DOCS / target if target else page
        assert linked.exists(), target
        if anchor:
            assert anchor[1:] in anchors_of(linked), f"{target}{anchor}"


def anchors_of(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_have_text_alternatives(page):
    for text in re.findall(r"!\[([^\]]*)\]", page.read_text()):
        assert len(text) > 20


def test_every_page_is_in_the_contents():
    listed = re.findall(r"^[a-z0-9-]+$", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert sorted(["index", *listed]) == [page.stem for page in PAGES]


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


def test_the_gallery_draws_every_model_free_provider(docs_on_path):
    gallery = importlib.import_module("gallery")
    drawn = {type(provider).__name__ for provider in gallery.MODEL_FREE.values()}
    free = {type(make()).__name__ for make in saliency.PROVIDERS.values() if not make().needs_model}
    assert drawn == free


def test_the_gallerys_own_pairing_is_the_one_of_the_page():
    page, script = (DOCS / "pairing.md").read_text(), (DOCS / "gallery.py").read_text()
    body = re.search(r"def other_class\(.*?\):\n(.*?)\n\n", page, re.DOTALL)[1]
    assert body in script


def test_what_is_borrowed_is_found_and_its_links_are_mended(docs_on_path):
    conf = importlib.import_module("conf")
    text = conf.borrow("README.md", "### Which saliency?")
    assert "| border contrast, centre prior 0.3 |" in text
    assert "\n## " not in text
    assert "](../benchmarks/results/lesion_focus_fold0.png)" in text
    assert "](benchmarks.md)" in text
    assert "(`CONTRIBUTING.md`)" in conf.borrow("README.md", "## Papers and licence")
    with pytest.raises(ValueError, match=r"README.md has no section '### Nothing'"):
        conf.borrow("README.md", "### Nothing")
    for source in (*conf.PAGES, "README.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", conf.borrow(source)):
            assert (DOCS / target).exists(), f"{source}: {target}"


def test_the_notebook_becomes_a_page(docs_on_path):
    page = importlib.import_module("conf").first_look()
    assert page.startswith("# A first look\n")
    assert "# %%" not in page.split("```", 1)[1]
    assert page.count("```python") == page.count("```") / 2


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs the extra docs")
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-E", "-q", "-W", "--keep-going", "-d"]
    done = subprocess.run(
        [*command, str(tmp_path / "trees"), str(DOCS), str(tmp_path / "site")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/method.html").read_text()
    assert "<h1>The method" in page
    assert len(re.findall(r"<img [^>]*alt=\"[^\"]{20,}\"", page)) == 2
