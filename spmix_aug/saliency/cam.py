"""Grad-CAM saliency."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spmix_aug._checks import Checked, described, expect, expect_type, is_dense, require_hookable
from spmix_aug._grids import nearest_layout, stated_token_grid
from spmix_aug.saliency import guard
from spmix_aug.saliency.base import finite


def _as_layer(name: str, value: Any) -> Any:
    """Accept a layer or its dotted name, or None."""
    ok = value is None or isinstance(value, (str, nn.Module))
    expect_type(ok, name, "to be a module, its dotted name or None", value)
    return value


def _as_transform(name: str, value: Any) -> Any:
    """Accept a callable or None."""
    expect_type(value is None or callable(value), name, "to be callable or None", value)
    return value


class GradCAM(Checked):
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
    _settings: ClassVar = {"target_layer": _as_layer, "reshape_transform": _as_transform}

    def __init__(
        self,
        target_layer: str | nn.Module | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
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
        labels, model = guard.labels_and_model(self, images, labels, model)
        size = (images.shape[2], images.shape[3])
        if len(images) == 0:
            return images.new_zeros(0, *size, dtype=torch.float32)
        with guard.preserved(model, images.device) as network:
            features, layer, output = self._watch(network, guard.model_input(images, network))
            logits = guard.logits_for(labels, output)
            one_hot = labels.clone() if labels.ndim == 2 else F.one_hot(labels, logits.shape[1])
            slopes = guard.gradient_of((logits * one_hot).sum(), features)
            maps, slopes = (
                self._as_maps(each.detach().float(), layer, network, images)
                for each in (features, slopes)
            )  # (B,D,h,w)
            weights = slopes.mean(dim=(2, 3), keepdim=True)
            cam = (weights * maps).sum(dim=1, keepdim=True).clamp(min=0)  # (B,1,h,w)
            cam = F.interpolate(cam, size, mode="bilinear")
        return finite(cam.squeeze(1))

    def _watch(self, network: nn.Module, images: Tensor) -> tuple[Tensor, str, Any]:
        """Run the model; keep what the target layer gave, its kind, and the model's output."""
        target = self._target_in(network)
        seen = _LastMap() if target is None else _Output()
        watched = [*network.modules()] if target is None else [target]
        for module in watched:
            require_hookable("model", module)
        with ExitStack() as hooks:
            for module in watched:
                hooks.enter_context(module.register_forward_hook(seen))
            output = guard.run(network, images)
        at = "" if target is None else " at `target_layer`"
        wanted, got = f"to give feature maps (B,D,h,w){at}", f"none in {type(network).__name__}"
        hint = "give GradCAM(target_layer=...), with reshape_transform=... where it gives tokens"
        expect(seen.features is not None, "model", wanted, got, hint)
        layer = type(seen.layer).__name__
        if any(seen.layer is getattr(module, "_orig_mod", None) for module in network.modules()):
            layer = f"compiled {layer}"
        ok, got = isinstance(seen.features, Tensor), f"{type(seen.features).__name__} from {layer}"
        expect(ok, "target_layer", "to give a tensor", got, "choose a layer in it")
        features = cast(Tensor, seen.features)
        wanted = f"to let gradients flow through {layer}"
        got = (
            "none: it runs under no_grad, in checkpointing with use_reentrant=True (use "
            "use_reentrant=False), or is frozen and the images are integers"
        )
        hint = "choose another GradCAM(target_layer=...), or use model-free saliency"
        expect(features.requires_grad, "model", wanted, got, hint)
        return features, layer, output

    def _target_in(self, network: nn.Module) -> nn.Module | None:
        """Find the layer that was asked for, or that a ViT of timm's form is known to need."""
        target, wanted = self.target_layer, f"to be a module of {type(network).__name__}"
        if isinstance(target, str):
            found = None
            with suppress(AttributeError):
                found = network.get_submodule(target)
            parts = ", ".join(part for part, _ in network.named_children())
            expect(found, "target_layer", wanted, f"'{target}'", f"its parts are {parts}")
            return guard.unwrap(cast(nn.Module, found))
        if target is not None:
            target = guard.unwrap(target)
            ok = any(target is module for module in network.modules())
            got = f"a {type(target).__name__} that is not in it"
            expect(ok, "target_layer", wanted, got, "give its dotted name")
            return target
        if hasattr(network, "patch_embed") and hasattr(network, "blocks"):
            # After the last attention only the class token gets a gradient.
            return getattr(list(network.blocks)[-1], "norm1", None)  # type: ignore[arg-type]
        return None

    def _as_maps(self, features: Tensor, layer: str, network: nn.Module, images: Tensor) -> Tensor:
        """Bring what the layer gave into the form `(B,D,h,w)`."""
        size = (images.shape[2], images.shape[3])
        hint = "give GradCAM(reshape_transform=...) that returns (B,D,h,w)"
        if self.reshape_transform is not None:
            features = self.reshape_transform(features)
        elif features.ndim == 3:
            grid, prefix = stated_token_grid(network, size)
            rows, columns = grid or (0, 0)
            ok = rows * columns == features.shape[1] - prefix
            got = f"{described(features)} from {layer}"
            expect(ok, "target_layer", "to give tokens whose grid is known", got, hint)
            patches = features[:, prefix:].transpose(1, 2)  # (B,D,h*w)
            features = patches.reshape(*patches.shape[:2], rows, columns)
        elif features.ndim == 4 and nearest_layout(features, size) == "NHWC":
            features = features.movedim(-1, 1)
        ok = is_dense(features) and features.ndim == 4 and len(features) == len(images)
        ok = ok and 0 not in features.shape and not features.is_complex()
        got = f"{described(features)} from {layer}"
        expect(ok, "target_layer", "to give feature maps of shape (B,D,h,w)", got, hint)
        return features.float()

    def __repr__(self) -> str:
        return f"GradCAM(target_layer={self.target_layer!r})"


class _Output:
    """A hook that keeps what one layer gave."""

    layer: nn.Module | None = None
    features: Any = None

    def __call__(self, module: nn.Module, _: Any, output: Any) -> Tensor | None:
        self.layer, self.features = module, output
        # An operation in place that follows must not change what is kept.
        return output.clone() if isinstance(output, Tensor) else None


class _LastMap(_Output):
    """A hook on every module that keeps the last feature map of more than one pixel."""

    def __call__(self, module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            self.layer, self.features = module, output
        elif output.ndim == 3 and output.shape[1] > 1:
            self.features = None  # tokens: the map before them was an embedding, not a last stage
