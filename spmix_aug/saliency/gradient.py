"""Input-gradient saliency."""

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug._checks import Checked, as_number, expect_type
from spmix_aug.saliency import guard
from spmix_aug.saliency.base import blur, finite, gaussian_weights


class InputGradient(Checked):
    """How much the loss would change with each pixel, `|d loss / d input|`; needs a model.

    The largest magnitude over the channels (Simonyan et al., arXiv 1312.6034), smoothed. The
    loss is the cross-entropy of each sample for the label given.

    Args:
        sigma: of the Gaussian that smooths the maps, in pixels, at most 1000; 0 smooths
            nothing.
    """

    needs_model = True
    _settings: ClassVar = {"sigma": partial(as_number, high=1000.0)}

    def __init__(self, sigma: float = 2.0) -> None:
        self.sigma = sigma

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)` of `images (B,C,H,W)`, as the model takes them.

        Raises:
            TypeError: if the images are integers, or the model returns no logits.
            ValueError: if labels or model are missing.
        """
        labels, model = guard.labels_and_model(self, images, labels, model)
        wanted, hint = "to be floating for InputGradient", "normalise them first"
        expect_type(images.is_floating_point(), "images", wanted, images.dtype, hint)
        if len(images) == 0:
            return images.new_zeros(0, *images.shape[2:], dtype=torch.float32)
        with guard.preserved(model, images.device) as network:
            leaf = guard.model_input(images, network)
            logits = guard.logits_for(labels, guard.run(network, leaf))
            # A sum, so that each sample's gradient is its own.
            loss = F.cross_entropy(logits, labels.clone(), reduction="sum")
            gradient = guard.gradient_of(loss, leaf)
            maps = finite(gradient.float().abs().amax(dim=1, keepdim=True))  # (B,1,H,W)
            if self.sigma > 0:
                side = 2 * math.ceil(2 * self.sigma) + 1
                maps = blur(maps, gaussian_weights(side, self.sigma), "replicate")
        return maps.squeeze(1)

    def __repr__(self) -> str:
        return f"InputGradient(sigma={self.sigma})"
