"""Grad-CAM saliency."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug import _checks
from spmix_aug.saliency.guard import (
    gradient_of,
    logits_of,
    model_input,
    undisturbed,
    unwrap,
)


class GradCAM:
    """What the last convolutional stage saw of the class (Selvaraju et al., ICCV 2017).

    The stage's feature maps, weighted by the mean gradient of the label's logit, summed and cut
    at 0 (equations 1 and 2). A soft label's logit is the weighted sum of the logits.

    Args:
        target_layer: module, or its dotted name, whose output is taken. When None, it is the
            last one that gives a map with more than one pixel, or, in a ViT of timm's form, the
            first norm of the last block.
        reshape_transform: turns the layer's output into feature maps `(B,D,h,w)`; needed for
            tokens of models that are not of timm's ViT form.
    """

    needs_model = True

    def __init__(
        self,
        target_layer: str | nn.Module | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if target_layer is not None and not isinstance(target_layer, (str, nn.Module)):
            raise TypeError(
                "Expected `target_layer` to be a module, its dotted name or None, "
                f"but got {type(target_layer).__name__}."
            )
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(
                "Expected `reshape_transform` to be callable or None, "
                f"but got {type(reshape_transform).__name__}."
            )
        self.target_layer = target_layer
        self.reshape_transform = reshape_transform

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, model: nn.Module | None = None
    ) -> Tensor:
        """Compute maps `(B,H,W)` of `images (B,C,H,W)`, as the model takes them.

        Raises:
            TypeError: if the model returns no logits.
            ValueError: if labels or model are missing, or no layer of the model fits.
        """
        _checks.images(images)
        labels, model = _checks.labels_and_model(self, images, labels, model)
        size = (images.shape[2], images.shape[3])
        if len(images) == 0:
            return images.new_zeros(0, *size, dtype=torch.float32)
        with undisturbed(model, images.device) as network:
            layer, features, output = self._watch(network, model_input(images, network))
            logits = logits_of(output)
            _checks.labels_fit_logits(labels, logits)
            one_hot = labels.clone() if labels.ndim == 2 else F.one_hot(labels, logits.shape[1])
            slopes = gradient_of((logits * one_hot).sum(), features)
            maps, slopes = (
                self._as_maps(tensor.detach().float(), layer, network, images)
                for tensor in (features, slopes)
            )  # (B,D,h,w)
            weights = slopes.mean(dim=(2, 3), keepdim=True)
            cam = (weights * maps).sum(dim=1, keepdim=True).clamp(min=0)  # (B,1,h,w)
            cam = F.interpolate(cam, size, mode="bilinear")
        return cam.squeeze(1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def _watch(self, network: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor, Any]:
        """Run the model and keep the target layer, what it gave, and the model's output."""
        kept: list[tuple[nn.Module, Tensor]] = []

        def keep(module: nn.Module, _: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(
                    "Expected `target_layer` to give a tensor, but "
                    f"{type(module).__name__} gave {type(output).__name__}; choose a layer in it."
                )
            kept[:] = [(module, output)]
            return output.clone()  # an operation in place that follows must not change what is kept

        def keep_last_map(module: nn.Module, _: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                kept[:] = [(module, output)]
            elif output.ndim == 3 and output.shape[1] > 1:
                kept.clear()  # tokens: the map before them was an embedding, not a last stage

        target = self._target_in(network)
        with ExitStack() as hooks:
            for module in network.modules() if target is None else [target]:
                hook = keep_last_map if target is None else keep
                hooks.enter_context(module.register_forward_hook(hook))
            # The clone lets a model begin with an operation in place.
            output = network(images.clone())
        if kept and not kept[0][1].requires_grad:
            raise ValueError(
                f"Expected gradients to flow through {type(kept[0][0]).__name__}, but none do: it "
                "runs under no_grad, in checkpointing with use_reentrant=True (use "
                "use_reentrant=False), or is frozen and the images are integers; choose another "
                "GradCAM(target_layer=...), or use model-free saliency."
            )
        if not kept:
            raise ValueError(
                f"Expected a layer of {type(network).__name__} that gives feature maps (B,D,h,w), "
                f"but found none{'' if target is None else ' at `target_layer`'}; give "
                "GradCAM(target_layer=...), with reshape_transform=... where its output is tokens."
            )
        return *kept[0], output

    def _target_in(self, network: nn.Module) -> nn.Module | None:
        """Find the layer that was asked for, or that a ViT of timm's form is known to need."""
        target = self.target_layer
        if isinstance(target, str):
            try:
                return unwrap(network.get_submodule(target))
            except AttributeError as error:
                raise ValueError(
                    f"Expected `target_layer` to name a module of {type(network).__name__}, "
                    f"but got '{target}'; its parts are "
                    f"{', '.join(name for name, _ in network.named_children())}."
                ) from error
        if target is not None:
            target = unwrap(target)
            if all(target is not module for module in network.modules()):
                raise ValueError(
                    f"Expected `target_layer` to be a module of {type(network).__name__}, but got "
                    f"a {type(target).__name__} that is not in it; give its dotted name."
                )
            return target
        if hasattr(network, "patch_embed") and hasattr(network, "blocks"):
            # After the last attention only the class token gets a gradient.
            return getattr(list(network.blocks)[-1], "norm1", None)  # type: ignore[arg-type]
        return None

    def _as_maps(
        self, features: Tensor, layer: nn.Module, network: nn.Module, images: Tensor
    ) -> Tensor:
        """Bring what the layer gave into the form `(B,D,h,w)`."""
        size = (images.shape[2], images.shape[3])
        if self.reshape_transform is not None:
            features = self.reshape_transform(features)
        elif features.ndim == 3:
            features = _tokens_as_maps(features, network, size)
        elif features.ndim == 4 and _channels_last(features, size):
            features = features.movedim(-1, 1)
        if (
            not _checks.is_dense(features)
            or features.ndim != 4
            or len(features) != len(images)
            or 0 in features.shape
            or features.is_complex()
        ):
            raise ValueError(
                f"Expected feature maps of shape (B,D,h,w) from {type(layer).__name__}, but got "
                f"{_checks.described(features)}; give GradCAM(reshape_transform=...)."
            )
        return features.float()

    def __repr__(self) -> str:
        return f"GradCAM(target_layer={self.target_layer!r})"


def _channels_last(features: Tensor, size: tuple[int, int]) -> bool:
    """Tell whether maps are `(B,h,w,D)`, by which of their sides are in the image's proportion."""

    def misfit(height: int, width: int) -> float:
        return abs(math.log(height * size[1] / (width * size[0])))

    return misfit(*features.shape[1:3]) < misfit(*features.shape[2:4])


def _tokens_as_maps(tokens: Tensor, network: nn.Module, size: tuple[int, int]) -> Tensor:
    """Lay the tokens `(B,N,D)` of a ViT of timm's form out on their grid, `(B,D,h,w)`."""
    prefix = getattr(network, "num_prefix_tokens", None)
    embed: Any = getattr(network, "patch_embed", None)
    grid = getattr(embed, "grid_size", None)
    if getattr(network, "dynamic_img_size", False) and hasattr(embed, "dynamic_feat_size"):
        grid = embed.dynamic_feat_size(size)
    if prefix is None or grid is None or grid[0] * grid[1] != tokens.shape[1] - prefix:
        raise ValueError(
            f"Expected tokens whose grid is known, but got shape {tuple(tokens.shape)} from "
            f"{type(network).__name__}; give GradCAM(reshape_transform=...) that returns (B,D,h,w)."
        )
    patches = tokens[:, prefix:]  # (B,h*w,D)
    return patches.transpose(1, 2).reshape(len(patches), -1, *grid)
