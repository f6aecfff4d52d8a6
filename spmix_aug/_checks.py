"""Every check of what users hand in, and its wording.

Types, shapes, dtypes and devices are always checked. Values are looked at on CPU tensors only:
on an accelerator that would make the host wait for the device.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

IMAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)
LARGEST_INTEGER = 2**63 - 1  # that torch takes
# An index beyond it is no class but an id or a time, and a count for each would fill the memory.
MOST_CLASSES = 2**24


def described(value: object) -> str:
    """Name a value in an error: shape and dtype of a tensor, type and value of the rest."""
    if is_dense(value):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, Tensor):
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
        return f"a tensor that is {kind}"
    return f"{type(value).__name__} {shown(value)}"


def shown(value: object) -> str:
    """Write a value out, shortened."""
    try:
        text = repr(value)
    except Exception:  # Python refuses to write out an integer of thousands of digits
        return "that cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Tell whether a value is a tensor that is not sparse, nested or quantized."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_nested or value.is_quantized)
    )


def tensor(name: str, value: object, form: str = "") -> Tensor:
    """Accept a dense tensor; `form` tells more of what the caller accepts."""
    if not is_dense(value):
        dense = "dense " if isinstance(value, Tensor) else ""
        raise TypeError(
            f"Expected `{name}` to be a {dense}tensor{form}, but got {described(value)}."
        )
    return value


def flag(name: str, value: object) -> bool:
    """Accept True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"Expected `{name}` to be True or False, but got {described(value)}.")
    return bool(value)


def key(name: str, value: object) -> None:
    """Accept the name of an item of a dict batch, or None."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"Expected `{name}` to be a string or None, but got {described(value)}.")


def number(name: str, value: object, *, low: float = 0.0, high: float = float("inf")) -> float:
    """Accept a real number in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Expected `{name}` to be a number, but got {described(value)}.")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not low <= value <= high or math.isinf(value):
        bounds = (
            f"in [{low:g}, {high:g}]" if high < float("inf") else f"finite and at least {low:g}"
        )
        raise ValueError(f"Expected `{name}` to be {bounds}, but got {value!r}.")
    return value


def integer(name: str, value: object, *, low: int = 1, high: float = LARGEST_INTEGER) -> int:
    """Accept an integer in [`low`, `high`]."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Expected `{name}` to be an integer, but got {described(value)}.")
    value = int(value)
    if not low <= value <= high:
        bound = f"at least {low}" if value < low else f"at most {high}"
        raise ValueError(f"Expected `{name}` to be {bound}, but got {shown(value)}.")
    return value


def choice(name: str, value: object, allowed: Collection[str], otherwise: str = "") -> None:
    """Accept one of the `allowed` words; `otherwise` tells what else the caller accepts."""
    if not isinstance(value, str) or value not in allowed:
        words = ", ".join(f"'{word}'" for word in allowed)
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"Expected `{name}` to be one of {words}{otherwise}, but got {shown(value)}.")


def generator(value: object) -> None:
    """Accept a `torch.Generator` or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"Expected `generator` to be a torch.Generator or None, but got {described(value)}; "
            "make one with torch.Generator().manual_seed(seed)."
        )


def classes(num_classes: object, class_counts: object) -> tuple[int, Tensor | None]:
    """Settle the number of classes K and their counts `(K,)` from the two arguments."""
    if class_counts is None:
        if num_classes is None:
            raise ValueError("Expected `num_classes` or `class_counts`, but got neither.")
        return integer("num_classes", num_classes, high=MOST_CLASSES), None
    sizes = counts("class_counts", class_counts)
    if num_classes is not None and integer("num_classes", num_classes) != len(sizes):
        raise ValueError(
            "Expected `num_classes` to be the length of `class_counts`, "
            f"but got {num_classes} and {len(sizes)}; give one of the two."
        )
    return len(sizes), sizes


