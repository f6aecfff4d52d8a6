"""Compare runs on their held-out images: tables, figures and a strip of mixed images.

Example:
    python -m examples.isic2018.report runs/baseline runs/spmix --out report
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .data import CLASSES
from .files import write_json, write_text
from .metrics import measure
from .pictures import draw_confusion, draw_curves, draw_mixes_of, draw_recall
from .train import load_model, make_mixer, split


@dataclass(frozen=True)
class Run:
    """What a finished run left behind."""

    folder: Path
    settings: dict[str, Any]
    images: list[str]
    probabilities: Tensor
    labels: Tensor
    counts: Tensor
    history: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the run, that of its folder."""
        return self.folder.name


def read_run(folder: Path) -> Run:
    """Read the files of a finished run.

    Raises:
        ValueError: if a file is missing, because the run has not finished.
    """
    try:
        with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        counts = json.loads((folder / "class_counts.json").read_text(encoding="utf-8"))
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}; finish this run first") from error
    return Run(
        folder,
        settings,
        [row["image"] for row in rows],
        torch.tensor([[float(row[label]) for label in CLASSES] for row in rows]),
        torch.tensor([CLASSES.index(row["label"]) for row in rows]),
        torch.tensor(counts),
        [json.loads(line) for line in lines],
    )


def as_table(measured: dict[str, dict[str, Any]]) -> str:
    """Write the measurements as a Markdown table, a row a run, in percent."""
    columns = {
        "balanced accuracy": lambda m: m["balanced_accuracy"],
        "macro F1": lambda m: m["macro_f1"],
        "AUROC": lambda m: m["auroc"],
        **{
            f"{shot}-shot": lambda m, shot=shot: m["shots"][shot]
            for shot in ("many", "medium", "few")
        },
        **{label: lambda m, label=label: m["recall"][label] for label in CLASSES},
    }
    lines = ["| run | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, values in measured.items():
        numbers = [value(values) for value in columns.values()]
        cells = ["-" if number is None else f"{100 * number:.1f}" for number in numbers]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Measure the runs and write `report.md`, `report.json` and the figures to `out`.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: if a run has not finished, or the runs were held out on different images.
    """
    runs = [read_run(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError("expected runs of different names, got " + ", ".join(r.name for r in runs))
    for run in runs[1:]:
        if run.images != runs[0].images:
            raise ValueError(
                f"{run.folder} and {runs[0].folder} predict different images; report on runs with "
                "one --hold-out at a time"
            )
    measured = {run.name: measure(run.probabilities, run.labels, run.counts) for run in runs}
    steps = {
        "recall.png": lambda path: draw_recall(measured, path),
        "confusion.png": lambda path: draw_confusion(measured, path),
        "curves.png": lambda path: draw_curves({run.name: run.history for run in runs}, path),
    }
    mixing = next((run for run in runs if run.settings["mix"] != "none"), None)
    if mixing is not None:
        steps["mixes.png"] = lambda path: draw_run_mixes(mixing, path)
    for name, draw in tqdm(steps.items(), desc="figures", disable=None, leave=False):
        draw(out / name)
    table = as_table(measured)
    write_json(out / "report.json", measured)
    figures = "\n\n".join(f"![{Path(name).stem}]({name})" for name in steps)
    counts = ", ".join(
        f"{label} {n}" for label, n in zip(CLASSES, runs[0].counts.tolist(), strict=True)
    )
    warnings = {run.name: run.history[-1].get("warning") for run in runs}
    beware = "".join(
        f"**Beware** of {name}: {text}.\n\n" for name, text in warnings.items() if text
    )
    table = f"{beware}{table}"
    write_text(
        out / "report.md",
        f"# Report on {len(runs[0].images)} held-out images\n\n"
        f"In percent; a class column is its recall. Training images: {counts}.\n\n"
        f"{table}\n\n{figures}\n",
    )
    return table


def draw_run_mixes(run: Run, path: Path) -> None:
    """Draw mixes of a run's training images, with its own settings and its trained model."""
    settings, model = load_model(run.folder)
    train, _, _ = split(settings)
    # The strip shows pixels of pairs within a batch, whatever the run mixed.
    pairing = "relative" if settings.pairing == "second_batch" else settings.pairing
    mixer = make_mixer(replace(settings, pairing=pairing), run.counts)
    draw_mixes_of(mixer, train, settings.image_size, path, model=model)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a report as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.report",
        description="Compare runs on their held-out images.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.runs, options.out))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"\nWritten to {options.out / 'report.md'}", file=sys.stderr)


if __name__ == "__main__":
    main()
