"""Partners that look like the own image, for SPMix: of similar skin, or with a lesion as large."""

import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from spmix_aug.functional import min_max_scores
from spmix_aug.saliency import BorderContrast

CANDIDATES = 8


def skin_colour(images: Tensor) -> Tensor:
    """Average the colour of the border of `images (B,3,H,W)` in [0, 1]: Lab `(B,3)`."""
    width = images.shape[-1] // 12
    top, bottom = images[..., :width, :], images[..., -width:, :]
    left, right = images[..., width:-width, :width], images[..., width:-width, -width:]
    border = torch.cat([part.flatten(2) for part in (top, bottom, left, right)], dim=2)
    return rgb_to_lab(border.unsqueeze(3)).mean(dim=(2, 3))


def lesion_size(images: Tensor) -> Tensor:
    """Estimate the share of `images (B,3,H,W)`, in [0, 1], that is lesion: `(B,1)`."""
    contrast = min_max_scores(BorderContrast()(images))
    return (contrast > 0.5).float().mean(dim=(1, 2)).unsqueeze(1)


DESCRIPTORS = {"skin": skin_colour, "size": lesion_size}


def draw_most_similar(
    descriptors: Tensor, frequency: Tensor, *, p: float, generator: torch.Generator
) -> Tensor:
    """Draw a few eligible partners for each sample and keep the most similar one.

    Eligible are, as in `pairing="relative"`, the others whose class is at least as frequent.

    Args:
        descriptors: of the images, `(B,D)`; near ones are alike.
        frequency: count of each sample's class, `(B,)`.
        p: probability of a partner, in [0, 1].
        generator: on the CPU.

    Returns:
        `partner (B,)`; a sample that is not mixed, or has no eligible partner, gets itself.
    """
    batch = len(frequency)
    itself = torch.arange(batch)
    eligible = (frequency >= frequency.unsqueeze(1)) & (itself != itself.unsqueeze(1))
    order = torch.rand(batch, batch, generator=generator).masked_fill(~eligible, 2)
    candidates = order.argsort(dim=1)[:, :CANDIDATES]
    distance = torch.cdist(descriptors, descriptors).masked_fill(~eligible, torch.inf)
    nearest = distance.gather(1, candidates).argmin(dim=1, keepdim=True)
    mixed = (torch.rand(batch, generator=generator) < p) & eligible.any(dim=1)
    return torch.where(mixed, candidates.gather(1, nearest).squeeze(1), itself)
