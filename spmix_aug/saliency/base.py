"""What every saliency provider is, and what the model-free ones share."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug._checks import Checked, require_images
from spmix_aug._precision import line

# Relative to the image's magnitude: above the rounding of a normalisation and a blur in float32,
# far below one grey level of 255.
FLAT_IMAGE = 1e-4
# Images darker than this are treated as this bright: their contrast may be rounding noise.
LEAST_MAGNITUDE = 0.05

WHITE = 255.0  # in grey levels
# Weights of red, green and blue in grey (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Just above 0.5, so that halves round up, and no simple fraction: grey values of 8-bit colours are
# simple fractions, and there rounding noise would decide.
ROUNDING = 0.50037
# Pixels beyond this many times white are bounded, so that sums over an image stay finite.
FAR_OUTSIDE = 1e4


class SaliencyProvider(Protocol):
    """Computes how salient each pixel of each image is.

    Attributes:
        needs_model: whether `model` and `labels` are needed. A provider that needs none gets
            images in [0, 1]; one that needs a model gets them as they came.
    """

    needs_model: bool

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)`, non-negative, finite and float32.

        Args:
            images: `(B,C,H,W)`.
            labels: class indices `(B,)` or class distributions `(B,K)`.
            model: the classifier, which is left exactly as it was.

        A sample's map must not depend on the other samples of the batch.
        """
        ...


class ModelFree(Checked):
    """What our providers share that need no model: maps at fewer pixels than the image has.

    `low_res_maps(images)` computes them, `(B,h,w)`, of at least one image. A mix takes them as they
    are, since patches average the maps anyway.
    """

    needs_model = False
    low_res_maps: Callable[[Tensor], Tensor]

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)` of `images (B,C,H,W)` in [0, 1] or uint8; only they are used."""
        images = require_images(images)
        size = images.shape[2:]
        if len(images) == 0:  # which a Fourier transform refuses
            return images.new_zeros(0, *size, dtype=torch.float32)
        maps = self.low_res_maps(images)
        if maps.shape[1:] == size:
            return maps
        return F.interpolate(maps.unsqueeze(1), size, mode="bilinear").squeeze(1)

    def __repr__(self) -> str:
        settings = (f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(settings)})"


def finite(values: Tensor, bound: float = 1e15) -> Tensor:
    """Make values 0 where they are not finite, and bound the others, so that sums stay finite."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(-bound, bound)


def grey_levels(images: Tensor) -> Tensor:
    """Turn `images (B,C,H,W)` into whole grey levels, 0 to 255 for images in [0, 1].

    Luma for three channels, else the mean of the channels. Methods that were made for 8-bit images
    see their rounding, too: on smooth skin it is a good part of what they find. In return they are
    blind to contrast below one level of 255.

    Returns:
        `(B,1,H,W)` float32, not finite where a pixel is not.
    """
    scale = 1 if images.dtype == torch.uint8 else WHITE
    channels = images.unbind(1)
    weights = LUMA if len(channels) == 3 else [1 / len(channels)] * len(channels)
    # In place and channel by channel: this is the one pass over all pixels that most methods need.
    grey = line(channels[0].float(), ROUNDING, scale * weights[0])
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        grey.add_(channel.float(), alpha=scale * weight)
    return grey.floor_().unsqueeze(1)


def round_levels_(levels: Tensor) -> Tensor:
    """Round grey levels to whole ones in place, halves up."""
    return levels.add_(ROUNDING).floor_()


def blur(images: Tensor, weights: Sequence[float], border: str) -> Tensor:
    """Filter `images (B,C,H,W)` with the same odd number of weights along each side.

    Sums of shifted images: kornia's filter, a grouped convolution, takes ten times as long on CPUs.

    Args:
        images: floating images.
        weights: of the pixel's neighbours and itself; a first one of 1 saves a pass.
        border: `"reflect"` (without the border pixel) or `"replicate"`.
    """
    reach = len(weights) // 2
    blurred = F.pad(images, (reach, reach, reach, reach), mode=border)
    for dim in (3, 2):
        shifted = [blurred.narrow(dim, start, images.shape[dim]) for start in range(len(weights))]
        blurred = shifted[0] if weights[0] == 1 else shifted[0] * weights[0]
        for image, weight in zip(shifted[1:], weights[1:], strict=True):
            blurred = torch.add(blurred, image, alpha=weight)
    return blurred


def gaussian_weights(size: int, sigma: float) -> tuple[float, ...]:
    """Weights of a Gaussian over `size` pixels with a standard deviation of `sigma` pixels."""
    # Plain numbers: kornia's kernel would be made on the default device, and read back from it.
    weights = [math.exp(-0.5 * ((pixel - size // 2) / sigma) ** 2) for pixel in range(size)]
    return tuple(weight / sum(weights) for weight in weights)


def is_flat(images: Tensor) -> Tensor:
    """Tell which of the `images (B,C,H,W)` have no contrast in any channel: `(B,1,1,1)` bool."""
    low, high = torch.aminmax(images.flatten(2), dim=2)  # (B,C), about the same where it is flat
    magnitude = high.abs().clamp(min=LEAST_MAGNITUDE)
    flat = torch.sub(high, magnitude, alpha=FLAT_IMAGE) <= low
    return flat.all(dim=1).view(-1, 1, 1, 1)


def scale_to_one(maps: Tensor) -> Tensor:
    """Divide each of the `maps (B,1,H,W)` by its maximum; a map of zeros stays."""
    highest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / highest.clamp(min=torch.finfo(maps.dtype).tiny)
