"""The one form of error, and the checks of input that several steps share.

What only one step knows is checked in that step, by the same `expect`. Types, shapes, dtypes and
devices are always checked. Values are looked at on CPU tensors only, and not while compiling: on
an accelerator that would make the host wait for the device.
"""

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, TypeGuard, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

IMAGE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8)
LARGEST_INTEGER = 2**63 - 1  # that torch takes
# An index beyond it is no class but an id or a time, and a count for each would fill the memory.
MOST_CLASSES = 2**24

ARRAYS = (list, tuple, np.ndarray)  # that torch makes a tensor of

Kind = TypeVar("Kind")


def expect(
    ok: object,
    name: str,
    wanted: str,
    got: object,
    hint: str = "",
    error: type[Exception] = ValueError,
    /,
    **parts: object,
) -> None:
    """Raise the one form of error: which argument, what was expected, what came, the way out.

    Args:
        ok: whether there is nothing to raise.
        name: of the argument.
        wanted: what was expected, e.g. `"to have shape ({batch},)"`: a template of `parts`, filled
            in on failure only, as a written message would be compiled in for each batch size.
        got: what came: words, or a value to be described.
        hint: the way out.
        error: what to raise.
        **parts: of the template.
    """
    if ok:
        return
    if not isinstance(got, str):
        number = isinstance(got, (int, float)) and not isinstance(got, bool)
        got = shown(got) if number else described(got)
    told = f"{got}; {hint}" if hint else got
    end = "" if told.endswith("?") else "."
    raise error(f"Expected `{name}` {wanted.format(**parts)}, but got {told}{end}")


def expect_type(
    ok: object, name: str, wanted: str, got: object, hint: str = "", /, **parts: object
) -> None:
    """Raise a `TypeError` in the form of `expect`; a string is described like any other value."""
    if not ok:
        expect(False, name, wanted, described(got), hint, TypeError, **parts)


def described(value: object) -> str:
    """Name a value in an error: shape and dtype of a tensor, type and value of the rest."""
    if isinstance(value, torch.Size):
        return f"shape {tuple(value)}"
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if is_dense(value):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, Tensor):
        kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
        return f"a tensor that is {kind}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__} {shown(value)}"


def shown(value: object) -> str:
    """Write a value out, shortened."""
    try:
        text = repr(value)
    except Exception:  # Python refuses to write out an integer of thousands of digits
        return "what cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that is not sparse, nested or quantized."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_nested or value.is_quantized)


def reads_values(value: Tensor) -> bool:
    """Whether the values of a tensor are there to be looked at, without a wait or a graph."""
    return value.device.type == "cpu" and value.numel() > 0 and not torch.compiler.is_compiling()


class Checked:
    """Checks settings whenever they are set: `check(name, value)` returns what is kept."""

    _settings: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._settings:
            value = self._settings[name](name, value)
        super().__setattr__(name, value)


