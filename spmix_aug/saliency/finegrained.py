"""Fine-grained saliency."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug._checks import as_integer, optional
from spmix_aug.saliency import base

HALF_WIDTHS = (12, 24, 48, 28, 56, 112)
# Images per chunk: small enough that temporaries stay in the CPU's cache.
AT_ONCE = 8


class FineGrained(base.ModelFree):
    """How much each pixel differs from its surrounds of six sizes; needs no model.

    Montabone and Soto (Image and Vision Computing, 2010), the choice of the SPMix papers. In whole
    grey levels, as OpenCV's `StaticSaliencyFineGrained` up to the rounding of its result.

    Args:
        size: compute on the image brought to this many pixels along its shorter side, with the
            surrounds scaled alike, which is faster; None computes at full size. Images that are
            smaller are not enlarged.
    """

    _settings: ClassVar = {"size": optional(partial(as_integer, low=8))}

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def low_res_maps(self, images: Tensor) -> Tensor:
        """Compute maps `(B,h,w)` in [0, 1] of `images (B,C,H,W)` in [0, 1] or uint8."""
        levels = base.finite(base.grey_levels(images), base.FAR_OUTSIDE * base.WHITE)  # (B,1,H,W)
        size = (levels.shape[2], levels.shape[3])
        scale = 1.0 if self.size is None else min(1.0, self.size / min(size))
        small = [round(scale * side) for side in size]
        flat = base.is_flat(levels)
        half_widths = [max(1, round(scale * half_width)) for half_width in HALF_WIDTHS]
        if scale < 1:
            levels = base.round_levels_(
                F.interpolate(levels, small, mode="bilinear", antialias=True)
            )
        # A compiled graph is for any number of images.
        parts = [levels] if torch.compiler.is_compiling() else torch.split(levels, AT_ONCE)
        maps = torch.cat([fine_grained(part, half_widths) for part in parts])
        return torch.where(flat, 0.0, maps).squeeze(1)


def fine_grained(levels: Tensor, half_widths: list[int]) -> Tensor:
    """Compute the fine-grained maps of whole grey `levels (B,1,h,w)`: the same shape, in [0, 1]."""
    border = "reflect" if min(levels.shape[2:]) > 1 else "replicate"
    for _ in range(2):
        levels = base.round_levels_(base.blur(levels, (0.25, 0.5, 0.25), border))
    # Sums of whole numbers around zero are exact in float32, or nearly so in large images.
    levels = levels - levels.mean(dim=(2, 3), keepdim=True).round()
    # Clamped indices into the integral image, as slices of one that goes on at its border.
    reach = max(half_widths)
    integral = F.pad(levels.cumsum(2).cumsum(3), (1, 0, 1, 0))
    integral = F.pad(integral, (0, 0, reach, reach), mode="replicate")
    on, both = torch.zeros_like(levels), torch.zeros_like(levels)
    for half_width in half_widths:
        contrast = _surround_contrast(levels, integral, half_width, reach)
        contrast.trunc_()  # whole levels, on where positive, off where negative
        both += contrast
        on += contrast.clamp_(min=0)
    return base.scale_to_one(base.scale_to_one(on) + base.scale_to_one(on - both))


def _surround_contrast(levels: Tensor, integral: Tensor, half_width: int, reach: int) -> Tensor:
    """Level of each pixel above the mean of the square around it, without the pixel itself.

    The square is cut at the border, and where nothing else is left of it there is no contrast. It
    reaches one pixel further down and right than up and left, as OpenCV's does.

    Args:
        levels: `(B,1,h,w)`.
        integral: `(B,1,h+1,w+1)`, its first and last row repeated `reach` times.
        half_width: of the square, at most `reach`.
        reach: see `integral`.
    """
    strips = _window_difference(integral, 2, half_width, reach)
    strips = F.pad(strips, (reach, reach, 0, 0), mode="replicate")
    total = _window_difference(strips, 3, half_width, reach)

    def within(side: int) -> Tensor:
        place = torch.arange(side, device=levels.device)
        return (place + half_width + 1).clamp(max=side) - (place - half_width + 1).clamp(min=0)

    rows, columns = (within(side) for side in levels.shape[2:])
    pixels = rows.unsqueeze(1) * columns
    # level - (total - level) / (pixels - 1), rounded once
    return (levels * pixels).sub_(total).div_((pixels - 1).clamp(min=1))


def _window_difference(integral: Tensor, dim: int, half_width: int, reach: int) -> Tensor:
    """Subtract what lies before each place's window from what lies up to its end."""
    places = integral.shape[dim] - 2 * reach - 1
    end = integral.narrow(dim, reach + half_width + 1, places)
    return end - integral.narrow(dim, reach - half_width + 1, places)
