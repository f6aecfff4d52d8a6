"""The site: `make docs`. Pages include files of the repository, which stay the source."""

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
from sphinx.addnodes import pending_xref  # noqa: E402
from sphinx.transforms.post_transforms import SphinxPostTransform  # noqa: E402

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
nitpicky = True
nitpick_ignore_regex = [("py:class", r"torch\..*|.*\._\w+")]  # no pages of this site
default_role = "literal"  # docstrings have shapes and names in single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types are in the code; docstrings have shapes and ranges
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # included sections begin at a lower level


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
    gallery.draw_all(GENERATED)
    for name, text in {"integrations.md": integrations(), "first-look.md": first_look()}.items():
        (GENERATED / name).write_text(text, encoding="utf-8")


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
    """Generate before Sphinx reads the pages, and mend links when it has read all."""
    app.connect("builder-inited", generate)
    app.add_post_transform(LinksToIncludedFiles)