# Single values: each returns what it accepts.


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Make a check that accepts None as well."""
    return lambda name, value: None if value is None else check(name, value)


def as_tensor(name: str, value: Any, form: str = "") -> Tensor:
    """Accept a dense tensor; `form` says more of what the caller accepts."""
    if not is_dense(value):
        dense = "dense " if isinstance(value, Tensor) else ""
        expect_type(False, name, f"to be a {dense}tensor{form}", value, _way_to_tensor(name, value))
    return cast(Tensor, value)


def _way_to_tensor(name: str, value: Any) -> str:
    """Say how a value becomes a tensor, where it can."""
    if hasattr(value, "to_numpy"):  # a Series
        return f"make one with torch.as_tensor({name}.to_numpy())"
    if isinstance(value, str) and name == "saliency":
        return f"set the mixer's own, mixer.saliency = {value!r}"
    if value is None and name == "labels":
        return "give them, or a whole batch (images, labels)"
    if isinstance(value, Mapping) and name == "images":
        return "give a whole batch alone, mixer(batch), and collate samples before"
    if not isinstance(value, ARRAYS) or len(value) == 0:
        return ""
    first = value[0]
    if isinstance(first, (str, bytes)):
        if name == "images":
            return "read the files"
        # Numbers made batch by batch would be others in each.
        return f"number the whole data set's once, numpy.unique(all_{name}, return_inverse=True)[1]"
    if isinstance(first, Tensor) and first.ndim > 0:
        if name == "images" and first.ndim > 3:
            return "plan view by view, mixer.plan(view, labels, partner=plan_of_the_first.partner)"
        if all(isinstance(item, Tensor) and item.shape == first.shape for item in value):
            return f"make one with torch.stack(tuple({name}))"
        if name == "images":
            return "collate samples of one size with torch.utils.data.default_collate"
        return "give one of them"
    if name == "images" and not isinstance(value, np.ndarray):
        return "collate samples with torch.utils.data.default_collate"
    return f"make one with torch.as_tensor({name})"


def as_function(name: str, value: Any, arguments: str) -> Any:
    """Accept a callable that can be called with those `arguments`, as far as it tells."""
    called = value.forward if isinstance(value, nn.Module) else value
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # as of some builtins
        return value
    try:
        signature.bind(*arguments.split(", "))
    except TypeError:
        wanted, got = f"to be callable with ({arguments})", f"one with {signature}"
        hint = f"wrap it, as lambda {arguments}: f({arguments.partition(',')[0]})"
        expect(False, name, wanted, got, hint, TypeError)
    return value


def as_instance(name: str, value: Any, kind: type[Kind]) -> Kind:
    """Accept an object of that `kind`."""
    wanted = "torch.nn.Module" if kind is nn.Module else kind.__name__
    expect_type(isinstance(value, kind), name, f"to be a {wanted}", value)
    return cast(Kind, value)


def as_flag(name: str, value: object) -> bool:
    """Accept True or False."""
    expect_type(isinstance(value, (bool, np.bool_)), name, "to be True or False", value)
    return bool(value)


def as_number(name: str, value: Any, *, low: float = 0.0, high: float = math.inf) -> float:
    """Accept a finite real number in [`low`, `high`]."""
    ok = isinstance(value, Real) and not isinstance(value, bool)
    expect_type(ok, name, "to be a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    ok = low <= number <= high and not math.isinf(number)
    wanted = "to be in [{low:g}, {high:g}]" if high < math.inf else "to be finite, at least {low:g}"
    expect(ok, name, wanted, number, low=low, high=high)
    return number


def as_integer(name: str, value: Any, *, low: int = 1, high: float = LARGEST_INTEGER) -> int:
    """Accept an integer in [`low`, `high`]."""
    ok = isinstance(value, Integral) and not isinstance(value, bool)
    expect_type(ok, name, "to be an integer", value)
    number = int(value)
    expect(number >= low, name, "to be at least {low}", number, low=low)
    expect(number <= high, name, "to be at most {high}", number, high=high)
    return number


def as_choice(name: str, value: Any, allowed: Collection[str], otherwise: str = "") -> str:
    """Accept one of the `allowed` words; `otherwise` says what else the caller accepts."""
    wanted = f"to be one of {', '.join(map(repr, allowed))}{otherwise}"
    expect_type(isinstance(value, str), name, wanted, value)
    if value not in allowed:
        near = difflib.get_close_matches(value.lower(), allowed, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else ""
        expect(False, name, wanted, shown(value), hint)
    return str(value)


def as_counts(name: str, value: object) -> Tensor:
    """Accept one number of samples a class; return a copy `(K,)` on the CPU."""
    if hasattr(value, "items"):  # a dict, Counter or Series says itself which class has how many
        value = _by_class(name, value)
    hint = "give a list, an array, a tensor, or a dict by class"
    sizes = own_copy(name, value, hint)
    ok = sizes.ndim == 1 and len(sizes) > 0
    expect(ok, name, "to have shape (K,), one count a class", sizes.shape, hint)
    ok = bool((sizes >= 0).all()) and bool(sizes.isfinite().all())
    expect(ok, name, "to be finite and at least 0", sizes.tolist())
    ok, hint = bool((sizes == sizes.round()).all()), "give counts: weights would invert the pairing"
    expect(ok, name, "to be whole numbers of samples", sizes.tolist(), hint)
    return sizes


def _by_class(name: str, value: Any) -> list[Any]:
    """Put counts by class in the order of the classes."""
    items = list(value.items())
    classes = [key for key, _ in items]
    ok = all(isinstance(key, Integral) and not isinstance(key, bool) for key in classes)
    ok = ok and sorted(classes) == list(range(len(classes)))
    wanted = "to have a count for each class from 0 to K-1"
    hint = "number the classes as the labels are, and give 0 to a class without samples"
    expect(ok, name, wanted, f"the keys {shown(classes)}", hint)
    return [count for _, count in sorted(items)]


def as_channel_values(name: str, value: object) -> Tensor:
    """Accept one finite number, or one for each channel: a float32 tensor `(1,)` or `(C,)`."""
    numbers = own_copy(name, value).float().reshape(-1)
    ok = numbers.numel() > 0 and bool(numbers.isfinite().all())
    expect(ok, name, "to be a finite number or one a channel", described(value))
    return numbers


def own_copy(name: str, value: object, hint: str = "") -> Tensor:
    """Copy numbers in any form to a CPU tensor, int64 or float32, that nobody else can change."""
    try:
        array = np.array(value.numpy(force=True) if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        array = np.array(None)
    expect_type(array.dtype.kind in "iuf", name, "to be numbers", value, hint)
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return torch.from_numpy(array)


# What a batch is made of.


def require_on(
    name: str,
    value: Tensor,
    device: torch.device,
    whose: str,
    hint: str = "move both to one device",
) -> None:
    """Accept a tensor on that device."""
    wanted = "on the {whose} device {device}"
    expect(value.device == device, name, wanted, value.device, hint, whose=whose, device=device)


def require_below(name: str, value: Tensor, high: int, hint: str = "") -> None:
    """Accept indices from 0 that are below `high`, where values are there to be read."""
    if reads_values(value):
        low, highest = map(int, value.aminmax())
        wrong = low if low < 0 else highest
        expect(0 <= wrong < high, name, "in 0 to {last}", wrong, hint, last=high - 1)


def require_images(value: object, mean: Tensor | None = None, std: Tensor | None = None) -> Tensor:
    """Accept images `(B,C,H,W)`, whose channels `mean` and `std` fit where they are given."""
    images = as_tensor("images", value, " of shape (B,C,H,W)")
    wanted = "to be float16, bfloat16, float32, float64 or uint8"
    hint = (
        "convert them first, class maps with torch.nn.functional.one_hot (ids do not blend), or "
        "name the place of the images in a batch with image_key="
    )
    expect_type(images.dtype in IMAGE_DTYPES, "images", wanted, images.dtype, hint)
    ok = images.ndim == 4 and 0 not in images.shape[1:]
    hints = {
        3: "add the batch's side, images[None]",
        5: "give a pair sampler as batch_sampler=, plan view by view; volumes are not mixed",
    }
    wanted, hint = "to have shape (B,C,H,W) with C, H, W >= 1", hints.get(images.ndim, "")
    expect(ok, "images", wanted, images.shape, hint)
    last = images.shape[3] in (3, 4) and images.shape[1] >= 16 and images.shape[2] >= 16
    wanted, hint = "to be (B,C,H,W), not (B,H,W,C)", "give images.permute(0, 3, 1, 2)"
    expect(not last, "images", wanted, images.shape, hint)
    for name, numbers in (("mean", mean), ("std", std)):
        ok = numbers is None or len(numbers) in (1, images.shape[1])
        wanted = "to have one number for each of the images' {channels} channels"
        expect(ok, name, wanted, numbers, channels=images.shape[1])
    return images


def require_writable(value: object) -> None:
    """Accept images that can be written in place."""
    images = as_tensor("images", value, " of shape (B,C,H,W)")
    if torch.compiler.is_compiling():
        return  # a traced tensor does not know its memory; torch's own errors remain
    reach, overlaps = 0, False  # how far the smaller strides reach, and whether the next is within
    for stride, side in sorted(zip(images.stride(), images.shape, strict=True)):
        overlaps |= side > 1 and stride <= reach
        reach += stride * (side - 1)
    wanted, hint = "to be writable in place", "give images.clone(), or inplace=False"
    expect(not overlaps, "images", wanted, "pixels that share memory (expand or unfold)", hint)
    ok = not images.is_inference() or torch.is_inference_mode_enabled()
    expect(ok, "images", wanted, "some made under torch.inference_mode()", hint)


def as_labels(value: object, batch: int, num_classes: int, device: torch.device) -> Tensor:
    """Accept class indices or rows; return int64 `(B,)` or the rows `(B,K)` as they are."""
    labels = as_tensor("labels", value)
    is_index = not labels.is_floating_point() and labels.dtype != torch.bool
    if is_index and labels.shape == (batch, 1) and num_classes != 1:
        labels = labels.squeeze(1)
    accepted = (batch,) if is_index and labels.ndim == 1 else (batch, num_classes)
    ok = tuple(labels.shape) == accepted and not labels.is_complex()
    wanted = "to be integers (B,) or (B,1), or rows (B,K), with B = {batch} images and K = {k}"
    hint = "make indices with labels.long(), or name their place in a batch with label_key="
    expect(ok, "labels", wanted, labels, hint, batch=batch, k=num_classes)
    require_on("labels", labels, device, "images'")
    if labels.ndim == 1:
        labels = labels.detach().long()
        hint = (
            "number the classes from 0, and leave images without one out of the data or the batch, "
            "images[(labels >= 0) & (labels < num_classes)]"
        )
        require_below("labels", labels, num_classes, hint)
    elif reads_values(labels):
        _require_distributions(labels)
    return labels.detach()


def _require_distributions(rows: Tensor) -> None:
    """Accept rows that are at least 0 and sum to 1."""
    # Soft labels in half precision sum to 1 only up to their own rounding.
    tolerance = 1e-2 if rows.dtype in (torch.float16, torch.bfloat16) else 1e-3
    rows = rows.double()
    wrong = ~((rows.sum(dim=1) - 1).abs() <= tolerance) | (rows < 0).any(dim=1)
    first = int(wrong.to(torch.int8).argmax())
    wanted = "to have a distribution in each row (at least 0, sum 1)"
    got = f"{rows[first].tolist()} in row {first}"
    hint = "divide rows of several labels by their sum, or plan with one class index a sample"
    expect(not bool(wrong.any()), "labels", wanted, got, f"{hint} and mix by plan.images(images)")


def as_partner(value: object, batch: int, device: torch.device, name: str = "partner") -> Tensor:
    """Accept indices `(B,)` into the batch; return them as int64."""
    partner = as_tensor(name, value)
    ok = not (partner.is_floating_point() or partner.is_complex() or partner.dtype == torch.bool)
    expect_type(ok, name, "to hold integers", partner.dtype)
    wanted = "to have shape ({batch},), one index a sample"
    expect(tuple(partner.shape) == (batch,), name, wanted, partner.shape, batch=batch)
    require_on(name, partner, device, "images'")
    partner = partner.detach().to(torch.int64, copy=True)
    require_below(name, partner, batch, "give i itself to leave sample i unmixed")
    return partner


def as_maps(value: object, images: Tensor) -> Tensor:
    """Accept maps `(B,H,W)` or `(B,1,H,W)` of the images' size; return them as `(B,H,W)`."""
    maps = as_tensor("saliency", value)
    batch, _, height, width = images.shape
    shapes = (batch, height, width), (batch, 1, height, width)
    wanted, hint = "to have shape {shape}", "resize maps with torch.nn.functional.interpolate"
    hint = "give maps[..., 0]" if tuple(maps.shape) == (*shapes[0], 1) else hint
    expect(tuple(maps.shape) in shapes, "saliency", wanted, maps.shape, hint, shape=shapes[0])
    expect_type(not maps.is_complex(), "saliency", "to be real", maps.dtype)
    require_on("saliency", maps, images.device, "images'")
    return maps.detach().reshape(batch, height, width)


