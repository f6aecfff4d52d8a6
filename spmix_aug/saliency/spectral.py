"""Spectral residual saliency."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.saliency.base import (
    blur,
    full_precision,
    gaussian_weights,
    grey_image,
    is_flat,
    scale_to_one,
)

# The amplitude, in units of grey levels in [0, 1] summed over the pixels, below which a frequency
# counts as absent. The logarithm would blow up what is rounding noise there.
AMPLITUDE_FLOOR = 1e-2
SMOOTHING = gaussian_weights(5, 8.0)


class SpectralResidual:
    """What is unexpected in an image's spectrum (Hou and Zhang, CVPR 2007); needs no model.

    The logarithm of the amplitude minus its local mean, with the old phase, transformed back.
    OpenCV's `StaticSaliencySpectralResidual` without its rounding to 8 bits, and with a floor
    under the amplitudes.

    Args:
        size: side, in pixels, of the square the image is brought to first.
    """

    needs_model = False

    def __init__(self, size: int = 64) -> None:
        self.size = _checks.integer("size", size, low=8)

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)` in [0, 1] of `images (B,C,H,W)` in [0, 1] or uint8."""
        grey = grey_image(images)  # (B,1,H,W)
        if len(grey) == 0:
            return grey.squeeze(1)
        with full_precision(grey.device):
            small = F.interpolate(grey, (self.size, self.size), mode="bilinear")
            maps = F.interpolate(spectral_residual(small), grey.shape[2:], mode="bilinear")
        return torch.where(is_flat(grey), 0.0, maps).squeeze(1)

    def __repr__(self) -> str:
        return f"SpectralResidual(size={self.size})"


def spectral_residual(grey: Tensor) -> Tensor:
    """Compute the spectral residual maps of `grey (B,1,h,w)`: the same shape, in [0, 1]."""
    spectrum = torch.fft.fft2(grey)
    log_amplitude = torch.log(spectrum.abs() + AMPLITUDE_FLOOR)
    # exp(log amplitude - mean) with the old phase is the spectrum itself times exp(-mean). So the
    # floor is in the mean alone, and a frequency that is absent stays absent.
    mean = blur(log_amplitude, (1 / 3, 1 / 3, 1 / 3), "reflect")
    energy = torch.fft.ifft2(spectrum * torch.exp(-mean)).abs()
    return scale_to_one(blur(energy, SMOOTHING, "reflect").square())
