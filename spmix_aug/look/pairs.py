"""Pairs of images to look at, the rarest classes first, every one mixed."""

import torch
from torch import Tensor

from spmix_aug.functional import NORMALIZATIONS, patch_scores
from spmix_aug.saliency import PROVIDERS

SALIENCIES = {  # those that need no model
    "border_contrast": "border contrast",
    "spectral_residual": "spectral residual",
    "fine_grained": "fine-grained",
}


def draw_pairs(labels: Tensor, rows: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Draw images and partners, of classes at least as frequent, as a pair sampler's batches do.

    Args:
        labels: `(N,)` of the images to draw from; their counts say what is more frequent.
        rows: how many pairs.
        generator: of the draws.

    Returns:
        Indices of image and partner, the rarest classes first and more often.
    """
    counts = labels.bincount()
    present = [k for k in counts.argsort(stable=True).tolist() if counts[k] > 0][:rows]
    each = [rows // len(present) + (place < rows % len(present)) for place in range(len(present))]
    weights = 1 / counts[labels] + len(present) / len(labels)  # half balanced, half as the data
    pairs = []
    for k, number in zip(present, each, strict=True):
        members = (labels == k).nonzero().flatten()
        for own in members[torch.randperm(len(members), generator=generator)[:number]].tolist():
            eligible = torch.where(counts[labels] >= counts[k], weights, 0.0)
            eligible[own] = 0
            if eligible.sum() > 0:
                pairs.append((own, int(eligible.multinomial(1, generator=generator))))
    return pairs


def scores_and_maps(
    images: Tensor, partner: Tensor, saliency: str, patch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Find what every strength and all bounds of a mix follow from.

    Args:
        images: `(B,3,H,W)` in [0, 1].
        partner: `(B,)`.
        saliency: its name.
        patch_size: in pixels.

    Returns:
        For each normalisation the larger of the scores of own and partner, `(B,gh,gw)` in [0, 1],
        of which `min(alpha, floor + (1 - floor) * score)` is the ratio; and the maps `(B,H,W)`.
    """
    maps = PROVIDERS[saliency]()(images)
    scores = patch_scores(maps, patch_size, (images.shape[2], images.shape[3]))
    larger = {}
    for name, normalize in NORMALIZATIONS.items():
        own = normalize(scores)
        larger[name] = torch.maximum(own, own[partner])
    return larger, maps
