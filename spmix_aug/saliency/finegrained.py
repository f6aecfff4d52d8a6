"""Fine-grained saliency."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.saliency.base import blur, full_precision, grey_image, is_flat, scale_to_one

HALF_WIDTHS = (12, 24, 48, 28, 56, 112)


class FineGrained:
    """How much each pixel differs from its surrounds of six sizes; needs no model.

    Montabone and Soto (Image and Vision Computing, 2010), the choice of the SPMix papers. Computed
    in the 8-bit grey levels of OpenCV's `StaticSaliencyFineGrained`, which is the authors' source
    of maps: on smooth skin their rounding is a good part of the map.

    Args:
        size: compute on the image brought to this many pixels along its shorter side, with the
            surrounds scaled alike, which is faster; None computes at full size. Images that are
            smaller are not enlarged.
    """

    needs_model = False

    def __init__(self, size: int | None = None) -> None:
        self.size = None if size is None else _checks.integer("size", size, low=8)

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)` in [0, 1] of `images (B,C,H,W)` in [0, 1] or uint8."""
        grey = grey_image(images)  # (B,1,H,W)
        if len(grey) == 0:
            return grey.squeeze(1)
        height, width = grey.shape[2:]
        scale = 1.0 if self.size is None else min(1.0, self.size / min(height, width))
        half_widths = [max(1, round(scale * half_width)) for half_width in HALF_WIDTHS]
        small = (round(height * scale), round(width * scale))
        with full_precision(grey.device):
            if scale == 1:
                maps = fine_grained(grey, half_widths)
            else:
                seen = F.interpolate(grey, small, mode="bilinear", antialias=True)
                maps = fine_grained(seen, half_widths)
                maps = F.interpolate(maps, (height, width), mode="bilinear")
        return torch.where(is_flat(grey), 0.0, maps).squeeze(1)

    def __repr__(self) -> str:
        return f"FineGrained(size={self.size})"


def fine_grained(grey: Tensor, half_widths: list[int]) -> Tensor:
    """Compute the fine-grained maps of `grey (B,1,h,w)` in [0, 1]: the same shape and range."""
    border = "reflect" if min(grey.shape[2:]) > 1 else "replicate"
    levels = _round(255 * grey)
    for _ in range(2):
        levels = _round(blur(levels, (0.25, 0.5, 0.25), border))
    # Sums of whole numbers around zero are exact in float32 up to images of a megapixel.
    levels = levels - levels.mean(dim=(2, 3), keepdim=True).round()
    integral = F.pad(levels.cumsum(2).cumsum(3), (1, 0, 1, 0))
    on, off = torch.zeros_like(levels), torch.zeros_like(levels)
    for half_width in half_widths:
        contrast = levels - _surround_mean(levels, integral, half_width)
        on += _whole(contrast.clamp(min=0))
        off += _whole((-contrast).clamp(min=0))
    return scale_to_one(scale_to_one(on) + scale_to_one(off))


def _round(levels: Tensor) -> Tensor:
    """Round to whole grey levels, halves up.

    Grey from 8-bit colours lies on multiples of 1/1000 of a level. The shift by half of that keeps
    rounding noise from deciding halves.
    """
    return (levels + 0.5005).floor()


def _whole(levels: Tensor) -> Tensor:
    """Cut `levels` to whole numbers, also those that rounding noise put just below one."""
    return (levels + 1e-4).floor()


def _surround_mean(levels: Tensor, integral: Tensor, half_width: int) -> Tensor:
    """Mean of the square around each pixel without the pixel itself, cut at the border.

    The square reaches one pixel further down and right than up and left, as OpenCV's does.
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
    return (total - levels) / (pixels - 1).clamp(min=1)
