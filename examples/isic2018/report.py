"""Compare runs on their held-out images: tables, figures and a strip of mixed images.

Example:
    python -m examples.isic2018.report runs/baseline runs/spmix --out report
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .data import DataError
from .files import write_json, write_text
from .metrics import adjust_logits, headline, measure, percent, recall_intervals
from .page import write_page
from .pictures import draw_confusion, draw_curves, draw_mixes_of, draw_recall, draw_tradeoff
from .runs import Run, read_run
from .settings import Settings
from .train import load_model, make_mixer, split


def as_table(measured: dict[str, dict[str, Any]]) -> str:
    """Write the measurements as a Markdown table, a row a run, in percent."""
    rows = {name: {**headline(values), **values["recall"]} for name, values in measured.items()}
    columns = next(iter(rows.values()))
    lines = ["| run | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(percent(value) for value in row.values()) + " |")
    return "\n".join(lines)


def write_report(folders: Sequence[Path], out: Path) -> str:
    """Measure the runs and write `report.html`, `.md`, `.json` and the figures to `out`.

    Where the images of a run that mixes are gone, there is a note in place of its mixes.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: if a run has not finished, or the runs were held out on different images.
    """
    runs = [read_run(folder) for folder in folders]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError("expected runs of different names, got " + ", ".join(r.name for r in runs))
    for run in runs[1:]:
        if (run.images, run.classes) != (runs[0].images, runs[0].classes):
            raise ValueError(
                f"{run.folder} and {runs[0].folder} predict different images; report on runs with "
                "one --hold-out at a time"
            )
    measured = {
        run.name: measure(run.probabilities, run.labels, run.counts, run.classes) for run in runs
    }
    for run, values in zip(runs, measured.values(), strict=True):
        values["recall_interval"] = recall_intervals(values["confusion"], run.classes)
        values["adjusted"] = adjust_logits(run.probabilities, run.labels, run.counts)
    steps = {
        "recall.png": lambda path: draw_recall(measured, path),
        "confusion.png": lambda path: draw_confusion(measured, path, runs[0].classes),
        "tradeoff.png": lambda path: draw_tradeoff(measured, path),
        "curves.png": lambda path: draw_curves({run.name: run.history for run in runs}, path),
    }
    mixing = next((run for run in runs if run.settings["mix"] != "none"), None)
    if mixing is not None:
        steps["mixes.png"] = lambda path: draw_run_mixes(mixing, path)
    told, note = {}, None  # what each figure shows, in words
    for name, draw in tqdm(steps.items(), desc="figures", disable=None, leave=False):
        try:
            told[out / name] = draw(out / name)
        except DataError as error:  # the data may be gone by now, and only the mixes need them
            note = f"No mixes are drawn, as the images cannot be read: {error}"
    table = as_table(measured)
    write_json(out / "report.json", measured)
    figures = "\n\n".join([f"![{path.stem}]({path.name})" for path in told] + [note or ""]).rstrip()
    counts = ", ".join(
        f"{label} {n}" for label, n in zip(runs[0].classes, runs[0].counts.tolist(), strict=True)
    )
    beware = "".join(f"**Beware** of {run.name}: {run.warning}.\n\n" for run in runs if run.warning)
    table = f"{beware}{table}"
    write_text(
        out / "report.md",
        f"# Report on {len(runs[0].images)} held-out images\n\n"
        f"In percent; a class column is its recall. Training images: {counts}.\n\n"
        f"{table}\n\n{figures}\n",
    )
    write_page(out / "report.html", runs, measured, told, note)
    return table


def find_data(run: Run, settings: Settings) -> Settings:
    """Take relative paths from a folder that the run was started in, else from this one."""
    folders = [Path(entry["folder"]) for entry in run.origin if "folder" in entry]
    found = [folder for folder in folders if (folder / settings.data).is_dir()]
    folder = found[-1] if found else Path()
    files = ("split_file", "csv", "groups")
    given = {name: getattr(settings, name) for name in files if getattr(settings, name)}
    there = {name: str(folder / file) for name, file in given.items()}
    return replace(settings, data=str(folder / settings.data), **there)


def draw_run_mixes(run: Run, path: Path) -> str:
    """Draw mixes of a run's training images, by its settings and trained model; tell of them."""
    settings, model = load_model(run.folder)
    settings = find_data(run, settings)
    train = split(settings).train
    # The strip shows pixels of pairs within a batch, whatever the run mixed.
    pairing = "relative" if settings.pairing == "second_batch" else settings.pairing
    mixer = make_mixer(replace(settings, pairing=pairing), run.counts)
    told = draw_mixes_of(mixer, train, settings.image_size, path, model=model, classes=run.classes)
    return f"Mixes of training images as {run.name} mixes them. {told}"


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
    print(f"\nWritten to {options.out / 'report.html'} and .md", file=sys.stderr)


if __name__ == "__main__":
    main()
