"""Spectral residual saliency."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug._checks import as_integer
from spmix_aug.saliency import base

# The amplitude, in grey levels summed over the pixels, below which a frequency counts as absent:
# the logarithm would blow it up. Rounding to whole levels alone makes about 18 at 64 x 64.
AMPLITUDE_FLOOR = 2.5
# Relative to the first, as the maps are scaled to 1 afterwards.
_GAUSSIAN = base.gaussian_weights(5, 8.0)
SMOOTHING = [weight / _GAUSSIAN[0] for weight in _GAUSSIAN]


class SpectralResidual(base.ModelFree):
    """What is unexpected in an image's spectrum (Hou and Zhang, CVPR 2007); needs no model.

    The logarithm of the amplitude minus its local mean, with the old phase, transformed back. In
    whole grey levels, as OpenCV's `StaticSaliencySpectralResidual`, with a floor under the
    amplitudes.

    Args:
        size: side, in pixels, of the square the image is brought to first, 8 to 1024.
    """

    _settings: ClassVar = {"size": partial(as_integer, low=8, high=1024)}

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def low_res_maps(self, images: Tensor) -> Tensor:
        """Compute maps `(B,size,size)` in [0, 1] of `images (B,C,H,W)` in [0, 1] or uint8."""
        small = F.interpolate(base.grey_levels(images), (self.size, self.size), mode="bilinear")
        small = base.finite(small, base.FAR_OUTSIDE * base.WHITE)  # (B,1,size,size)
        levels = base.round_levels_(small)
        return spectral_residual(levels).masked_fill_(base.is_flat(levels), 0.0).squeeze(1)


def spectral_residual(levels: Tensor) -> Tensor:
    """Compute the spectral residual maps of grey `levels (B,1,h,w)`: the same shape, in [0, 1]."""
    spectrum = torch.fft.fft2(levels)
    log_amplitude = magnitude(spectrum).add_(AMPLITUDE_FLOOR).log_()
    # exp(log amplitude - mean) with the old phase is the spectrum itself times exp(-mean). So the
    # floor is in the mean alone, and a frequency that is absent stays absent.
    mean = base.blur(log_amplitude, (1.0, 1.0, 1.0), "reflect").mul_(-1 / 9)
    energy = magnitude(torch.fft.ifft2(spectrum.mul_(mean.exp_())))
    return base.scale_to_one(base.blur(energy, SMOOTHING, "reflect").square_())


def magnitude(values: Tensor) -> Tensor:
    """Magnitude of complex `values`; `abs` guards against overflow and takes three times longer."""
    real, imaginary = torch.view_as_real(values).square().unbind(-1)
    return (real + imaginary).sqrt_()
