"""The figures of a report, as PNG files.

Example:
    python -m examples.isic2018.pictures --data data/phantom --out mixes.png
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.transforms import v2

from spmix_aug import SaliencyPatchMix, class_counts
from spmix_aug.saliency import PROVIDERS
from spmix_aug.viz import plot_plan

from .data import CLASSES, DataError, LesionImages, Record, read_records
from .files import write_whole


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all."""
    write_whole(path, lambda temporary: figure.savefig(temporary, dpi=110))


def draw_recall(measured: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the recall of each class, a bar a run."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(measured)
    for place, (name, values) in enumerate(measured.items()):
        offsets = [
            index + (place - (len(measured) - 1) / 2) * width for index in range(len(CLASSES))
        ]
        axes.bar(offsets, [values["recall"][label] for label in CLASSES], width, label=name)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set(ylim=(0, 1), ylabel="recall", title="Recall of each class on the held-out images")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_confusion(measured: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the confusion matrix of each run, rows of true classes as shares of their images."""
    figure = Figure(figsize=(4.2 * len(measured), 4.2), layout="constrained")
    for axes, (name, values) in zip(
        figure.subplots(1, len(measured), squeeze=False)[0], measured.items(), strict=True
    ):
        counts = torch.tensor(values["confusion"])
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        for row, column in counts.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=60)
        axes.set_yticks(range(len(CLASSES)), CLASSES)
        axes.set(title=name, xlabel="predicted", ylabel="true")
    save(figure, path)


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw training loss and held-out balanced accuracy by epoch, a line a run."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {"loss": "training loss", "balanced_accuracy": "balanced accuracy, held out"}
    for axes, (key, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, history in histories.items():
            axes.plot(
                [row["epoch"] + 1 for row in history], [row[key] for row in history], label=name
            )
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def tail_batch(
    records: Sequence[Record], rows: int, image_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Load an image of each of the rarest classes, and of the most frequent one as its partner.

    Returns:
        images `(2 * rows,3,H,W)` in [0, 1], tails first; labels `(2 * rows,)`; the pairs
        `(2 * rows,)`, heads unmixed.
    """
    labels = torch.tensor([record.label for record in records])
    counts = class_counts(labels, len(CLASSES))
    *tails, head = [label for label in counts.argsort().tolist() if counts[label] > 0]
    chosen = [tails[row % len(tails)] for row in range(rows)] + [head] * rows
    seen = dict.fromkeys(range(len(CLASSES)), 0)
    picks = []
    for label in chosen:
        of_class = (labels == label).nonzero().flatten()
        picks.append(records[int(of_class[seen[label] % len(of_class)])])
        seen[label] += 1
    transform = v2.Compose(
        [v2.Resize(image_size), v2.CenterCrop(image_size), v2.ToDtype(torch.float32, scale=True)]
    )
    images = torch.stack([image for image, _ in LesionImages(picks, transform)])
    pairs = torch.cat([torch.arange(rows) + rows, torch.arange(rows) + rows])
    return images, torch.tensor(chosen), pairs


def draw_mixes_of(
    mixer: SaliencyPatchMix,
    records: Sequence[Record],
    image_size: int,
    path: Path,
    *,
    rows: int = 4,
    model: nn.Module | None = None,
) -> None:
    """Draw how `mixer` mixes images of the rarest classes with the most frequent one.

    Images are normalised as `mixer` expects them, and drawn as they are.
    """
    images, labels, pairs = tail_batch(records, rows, image_size)
    given = images
    if mixer.mean is not None and mixer.std is not None:
        given = v2.functional.normalize(images, mixer.mean.tolist(), mixer.std.tolist())
    plan = mixer.plan(given, labels, model, partner=pairs)
    save(plot_plan(images, plan, labels, rows, class_names=CLASSES), path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a strip of mixes of a data folder."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.isic2018.pictures",
        description="Draw how images of the rarest classes get the background of the head class.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    model_free = [name for name, provider in PROVIDERS.items() if not provider().needs_model]
    parser.add_argument("--data", required=True, type=Path, help="folder in the challenge's layout")
    parser.add_argument("--out", required=True, type=Path, help="PNG file to write")
    parser.add_argument(
        "--saliency", default="spectral_residual", choices=model_free, help="provider"
    )
    parser.add_argument("--image-size", default=112, type=int, help="side in pixels")
    parser.add_argument("--patch-size", default=8, type=int, help="side of a patch in pixels")
    parser.add_argument("--rows", default=4, type=int, help="pairs to draw")
    options = parser.parse_args(arguments)
    mixer = SaliencyPatchMix(
        num_classes=len(CLASSES), saliency=options.saliency, patch_size=options.patch_size
    )
    try:
        records = read_records(options.data)
        draw_mixes_of(mixer, records, options.image_size, options.out, rows=options.rows)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