def counts(name: str, value: object) -> Tensor:
    """Accept one number of samples a class; return a copy `(K,)` on the CPU."""
    sizes = _own_copy(name, value)
    if sizes.ndim != 1 or len(sizes) == 0:
        raise ValueError(
            f"Expected `{name}` to have shape (K,), one count a class, "
            f"but got shape {tuple(sizes.shape)}."
        )
    if not bool((sizes >= 0).all()) or not bool(sizes.isfinite().all()):
        raise ValueError(
            f"Expected `{name}` to be finite and at least 0, but got {sizes.tolist()}."
        )
    return sizes


def _own_copy(name: str, value: object) -> Tensor:
    """Copy numbers in any form to a CPU tensor, int64 or float32, that nobody else can change."""
    try:
        array = np.array(value.numpy(force=True) if isinstance(value, Tensor) else value)
        if array.dtype.kind not in "iuf":
            raise TypeError(array.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Expected `{name}` to be numbers, but got {described(value)}.") from error
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(array)


def channel_values(name: str, value: object) -> Tensor:
    """Accept one finite number, or one for each channel: a float32 tensor `(1,)` or `(C,)`."""
    numbers = _own_copy(name, value).float().reshape(-1)
    if numbers.numel() == 0 or not bool(numbers.isfinite().all()):
        raise ValueError(
            f"Expected `{name}` to be a finite number or one a channel, but got {described(value)}."
        )
    return numbers


def normalization(mean: Any, std: Any) -> tuple[Tensor | None, Tensor | None]:
    """Accept both `mean` and `std` of the images' normalisation, or neither."""
    if (mean is None) != (std is None):
        missing = "mean" if mean is None else "std"
        raise ValueError(f"Expected `mean` and `std` together, but `{missing}` is None.")
    if mean is None:
        return None, None
    mean, std = channel_values("mean", mean), channel_values("std", std)
    if not bool((std > 0).all()):
        raise ValueError(f"Expected `std` to be positive, but got {std.tolist()}.")
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise ValueError(
            "Expected `mean` and `std` to have one length, "
            f"but got {len(mean)} and {len(std)} numbers."
        )
    return mean, std


def images(value: object, mean: Tensor | None = None, std: Tensor | None = None) -> None:
    """Accept images `(B,C,H,W)`, whose channels `mean` and `std` fit where they are given."""
    value = tensor("images", value, " of shape (B,C,H,W)")
    if value.dtype not in IMAGE_DTYPES:
        raise TypeError(
            "Expected `images` to be float16, bfloat16, float32, float64 or uint8, "
            f"but got {value.dtype}; convert them first, class maps with "
            "torch.nn.functional.one_hot (ids do not blend)."
        )
    if value.ndim != 4 or 0 in value.shape[1:]:
        raise ValueError(
            "Expected `images` to have shape (B,C,H,W) with C, H, W >= 1, "
            f"but got shape {tuple(value.shape)}."
        )
    for name, numbers in (("mean", mean), ("std", std)):
        if numbers is not None and len(numbers) not in (1, value.shape[1]):
            raise ValueError(
                f"Expected `{name}` to have one number for each of the images' "
                f"{value.shape[1]} channels, but got {len(numbers)}."
            )


def labels(value: object, batch: int, num_classes: int, device: torch.device) -> Tensor:
    """Accept class indices or rows; return int64 `(B,)` or the rows `(B,K)` as they are."""
    value = tensor("labels", value)
    is_index = not value.is_floating_point() and value.dtype != torch.bool
    if is_index and value.shape == (batch, 1) and num_classes != 1:
        value = value.squeeze(1)
    accepted = (batch,) if is_index and value.ndim == 1 else (batch, num_classes)
    if tuple(value.shape) != accepted or value.is_complex():
        raise ValueError(
            f"Expected `labels` to be integers of shape (B,) or (B,1), or rows of shape (B,K), "
            f"with B = {batch} images and K = {num_classes} classes, but got {described(value)}."
        )
    if value.device != device:
        raise ValueError(
            f"Expected `labels` on the images' device {device}, but got {value.device}; "
            "move both to one device."
        )
    value = value.detach().long() if value.ndim == 1 else value.detach()
    if value.device.type == "cpu" and value.numel():
        _label_values(value, num_classes)
    return value


def _label_values(value: Tensor, num_classes: int) -> None:
    """Check the values of labels that lie on the CPU."""
    if value.ndim == 1:
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"Expected `labels` in 0 to {num_classes - 1} (K = {num_classes} classes), "
                f"but got {low if low < 0 else high}."
            )
        return
    rows = value.double()
    # Soft labels in half precision sum to 1 only up to their own rounding.
    tolerance = 1e-2 if value.dtype in (torch.float16, torch.bfloat16) else 1e-3
    wrong = ~((rows.sum(dim=1) - 1).abs() <= tolerance) | (rows < 0).any(dim=1)
    if bool(wrong.any()):
        first = int(wrong.to(torch.int8).argmax())
        raise ValueError(
            "Expected each row of `labels` to be a distribution (at least 0, sum 1), "
            f"but row {first} is {rows[first].tolist()}; divide rows of several labels by their "
            "sum, or keep them: plan with one class index a sample, mix with plan.images(images)."
        )


