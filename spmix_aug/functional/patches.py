"""Step 1: from saliency maps to patch scores. Step 3: from the scores of a pair to its ratios.

The formulas are those of SPMix (arXiv 2406.10801, section 2.2). A patch grid covers the whole
image; where P does not divide the height or width, border patches have fewer pixels.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug._precision import full_precision, line

# Relative to the scores' magnitude: far above float32 rounding, far below what an eye could see.
FLAT_SCORES = 1e-5

# Steep enough for the ratio to follow the map, and not so steep that half a patch decides.
THRESHOLD_SLOPE = 4.0


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of the patch grid, `(ceil(H/P), ceil(W/P))`."""
    height, width = image_size
    return math.ceil(height / patch_size), math.ceil(width / patch_size)


def patch_scores(saliency: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """Average the saliency over each patch, a border patch over the pixels it really has.

    Args:
        saliency: `(B,H,W)`; or coarser maps `(B,h,w)` of the whole image, which stand for their
            bilinear interpolation to its pixels.
        patch_size: P in pixels.
        image_size: `(H,W)`.

    Returns:
        `(B,gh,gw)`, in the dtype of the maps.
    """
    if len(saliency) == 0:
        return saliency.new_zeros(0, *patch_grid(image_size, patch_size))
    if tuple(saliency.shape[1:]) == image_size:
        # Without padding, `ceil_mode` windows are cut at the border and divided by what is left.
        return F.avg_pool2d(saliency.unsqueeze(1), patch_size, ceil_mode=True).squeeze(1)
    rows, columns = (
        _weights("patch", (values, pixels, patch_size), saliency)
        for values, pixels in zip(saliency.shape[1:], image_size, strict=True)
    )
    with full_precision(saliency.device):
        return rows @ saliency @ columns.T


def _weights(kind: str, sizes: tuple[int, ...], like: Tensor) -> Tensor:
    """Bring cached weights to the device and dtype of a tensor, without waiting for the device."""
    if torch.compiler.is_compiling():
        # Numbers that are written into the graph: of a tensor there the size would be a symbol.
        values = _numbers(kind, *map(operator.index, sizes))
        weights = torch.tensor(values, dtype=torch.float64, device="cpu")
        weights = weights.T if kind == "patch" else weights  # as it lies in memory uncompiled
    else:
        found = _in_float32 if like.dtype == torch.float32 else _in_float64
        weights = torch.from_numpy(found(kind, *sizes))
    return weights.to(like.device, like.dtype, non_blocking=True)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _numbers(kind: str, *sizes: int) -> list[list[float]]:
    """Write cached weights out, for compiled code."""
    weights = _in_float64(kind, *sizes)
    numbers: list[list[float]] = (weights.T if kind == "patch" else weights).tolist()
    return numbers


def _patch_weights(values: int, pixels: int, patch_size: int) -> np.ndarray[Any, Any]:
    """Weight of each map value in the mean over each patch along one side: `(patches, values)`.

    Interpolating and averaging are linear, so one matrix a side does both.
    """
    place = (np.arange(pixels) + 0.5) * (values / pixels) - 0.5  # of each pixel among the values
    distance = np.abs(place.clip(0, values - 1) - np.arange(values)[:, None])
    interpolated = (1 - distance).clip(min=0)  # (values, pixels)
    first = np.arange(0, pixels, patch_size)
    sums = np.add.reduceat(interpolated, first, axis=1)
    weights: np.ndarray[Any, Any] = (sums / np.minimum(patch_size, pixels - first)).T
    return weights


def add_noise(scores: Tensor, noise: Tensor, jitter: float) -> Tensor:
    """Add `noise` to `scores`, scaled to `jitter` standard deviations of each image's scores.

    Args:
        scores: `(B,gh,gw)`.
        noise: `(B,gh,gw)`, of mean 0 and variance 1.
        jitter: standard deviation of what is added, in units of that image's own spread.
    """
    spread = scores.std(dim=(1, 2), correction=0, keepdim=True)
    return scores + jitter * spread * noise.to(scores.dtype)


def min_max_scores(scores: Tensor) -> Tensor:
    """Stretch each image's `scores (B,gh,gw)` to [0, 1] by its lowest and highest, as SPMix does.

    All are 1 where an image has no contrast: its map cannot say where the object is, so every
    patch counts as salient.
    """
    if scores.numel() == 0:
        return scores
    low, high = (extreme.view(-1, 1, 1) for extreme in torch.aminmax(scores.flatten(1), dim=1))
    span = high - low
    flat = span <= FLAT_SCORES * high.abs()  # where `low` is about the same
    stretched = (scores - low) / span.masked_fill(flat, 1.0)
    return stretched.masked_fill(flat, 1.0)


def soft_threshold_scores(scores: Tensor) -> Tensor:
    """Push each image's `scores (B,gh,gw)` towards 0 or 1, below or above their mean.

    A logistic function of the standardised scores. Stretching leaves most patches near 0 where a
    few stand out; here they are told apart all the same. All are 1 where an image has no contrast.
    """
    if scores.numel() == 0:
        return scores
    stretched = min_max_scores(scores)
    spread, mean = torch.std_mean(stretched, dim=(1, 2), correction=0, keepdim=True)
    flat = spread == 0
    standardised = (stretched - mean) / torch.where(flat, 1.0, spread)
    return torch.where(flat, 1.0, torch.sigmoid(THRESHOLD_SLOPE * standardised))


NORMALIZATIONS = {"min_max": min_max_scores, "soft_threshold": soft_threshold_scores}


def raise_floor(scores: Tensor, floor: float) -> Tensor:
    """Bring normalised `scores` from [0, 1] to [`floor`, 1], so that no patch weighs less."""
    return line(scores, floor, 1 - floor)


def mix_ratios(own: Tensor, partner: Tensor, alpha: float) -> Tensor:
    """Ratio of the own image in each patch, `min(alpha, max(own, partner))`.

    The maximum lets the own image dominate also where the *partner* is salient: the partner's
    object is held down rather than pasted in.

    Args:
        own: scores of the own images, `(B,gh,gw)` in [0, 1].
        partner: scores of the partner images, the same shape.
        alpha: upper bound of the ratio, in [0, 1].
    """
    return torch.maximum(own, partner).clamp(max=alpha)


def ratios_per_row(ratios: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """Ratios of every pixel column, for rows of pixels that are alike: `(B,gh,gw)` to `(B,rows,W)`.

    A row is a row of patches; or of pixels where P does not divide the height, as all rows must be
    of one height to be broadcast over.
    """
    height, width = image_size
    rows = ratios.repeat_interleave(patch_size, dim=2)[:, :, :width]
    if height % patch_size == 0:
        return rows
    return rows.repeat_interleave(patch_size, dim=1)[:, :height]


def expand_to_pixels(ratios: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """Give every pixel the ratio of its patch: `(B,gh,gw)` to `(B,H,W)`."""
    rows = ratios_per_row(ratios, patch_size, image_size)
    return rows.repeat_interleave(image_size[0] // rows.shape[1], dim=1)


def mean_ratio(ratios: Tensor, patch_size: int, image_size: tuple[int, int]) -> Tensor:
    """Mean ratio over the pixels of each image, `(B,)` in [0, 1].

    A border patch counts by the pixels that it has.
    """
    rows, columns = (
        (side - patch_size * torch.arange(patches, device=ratios.device)).clamp(max=patch_size)
        for side, patches in zip(image_size, ratios.shape[1:], strict=True)
    )  # pixels of each patch row and column
    pixels = rows.unsqueeze(1) * columns
    height, width = image_size
    return (ratios * pixels).sum(dim=(1, 2)) / (height * width)


def resize_ratios(
    ratios: Tensor, patch_size: int, image_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Average `ratios (B,gh,gw)` over the cells of another grid on the same image: `(B,h,w)`.

    The cells of the new grid are all alike and cover the image; each takes the mean ratio of its
    area. A mean of 1 is exactly 1, whatever its rounding.
    """
    if tuple(ratios.shape[1:]) == grid:
        return ratios
    rows, columns = (
        _weights("area", (patches, patch_size, pixels, cells), ratios)
        for patches, pixels, cells in zip(ratios.shape[1:], image_size, grid, strict=True)
    )
    with full_precision(ratios.device):
        means = rows @ ratios @ columns.T
    return torch.where(means > 1 - FLAT_SCORES, 1.0, means)


def _area_shares(patches: int, patch_size: int, pixels: int, cells: int) -> np.ndarray[Any, Any]:
    """Share of each cell that lies in each patch along one side: `(cells, patches)`."""
    first = np.arange(patches) * patch_size
    start = np.arange(cells)[:, None] * pixels / cells
    last, stop = np.minimum(first + patch_size, pixels), start + pixels / cells
    inside = np.minimum(last, stop) - np.maximum(first, start)
    return inside.clip(min=0) * cells / pixels


_WEIGHTS: dict[str, Callable[..., np.ndarray[Any, Any]]] = {
    "patch": _patch_weights,
    "area": _area_shares,
}


@functools.lru_cache(maxsize=64)
def _in_float64(kind: str, *sizes: int) -> np.ndarray[Any, Any]:
    """Keep the weights of a kind."""
    return _WEIGHTS[kind](*sizes)


@functools.lru_cache(maxsize=64)
def _in_float32(kind: str, *sizes: int) -> np.ndarray[Any, Any]:
    """Keep the same where they are mostly used, so that nothing is converted in a call."""
    return _in_float64(kind, *sizes).astype(np.float32)
