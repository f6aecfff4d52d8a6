"""Run the first look and keep what it shows: python docs/notebook.py NOTEBOOK; `make notebook`."""

import base64
import io
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

SCRIPT = Path(__file__).parent / "notebooks/first_look.py"


def encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    """Encode a picture as a notebook has it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def shrink(data: dict[str, str]) -> None:
    """Give a picture fewer colours, or make it a JPEG, whichever is smaller."""
    if (drawn := data.pop("image/png", None)) is None:
        return
    picture = Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGB")
    kinds = {
        "image/png": encoded(picture.quantize(), "png"),
        "image/jpeg": encoded(picture, "jpeg", quality=85),
    }
    kind = min(kinds, key=lambda name: len(kinds[name]))
    data[kind] = kinds[kind]


def main(path: Path) -> None:
    """Write the notebook without what differs from run to run and from machine to machine."""
    notebook = jupytext.read(SCRIPT)
    NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(SCRIPT.parent)}},
    ).execute()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            shrink(output.get("data", {}))
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
