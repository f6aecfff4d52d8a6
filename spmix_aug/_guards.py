"""What may be a mistake, found in some pixels of the first batches, or in all by `check`."""

from typing import Any

import torch
from torch import Tensor

from spmix_aug._checks import needs_model
from spmix_aug.batch import unit_range
from spmix_aug.functional.patches import FLAT_SCORES, patch_grid

LOOKS = 3  # batches of a mixer that are looked at
LOOKED_AT = ("saliency", "patch_size", "mean", "std")  # settings after which it looks again
FEWEST_PATCHES = 16
IMAGES, POINTS = 8, 16  # looked at in a batch, and along a side of an image
OUTSIDE = 0.05  # share of pixels that may be outside [0, 1], and how far: a resize overshoots


def findings(
    mixer: Any, images: Tensor, patch_size: int, maps: Tensor | None, *, all_pixels: bool = False
) -> list[str]:
    """List what may be a mistake about a batch on the CPU.

    Args:
        mixer: whose settings the images meet.
        images: `(B,C,H,W)`.
        patch_size: P in pixels.
        maps: `(B,h,w)` of the mixer's provider, None where maps were given.
        all_pixels: look at all images and pixels.
    """
    found = [channels_last(images), few_patches(mixer, images, patch_size)]
    if not all_pixels:
        steps = [max(1, side // POINTS) for side in images.shape[2:]]
        images = images[:IMAGES, :, :: steps[0], :: steps[1]]
    if maps is not None and mixer.floor < mixer.alpha:
        found.append(useless_maps(images, maps, mixer.saliency))
        if not needs_model(mixer.saliency):
            found.append(value_range(images, mixer.mean, mixer.std)[0])
    return [text for text in found if text]


def on_levels(values: Tensor) -> bool:
    """Whether values are 8-bit levels divided by 255, and more than a few of them."""
    levels = 255 * values
    whole = levels.round()
    used = int((torch.bincount(whole.flatten().long().clamp(0, 256)) > 0).sum())
    return used > 7 and bool(((levels - whole).abs() < 1e-3).all())


def value_range(images: Tensor, mean: Tensor | None, std: Tensor | None) -> tuple[str, str]:
    """Judge whether images are what `mean` and `std` say: `(mistake, doubt)`, empty where none.

    Args:
        images: `(B,C,H,W)` or some of their pixels.
        mean: of the normalisation that the mixer assumes.
        std: the same.
    """
    if not images.is_floating_point() or images.numel() == 0:
        return "", ""
    images, raw = unit_range(images, None, None), unit_range(images, mean, std)
    low, high = (float(extreme) for extreme in torch.aminmax(images.nan_to_num(0.5, 0.5, 0.5)))
    unnormalised = mean is None or std is None or torch.cat([mean, std - 1]).abs().max() < 0.01
    found = f"but values from {low:.3g} to {high:.3g}"
    far = float(((raw < -OUTSIDE) | (raw > 1 + OUTSIDE)).float().mean()) > OUTSIDE
    if far and low >= 0 and high > 2 and bool((images == images.round()).all()):
        return f"Expected `images` in [0, 1] or uint8, {found}: divide them by 255.", ""
    if far and not unnormalised:
        return f"Expected `images` normalised by `mean` and `std`, {found}: give those used.", ""
    if far:
        hint = "give `mean` and `std` of their normalisation"
        return f"Expected `images` in [0, 1], as the mixer has no `mean`, {found}: {hint}.", ""
    if unnormalised or low < 0 or high > 1 or on_levels(raw):
        return "", ""
    # Nothing below its mean, nothing above mean and one deviation: as bright images may be.
    if on_levels(images) or (low < 0.02 and high > 0.98):
        hint = "normalise them, or leave `mean` and `std` out"
        return f"Expected `images` normalised by `mean` and `std`, {found}: {hint}.", ""
    return "", "cannot decide whether images are normalised: all values are in [0, 1]"


def few_patches(mixer: Any, images: Tensor, patch_size: int) -> str:
    """Judge a patch size that was set by hand, where patches differ in their ratio."""
    rows, columns = patch_grid((images.shape[2], images.shape[3]), patch_size)
    uniform = mixer.floor == mixer.alpha
    if mixer.patch_size is None or patch_size == 1 or uniform or rows * columns >= FEWEST_PATCHES:
        return ""
    return (
        f"Expected `patch_size` to give {FEWEST_PATCHES} patches or more, but {mixer.patch_size} "
        f"gives {rows} x {columns}: leave it out for 14 patches a side."
    )


def channels_last(images: Tensor) -> str:
    """Judge a last side of one, as of grey images `(B,H,W,1)`."""
    if images.shape[3] != 1 or min(images.shape[1:3]) < POINTS:
        return ""
    hint = "give images.permute(0, 3, 1, 2) if the last side are channels"
    return f"Expected `images` (B,C,H,W), but got shape {tuple(images.shape)}: {hint}."


def useless_maps(images: Tensor, maps: Tensor, provider: object) -> str:
    """Judge maps `(B,h,w)` that a provider made; `images` may be some pixels of what it saw."""
    name = getattr(provider, "__name__", type(provider).__name__)
    if not bool(maps.isfinite().all()) and bool(images.isfinite().all()):
        return f"Expected `saliency` to be finite, but {name} gave NaN or infinity, taken as 0."
    if len(maps) < 2 or maps[0].numel() < POINTS:
        return ""
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    flat = high - low <= FLAT_SCORES * torch.maximum(high.abs(), low.abs())
    lowest, highest = torch.aminmax(images.float().flatten(2), dim=2)  # (B,C)
    contrast = 0.1 * (255 if images.dtype == torch.uint8 else 1)
    if not bool(flat.all()) or not bool((highest - lowest > contrast).any(dim=1).all()):
        return ""
    hint = "all patches count as salient; take another `saliency`"
    return f"Expected `saliency` with contrast, but {name} gave flat maps of a whole batch: {hint}."