def partner(value: object, batch: int, device: torch.device, name: str = "partner") -> Tensor:
    """Accept indices `(B,)` into the batch; return them as int64."""
    value = tensor(name, value)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"Expected `{name}` to hold integers, but got {value.dtype}.")
    if tuple(value.shape) != (batch,):
        raise ValueError(
            f"Expected `{name}` to have shape ({batch},), one index a sample, "
            f"but got shape {tuple(value.shape)}."
        )
    if value.device != device:
        raise ValueError(f"Expected `{name}` on {device}, but got {value.device}.")
    value = value.detach().to(torch.int64, copy=True)
    if value.device.type == "cpu" and batch:
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= batch:
            raise ValueError(
                f"Expected `{name}` in 0 to {batch - 1}, "
                f"but got {low if low < 0 else high}; give i itself to leave sample i unmixed."
            )
    return value


def saliency_maps(value: object, images: Tensor) -> Tensor:
    """Accept maps `(B,H,W)` or `(B,1,H,W)` of the images' size; return them as `(B,H,W)`."""
    value = tensor("saliency", value)
    batch, _, height, width = images.shape
    if tuple(value.shape) not in ((batch, height, width), (batch, 1, height, width)):
        raise ValueError(
            f"Expected `saliency` to have shape {(batch, height, width)}, the images' size, "
            f"but got shape {tuple(value.shape)}; resize maps with "
            "torch.nn.functional.interpolate."
        )
    if value.is_complex():
        raise TypeError(f"Expected `saliency` to be real, but got {value.dtype}.")
    if value.device != images.device:
        raise ValueError(
            f"Expected `saliency` on the images' device {images.device}, but got {value.device}."
        )
    return value.detach().reshape(batch, height, width)


def labels_fit_logits(value: Tensor, logits: Tensor) -> None:
    """Accept labels `(B,)` or `(B,K)` of the classes that the model's logits `(B,K)` have."""
    num_classes = logits.shape[1]
    if logits.device != value.device:
        raise ValueError(
            f"Expected `model` to return logits on the labels' device {value.device}, but got "
            f"{logits.device}."
        )
    if len(logits) != len(value) or (value.ndim == 2 and value.shape[1] != num_classes):
        raise ValueError(
            f"Expected `labels` that fit the model's logits of shape {tuple(logits.shape)}, "
            f"but got {described(value)}."
        )
    if value.ndim == 1 and value.device.type == "cpu":
        low, high = int(value.min()), int(value.max())
        if low < 0:
            raise ValueError(f"Expected `labels` to be at least 0, but got {low}.")
        if high >= num_classes:
            raise ValueError(
                f"Expected `labels` below {num_classes}, the number of the model's logits, "
                f"but got {high}."
            )