def require_together(mean: Tensor | None, std: Tensor | None) -> None:
    """Accept both `mean` and `std` of the images' normalisation, of fitting lengths, or neither."""
    if mean is not None and std is not None:
        ok = len(mean) == len(std) or 1 in (len(mean), len(std))
        expect(ok, "std", "to be of the length of `mean`, {number}", len(std), number=len(mean))
        return
    hint = "give `mean` and `std` together, or neither"
    expect(mean is None, "std", "beside `mean`", std, hint)
    expect(std is None, "mean", "beside `std`", mean, hint)


def require_hookable(name: str, module: nn.Module) -> None:
    """Accept a module that takes hooks."""
    scripted, got = isinstance(module, torch.jit.ScriptModule), "a scripted one, which takes none"
    hint = "use input_gradient for saliency, or the model before torch.jit"
    expect(not scripted, name, "to take hooks", got, hint)


def needs_model(provider: object) -> bool:
    """Whether a provider needs a model; a plain function does not."""
    return bool(getattr(provider, "needs_model", False))


def require_model(provider: object, value: object) -> None:
    """Accept a model, or None where the provider needs none."""
    if needs_model(provider):
        hint = "call mixer(images, labels, model), or use model-free saliency"
        expect(value is not None, "model", f"for {type(provider).__name__}", value, hint)
        as_instance("model", value, nn.Module)
