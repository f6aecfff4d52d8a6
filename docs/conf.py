"""The site: `make docs`."""

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
sys.path.insert(0, str(REPOSITORY))

from sphinx.addnodes import pending_xref  # noqa: E402
from sphinx.transforms.post_transforms import SphinxPostTransform  # noqa: E402

import spmix_aug  # noqa: E402

project = "spmix-aug"
author = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["authors"][0]["name"]
copyright = author
release = version = spmix_aug.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "notebooks"]
html_theme = "furo"
html_title = f"spmix-aug {release}"
html_copy_source = False
nitpicky = True
nitpick_ignore_regex = [("py:class", r"torch\..*|.*\._\w+")]  # no pages of this site
default_role = "literal"  # docstrings have shapes and names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the code; docstrings have shapes and ranges
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # included sections begin at a lower level


# Pages are plain Markdown, as GitHub shows it. The site adds to some what it alone can show: the
# list of all pages to the first, and to others the files that they link to.
SECTIONS = {
    "": ["look", "practice"],
    "Reference": ["api", "faq", "limits", "promises", "security", "changelog"],
    "Guides": [
        *("method", "backgrounds", "saliency", "pairing", "tokens", "own-saliency"),
        *("recipes", "integrations", "first-look", "gallery"),
    ],
    "What it brings and costs": [
        *("isic2018", "from-53", "training", "study", "primary"),
        *("cifar10-lt", "performance", "benchmarks", "lesion-focus", "border-variants"),
    ],
}
SHOWN = {
    "study": ["benchmarks/isic2018/REPORT.md"],
    "primary": ["benchmarks/isic2018/PRIMARY.md"],
    "cifar10-lt": ["benchmarks/results/cifar10_lt.md"],
    "training": ["examples/isic2018/README.md"],
    "benchmarks": ["benchmarks/README.md"],
    "lesion-focus": ["benchmarks/results/lesion_focus_fold0.md"],
    "border-variants": ["benchmarks/results/border_variants_folds1234.md"],
    "performance": [
        f"benchmarks/results/{name}.md"
        for name in ("throughput", "throughput_busy", "saliency_cost", "recipe_step")
    ],
    "security": ["SECURITY.md"],
    "changelog": ["CHANGELOG.md"],
}


def contents() -> str:
    """List all pages by section."""
    parts = []
    for caption, pages in SECTIONS.items():
        options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
        parts.append("\n".join(["```{toctree}", *options, "", *pages, "```"]))
    return "\n\n".join(parts)


def shown(files: list[str]) -> str:
    """Include files of the repository, whose links begin with a dot."""
    links = {"benchmarks/isic2018/REPORT.md": "PRIMARY"}
    options = ":heading-offset: 1\n:relative-images:\n:relative-docs: "
    return "\n".join(
        f"```{{include}} ../{file}\n{options}{links.get(file, '.')}\n```\n" for file in files
    )


def integrations() -> str:
    """Show the examples for other packages, under the first lines of their docstrings."""
    parts = []
    for path in sorted((REPOSITORY / "examples/integrations").glob("[!_]*.py")):
        docstring = path.read_text(encoding="utf-8").split('"""')[1]
        about = " ".join(docstring.split("\n\n")[0].split())
        shown = os.path.relpath(path, DOCS)
        parts.append(
            f"## {path.stem}\n\n{about} [Download]({shown}).\n\n"
            f"```{{literalinclude}} {shown}\n:language: python\n```\n"
        )
    return "\n".join(parts)


def first_look() -> str:
    """Turn the notebook, a script in cells, into a page."""
    script = (DOCS / "notebooks/first_look.py").read_text(encoding="utf-8")
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[2:]:  # the page has the first
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def add_to_page(_: Any, name: str, source: list[str]) -> None:
    """Add to a page what the site alone shows."""
    added = {"index": contents, "integrations": integrations, "first-look": first_look}
    if name in SHOWN:
        source[0] += f"\n{shown(SHOWN[name])}"
    elif name in added:
        source[0] += f"\n{added[name]()}"


class LinksToIncludedFiles(SphinxPostTransform):
    """Let a link to a file of the repository lead to the page that includes that file.

    Pages include such files with `:relative-docs: .`, so links in these files begin with a dot.
    """

    default_priority = 8  # just before MyST looks for the pages

    def run(self, **_: Any) -> None:
        """Rename the targets of this page's links."""
        pages = {
            (DOCS / file).resolve(): page
            for page, files in self.env.dependencies.items()
            for file in files
        }
        for link in self.document.findall(pending_xref):
            file = (DOCS / f"{link['reftarget']}.md").resolve()
            link["reftarget"] = pages.get(file, link["reftarget"])


def setup(app: Any) -> None:
    """Add to pages as Sphinx reads them, and mend links when it has read all."""
    app.connect("source-read", add_to_page)
    app.add_post_transform(LinksToIncludedFiles)
