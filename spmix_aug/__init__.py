"""Saliency-guided, patch-based mixup for long-tailed image classification (SPMix).

The way of a batch: `images (B,C,H,W)` -> saliency `(B,H,W)` -> patch scores `(B,gh,gw)` ->
partner `(B,)` -> ratios `(B,gh,gw)` -> mixed images `(B,C,H,W)` -> targets `(B,K)`.

These letters mean the same everywhere: B batch, C channels, H W height and width in pixels,
P patch size in pixels, gh gw rows and columns of the patch grid (`ceil(H/P)`, `ceil(W/P)`),
K classes. The first image of a pair is a sample's *own*, the second its *partner*: the papers' tail
and head image. A *ratio* is mixup's lambda, one a patch: the weight of the own image, in [0, 1].
"""

from spmix_aug.collate import SaliencyPatchMixCollate
from spmix_aug.plan import MixPlan
from spmix_aug.sampler import TailHeadPairSampler, class_counts, head_tail_split
from spmix_aug.transform import SaliencyPatchMix

__version__ = "0.1.0"

__all__ = [
    "MixPlan",
    "SaliencyPatchMix",
    "SaliencyPatchMixCollate",
    "TailHeadPairSampler",
    "class_counts",
    "head_tail_split",
]