def provider_has_model(provider: Any, value: object) -> None:
    """Accept a model, or None where the provider needs none."""
    if not getattr(provider, "needs_model", False):
        return
    name = type(provider).__name__
    if value is None:
        raise ValueError(
            f"Expected `model` for {name}, but got None; call mixer(images, labels, model), "
            "or use model-free saliency."
        )
    if not isinstance(value, torch.nn.Module):
        raise TypeError(
            f"Expected `model` for {name} to be a torch.nn.Module, but got {described(value)}."
        )


def model_is_ready(model: torch.nn.Module) -> None:
    """Accept a model that has all its parameters, made where autograd can use them."""
    parameters = [*model.parameters(), *model.buffers()]
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in parameters):
        raise ValueError(
            f"Expected `model` to have all its parameters, but {type(model).__name__} has lazy "
            "ones; run one batch through it first."
        )
    if any(parameter.is_inference() for parameter in parameters):
        raise ValueError(
            "Expected the parameters of `model` to be usable by autograd, but they were made "
            "under torch.inference_mode(); make the model outside it, or use model-free saliency."
        )


def labels_and_model(
    provider: Any, images: Tensor, labels: Tensor | None, model: torch.nn.Module | None
) -> tuple[Tensor, torch.nn.Module]:
    """Accept what a model-based provider is called with; return one-hot rows as floats."""
    provider_has_model(provider, model)
    labels = None if labels is None else tensor("labels", labels)
    if labels is None or labels.ndim not in (1, 2) or len(labels) != len(images):
        raise ValueError(
            f"Expected `labels` for {type(provider).__name__} of shape (B,) or (B,K) with "
            f"B = {len(images)}, but got {described(labels)}."
        )
    if labels.is_complex():
        raise TypeError(f"Expected `labels` to be real, but got {labels.dtype}.")
    if labels.device != images.device:
        raise ValueError(
            f"Expected `labels` on the images' device {images.device}, but got {labels.device}."
        )
    return labels.float() if labels.ndim == 2 else labels.long(), cast(torch.nn.Module, model)


def images_fit_plan(value: object, partner: Tensor, image_size: tuple[int, int]) -> None:
    """Accept images of a plan's batch, size and device."""
    images(value)
    value = cast(Tensor, value)
    if len(value) != len(partner) or tuple(value.shape[2:]) != image_size:
        raise ValueError(
            f"Expected `images` of the plan's shape ({len(partner)}, C, {image_size[0]}, "
            f"{image_size[1]}), but got shape {tuple(value.shape)}."
        )
    if value.device != partner.device:
        raise ValueError(
            f"Expected `images` on the plan's device {partner.device}, but got {value.device}."
        )


def writable(value: object) -> None:
    """Accept images that can be written in place."""
    value = tensor("images", value, " of shape (B,C,H,W)")
    if torch.compiler.is_compiling():
        return  # a traced tensor does not tell; torch's own errors remain
    reach, overlaps = 0, False  # how far the smaller strides reach, and whether the next is within
    for stride, side in sorted(zip(value.stride(), value.shape, strict=True)):
        overlaps |= side > 1 and stride <= reach
        reach += stride * (side - 1)
    if overlaps or (value.is_inference() and not torch.is_inference_mode_enabled()):
        reason = (
            "share memory (expand or unfold)"
            if overlaps
            else "were made under torch.inference_mode()"
        )
        raise ValueError(
            f"Expected `images` that can be written in place, but they {reason}; give "
            "images.clone(), or inplace=False."
        )


def tokens_fit_plan(value: object, partner: Tensor) -> None:
    """Accept tokens `(B,N,D)` or feature maps of four sides, of a plan's batch and device."""
    value = tensor("tokens", value)
    if not value.is_floating_point():
        raise TypeError(
            f"Expected `tokens` to be floating, but got {value.dtype}; ids do not blend, give "
            "their one-hot rows as floats."
        )
    if value.ndim not in (3, 4) or len(value) != len(partner) or 0 in value.shape[1:]:
        raise ValueError(
            f"Expected `tokens` of shape (B,N,D), (B,D,h,w) or (B,h,w,D) with the plan's B = "
            f"{len(partner)}, but got shape {tuple(value.shape)}."
        )
    if value.device != partner.device:
        raise ValueError(
            f"Expected `tokens` on the plan's device {partner.device}, but got {value.device}."
        )


