"""Running somebody's model in training for its saliency, and leaving it as it was found."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spmix_aug import _checks
from spmix_aug._precision import full_precision


def unwrap(model: nn.Module) -> nn.Module:
    """Take a model out of its data-parallel and compiled wrappers.

    Under DDP with a static graph, an extra pass through the wrapper breaks the synchronisation of
    gradients silently; hooks that are added to a compiled model never fire.
    """
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Give the model, unwrapped and in eval mode, with gradients on and autocast off.

    Afterwards, also when something raised, the training flag of every module, the buffers and
    the random state of the CPU, and of the images' CUDA device, are what they were. Gradients
    taken with `torch.autograd.grad` touch no `.grad`.
    """
    model = unwrap(model)
    _checks.model_is_ready(model)
    training = [(module, module.training) for module in model.modules()]
    # A scripted module shows no buffers that could be exchanged.
    buffers = [
        (module._buffers, dict(module._buffers))
        for module, _ in training
        if isinstance(module._buffers, dict)
    ]
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        full_precision(device),
    ):
        # One copy for each buffer, also for one that several modules share.
        copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
        try:
            for module, _ in training:
                # `eval()` may be overridden, and would forget which modules the user froze.
                module.training = False
            for current, found in buffers:
                # The pass works on copies: some modules update buffers in eval mode, too.
                current.update({name: copies.get(id(buffer)) for name, buffer in found.items()})
            yield model
        finally:
            for module, was_training in training:
                module.training = was_training
            for current, found in buffers:
                current.update(found)


def model_input(images: Tensor, model: nn.Module) -> Tensor:
    """Copy `images` for a model outside autocast: a leaf in the dtype of its parameters.

    Floating images require grad, so that gradients flow through a frozen model as well.
    """
    copied = images.detach().clone()
    if not copied.is_floating_point():
        return copied
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), copied.dtype)
    return copied.to(dtype).requires_grad_()


def gradient_of(score: Tensor, features: Tensor) -> Tensor:
    """Take the gradient of `score ()` with respect to `features`, without touching any `.grad`.

    Raises:
        ValueError: if the model lets no gradient through.
    """
    try:
        (gradient,) = torch.autograd.grad(score, features, allow_unused=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower() and "does not require grad" not in str(error):
            raise
        raise ValueError(
            "Expected a `model` that lets gradients through, but got: "
            f"{str(error).splitlines()[0]} With activation checkpointing use use_reentrant=False; "
            "else use model-free saliency."
        ) from error
    if gradient is None:
        raise ValueError(
            "Expected a `model` whose logits depend differentiably on what saliency looks at, but "
            "no gradient reaches it (no_grad or detach in the model, or a layer of another head); "
            "give GradCAM(target_layer=...), or use model-free saliency."
        )
    return gradient


def logits_of(output: Any) -> Tensor:
    """Find the logits `(B,K)` in what a model returned, as float32.

    They are the output itself, its `logits` entry or attribute, or its first tensor.

    Raises:
        TypeError: if there is no tensor of two dimensions.
    """
    found = output
    if isinstance(found, Mapping):
        found = found["logits"] if "logits" in found else next(iter(found.values()), None)
    elif not isinstance(found, Tensor) and hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, (tuple, list)):
        found = next((item for item in found if isinstance(item, Tensor)), None)
    if not _checks.is_dense(found) or found.ndim != 2 or found.is_complex():
        kind = type(output).__name__
        got = f"{kind}: {_checks.described(found)}" if isinstance(found, Tensor) else kind
        raise TypeError(
            "Expected `model` to return logits of shape (B,K), alone, as `logits` or as the "
            f"first tensor, but got {got}; wrap the model accordingly."
        )
    return found.float()
