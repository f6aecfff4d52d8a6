"""Fine-grained saliency."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.saliency.base import blur, full_precision, grey_image, is_flat, scale_to_one

HALF_WIDTHS = (12, 24, 48, 28, 56, 112)


class FineGrained:
    """How much each pixel differs from its surrounds of six sizes; needs no model.

    Montabone and Soto (Image and Vision Computing, 2010), the choice of the SPMix papers.
    OpenCV's `StaticSaliencyFineGrained` without its rounding to 8 bits.

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
    """Compute the fine-grained maps of `grey (B,1,h,w)`: the same shape, in [0, 1]."""
    border = "reflect" if min(grey.shape[2:]) > 1 else "replicate"
    for _ in range(2):
        grey = blur(grey, (0.25, 0.5, 0.25), border)
    # Sums of values around zero lose least in float32, and only differences count below.
    grey = grey - grey.mean(dim=(2, 3), keepdim=True)
    integral = F.pad(grey.cumsum(2).cumsum(3), (1, 0, 1, 0))
    on, off = torch.zeros_like(grey), torch.zeros_like(grey)
    for half_width in half_widths:
        contrast = grey - _surround_mean(grey, integral, half_width)
        on += contrast.clamp(min=0)
        off += (-contrast).clamp(min=0)
    return scale_to_one(scale_to_one(on) + scale_to_one(off))


def _surround_mean(grey: Tensor, integral: Tensor, half_width: int) -> Tensor:
    """Mean of the square around each pixel without the pixel itself, cut at the border.

    The square reaches one pixel further down and right than up and left, as OpenCV's does.
    """
    (top, bottom), (left, right) = (
        (
            (place - half_width + 1).clamp(min=0),
            (place + half_width + 1).clamp(max=len(place)),
        )
        for place in (torch.arange(side, device=grey.device) for side in grey.shape[2:])
    )
    strips = integral[:, :, bottom] - integral[:, :, top]
    total = strips[:, :, :, right] - strips[:, :, :, left]
    pixels = (bottom - top).unsqueeze(1) * (right - left)
    return (total - grey) / (pixels - 1).clamp(min=1)