def grid(value: object) -> tuple[int, int]:
    """Accept rows and columns."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"Expected `grid` to be (rows, columns), but got {described(value)}.")
    rows, columns = (integer("grid", side) for side in value)
    return rows, columns


def token_grid(
    found: list[tuple[int, int]], cells: int, image_size: tuple[int, int]
) -> tuple[int, int]:
    """Accept the only grid that so many tokens may have."""
    if len(found) != 1:
        raise ValueError(
            f"Expected a number of tokens that determines their grid on images of {image_size}, "
            f"but {cells} without prefix tokens have {found or 'none'}; give `grid`, and "
            "`prefix_tokens` where class or register tokens come first."
        )
    rows, columns = found[0]
    if rows * columns != cells:
        raise ValueError(
            f"Expected `grid` to have {cells} cells, the number of tokens without prefix tokens, "
            f"but got {(rows, columns)}."
        )
    return rows, columns


def map_grid(
    sides: tuple[int, int],
    fits: bool,
    wanted: tuple[int, int] | None,
    layout: str,
    value: Tensor,
    image_size: tuple[int, int],
) -> None:
    """Accept feature maps whose sides fit."""
    if fits:
        return
    given = f"{layout} maps of shape {tuple(value.shape)} have {sides}; give another `layout`"
    if wanted is not None:
        raise ValueError(f"Expected feature maps of `grid` {wanted}, but {given} or `grid`.")
    raise ValueError(
        f"Expected feature maps in the proportion of images of {image_size}, but {given}, or "
        f"grid={sides} if that is meant."
    )


def layout_shows(module: torch.nn.Module, value: Tensor, first: bool, last: bool) -> None:
    """Accept feature maps that fit in one layout alone, channels first or last."""
    if first == last:
        fit = "both layouts fit; give `layout`" if first else "none fits; give `layout` and `grid`"
        raise ValueError(
            f"Expected feature maps whose layout shows, but of shape {tuple(value.shape)} from "
            f"{type(module).__name__} {fit}."
        )


def no_prefix_in_maps(prefix_tokens: int) -> None:
    """Accept prefix tokens with tokens alone."""
    if prefix_tokens:
        raise ValueError(
            f"Expected `prefix_tokens` 0 for feature maps, but got {prefix_tokens}; only tokens "
            "(B,N,D) have prefix tokens."
        )


def module(value: object, name: str = "module") -> None:
    """Accept a `torch.nn.Module`."""
    if not isinstance(value, torch.nn.Module):
        raise TypeError(f"Expected `{name}` to be a torch.nn.Module, but got {described(value)}.")


def module_output(module: torch.nn.Module, value: object) -> None:
    """Accept a module that returns a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"Expected `module` to return a tensor, but {type(module).__name__} returned "
            f"{type(value).__name__}; hook a part of it that returns one."
        )
    if value.ndim == 3 and stated_layout(module) == "NCL":
        raise ValueError(
            f"Expected `module` to return tokens (B,N,D), but {type(module).__name__} states "
            "output_fmt NCL, which is (B,D,N); give it NLC, or hook the module that turns them."
        )


def stated_layout(module: torch.nn.Module) -> str | None:
    """Return the layout that a module says its output has, as timm's do."""
    stated = getattr(module, "output_fmt", None)
    return None if stated is None else str(getattr(stated, "value", stated))


_COMPILED = (
    "compile parts of the model that do not hold it (for block in model.blocks: block.compile()), "
    "or call plan.tokens(...) between its parts."
)


def not_compiling() -> None:
    """Refuse to be traced into a compiled model, which would go on mixing by an old plan."""
    if torch.compiler.is_compiling():
        raise ValueError(f"Expected a hooked `module` outside compiled code; {_COMPILED}")


