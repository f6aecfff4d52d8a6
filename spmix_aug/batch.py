"""Batches in the forms that data loaders give, and back into the same form."""

import copy
from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from spmix_aug._checks import described, expect

IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y")

Rebuild = Callable[[Tensor, Tensor], Any]


def unpack_batch(
    batch: Any, labels: Any, image_key: Any = None, label_key: Any = None
) -> tuple[Any, Any, Rebuild]:
    """Find images and labels, and how to put mixed ones back.

    Args:
        batch: the images themselves, a tuple or list `(images, labels, ...)`, or a dict.
        labels: the labels when `batch` is the images, else None.
        image_key: key of the images in a dict, one of `IMAGE_KEYS` when None; or their place in a
            tuple, 0 when None.
        label_key: the same of the labels, one of `LABEL_KEYS`, or place 1, when None.

    Returns:
        `(images, labels, rebuild)`, where `rebuild(mixed, targets)` is a batch of the given form
        with all other items untouched.

    Raises:
        TypeError: if `labels` is a model, or a dict cannot be changed.
        ValueError: if a dict has no such key or several; if a tuple has no such place, or several
            items that could be the labels.
    """
    a_model, got = isinstance(labels, nn.Module), type(labels).__name__
    expect(not a_model, "labels", "to be a tensor", got, "pass the model as model=", TypeError)
    if labels is None and isinstance(batch, Mapping):
        ok, got = isinstance(batch, MutableMapping), type(batch).__name__
        wanted = "to be a dict into which the mix can be put"
        expect(ok, "images", wanted, got, "give dict(batch)", TypeError)
        images_at = _find_key(batch, image_key, IMAGE_KEYS, "image_key")
        labels_at = _find_key(batch, label_key, LABEL_KEYS, "label_key")

        def into_dict(mixed: Tensor, targets: Tensor) -> Any:
            rebuilt: Any = copy.copy(batch)
            rebuilt[images_at], rebuilt[labels_at] = mixed, targets
            return rebuilt

        return batch[images_at], batch[labels_at], into_dict
    if labels is None and isinstance(batch, (tuple, list)):
        image_place, label_place = _find_places(batch, image_key, label_key)

        def into_sequence(mixed: Tensor, targets: Tensor) -> Any:
            items = list(batch)
            items[image_place], items[label_place] = mixed, targets
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)

        return batch[image_place], batch[label_place], into_sequence
    return batch, labels, lambda mixed, targets: (mixed, targets)


def unit_range(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Bring images back to [0, 1], from 8 bits or from their normalisation; float32 at least."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    images = images if images.dtype == torch.float64 else images.float()
    if mean is None or std is None:
        return images
    mean, std = (
        values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1)
        for values in (mean, std)
    )
    return torch.addcmul(mean, images, std)


def _find_places(batch: Any, image_key: Any, label_key: Any) -> tuple[int, int]:
    """Settle in which places of a tuple images and labels are."""
    wanted, got = "to be a batch (images, labels, ...)", f"{len(batch)} item(s)"
    expect(len(batch) >= 2, "images", wanted, got)
    images_at = 0 if image_key is None else image_key
    labels_at = label_key if label_key is not None else int(images_at == 0)
    for name, place in (("image_key", images_at), ("label_key", labels_at)):
        ok = isinstance(place, int) and -len(batch) <= place < len(batch)
        wanted, hint = "to be a place in a batch of {number} items", "count from 0"
        expect(ok, name, wanted, described(place), hint, number=len(batch))
    images_at, labels_at = images_at % len(batch), labels_at % len(batch)
    expect(images_at != labels_at, "label_key", "to differ from `image_key`", labels_at)
    if label_key is None:
        size = len(batch[images_at]) if isinstance(batch[images_at], Tensor) else 0
        places = [i for i in range(len(batch)) if i != images_at]
        others = [i for i in places if _may_be_labels(batch[i], size)]
        got = f"labels that could be in places {others}"
        hint = "name theirs with label_key=, a place counted from 0"
        ok, wanted = len(others) < 2, "to be the only item of their form in the batch"
        expect(ok, "labels", wanted, got, hint)
    return images_at, labels_at


def _may_be_labels(item: Any, size: int) -> bool:
    """Whether an item of a batch has the form of class indices."""
    if not isinstance(item, Tensor) or item.is_floating_point() or item.dtype == torch.bool:
        return False
    return tuple(item.shape) in ((size,), (size, 1))


def _find_key(batch: Mapping[str, Any], key: Any, usual: Collection[str], argument: str) -> str:
    """Settle under which key of a dict batch something is."""
    found = [name for name in usual if name in batch] if key is None else [key]
    wanted = f"one of {', '.join(usual)}" if key is None else repr(key)
    got = f"a batch with the keys {', '.join(map(str, batch))}"
    ok = len(found) == 1 and found[0] in batch
    text = "to name one key of the batch, {usual}"
    expect(ok, argument, text, got, "name the right one", usual=wanted)
    return found[0]
