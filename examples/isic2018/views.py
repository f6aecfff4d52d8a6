"""Views of images for training, and saliency maps of whole images that go along with them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJitter,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from kornia.augmentation.auto import RandAugment
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image, write_png
from torchvision.transforms import v2
from tqdm import tqdm

from spmix_aug.saliency import PROVIDERS

from .data import DataError, LesionImages, Record
from .files import write_whole

# Mean and standard deviation of the ISIC 2018 training images, as the papers have them.
MEAN = (0.765, 0.545, 0.569)
STD = (0.140, 0.151, 0.169)

# Image and map, uint8 `(3,H,W)` and `(1,H,W)` or None, to a view of both.
View = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


class PlainView:
    """Crop, flip and shift colours of an image, to `size` pixels a side; its map goes along."""

    def __init__(self, size: int) -> None:
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.5, 1)),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ColorJitter(0.2, 0.2, 0.2),
            ]
        )

    def __call__(self, image: Tensor, saliency: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Draw a view, uint8 like what is given."""
        if saliency is None:
            return self.transform(image), None
        view, cropped = self.transform(image, tv_tensors.Mask(saliency))
        return view, cropped.as_subclass(Tensor)


class JointView:
    """Apply operations of kornia to an image, and those that move pixels to its map as well."""

    def __init__(self, *operations: nn.Module) -> None:
        self.transform = AugmentationSequential(*operations, data_keys=["input", "mask"])

    def __call__(self, image: Tensor, saliency: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Draw a view, uint8 like what is given."""
        given = torch.zeros_like(image[:1]) if saliency is None else saliency
        view, cropped = self.transform(image.unsqueeze(0) / 255, given.unsqueeze(0) / 255)
        view, cropped = (
            (255 * each.squeeze(0).clamp(0, 1)).round().byte() for each in (view, cropped)
        )
        return view, None if saliency is None else cropped


def strong_view(size: int) -> JointView:
    """Make the papers' strong view: crop, flip, colours, RandAugment n = 2, m = 10 (of 30)."""
    return JointView(
        RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        RandomHorizontalFlip(),
        ColorJitter(0.4, 0.4, 0.4, 0.0, p=1.0),
        RandAugment(n=2, m=10),
    )


def weak_view(size: int) -> JointView:
    """Make the papers' weak view: crop, colours, grey, blur, flip."""
    return JointView(
        RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        ColorJitter(0.4, 0.4, 0.4, 0.0, p=1.0),
        RandomGrayscale(p=0.2),
        RandomGaussianBlur((5, 5), (0.1, 2.0), p=0.5),
        RandomHorizontalFlip(),
    )


def eval_transform(size: int) -> v2.Transform:
    """Resize and cut out the centre of one uint8 image, 224 of 256 parts as in the papers."""
    return v2.Compose([v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)])


class LesionViews(Dataset[tuple[list[Tensor], list[Tensor], int]]):
    """Views of the images of some records, each with the same crop of its saliency map.

    Args:
        records: The images, in the order of the dataset.
        views: Draw one view each of every image.
        maps: Folder of the images' saliency maps, from `cache_maps`; None for no maps.
    """

    def __init__(
        self, records: Sequence[Record], views: Sequence[View], maps: Path | None = None
    ) -> None:
        self.images = LesionImages(records)
        self.views = list(views)
        self.maps = maps

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[Tensor], list[Tensor], int]:
        """Return the views of an image, uint8, the views of its map if there are maps, its label.

        Raises:
            DataError: A file is missing or broken.
        """
        image, label = self.images[index]
        saliency = None
        if self.maps is not None:
            saliency = _read_map(_map_path(self.maps, self.images.records[index]), image)
        drawn = [view(image, saliency) for view in self.views]
        return [v for v, _ in drawn], [m for _, m in drawn if m is not None], label


def cache_maps(records: Sequence[Record], folder: Path, saliency: str) -> Path:
    """Compute the saliency of whole images that a folder has no maps of yet.

    Args:
        records: The images.
        folder: Where maps of any saliency may lie, each in a folder of its own.
        saliency: Name of a provider that needs no model.

    Returns:
        The folder of this saliency's maps, grey PNG files of the images' sizes.

    Raises:
        DataError: An image cannot be read.
    """
    place = folder / saliency
    provider: Any = PROVIDERS[saliency]()
    images = LesionImages(records)
    for index, record in enumerate(tqdm(records, desc="saliency", disable=None, leave=False)):
        path = _map_path(place, record)
        if not path.exists():
            levels = _levels(provider(images[index][0].unsqueeze(0)))
            write_whole(path, lambda file, levels=levels: write_png(levels, str(file)))
    return place


def _levels(saliency: Tensor) -> Tensor:
    """Bring a map `(1,H,W)` to grey levels; patch scores are relative, so its scale is free."""
    highest = saliency.amax()
    return (255 * saliency / torch.where(highest > 0, highest, 1.0)).round().byte()


def _map_path(folder: Path, record: Record) -> Path:
    return folder / f"{record.image}.png"


def _read_map(path: Path, image: Tensor) -> Tensor:
    """Read a map `(1,H,W)` uint8, of the size of its image."""
    try:
        saliency = decode_image(str(path), ImageReadMode.GRAY)
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read as a map ({error}); delete it") from error
    if saliency.shape[1:] != image.shape[1:]:
        raise DataError(
            f"{path}: a map of {tuple(saliency.shape[1:])} pixels, but its image has "
            f"{tuple(image.shape[1:])}; delete the folder of maps, which is of other images"
        )
    return saliency
