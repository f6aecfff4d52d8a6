"""Measure how well saliency that needs no model finds objects in natural images.

    python -m benchmarks.object_boxes --data FOLDER --out benchmarks/results/object_boxes

FOLDER has `boxes.csv` (image, left, top, right, bottom in pixels, both ends inside) and a folder
`images`. The figure of an image is the chance that a pixel of the box scores above one outside
(AUC). A box holds background, too, so that no map reaches 1.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from benchmarks.lesion_focus import Maps, centre_gaussian, model_free, weighted_auc
from examples.isic2018.files import write_json, write_text
from examples.isic2018.origin import commit
from spmix_aug.saliency import BorderContrast, FineGrained, SpectralResidual

BATCH = 64
LARGE = 224  # pixels a side, to which small images are enlarged as for a pretrained network
SALIENCY: dict[str, Maps] = {
    "border contrast": model_free(BorderContrast()),
    "border contrast, centre prior 0.3": model_free(BorderContrast(center_prior=0.3)),
    "spectral residual": model_free(SpectralResidual()),
    "fine-grained": model_free(FineGrained()),
    "a Gaussian at the centre": centre_gaussian,
}


def read(root: Path) -> tuple[Tensor, Tensor]:
    """Read images `(N,3,H,W)` in [0, 1], and whether each pixel is in the box, `(N,H,W)`.

    Images that are all box, or nearly none, say nothing and are left out.
    """
    images, boxes = [], []
    with (root / "boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            with Image.open(root / "images" / row["image"]) as file_of_image:
                image = pil_to_tensor(file_of_image.convert("RGB"))
            box = torch.zeros(image.shape[1:], dtype=torch.bool)
            left, top, right, bottom = (int(row[k]) for k in ("left", "top", "right", "bottom"))
            box[top : bottom + 1, left : right + 1] = True
            if 0.01 < float(box.float().mean()) < 0.97:
                images.append(image / 255)
                boxes.append(box)
    return torch.stack(images), torch.stack(boxes)


def measure(maps: Maps, images: Tensor, boxes: Tensor) -> Tensor:
    """Compute the AUC of each image, `(N,)`."""
    found = []
    for some, inside in zip(images.split(BATCH), boxes.split(BATCH), strict=True):
        scores = maps(some, torch.zeros(len(some), dtype=torch.int64)).flatten(1)
        inside = inside.flatten(1)
        found.append(weighted_auc(scores, inside.float(), (~inside).float()))
    return torch.cat(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every saliency, at the images' size and enlarged, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    options = parser.parse_args(arguments)
    images, boxes = read(options.data)
    side = tuple(images.shape[2:])
    enlarged = F.interpolate(images, (LARGE, LARGE), mode="bilinear").clamp(0, 1)
    large_boxes = F.interpolate(boxes[:, None].float(), (LARGE, LARGE))[:, 0] > 0.5
    rows = []
    for name, maps in SALIENCY.items():
        both = measure(maps, images, boxes), measure(maps, enlarged, large_boxes)
        rows.append({"saliency": name, "auc": [_summary(auc) for auc in both]})
    lines = [
        f"# Object boxes, {len(images)} natural images, commit {commit()}",
        "",
        "Mean AUC of box against the rest with its standard error, and the tenth percentile.",
        "",
        f"| saliency | {side[0]} x {side[1]} | enlarged to {LARGE} |",
        "| --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{a['mean']:.3f} ± {a['error']:.3f} ({a['tenth']:.2f})" for a in row["auc"]]
        lines.append(f"| {row['saliency']} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out.with_suffix(".json"), {"commit": commit(), "rows": rows})
    write_text(options.out.with_suffix(".md"), text)
    print(text)


def _summary(auc: Tensor) -> dict[str, float]:
    """Summarise figures of images."""
    error = float(auc.std()) / len(auc) ** 0.5
    return {"mean": float(auc.mean()), "error": error, "tenth": float(auc.quantile(0.1))}


if __name__ == "__main__":
    main()
