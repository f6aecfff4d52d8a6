"""The figures of a report, as PNG files.

Example:
    python -m examples.isic2018.pictures --data data/phantom --out mixes.png
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
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


def errors(
    means: Sequence[float], intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Turn intervals into the lengths of error bars, in percent."""
    pairs = list(zip(means, intervals, strict=True))
    # A bound that is the mean may be rounded past it, and no bar has a negative length.
    return (
        [100 * max(0.0, mean - low) for mean, (low, _) in pairs],
        [100 * max(0.0, high - mean) for mean, (_, high) in pairs],
    )


def bars_of_recall(
    axes: Axes, found: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, float]]]]
) -> None:
    """Draw the recall of each class in percent with its interval, a bar a run."""
    width = 0.8 / len(found)
    for place, (name, (means, intervals)) in enumerate(found.items()):
        axes.bar(
            [index + (place - (len(found) - 1) / 2) * width for index in range(len(means))],
            [100 * mean for mean in means],
            width,
            yerr=errors(means, intervals),
            error_kw={"lw": 0.8},
            label=name,
        )
    axes.set_ylabel("recall, %")


def legend_below(figure: Figure, axes: Axes) -> None:
    """Name the runs of some axes below the figure, where they hide nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small")


def draw_recall(measured: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """Draw the recall of each class with its interval, a bar a run; return it in words."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots()
    bars_of_recall(
        axes,
        {
            name: (list(values["recall"].values()), list(values["recall_interval"].values()))
            for name, values in measured.items()
        },
    )
    classes = list(next(iter(measured.values()))["recall"])
    axes.set_xticks(range(len(classes)), classes)
    axes.set(ylim=(0, 100), title="Recall of each class on the held-out images")
    axes.grid(axis="y", alpha=0.3)
    legend_below(figure, axes)
    save(figure, path)
    told = [
        f"{name}: " + ", ".join(f"{label} {100 * r:.0f}" for label, r in values["recall"].items())
        for name, values in measured.items()
    ]
    return f"Recall of each class in percent, with 95 % intervals. {'; '.join(told)}."


def draw_confusion(
    measured: Mapping[str, Mapping[str, Any]], path: Path, classes: Sequence[str] = CLASSES
) -> str:
    """Draw the confusion matrix of each run, rows as shares; return the main mistakes in words."""
    columns = min(3, len(measured))
    rows = math.ceil(len(measured) / columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    told = []
    for axes, (name, values) in zip(grid, measured.items(), strict=False):
        counts = torch.tensor(values["confusion"])
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        for row, column in counts.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            text = str(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=60)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(title=name, xlabel="predicted", ylabel="true")
        mistakes = counts - counts.diag().diag()
        true, named = divmod(int(mistakes.argmax()), len(classes))
        told.append(
            f"{name}: {int(counts.trace())} of {int(counts.sum())} images named right"
            + (
                f", most mistakes {classes[true]} for {classes[named]} ({mistakes[true, named]})"
                if mistakes.any()
                else ""
            )
        )
    for axes in grid[len(measured) :]:
        axes.set_axis_off()
    save(figure, path)
    return f"Confusion matrices. {'; '.join(told)}."


def draw_tradeoff(measured: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """Draw rare against head recall over the exponent of the class counts, a line a run."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    told = []
    for name, values in measured.items():
        found = values["adjusted"]
        head, rare = ([100 * share for share in found[part]] for part in ("head", "rare"))
        (line,) = axes.plot(head, rare, lw=1, label=name)
        at = found["exponents"].index(0.0)
        axes.plot(head[at], rare[at], "o", color=line.get_color())
        told.append(f"{name}: head {head[at]:.0f} and rare {rare[at]:.0f} as trained")
    axes.set(xlabel="recall of the most frequent class, %", ylabel="mean recall of the few-shot, %")
    axes.grid(alpha=0.3)
    legend_below(figure, axes)
    save(figure, path)
    return f"Rare against head recall in percent, over the exponent. {'; '.join(told)}."


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> str:
    """Draw loss and balanced accuracy by epoch, a line a run; return how they go in words."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {
        "training loss": lambda row: row["loss"],
        "balanced accuracy, held out, %": lambda row: 100 * row["balanced_accuracy"],
    }
    for axes, (title, value) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name, history in histories.items():
            # A line of one point would not be seen.
            axes.plot(
                [row["epoch"] + 1 for row in history],
                [value(row) for row in history],
                marker="." if len(history) == 1 else "",
                label=name,
            )
        axes.set(xlabel="epoch", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    legend_below(figure, axes)
    save(figure, path)
    told = [
        f"{name}: loss from {history[0]['loss']:.2f} to {history[-1]['loss']:.2f}, balanced "
        f"accuracy from {100 * history[0]['balanced_accuracy']:.0f} % to "
        f"{100 * history[-1]['balanced_accuracy']:.0f} %, in {len(history)} "
        + ("epoch" if len(history) == 1 else "epochs")
        for name, history in histories.items()
    ]
    return f"Training loss and held-out balanced accuracy by epoch. {'; '.join(told)}."


def tail_batch(
    records: Sequence[Record], rows: int, image_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Load an image of each of the rarest classes, and of the most frequent one as its partner.

    Returns:
        images `(2 * rows,3,H,W)` in [0, 1], tails first; labels `(2 * rows,)`; the pairs
        `(2 * rows,)`, heads unmixed.
    """
    labels = torch.tensor([record.label for record in records])
    counts = class_counts(labels)
    *tails, head = [label for label in counts.argsort().tolist() if counts[label] > 0]
    chosen = [tails[row % len(tails)] for row in range(rows)] + [head] * rows
    seen = dict.fromkeys(chosen, 0)
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
    classes: Sequence[str] = CLASSES,
) -> str:
    """Draw how `mixer` mixes images of the rarest classes with the most frequent one.

    Images are normalised as `mixer` expects them, and drawn as they are.

    Returns:
        The figure in words.
    """
    images, labels, pairs = tail_batch(records, rows, image_size)
    given = images
    if mixer.mean is not None and mixer.std is not None:
        given = v2.functional.normalize(images, mixer.mean.tolist(), mixer.std.tolist())
    plan = mixer.plan(given, labels, model, partner=pairs)
    figure = plot_plan(images, plan, labels, rows, class_names=classes)
    save(figure, path)
    return str(figure.get_label())


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
        "--saliency", default="border_contrast", choices=model_free, help="provider"
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