def was_mixed(module: torch.nn.Module, calls: list[bool], with_gradients: bool) -> None:
    """Accept a module that ran under its hook, with gradients where they were asked for."""
    name = type(module).__name__
    if not calls:
        raise ValueError(
            f"Expected `module` to run inside the block, but {name} never did: it is not a part "
            "of the model that ran, or that model runs its children without it (hook the last of "
            f"them), or is compiled; {_COMPILED}"
        )
    if with_gradients and not any(calls):
        raise ValueError(
            f"Expected `module` to run with gradients, but {name} ran without: if activation "
            "checkpointing runs it again in the backward pass, call backward() inside the block; "
            "if no gradients are wanted, put the block inside torch.no_grad()."
        )


def dataset_labels(value: object) -> Tensor:
    """Accept a data set's labels, integers `(N,)` or `(N,1)`; return int64 `(N,)` on the CPU."""
    if isinstance(value, torch.utils.data.Sampler):
        raise TypeError(
            "Expected `labels` to be the data set's labels, but got a sampler. Lightning does "
            "this when it rebuilds batch samplers: give Trainer(use_distributed_sampler=False) "
            "and pass `num_replicas` and `rank` yourself."
        )
    try:
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            raise TypeError(type(value).__name__)
        array = np.atleast_1d(
            value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "Expected `labels` to be a sequence, array or tensor of integers, "
            f"but got {described(value)}."
        ) from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            "Expected `labels` to have shape (N,), one class index a sample and N >= 1, "
            f"but got shape {array.shape}."
        )
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"Expected `labels` to be integers, but got {array.dtype}; convert class indices "
            "with labels.long(), or one-hot rows with labels.argmax(1)."
        )
    given = torch.from_numpy(array.astype(np.int64))
    if int(given.min()) < 0:
        raise ValueError(f"Expected `labels` to be at least 0, but got {int(given.min())}.")
    if int(given.max()) >= MOST_CLASSES:
        raise ValueError(
            f"Expected `labels` to be class indices below {MOST_CLASSES}, but got "
            f"{int(given.max())}; number the classes from 0."
        )
    return given


def sampler_state(value: object, batches: int) -> tuple[int, int]:
    """Accept the state of a sampler of so many batches; return epoch and next batch."""
    known = isinstance(value, Mapping) and {"epoch", "next_batch"} <= value.keys()
    if known:
        value = cast(Mapping[str, Any], value)
        epoch = integer("epoch", value["epoch"], low=0)
        next_batch = integer("next_batch", value["next_batch"], low=0)
        if next_batch <= batches:
            return epoch, next_batch
    raise ValueError(
        "Expected `state` with `epoch` and `next_batch`, which is at most "
        f"{batches} here, but got {described(value)}."
    )


def instance(name: str, value: object, kind: type) -> None:
    """Accept an object of that `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"Expected `{name}` to be a {kind.__name__}, but got {described(value)}.")


def plan_has_saliency(value: Tensor | None) -> Tensor:
    """Accept the maps of a plan that mixes something."""
    if value is None:
        raise ValueError(
            "Expected `plan` with saliency, but got one that has none because it mixes nothing: "
            "its mixer was in evaluation mode, or had p = 0."
        )
    return value


def class_names(value: object, num_classes: int) -> list[str]:
    """Accept one name a class; the numbers of the classes when None."""
    if value is None:
        return [str(index) for index in range(num_classes)]
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(
            f"Expected `class_names` to be a sequence of names, but got {described(value)}."
        )
    if len(value) != num_classes:
        raise ValueError(
            f"Expected `class_names` to have {num_classes} names, one a class, "
            f"but got {len(value)}."
        )
    return [str(name) for name in value]


def samples(value: object, batch: int) -> list[int]:
    """Accept indices of samples of a batch, at least one."""
    if not isinstance(value, Sequence):
        raise TypeError(
            f"Expected `samples` to be a sequence of indices, but got {described(value)}."
        )
    indices = [integer("samples", index, low=0) for index in value]
    if not indices or max(indices) >= batch:
        raise ValueError(
            f"Expected `samples` to be at least one index in 0 to {batch - 1}, but got {indices}."
        )
    return indices
