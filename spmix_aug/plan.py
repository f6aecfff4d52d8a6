"""Room 4: the plan of a mix, and what it does to images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spmix_aug import _checks
from spmix_aug.patches import expand_to_pixels


@dataclass(frozen=True, eq=False)
class MixPlan:
    """What is mixed with what, and how strongly; nothing is random once a plan exists.

    Attributes:
        partner: `(B,)` int64, whose background each sample gets; itself where it passes through.
        ratios: `(B,gh,gw)`, weight of the own image in each patch, in [0, 1]; 1 where a sample
            passes through.
        targets: `(B,K)`, the class distribution of each mixed sample.
        patch_size: P, in pixels.
        image_size: `(H,W)`, in pixels.
        saliency: the maps `(B,H,W)` that guided the ratios, for plots; None where none were
            needed, because nothing is mixed.
    """

    partner: Tensor
    ratios: Tensor
    targets: Tensor
    patch_size: int
    image_size: tuple[int, int]
    saliency: Tensor | None = None

    def images(self, images: Tensor, *, inplace: bool = False) -> Tensor:
        """Blend each image with its partner's, patch by patch (SPMix, equation 4).

        Samples that pass through, and patches of ratio 1, are selected rather than computed:
        bit-identical, and untouched by what may be wrong with the partner.

        Args:
            images: `(B,C,H,W)` of the plan's batch and size, in any floating dtype or uint8;
                low-precision images are blended in float32 and rounded back.
            inplace: write the result into `images`.

        Returns:
            `(B,C,H,W)` in the dtype and memory format of `images`, differentiable in them
            unless `inplace`.

        Raises:
            TypeError: if `images` is no tensor of an accepted dtype.
            ValueError: if its shape or device is not the plan's, or it cannot be written in place.
        """
        _checks.images_fit_plan(images, self.partner, self.image_size)
        if inplace:
            _checks.writable(images)
        exact = images if images.dtype in (torch.float32, torch.float64) else images.float()
        ratios = expand_to_pixels(self.ratios, self.patch_size, self.image_size)
        ratios = ratios.unsqueeze(1).to(exact.dtype)  # (B,1,H,W)
        blend = torch.lerp(exact[self.partner], exact, ratios)  # (B,C,H,W)
        if not images.is_floating_point():
            blend = blend.round()
        mixed = torch.where(ratios == 1, images, blend.to(images.dtype))
        if inplace:
            with torch.no_grad():
                return images.copy_(mixed)
        return mixed
