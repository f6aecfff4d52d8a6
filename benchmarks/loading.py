"""What a worker of a loader does for a batch: JPEG files read, cropped, and collated."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from benchmarks.peers import CLASS_COUNTS, Call, load, new_mixer
from spmix_aug import SaliencyPatchMixCollate

PHOTO = (450, 600)  # as the images of ISIC 2018


@contextmanager
def photos(number: int, size: tuple[int, int] = PHOTO) -> Iterator[list[Path]]:
    """Write JPEG files, in a folder that is gone afterwards.

    Smooth images with some noise, so that there is as much to decode as in a photo: about 3 bits a
    pixel.

    Yields:
        Their paths.
    """
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{place}.jpg" for place in range(number)]
        for path in paths:
            coarse = torch.rand(1, 3, 12, 16, generator=generator)
            smooth = F.interpolate(coarse, size, mode="bicubic", align_corners=False)[0]
            noise = 0.03 * torch.randn(1, *size, generator=generator)
            levels = (255 * (smooth + noise)).clamp(0, 255).to(torch.uint8)
            Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path, quality=90)
        yield paths


def new_works(paths: Sequence[Path], side: int) -> dict[str, Call]:
    """Make what a worker does for a batch of all the images, with and without mixing."""
    v2 = load("torchvision.transforms.v2")
    crop = v2.Compose(
        [v2.RandomResizedCrop(side), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )

    def samples() -> list[tuple[Tensor, int]]:
        read = []
        for place, path in enumerate(paths):
            with Image.open(path) as image:
                read.append((crop(image.convert("RGB")), place % len(CLASS_COUNTS)))
        return read

    def batch_by(collate: Callable[[Any], object]) -> Call:
        return lambda: collate(samples())

    return {
        "torch default_collate": batch_by(default_collate),
        "spmix SaliencyPatchMixCollate": batch_by(SaliencyPatchMixCollate(new_mixer())),
    }
