"""Checkpoints that are whole, or known not to be: each is named after its content's digest."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from .files import write_whole


def save(folder: Path, epochs: int, state: dict[str, Any]) -> None:
    """Save the state after so many epochs; of the others, the newest of fewer epochs stays."""
    staged = folder / "checkpoint.new"
    write_whole(staged, lambda path: _write(path, state))
    saved = staged.replace(folder / f"checkpoint-{epochs:05d}-{_digest(staged)}.pt")
    others = [path for path in _newest_first(folder) if path != saved]
    before = [path for path in others if path.name < f"checkpoint-{epochs:05d}"]
    for path in set(others) - set(before[:1]):
        path.unlink()


def find(folder: Path) -> tuple[Path | None, list[Path]]:
    """Find the newest whole checkpoint, and the broken ones that are newer.

    Raises:
        ValueError: if there are checkpoints, but none is whole.
    """
    broken = []
    for path in _newest_first(folder):
        if path.stem.endswith(_digest(path)):
            return path, broken
        broken.append(path)
    if broken:
        raise ValueError(
            f"no checkpoint is whole, {broken[0]} is not what was saved; delete the checkpoints or "
            "choose another --out to start anew"
        )
    return None, []


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it can run code."""
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return saved


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:  # of torch's own writer, where Python's would say OSError
        reason = str(error).splitlines()[0]
        raise OSError(f"{path.parent}: no checkpoint could be written ({reason})") from error


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
