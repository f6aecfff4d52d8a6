"""Border-contrast saliency."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from spmix_aug._checks import as_number, optional
from spmix_aug._precision import full_precision, line
from spmix_aug.saliency.base import FAR_OUTSIDE, ModelFree, finite, is_flat

# Images whose shorter side is at least twice as long are brought down to it, or a few pixels more.
# Lesions and natural objects are found as well there as at 64 pixels.
WORKING_SIDE = 32
SAMPLES = 3  # of the pixels that become one

# More rounds follow crops better, but shrink the background to the mode of its colours.
ROUNDS = 3

# In squared Lab units: what 8-bit rounding leaves on a border of a single colour.
ROUNDING_VARIANCE = 0.1
# As a share of the variance of all the border's channels: float32 rounds by that, and the
# covariance has to stay invertible.
LEAST_VARIANCE = 3e-5

# Linear sRGB to X, Y, Z of CIE 1931, each relative to the D65 white point. The divisor belongs to
# the power that makes it linear.
RELATIVE_XYZ = tuple(
    tuple(share / 1.055**2.4 for share in row)
    for row in (
        (0.433946, 0.376214, 0.189825),
        (0.212671, 0.715160, 0.072169),
        (0.017757, 0.109469, 0.872705),
    )
)
LAB_OF_ROOTS = ((0.0, 116.0, 0.0), (500.0, -500.0, 0.0), (0.0, 200.0, -200.0))


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
        images = finite(shrink(images), FAR_OUTSIDE)
        if images.shape[1] == 3:
            with full_precision(images.device):
                colours = lab(images)
        else:
            colours = 100 * images  # black to white
        width = max(1, round(self.border * min(images.shape[2:])))
        with full_precision(images.device):
            maps = distance_from_border(colours, width)  # (B,1,h,w)
        maps = maps.masked_fill(is_flat(images), 0.0)
        if self.center_prior is not None:
            maps = maps * centred_gaussian(maps, self.center_prior)
        return maps.squeeze(1)


def shrink(images: Tensor) -> Tensor:
    """Bring `images (B,C,H,W)` to float32 in [0, 1], and to `WORKING_SIDE` pixels or a few more.

    Each pixel is the mean of up to `SAMPLES` along the diagonal of the square that it stands for:
    most of what averaging the square does, while most of the image is never read.
    """
    step = max(1, min(images.shape[2:]) // WORKING_SIDE)
    for dim in (2, 3):  # squares in the middle
        left_over = images.shape[dim] % step
        images = images.narrow(dim, left_over // 2, images.shape[dim] - left_over)
    places = [(2 * i + 1) * step // (2 * SAMPLES) for i in range(SAMPLES)]
    samples = torch.stack([images[:, :, place::step, place::step] for place in sorted({*places})])
    means = samples.mean(dim=0, dtype=torch.float32)
    return means / 255 if images.dtype == torch.uint8 else means


def lab(images: Tensor) -> Tensor:
    """Convert sRGB `images (B,3,H,W)` in [0, 1] to CIE Lab, L* in [0, 100].

    As kornia's `rgb_to_lab`, whose constants are copied to an accelerator with a wait.
    """
    to_xyz, to_lab, offset = (
        torch.tensor(numbers, dtype=images.dtype, device="cpu").to(images.device, non_blocking=True)
        for numbers in (RELATIVE_XYZ, LAB_OF_ROOTS, ((-16.0,), (0.0,), (0.0,)))
    )
    linear = power_with_toe(images.flatten(2), 0.04045, 0.055, 2.4, 1.055**2.4 / 12.92)
    roots = power_with_toe(to_xyz @ linear, 0.008856, 0.0, 1 / 3, 7.787)
    return torch.baddbmm(offset, to_lab.expand(len(images), -1, -1), roots).view_as(images)


def power_with_toe(
    values: Tensor, start: float, shift: float, power: float, slope: float
) -> Tensor:
    """Take `(values + shift) ** power` above `start`, and below it a line that goes on from there.

    By logarithms, which take half the time of `pow` on CPUs.
    """
    above = values.clamp(min=start)
    below = values - above
    above = above.add_(shift) if shift else above
    return above.log_().mul_(power).exp_().add_(below, alpha=slope)


def distance_from_border(colours: Tensor, width: int) -> Tensor:
    """Mahalanobis distance of each pixel from the colours of its image's border.

    Args:
        colours: `(B,C,h,w)`.
        width: of the border, in pixels.

    Returns:
        `(B,1,h,w)`.
    """
    border = border_pixels(colours, width)  # (B,C,n)
    mean = border.mean(dim=2, keepdim=True)  # taken away, so that squares lose no digits
    border, pixels = border - mean, colours.flatten(2) - mean
    variance = border.square().mean(dim=(1, 2), keepdim=True)
    share = LEAST_VARIANCE * border.shape[1]  # of the mean over the channels
    least = line(variance, ROUNDING_VARIANCE, share)  # (B,1,1)
    # A constant 1 before the channels makes one matrix of the sum of the weights, the weighted
    # sums, and those of the products.
    unit = torch.eye(1 + border.shape[1], dtype=border.dtype, device=border.device)
    floor = F.pad(unit[1:, 1:] * least, (1, 0, 1, 0))  # (B,1+C,1+C)
    border, pixels = (F.pad(values, (0, 0, 1, 0), value=1.0) for values in (border, pixels))
    weighted = border * border.shape[2] ** -0.5  # times the root of each weight
    for _ in range(ROUNDS):
        squared = squared_distance(border, weighted, floor, unit)
        weighted = border * squared.mul_(-0.5).softmax(dim=2).sqrt_()
    squared = squared_distance(pixels, weighted, floor, unit)
    return squared.sqrt_().view(len(colours), 1, *colours.shape[2:])


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


def squared_distance(pixels: Tensor, weighted: Tensor, floor: Tensor, unit: Tensor) -> Tensor:
    """Squared Mahalanobis distance of `pixels (B,1+C,n)` from others: `(B,1,n)`.

    Args:
        pixels: a constant 1, and C channels.
        weighted: the same of the others, `(B,1+C,m)`, times the root of each one's weight.
        floor: is added to their covariance, `(B,1+C,1+C)`.
        unit: the unit matrix of that size.
    """
    # A product with itself stays positive however a device rounds it.
    moments = torch.baddbmm(floor, weighted, weighted.mT)
    root, _ = torch.linalg.cholesky_ex(moments)  # unlike `cholesky`, does not wait to check
    # The first row of the root is the mean's: the others take it away from the channels.
    whiten = torch.linalg.solve_triangular(root, unit, upper=False)[:, 1:]
    whitened: Tensor = whiten @ pixels
    return whitened.square_().sum(dim=1, keepdim=True)


def centred_gaussian(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian `(h,w)` at the centre of `maps (B,1,h,w)`; `sigma` is a share of each side."""

    def along(side: int) -> Tensor:
        pixel = torch.arange(side, device=maps.device, dtype=maps.dtype)
        return torch.exp(-0.5 * (((pixel + 0.5) / side - 0.5) / sigma) ** 2)

    rows, columns = (along(side) for side in maps.shape[2:])
    return rows.unsqueeze(1) * columns
