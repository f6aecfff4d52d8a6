"""Views of images for training, and saliency maps of whole images that go along with them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from spmix_aug import __version__
from spmix_aug.saliency import PROVIDERS

from .data import DataError, LesionImages, Record, load_pixels
from .files import write_whole

# Mean and standard deviation of the ISIC 2018 training images, as the papers have them.
MEAN = (0.765, 0.545, 0.569)
STD = (0.140, 0.151, 0.169)

# The operations of timm's RandAugment and how strong they are at its magnitude 10: degrees, slopes
# and shares of the side, which go either way; bits, thresholds and steps of 255 levels; factors.
_GEOMETRIC = {
    "rotate": 30.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 0.45,
    "translate_y": 0.45,
}
_COLOURS = {
    "autocontrast": None,
    "equalize": None,
    "invert": None,
    "posterize": 4,
    "nothing": None,  # solarize above level 256
    "solarize_add": 110,
    "adjust_saturation": 1.9,
    "adjust_contrast": 1.9,
    "adjust_brightness": 1.9,
    "adjust_sharpness": 1.9,
}
_FILL = [round(255 * value) for value in MEAN]


class RandAugment(v2.Transform):
    """Apply random operations to an image, and those that move pixels to its map as well.

    RandAugment (arXiv 1909.13719) with the operations and strengths of timm's `rand-m10-n2`, as
    far as they go: torchvision's own takes no maps along, and kornia's is weaker.

    Args:
        n: operations that are drawn for an image, one after the other.
    """

    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.n = n

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the operations and which way they go."""
        operations = {**_GEOMETRIC, **_COLOURS}
        chosen = torch.randint(len(operations), (self.n,)).tolist()
        signs = (1 - 2 * torch.randint(2, (self.n,))).tolist()
        return {
            "operations": [
                (name, sign * _GEOMETRIC[name] if name in _GEOMETRIC else _COLOURS[name])
                for name, sign in zip((list(operations)[i] for i in chosen), signs, strict=True)
            ]
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply what was drawn to an image or a map."""
        for name, amount in params["operations"]:
            if name in _GEOMETRIC:
                inpt = _move(inpt, name, amount)
            elif not isinstance(inpt, tv_tensors.Mask):
                inpt = _recolour(inpt, name, amount)
        return inpt


def _move(inpt: Tensor, name: str, amount: float) -> Tensor:
    """Rotate, shear or translate an image or a map."""
    height, width = inpt.shape[-2:]
    return v2.functional.affine(
        inpt,
        angle=amount if name == "rotate" else 0.0,
        translate=[
            amount * width if name == "translate_x" else 0.0,
            amount * height if name == "translate_y" else 0.0,
        ],
        scale=1.0,
        shear=[
            math.degrees(math.atan(amount)) if name == axis else 0.0
            for axis in ("shear_x", "shear_y")
        ],
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=0 if isinstance(inpt, tv_tensors.Mask) else _FILL,
    )


def _recolour(image: Tensor, name: str, amount: Any) -> Tensor:
    """Change the colours of a uint8 image."""
    if name == "nothing":
        return image
    if name == "solarize_add":
        brighter = (image.int() + amount).clamp(max=255).to(image.dtype)
        return torch.where(image < 128, brighter, image)
    operation = getattr(v2.functional, name)
    changed: Tensor = operation(image) if amount is None else operation(image, amount)
    return changed


class View:
    """Draw a view of an image by transforms of torchvision; its map goes along.

    Args:
        transforms: applied one after the other to both.
    """

    def __init__(self, *transforms: v2.Transform) -> None:
        self.transform = v2.Compose(transforms)

    def __call__(self, image: Tensor, saliency: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Draw a view of `image (3,H,W)` and of its map `(1,H,W)`, all uint8."""
        if saliency is None:
            return self.transform(image), None
        view, moved = self.transform(image, tv_tensors.Mask(saliency))
        return view, moved.as_subclass(Tensor)


def plain_view(size: int) -> View:
    """Crop, flip and shift colours, to `size` pixels a side."""
    return View(
        v2.RandomResizedCrop(size, scale=(0.5, 1)),
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.ColorJitter(0.2, 0.2, 0.2),
    )


def strong_view(size: int) -> View:
    """Make the papers' strong view: crop, flip, colours, RandAugment n = 2, m = 10."""
    return View(
        v2.RandomResizedCrop(size, scale=(0.08, 1)),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4),
        RandAugment(n=2),
    )


def weak_view(size: int) -> View:
    """Make the papers' weak view: crop, colours, grey, blur, flip."""
    return View(
        v2.RandomResizedCrop(size, scale=(0.08, 1)),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5),
        v2.RandomHorizontalFlip(),
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


def cache_maps(records: Sequence[Record], folder: Path, saliency: str, *, workers: int = 0) -> Path:
    """Compute the saliency of whole images that a folder has no maps of, or older ones.

    Args:
        records: The images.
        folder: Where maps of any saliency may lie, each in a folder of its own.
        saliency: Name of a provider that needs no model.
        workers: Processes that compute, none for this one.

    Returns:
        The folder of this saliency's maps, grey PNG files of the images' sizes.

    Raises:
        DataError: An image cannot be read.
    """
    place = folder / f"{saliency}_{__version__}"
    missing = [record for record in records if not _is_current(_map_path(place, record), record)]
    maps = DataLoader(
        _WholeMaps(missing, PROVIDERS[saliency]()), batch_size=None, num_workers=workers
    )
    for record, levels in zip(
        missing, tqdm(maps, desc="saliency", disable=None, leave=False), strict=True
    ):
        write_whole(_map_path(place, record), Image.fromarray(levels.squeeze(0).numpy()).save)
    return place


class _WholeMaps(Dataset[Tensor]):
    """The saliency maps of whole images, `(1,H,W)` uint8, computed when asked for."""

    def __init__(self, records: Sequence[Record], provider: Any) -> None:
        self.images = LesionImages(records)
        self.provider = provider

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return _levels(self.provider(self.images[index][0].unsqueeze(0)))


def _is_current(path: Path, record: Record) -> bool:
    """Tell whether there is a map that was made after its image."""
    return path.exists() and path.stat().st_mtime >= record.path.stat().st_mtime


def _levels(saliency: Tensor) -> Tensor:
    """Bring a map `(1,H,W)` to grey levels; patch scores are relative, so its scale is free."""
    highest = saliency.amax()
    return (255 * saliency / torch.where(highest > 0, highest, 1.0)).round().byte()


def _map_path(folder: Path, record: Record) -> Path:
    return folder / f"{record.image}.png"


def _read_map(path: Path, image: Tensor) -> Tensor:
    """Read a map `(1,H,W)` uint8, of the size of its image."""
    saliency = torch.from_numpy(load_pixels(path, "L")[0]).unsqueeze(0)
    if saliency.shape[1:] != image.shape[1:]:
        raise DataError(
            f"{path}: a map of {tuple(saliency.shape[1:])} pixels, but its image has "
            f"{tuple(image.shape[1:])}; delete the folder of maps, which is of other images"
        )
    return saliency
