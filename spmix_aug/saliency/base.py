"""What every saliency provider is, and what the model-free ones share."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from kornia.color import rgb_to_grayscale
from kornia.filters import filter2d_separable
from torch import Tensor, nn

# Relative to the image's magnitude: above the rounding of a normalisation and a blur in float32,
# far below one grey level of 255.
FLAT_TOLERANCE = 1e-4
# Darker images than this are taken for as bright, as they may be rounding noise around 0.
LEAST_MAGNITUDE = 0.05


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


def finite_images(images: Tensor) -> Tensor:
    """Make `images (B,C,H,W)` float32, with uint8 brought to [0, 1].

    Values that are not finite become 0 and the others are bounded far outside [0, 1], so that
    sums over an image stay finite.
    """
    if images.dtype == torch.uint8:
        images = images.float() / 255
    return images.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(-1e4, 1e4)


def grey_levels(images: Tensor) -> Tensor:
    """Turn `images (B,C,H,W)` into whole grey levels, 0 to 255 for images in [0, 1].

    Luma for three channels, else the mean of the channels. Methods that were made for 8-bit images
    see their rounding, too: on smooth skin it is a good part of what they find. In return they are
    blind to contrast below one level of 255.

    Returns:
        `(B,1,H,W)` float32, always finite.
    """
    images = finite_images(images)
    grey = rgb_to_grayscale(images) if images.shape[1] == 3 else images.mean(1, keepdim=True)
    return round_levels(255 * grey)


def round_levels(levels: Tensor) -> Tensor:
    """Round grey levels to whole ones, halves up.

    The shift lies a little above a half, and on no short fraction: grey from 8-bit colours, also
    halved ones, is on such fractions, and there the noise of a normalisation would decide.
    """
    return (levels + 0.50037).floor()


def blur(images: Tensor, weights: Sequence[float], border: str) -> Tensor:
    """Filter `images (B,C,H,W)` with the same odd number of weights along each side.

    Args:
        images: floating images.
        weights: of the pixel's neighbours and itself, summing to 1.
        border: `"reflect"` (without the border pixel) or `"replicate"`.
    """
    kernel = torch.tensor([weights], dtype=images.dtype, device="cpu")
    kernel = kernel.to(images.device, non_blocking=True)
    return filter2d_separable(images, kernel, kernel, border_type=border)


def gaussian_weights(size: int, sigma: float) -> tuple[float, ...]:
    """Weights of a Gaussian over `size` pixels with a standard deviation of `sigma` pixels."""
    # Plain numbers: kornia's kernel would be made on the default device, and read back from it.
    weights = [math.exp(-0.5 * ((pixel - size // 2) / sigma) ** 2) for pixel in range(size)]
    return tuple(weight / sum(weights) for weight in weights)


def is_flat(images: Tensor) -> Tensor:
    """Tell which of the `images (B,C,H,W)` have no contrast in any channel: `(B,1,1,1)` bool."""
    low, high = (extreme(dim=(2, 3), keepdim=True) for extreme in (images.amin, images.amax))
    magnitude = torch.maximum(high.abs(), low.abs()).clamp(min=LEAST_MAGNITUDE)
    flat = high - low <= FLAT_TOLERANCE * magnitude
    return flat.all(dim=1, keepdim=True)


def scale_to_one(maps: Tensor) -> Tensor:
    """Divide each of the `maps (B,1,H,W)` by its maximum; a map of zeros stays."""
    highest = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(highest > 0, highest, 1.0)
