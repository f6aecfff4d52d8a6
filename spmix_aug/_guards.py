"""What may be a mistake, found in some pixels of the first batches, or in all by `check`."""

import sys
from typing import Any

import torch
from torch import Tensor

from spmix_aug._checks import needs_model
from spmix_aug.batch import unit_range
from spmix_aug.functional.patches import FLAT_SCORES, patch_grid

LOOKS = 3  # batches of a mixer that are looked at
# Settings after which it looks again.
LOOKED_AT = ("class_counts", "saliency", "patch_size", "mean", "std")
FEWEST_PATCHES = 16
IMAGES, POINTS = 8, 16  # looked at in a batch, and along a side of an image
OUTSIDE = 0.05  # share of pixels that may be outside [0, 1], and how far: a resize overshoots


def findings(
    mixer: Any,
    images: Tensor,
    classes: Tensor,
    patch_size: int,
    maps: Tensor,
    given: bool,
    *,
    all_pixels: bool,
) -> list[str]:
    """List what may be a mistake about a batch on the CPU.

    Args:
        mixer: whose settings the images meet.
        images: `(B,C,H,W)`.
        classes: `(B,)`, the largest part of each target.
        patch_size: P in pixels.
        maps: `(B,h,w)`, of the mixer's provider or given in its place.
        given: which; flat ones are the caller's own choice then.
        all_pixels: look at all images and pixels.
    """
    found = [channels_last(images), few_patches(mixer, images, patch_size)]
    found.append(uncounted(classes, mixer.class_counts))
    if all_pixels:
        found.append(broken_values(images))
    else:
        steps = [max(1, side // POINTS) for side in images.shape[2:]]
        images = images[:IMAGES, :, :: steps[0], :: steps[1]]
    if mixer.floor < mixer.alpha:
        found.append(broken_maps(images, maps, None if given else mixer.saliency))
        if not given:
            found.append(flat_maps(images, maps, mixer.saliency))
            if not needs_model(mixer.saliency):
                found.append(value_range(images, mixer.mean, mixer.std)[0])
    return [text for text in found if text]


def levels_used(values: Tensor) -> int:
    """Count the 8-bit levels that values divided by 255 are on; 0 where one is on none."""
    levels = 255 * values
    whole = levels.round()
    if not bool(((levels - whole).abs() < 1e-3).all()):
        return 0
    return int((torch.bincount(whole.flatten().long().clamp(0, 256)) > 0).sum())


def value_range(images: Tensor, mean: Tensor | None, std: Tensor | None) -> tuple[str, str]:
    """Judge whether images are what `mean` and `std` say: `(mistake, doubt)`, empty where none.

    Args:
        images: `(B,C,H,W)` or some of their pixels.
        mean: of the normalisation that the mixer assumes.
        std: the same.
    """
    if not images.is_floating_point() or images.numel() == 0:
        return "", ""
    images = unit_range(images, None, None).nan_to_num(0.5, 0.5, 0.5)
    raw = unit_range(images, mean, std)
    low, high = (float(extreme) for extreme in torch.aminmax(images))
    unnormalised = mean is None or std is None or torch.cat([mean, std - 1]).abs().max() < 0.01
    found = f"but values from {low:.3g} to {high:.3g}"
    far = float(((raw < -OUTSIDE) | (raw > 1 + OUTSIDE)).float().mean()) > OUTSIDE
    if far and low >= 0 and (high > 10 or (high > 2 and bool((images == images.round()).all()))):
        hint = "divide them by 255, or by the largest value of their format"
        return f"Expected `images` in [0, 1] or uint8, {found}: {hint}.", ""
    if far and not unnormalised:
        hint = "give those used"
        if mean is not None and float(mean.abs().max()) > 2:
            hint += ", for images in [0, 1] (of 8 bits, divide both by 255)"
        return f"Expected `images` normalised by `mean` and `std`, {found}: {hint}.", ""
    if far:
        hint = "give `mean` and `std` of their normalisation"
        return f"Expected `images` in [0, 1], as the mixer has no `mean`, {found}: {hint}.", ""
    darkest, lightest = (float(extreme) for extreme in torch.aminmax(raw))
    tiny = darkest > -1e-3 and lightest - darkest > 1e-3 and lightest < 1 / 250
    if tiny and levels_used(raw) == 0:
        hint = "divide 8-bit images by 255 once"
        return f"Expected `images` in [0, 1], but none is brighter than 1/255: {hint}.", ""
    if unnormalised or low < 0 or high > 1 or levels_used(raw) > 0:
        return "", ""
    # Nothing below its mean, nothing above mean and one deviation: as bright images may be, above
    # all if they end where white does.
    up_to_white = abs(float(raw.max()) - 1) < 0.01
    if levels_used(images) > 7 or (low < 0.02 and high > 0.98 and not up_to_white):
        hint = "normalise them, or leave `mean` and `std` out"
        return f"Expected `images` normalised by `mean` and `std`, {found}: {hint}.", ""
    return "", "cannot decide whether images are normalised: all values are in [0, 1]"


def broken_values(images: Tensor) -> str:
    """Judge values that are no numbers."""
    number = int((~images.isfinite()).sum()) if images.is_floating_point() else 0
    if number == 0:
        return ""
    return f"Expected `images` to be finite, but {number} values are not: they stay in the mix."


def uncounted(classes: Tensor, counts: Tensor | None) -> str:
    """Judge a class of the batch of which the data are said to have no sample."""
    missing = [] if counts is None else sorted({*classes[counts[classes] == 0].tolist()})
    if not missing:
        return ""
    hint = "give samples of each class, spmix_aug.class_counts(labels), not the labels themselves"
    return (
        f"Expected `class_counts` to count the classes of the batch, but {missing} have 0: {hint}."
    )


def mixed_before(labels: Any) -> str:
    """Judge rows given to a mixer in the loop that mixes in a `collate_fn` already."""
    if not isinstance(labels, Tensor) or not labels.is_floating_point():
        return ""
    got = "rows, and a SaliencyPatchMixCollate of this mixer makes such"
    hint = "leave the call in the loop out, or the collate_fn"
    return f"Expected `labels` of a batch that is not mixed yet, but got {got}: {hint}."


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


def broken_maps(images: Tensor, maps: Tensor, provider: object) -> str:
    """Judge maps `(B,h,w)` that are not finite, of a provider or, if that is None, given."""
    maps = maps.double()  # float8 has no question for infinity, and float none for the largest
    if bool(maps.isfinite().all()) or not bool(images.isfinite().all()):
        return ""
    got = "the given maps hold" if provider is None else f"{_named(provider)} gave"
    return f"Expected `saliency` to be finite, but {got} NaN or infinity, taken as 0."


def flat_maps(images: Tensor, maps: Tensor, provider: object) -> str:
    """Judge maps `(B,h,w)` without contrast; `images` may be some pixels of what was seen."""
    maps = maps.float()
    if len(maps) < 2 or maps[0].numel() < POINTS:
        return ""
    low, high = torch.aminmax(maps.flatten(1), dim=1)
    flat = high - low <= FLAT_SCORES * torch.maximum(high.abs(), low.abs())
    lowest, highest = torch.aminmax(images.float().flatten(2), dim=2)  # (B,C)
    contrast = 0.1 * (255 if images.dtype == torch.uint8 else 1)
    if not bool(flat.all()) or not bool((highest - lowest > contrast).any(dim=1).all()):
        return ""
    hint = "all patches count as salient; take another `saliency`"
    got = f"{_named(provider)} gave flat maps of a whole batch"
    return f"Expected `saliency` with contrast, but {got}: {hint}."


def _named(provider: object) -> str:
    return getattr(provider, "__name__", type(provider).__name__)


def stacklevel() -> int:
    """Count the frames up to the first that is neither ours nor torch's, for a warning from here.

    Made to be called in the arguments of `warnings.warn`.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in ("spmix_aug", "torch"):
        frame, level = frame.f_back, level + 1
    return level
