"""Border-contrast saliency."""

from functools import partial
from typing import ClassVar

import torch
from kornia.color import rgb_to_linear_rgb
from torch import Tensor
from torch.nn import functional as F

from spmix_aug._checks import as_number, optional
from spmix_aug._precision import full_precision
from spmix_aug.saliency.base import FAR_OUTSIDE, ModelFree, finite, is_flat

# Images whose shorter side is longer are brought down to it. No map got worse by that at 14 or 28
# patches a side, and a Lab conversion takes powers of every pixel.
WORKING_SIDE = 64

# More rounds follow crops better, but shrink the background to the mode of its colours.
ROUNDS = 3

# In squared Lab units: what 8-bit rounding leaves on a border of a single colour.
ROUNDING_VARIANCE = 0.1
# As a share of the mean variance: keeps a covariance invertible in float32.
LEAST_VARIANCE = 1e-4

# Linear sRGB to X, Y, Z of CIE 1931, each relative to the D65 white point.
RELATIVE_XYZ = (
    (0.433946, 0.376214, 0.189825),
    (0.212671, 0.715160, 0.072169),
    (0.017757, 0.109469, 0.872705),
)


class BorderContrast(ModelFree):
    """How far each pixel's colour is from those of the image's own border; needs no model.

    Objects seldom fill an image, so its border shows what is background (Wei et al., ECCV 2012).
    The saliency is the Mahalanobis distance from the border's colours: in CIE Lab for three
    channels, else in the channels as they are. A crop may cut through the object, therefore the
    mean and covariance are taken again, three times, with each border pixel weighing as much as
    it is likely under the last ones. A black frame or a round field of view fills the border and
    turns the order around: cut it off first, or give a `center_prior`.

    Args:
        border: width of the border as a share of the shorter side, in [0, 0.5]; at least a pixel.
        center_prior: standard deviation, as a share of each side, of a Gaussian at the centre
            that multiplies the maps (0.3 does for centred objects). None when the objects may be
            anywhere.
    """

    _settings: ClassVar = {
        "border": partial(as_number, high=0.5),
        "center_prior": optional(partial(as_number, low=0.01)),
    }

    def __init__(self, border: float = 0.08, center_prior: float | None = None) -> None:
        self.border, self.center_prior = border, center_prior

    def low_res_maps(self, images: Tensor) -> Tensor:
        """Compute maps `(B,h,w)` of `images (B,C,H,W)` in [0, 1] or uint8."""
        if images.dtype == torch.uint8:
            images = images.float() / 255  # not in the default dtype
        images = finite(images.float(), FAR_OUTSIDE)
        size = (images.shape[2], images.shape[3])
        scale = min(1.0, WORKING_SIDE / min(size))
        small = [round(scale * side) for side in size]
        with full_precision(images.device):
            if scale < 1:
                images = F.interpolate(images, small, mode="bilinear", antialias=True)
            colours = lab(images) if images.shape[1] == 3 else 100 * images  # black to white
            width = max(1, round(self.border * min(images.shape[2:])))
            maps = distance_from_border(colours, width)  # (B,1,h,w)
            maps = torch.where(is_flat(images), 0.0, maps)
            if self.center_prior is not None:
                maps = maps * centred_gaussian(maps, self.center_prior)
        return maps.squeeze(1)


def lab(images: Tensor) -> Tensor:
    """Convert sRGB `images (B,3,H,W)` in [0, 1] to CIE Lab, L* in [0, 100].

    As kornia's `rgb_to_lab`, whose constants are copied to an accelerator with a wait.
    """
    matrix = torch.tensor(RELATIVE_XYZ, dtype=images.dtype, device="cpu")
    matrix = matrix.to(images.device, non_blocking=True)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, rgb_to_linear_rgb(images))
    threshold = 0.008856
    roots = torch.where(xyz > threshold, xyz.clamp(min=threshold).pow(1 / 3), 7.787 * xyz + 4 / 29)
    x, y, z = roots.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def distance_from_border(colours: Tensor, width: int) -> Tensor:
    """Mahalanobis distance of each pixel from the colours of its image's border.

    Args:
        colours: `(B,C,h,w)`.
        width: of the border, in pixels.

    Returns:
        `(B,1,h,w)`.
    """
    border = border_pixels(colours, width)  # (B,C,n)
    weights = border.new_full((len(border), 1, border.shape[2]), 1 / border.shape[2])
    for _ in range(ROUNDS):
        likelihood = -0.5 * squared_distance(border, *mean_and_spread(border, weights))
        weights = likelihood.softmax(dim=2)  # (B,1,n)
    squared = squared_distance(colours.flatten(2), *mean_and_spread(border, weights))
    return squared.sqrt().reshape(len(colours), 1, *colours.shape[2:])


def border_pixels(colours: Tensor, width: int) -> Tensor:
    """Collect the `width` outermost rows and columns of `colours (B,C,h,w)`: `(B,C,n)`."""
    height, length = colours.shape[2:]
    bottom, right = max(width, height - width), max(width, length - width)
    between = colours[:, :, width:bottom]
    sides = [
        colours[:, :, :width],
        colours[:, :, bottom:],
        between[:, :, :, :width],
        between[:, :, :, right:],
    ]
    return torch.cat([side.flatten(2) for side in sides], dim=2)


def mean_and_spread(pixels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean `(B,C,1)` of `pixels (B,C,n)`, and the lower root of their covariance.

    Args:
        pixels: `(B,C,n)`.
        weights: `(B,1,n)`, summing to 1 for each image.
    """
    mean = (weights * pixels).sum(dim=2, keepdim=True)  # (B,C,1)
    centred = pixels - mean
    # No matrix product: rounded to TF32, it might not be positive definite. One row at a time, as
    # all products at once would take C times the memory.
    weighted = weights * centred
    rows = [(weighted * centred[:, c : c + 1]).sum(dim=2) for c in range(centred.shape[1])]
    covariance = torch.stack(rows, dim=1)  # (B,C,C)
    variance = covariance.diagonal(dim1=1, dim2=2)
    least = ROUNDING_VARIANCE + LEAST_VARIANCE * variance.mean(dim=1, keepdim=True)
    covariance = covariance + torch.diag_embed(least.expand_as(variance))
    root, _ = torch.linalg.cholesky_ex(covariance)  # unlike `cholesky`, does not wait to check
    return mean, root


def squared_distance(pixels: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """Squared Mahalanobis distance of `pixels (B,C,n)`: `(B,1,n)`."""
    whitened: Tensor = torch.linalg.solve_triangular(root, pixels - mean, upper=False)
    return whitened.square().sum(dim=1, keepdim=True)


def centred_gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian `(h,w)` at the centre of `maps (B,1,h,w)`; `sigma` is a share of each side."""

    def along(side: int) -> Tensor:
        pixel = torch.arange(side, device=maps.device, dtype=maps.dtype)
        return torch.exp(-0.5 * (((pixel + 0.5) / side - 0.5) / sigma) ** 2)

    rows, columns = (along(side) for side in maps.shape[2:])
    return rows.unsqueeze(1) * columns
