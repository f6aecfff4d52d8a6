"""Write files so that each is complete or absent, whatever happens meanwhile."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Args:
        path: The file to make or replace; its folder is made where it is missing.
        write: Called with the path of the temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name keeps the suffix, by which image writers choose their format.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the data does
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote left behind; nobody else may write."""
    for path in folder.glob(".????????.*"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, complete or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, complete or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")
