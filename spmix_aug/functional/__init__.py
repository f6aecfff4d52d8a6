"""The method as pure functions on tensors: what `SaliencyPatchMix` runs, step by step.

Scores and ratios of patches, partners, the blend, and targets; each function takes tensors and
returns new ones, and draws nothing by itself. Arguments are not checked.
"""

from spmix_aug.functional.blend import blend, blend_images
from spmix_aug.functional.pairing import class_counts_in, draw_at_least_as_frequent, draw_other
from spmix_aug.functional.patches import (
    NORMALIZATIONS,
    add_noise,
    expand_to_pixels,
    mean_ratio,
    min_max_scores,
    mix_ratios,
    patch_grid,
    patch_scores,
    raise_floor,
    ratios_per_row,
    resize_ratios,
    soft_threshold_scores,
)
from spmix_aug.functional.targets import class_distribution, mix_targets

__all__ = [
    "NORMALIZATIONS",
    "add_noise",
    "blend",
    "blend_images",
    "class_counts_in",
    "class_distribution",
    "draw_at_least_as_frequent",
    "draw_other",
    "expand_to_pixels",
    "mean_ratio",
    "min_max_scores",
    "mix_ratios",
    "mix_targets",
    "patch_grid",
    "patch_scores",
    "raise_floor",
    "ratios_per_row",
    "resize_ratios",
    "soft_threshold_scores",
]
