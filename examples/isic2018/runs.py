"""What finished runs left behind."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """What a finished run left behind."""

    folder: Path
    settings: dict[str, Any]
    classes: list[str]
    images: list[str]
    probabilities: Tensor
    labels: Tensor
    counts: Tensor
    history: list[dict[str, Any]]
    origin: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the run, that of its folder."""
        return self.folder.name

    @property
    def warning(self) -> str | None:
        """What to beware of in its figures."""
        return self.history[-1].get("warning")


def read_run(folder: Path) -> Run:
    """Read the files of a finished run.

    Raises:
        ValueError: if a file is missing, because the run has not finished.
    """
    try:
        with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            (_, *classes, _), *rows = csv.reader(file)
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        counts = json.loads((folder / "class_counts.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        origin = folder / "origin.json"  # which runs of before it was kept do not have
        made_by = json.loads(origin.read_text(encoding="utf-8")) if origin.exists() else []
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; finish this run first") from error
    return Run(
        folder,
        settings,
        classes,
        [row[0] for row in rows],
        torch.tensor([[float(number) for number in row[1:-1]] for row in rows]),
        torch.tensor([classes.index(row[-1]) for row in rows]),
        torch.tensor(counts),
        [json.loads(line) for line in lines],
        made_by,
    )
