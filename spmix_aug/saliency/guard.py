"""Running somebody's model in training for its saliency, and leaving it as it was found."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from spmix_aug import _checks
from spmix_aug._checks import described, expect, expect_type, is_dense
from spmix_aug._precision import full_precision


def unwrap(model: nn.Module) -> nn.Module:
    """Take a model out of the wrappers of data-parallel training, Fabric and torch.compile.

    Under DDP with a static graph, an extra pass through the wrapper breaks the synchronisation of
    gradients silently; hooks that are added to a compiled model never fire.

    Raises:
        ValueError: if its parameters are sharded, so that it runs only as a whole.
    """
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrap(model.module)
    for name in ("_orig_mod", "_original_module", "_forward_module"):  # torch.compile, Fabric
        if name in model._modules:
            return unwrap(cast(nn.Module, model._modules[name]))
    sharded = any(type(p).__name__ in ("DTensor", "FlatParameter") for p in model.parameters())
    hint = "use model-free saliency, or maps computed elsewhere"
    expect(not sharded, "model", "to have whole parameters", "sharded ones (FSDP)", hint)
    return model


@contextmanager
def preserved(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Give the model, unwrapped and in eval mode, with gradients on and autocast off.

    Afterwards, also when something raised, the training flag of every module, the buffers and
    the random state of the CPU, and of the images' CUDA device, are what they were. Gradients
    taken with `torch.autograd.grad` touch no `.grad`.
    """
    model = unwrap(model)
    _require_ready(model)
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
        _eager(),
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


def _eager() -> AbstractContextManager[Any]:
    """Let compiled parts of a model run eagerly, which hooks reach; torch 2.6 and newer can."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return set_stance("force_eager") if set_stance else nullcontext()


def _require_ready(model: nn.Module) -> None:
    """Accept a model that has all its parameters, made where autograd can use them."""
    tensors = [*model.parameters(), *model.buffers()]
    lazy, hint = any(map(nn.parameter.is_lazy, tensors)), "run one batch through it first"
    expect(not lazy, "model", "to have all its parameters", "lazy ones", hint)
    inference = any(tensor.is_inference() for tensor in tensors)
    wanted, got = "to have parameters for autograd", "some made under torch.inference_mode()"
    expect(not inference, "model", wanted, got, "make it outside, or use model-free saliency")


def labels_and_model(
    provider: Any, images: Tensor, labels: Tensor | None, model: nn.Module | None
) -> tuple[Tensor, nn.Module]:
    """Accept what a model-based provider is called with; return int64 labels or floating rows."""
    _checks.require_images(images)
    _checks.require_model(provider, model)
    name, batch = type(provider).__name__, len(images)
    wanted = "for {name} to have shape (B,) or (B,K) with B = {batch}"
    expect(labels is not None, "labels", wanted, labels, name=name, batch=batch)
    labels = _checks.as_tensor("labels", labels)
    ok = labels.ndim in (1, 2) and len(labels) == batch
    expect(ok, "labels", wanted, labels, name=name, batch=batch)
    expect_type(not labels.is_complex(), "labels", "to be real", labels.dtype)
    _checks.require_on("labels", labels, images.device, "images'")
    return labels.float() if labels.ndim == 2 else labels.long(), cast(nn.Module, model)


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
            f"Expected `model` to let gradients through, but got: {str(error).splitlines()[0]} "
            f"With activation checkpointing use use_reentrant=False; else use model-free saliency."
        ) from error
    wanted = "to have logits that depend differentiably on what saliency looks at"
    got = "no gradient there (no_grad or detach in the model, or a layer of another head)"
    hint = "give GradCAM(target_layer=...), or use model-free saliency"
    expect(gradient is not None, "model", wanted, got, hint)
    return gradient


def run(model: nn.Module, images: Tensor) -> Any:
    """Run somebody's model, and report a failure as the model's.

    Raises:
        ValueError: if the model does not run on images alone.
    """
    try:
        # The clone lets a model begin with an operation in place.
        return model(images.clone())
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        name, first = type(error).__name__, str(error).partition("\n")[0]
        raise ValueError(
            f"Expected `model` to run on images {tuple(images.shape)} alone, but got {name}: "
            f"{first}; wrap it in a module whose forward(images) gives it what else it needs, or "
            "use model-free saliency."
        ) from error


def logits_for(labels: Tensor, output: Any) -> Tensor:
    """Find the logits `(B,K)` in what a model returned, of the classes that the labels have."""
    logits = logits_of(output, labels.shape[1] if labels.ndim == 2 else None)
    _checks.require_on("the logits of model", logits, labels.device, "labels'")
    wanted, shape = "to fit the model's logits of {shape}", tuple(logits.shape)
    expect(len(logits) == len(labels), "labels", wanted, labels, shape=shape)
    if labels.ndim == 1:
        _checks.require_below("labels", labels, shape[1], "the model has no more logits")
    return logits


def logits_of(output: Any, num_classes: int | None = None) -> Tensor:
    """Find the logits `(B,K)` in what a model returned, as float32.

    They are the output itself, its `logits` entry or attribute, or its only item of that form.

    Args:
        output: what the model returned.
        num_classes: K, where it is known.

    Raises:
        TypeError: if there is no such tensor.
        ValueError: if there are several, or none of K classes.
    """
    if isinstance(output, Mapping):
        items = [output["logits"]] if "logits" in output else [*output.values()]
    elif not isinstance(output, Tensor) and hasattr(output, "logits"):
        items = [output.logits]
    else:
        items = [*output] if isinstance(output, (tuple, list)) else [output]
    found = [item for item in items if is_dense(item) and item.ndim == 2 and not item.is_complex()]
    got = ", ".join(described(item) for item in items if isinstance(item, Tensor)) or "no tensor"
    wanted = "to return logits of shape (B,K), alone, as `logits` or as its only item of that form"
    hint = "wrap it in a module that returns the logits"
    expect(found, "model", wanted, f"{type(output).__name__}: {got}", hint, TypeError)
    fitting = [item for item in found if num_classes in (None, item.shape[1])]
    single = num_classes == 2 and any(item.shape[1] == 1 for item in found)
    two = "return torch.cat([-z, z], dim=1) / 2 for one logit z of two classes"
    wanted = "to return logits (B,K) of K = {k} classes"
    more = "give the mixer the model's `num_classes`, or a model of as many"
    expect(fitting, "model", wanted, got, two if single else more, k=num_classes)
    expect(len(fitting) == 1, "model", "to return logits (B,K) once", f"several: {got}", hint)
    return fitting[0].float()
