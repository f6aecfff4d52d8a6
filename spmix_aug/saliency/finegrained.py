"""Fine-grained saliency."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.saliency.base import (
    CoarseSaliency,
    blur,
    grey_levels,
    is_flat,
    round_levels,
    scale_to_one,
)

HALF_WIDTHS = (12, 24, 48, 28, 56, 112)


class FineGrained(CoarseSaliency):
    """How much each pixel differs from its surrounds of six sizes; needs no model.

    Montabone and Soto (Image and Vision Computing, 2010), the choice of the SPMix papers. In whole
    grey levels, as OpenCV's `StaticSaliencyFineGrained` up to the rounding of its result.

    Args:
        size: compute on the image brought to this many pixels along its shorter side, with the
            surrounds scaled alike, which is faster; None computes at full size. Images that are
            smaller are not enlarged.
    """

    needs_model = False

    def __init__(self, size: int | None = None) -> None:
        self.size = None if size is None else _checks.integer("size", size, low=8)

    def coarse_maps(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,h,w)` in [0, 1] of `images (B,C,H,W)` in [0, 1] or uint8."""
        levels = grey_levels(images)  # (B,1,H,W)
        size = (levels.shape[2], levels.shape[3])
        scale = 1.0 if self.size is None else min(1.0, self.size / min(size))
        small = [round(scale * side) for side in size]
        if len(levels) == 0:
            return levels.new_zeros(0, *small)
        flat = is_flat(levels)
        half_widths = [max(1, round(scale * half_width)) for half_width in HALF_WIDTHS]
        if scale < 1:
            levels = round_levels(F.interpolate(levels, small, mode="bilinear", antialias=True))
        maps = fine_grained(levels, half_widths)
        return torch.where(flat, 0.0, maps).squeeze(1)

    def __repr__(self) -> str:
        return f"FineGrained(size={self.size})"


def fine_grained(levels: Tensor, half_widths: list[int]) -> Tensor:
    """Compute the fine-grained maps of whole grey `levels (B,1,h,w)`: the same shape, in [0, 1]."""
    border = "reflect" if min(levels.shape[2:]) > 1 else "replicate"
    for _ in range(2):
        levels = round_levels(blur(levels, (0.25, 0.5, 0.25), border))
    # Sums of whole numbers around zero are exact in float32, or nearly so in large images.
    levels = levels - levels.mean(dim=(2, 3), keepdim=True).round()
    integral = F.pad(levels.cumsum(2).cumsum(3), (1, 0, 1, 0))
    on, off = torch.zeros_like(levels), torch.zeros_like(levels)
    for half_width in half_widths:
        contrast = levels - _surround_mean(levels, integral, half_width)
        on += contrast.clamp(min=0).floor()
        off += (-contrast).clamp(min=0).floor()
    return scale_to_one(scale_to_one(on) + scale_to_one(off))


def _surround_mean(levels: Tensor, integral: Tensor, half_width: int) -> Tensor:
    """Mean of the square around each pixel without the pixel itself, cut at the border.

    It is the pixel's own value where nothing else is left of the square. The square reaches one
    pixel further down and right than up and left, as OpenCV's does.
    """
    (top, bottom), (left, right) = (
        (
            (place - half_width + 1).clamp(min=0),
            (place + half_width + 1).clamp(max=len(place)),
        )
        for place in (torch.arange(side, device=levels.device) for side in levels.shape[2:])
    )
    strips = integral[:, :, bottom] - integral[:, :, top]
    total = strips[:, :, :, right] - strips[:, :, :, left]
    pixels = (bottom - top).unsqueeze(1) * (right - left)
    return torch.where(pixels > 1, (total - levels) / (pixels - 1), levels)
