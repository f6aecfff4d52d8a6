"""The site: `make docs`. Pages of `_generated/` are made here, from files that stay the source."""

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
REPOSITORY = DOCS.parent
GENERATED = DOCS / "_generated"
sys.path[:0] = [str(REPOSITORY), str(DOCS)]

import gallery  # noqa: E402

import spmix_aug  # noqa: E402

project = "spmix-aug"
author = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["authors"][0]["name"]
copyright = author
release = version = spmix_aug.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated", "notebooks"]
html_theme = "furo"
html_title = f"spmix-aug {release}"
html_copy_source = False
nitpicky = False
default_role = "literal"  # docstrings have shapes and names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the code; docstrings have shapes and ranges
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # borrowed sections begin at a lower level

# Files of the repository that are a page of their own here, and files that are a part of one.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/lesion_focus_fold0.md": "lesion-focus.md",
    "benchmarks/results/border_variants_folds1234.md": "border-variants.md",
    "examples/isic2018/README.md": "training.md",
    "examples/isic2018/study/REPORT.md": "study.md",
    "examples/isic2018/study/PRIMARY.md": "primary.md",
}
PART_OF = {
    "README.md": "index.md",
    "benchmarks/results/throughput.md": "performance.md",
    "benchmarks/results/saliency_cost.md": "performance.md",
    "benchmarks/results/recipe_step.md": "performance.md",
}


def borrow(source: str, heading: str | None = None, *, deeper: int = 0) -> str:
    """Take a file of the repository, or its section under `heading`, with its links mended.

    Args:
        source: path in the repository.
        heading: the section's heading, which is left out; the whole file when None.
        deeper: levels by which headings go down.

    Raises:
        ValueError: if the file has no such section.
    """
    text = (REPOSITORY / source).read_text(encoding="utf-8")
    if heading is not None:
        level = heading.split()[0]
        found = re.search(
            rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.DOTALL | re.M
        )
        if found is None:
            raise ValueError(f"{source} has no section {heading!r}")
        text = found[1]
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    for place in range(0, len(parts), 2):  # the others are code
        parts[place] = re.sub(r"^(#+ )", "#" * deeper + r"\1", parts[place], flags=re.MULTILINE)
        parts[place] = re.sub(
            r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)",
            lambda link: _mended(link, (REPOSITORY / source).parent),
            parts[place],
        )
    return "".join(parts)


def _mended(link: re.Match[str], folder: Path) -> str:
    """Let a link of a file in `folder` lead to its page, or from here to the file."""
    text, target, anchor = link[1], (folder / link[2]).resolve(), link[3] or ""
    path = target.relative_to(REPOSITORY).as_posix()
    if page := (PAGES | PART_OF).get(path):
        return f"{text}({page}{anchor})"
    if target.is_dir():
        return text[1:-1]
    if target.suffix == ".md":  # not on this site
        return f"{text[1:-1]} (`{path}`)"
    return f"{text}({os.path.relpath(target, DOCS)})"


def throughput() -> str:
    """Take the table of throughput."""
    return borrow("benchmarks/results/throughput.md", deeper=1)


def promises() -> str:
    """Take the README's table of promises."""
    return borrow("README.md", "## Promises")


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
    return "\n".join(parts) or "There are none in this version.\n"


def first_look() -> str:
    """Turn the notebook, a script in cells, into a page."""
    script = (DOCS / "notebooks/first_look.py").read_text(encoding="utf-8")
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def generate(_: Any = None) -> None:
    """Write what the pages include, and draw their pictures."""
    pages = {page: borrow(source) for source, page in PAGES.items()}
    pages |= {
        "which-saliency.md": borrow("README.md", "### Which saliency?"),
        "isic2018.md": borrow("README.md", "## ISIC 2018"),
        "saliency_cost.md": borrow("benchmarks/results/saliency_cost.md", deeper=1),
        "recipe_step.md": borrow("benchmarks/results/recipe_step.md", deeper=1),
        "throughput.md": throughput(),
        "promises.md": promises(),
        "integrations.md": integrations(),
        "first-look.md": first_look(),
    }
    gallery.draw_all(GENERATED)
    for name, text in pages.items():
        (GENERATED / name).write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Generate before Sphinx reads the pages."""
    app.connect("builder-inited", generate)
